from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from februus.benchmark import suite as module
from februus.benchmark.suite import Suite, Unit, read_suite, run_suite, shipped, takes_inpainter
from februus.data import Dataset

ZOO = Path(__file__).parents[2] / "zoo"
BACKDOORED, CLEAN = str(ZOO / "signs-vgg_patch"), str(ZOO / "clean_signs-vgg")
# What may differ from run to run.
MEASURED = re.compile("seconds|bytes")


@pytest.fixture
def small(toy_checkpoint: Path, toy_draw: Any, monkeypatch: pytest.MonkeyPatch) -> Suite:
    """Give a suite of the toy, whose pictures are drawn here."""

    def load(source: str, split: str, **options: Any) -> Dataset:
        return toy_draw(60, 4)

    monkeypatch.setattr("februus.benchmark.cases.load_data", load)
    monkeypatch.setattr(module, "_open", module._open.__wrapped__)
    defenses = ["everywhere:restorer=flip", "paper:inpainter=mean-fill", "oracle"]
    return Suite(checkpoints=[str(toy_checkpoint)], defenses=defenses, pictures=16, references=20)


def figures(report: dict[str, Any]) -> Any:
    return [{name: value for name, value in row.items() if not MEASURED.match(name)} for row in report["rows"]]


def test_every_defense_is_measured_on_every_checkpoint(small: Suite, tmp_path: Path) -> None:
    counts: list[tuple[int, int]] = []
    report = run_suite(small, tmp_path, on_unit=lambda *count: counts.append(count))
    assert counts == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert [row["preset"] for row in report["rows"]] == small.defenses
    assert report["failed"] == {}
    assert report["suite"]["pictures"] == 16
    for row in report["rows"]:
        assert row["rates"]["clean_accuracy_before"]["total"] == 16
        assert row["seed"] == 0
        assert row["picture"] is None or (tmp_path / "cases" / row["picture"]).is_file()
    assert report["rows"][2]["picture"] is None


def test_what_was_measured_is_passed_over(small: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run_suite(small, tmp_path)
    lost = sorted((tmp_path / "cases").glob("*flip*.json"))
    lost[0].unlink()
    done: list[str] = []
    measure = module._measure

    def watched(unit: Unit, cases: Path) -> Any:
        done.append(unit.preset)
        return measure(unit, cases)

    monkeypatch.setattr(module, "_measure", watched)
    again = run_suite(small, tmp_path)
    assert done == ["everywhere:restorer=flip"]
    assert figures(again) == figures(first)


def test_other_options_or_weights_are_other_units(small: Suite, toy_checkpoint: Path, tmp_path: Path) -> None:
    unit = small.units()[0]
    same = Suite(**vars(small)).units()[0]
    assert unit.stem == same.stem
    more = Suite(**{**vars(small), "pictures": 17}).units()[0]
    assert unit.stem != more.stem
    copied = tmp_path / "toy"
    copied.mkdir()
    for file in toy_checkpoint.iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    moved = Unit(**{**vars(unit), "checkpoint": {**unit.checkpoint, "model": str(copied)}})
    before = moved.digest
    (copied / "model.safetensors").write_bytes(b"other weights")
    assert moved.digest != before


def test_what_fails_is_told_and_the_rest_is_done(small: Suite, tmp_path: Path) -> None:
    failing = Suite(**{**vars(small), "defenses": ["verified", "everywhere:restorer=flip"]})
    report = run_suite(failing, tmp_path)
    assert [row["preset"] for row in report["rows"]] == ["everywhere:restorer=flip"]
    assert list(report["failed"]) == ["checkpoint verified"]
    assert "reference: expected at least 200 pictures" in report["failed"]["checkpoint verified"]


def test_a_broken_file_is_told(small: Suite, tmp_path: Path) -> None:
    run_suite(small, tmp_path)
    next((tmp_path / "cases").glob("*.json")).write_text("{")
    with pytest.raises(ValueError, match="expected what a benchmark wrote"):
        run_suite(small, tmp_path)


def test_one_process_and_two_give_the_same_figures(tmp_path: Path) -> None:
    suite = Suite(
        checkpoints=[BACKDOORED, CLEAN],
        defenses=["everywhere:restorer=flip", "paper:inpainter=mean-fill"],
        pictures=24,
        references=32,
    )
    one, two = (run_suite(suite, tmp_path / str(jobs), jobs=jobs) for jobs in (1, 2))
    assert len(one["rows"]) == 4
    assert figures(one) == figures(two)
    # A clean model has no figures of triggered pictures.
    assert "attack_success_rate_after" in one["rows"][0]["rates"]
    assert "attack_success_rate_after" not in one["rows"][2]["rates"]


def test_the_grid() -> None:
    suite = Suite(
        checkpoints=[BACKDOORED, {"model": "module:function", "target_label": 3}, CLEAN],
        defenses=["verified", "paper:inpainter=telea", "everywhere:restorer=flip", "oracle"],
        triggers=["own", "patch:size=3"],
        inpainters=["gan", "telea"],
        seeds=[0, 1],
        data="somewhere",
    )
    presets = [
        "verified:inpainter=gan",
        "verified:inpainter=telea",
        "paper:inpainter=telea",
        "everywhere:restorer=flip",
        "oracle",
    ]
    assert suite.presets() == presets
    units = suite.units()
    # A clean model is measured with its own trigger, that is none, and without the oracle.
    assert len(units) == 2 * (2 * 2 * len(presets) + len(presets) - 1)
    assert units[0].name == "signs-vgg_patch verified:inpainter=gan"
    assert units[5].name == "signs-vgg_patch verified:inpainter=gan patch:size=3"
    assert units[10].name == "signs-vgg_patch verified:inpainter=gan seed 1"
    # The pictures of signs are drawn.
    assert units[0].checkpoint["data"] is None
    assert units[20].checkpoint == {"data": "somewhere", "model": "module:function", "target_label": 3}
    assert len({unit.stem for unit in units}) == len(units)


def test_which_presets_restore_regions() -> None:
    assert takes_inpainter("verified:false_positive_rate=0.01")
    assert not takes_inpainter("verified:inpainter=telea")
    assert not takes_inpainter("everywhere:restorer=flip")


@pytest.mark.parametrize("name", shipped())
def test_suites_that_ship(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ZOO.parents[1])
    suite = read_suite(name)
    assert "verified" in suite.defenses
    assert suite.units()
    changed = read_suite(name, checkpoints=[CLEAN], pictures=3, data=None)
    assert (changed.checkpoints, changed.pictures, changed.data) == ([CLEAN], 3, suite.data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("checkpoints: []\ndefenses: [paper]", "checkpoints: expected at least one, got none"),
        ("checkpoints: [x]\ndefenses: [magic]", "preset: expected one of .*verified, got 'magic'"),
        ("checkpoints: [x]\ndefenses: [paper]\npictures: 0", "pictures: expected a value at least 1, got 0"),
        ("checkpoints: [x]\ndefenses: [paper]\ntriggers: [magic]", "trigger: expected one of .*, got 'magic'"),
        ("checkpoints: [{name: x}]\ndefenses: [paper]", "checkpoint: expected at least the option model"),
        ("checkpoints: [{model: x, colour: 1}]\ndefenses: [paper]", "option of a checkpoint: expected one of model, "),
        ("checkpoints: [x]\ndefences: [paper]", "defences"),
        ("[1, 2]", "suite: expected a mapping of options, got list"),
        ("a: [", "suite .*: "),
    ],
)
def test_a_suite_that_does_not_fit(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "suite.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_suite(str(file))


def test_a_suite_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="suite: expected one of detectors, full, smoke, standard, or a file, got 'medium'"
    ):
        read_suite("medium")
    suite = Suite(checkpoints=[str(tmp_path)], defenses=["paper"])
    with pytest.raises(ValueError, match=r"checkpoints: expected a folder with model\.safetensors and card\.json"):
        suite.units()
    with pytest.raises(ValueError, match="checkpoints: expected folders of checkpoints, got 'nowhere'"):
        Suite(checkpoints=["nowhere"], defenses=["paper"]).units()


def test_two_checkpoints_of_one_name() -> None:
    suite = Suite(checkpoints=[CLEAN, CLEAN], defenses=["paper"])
    with pytest.raises(ValueError, match="checkpoints: expected names that differ, got 2 called clean_signs-vgg"):
        suite.units()


def test_a_kept_unit_tells_what_it_was(small: Suite, tmp_path: Path) -> None:
    run_suite(small, tmp_path)
    kept = [json.loads(file.read_text()) for file in (tmp_path / "cases").glob("*.json")]
    assert {content["unit"]["preset"] for content in kept} == set(small.defenses)

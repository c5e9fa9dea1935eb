from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from februus.benchmark.zoo import Recipe, plan, tables, train_zoo
from februus.cli import main
from februus.data import Dataset, Source, loading
from februus.federated import Federation, train
from februus.metrics import Rate
from februus.models import Card, Normalized, build, read_card, save_checkpoint

Draw = Callable[..., Dataset]

ROOT = Path(__file__).parents[3]


# --- from a grid to models -------------------------------------------------------------------------------------------


def names(*models: dict[str, Any], **defaults: Any) -> list[str]:
    return [recipe.name for recipe in plan(models, defaults)]


def test_a_grid_by_hand() -> None:
    grid = {
        "aggregator": ["fed-avg", "median"],
        "aim": [
            {"name": "patch", "trigger": "patch:size=4", "target_label": 1},
            {"name": "clean", "malicious": 0},
        ],
        "rounds": 2,
    }
    recipes = plan([grid], {"clients": 4, "malicious": 1, "rounds": 9, "seed": [5, 6], "image_size": 16})
    assert [(recipe.name, recipe.group) for recipe in recipes] == [
        ("fed-avg_patch_seed-5", "fed-avg_patch"),
        ("fed-avg_patch_seed-6", "fed-avg_patch"),
        ("fed-avg_clean_seed-5", "fed-avg_clean"),
        ("fed-avg_clean_seed-6", "fed-avg_clean"),
        ("median_patch_seed-5", "median_patch"),
        ("median_patch_seed-6", "median_patch"),
        ("median_clean_seed-5", "median_clean"),
        ("median_clean_seed-6", "median_clean"),
    ]
    assert recipes[1] == Recipe(
        name="fed-avg_patch_seed-6",
        group="fed-avg_patch",
        axes={"aggregator": "fed-avg", "aim": "patch", "seed": 6},
        options={
            "rounds": 2,
            "clients": 4,
            "malicious": 1,
            "image_size": 16,
            "aggregator": "fed-avg",
            "trigger": "patch:size=4",
            "target_label": 1,
            "seed": 6,
        },
        settings=Federation(
            clients=4, malicious=1, rounds=2, trigger="patch:size=4", target_label=1, aggregator="fed-avg", seed=6
        ),
        source=Source(image_size=16),
    )
    # A variant wins over what is common to all.
    assert [recipe.settings.malicious for recipe in recipes] == [1, 1, 0, 0] * 2


def test_several_grids_one_after_the_other() -> None:
    made = plan([{"name": "base", "malicious": 0}, {"name": "late", "seed": [0, 1]}, {"seed": [0]}], {"rounds": 1})
    assert [recipe.name for recipe in made] == ["base", "late_seed-0", "late_seed-1", "seed-0"]
    assert [recipe.group for recipe in made] == ["base", "late", "late", "all"]


@pytest.mark.parametrize(
    ("axis", "values", "expected"),
    [
        ("aggregator", ["fed-avg"], ["fed-avg"]),
        ("trigger", ["patch:size=4,margin=0"], ["patch-size-4-margin-0"]),
        ("trigger", ["any-of:triggers=[patch:size=5][sticker]"], ["any-of-triggers-patch-size-5-sticker"]),
        ("data", ["signs", "DATA/gtsrb", "/data/my pictures/", "owner/set"], ["signs", "gtsrb", "my-pictures", "set"]),
        ("architecture", ["small-vgg:dropout=0.2", "module:Net"], ["small-vgg-dropout-0.2", "module-Net"]),
        ("alpha", [0.5, None, 1e-05], ["alpha-0.5", "alpha-none", "alpha-1e-05"]),
        ("learning_rate", [0.1], ["learning-rate-0.1"]),
        ("flip", [True, False], ["flip-true", "flip-false"]),
        ("any", [{"seed": 1, "trigger": "patch"}], ["seed-1-patch"]),
        ("any", [{"name": "../A b_c.", "seed": 1}], ["A-b-c"]),
    ],
)
def test_names_can_be_read_and_be_files(axis: str, values: list[Any], expected: list[str]) -> None:
    assert names({axis: values}) == expected
    assert names({axis: values, "name": "my/zoo"}) == [f"my-zoo_{name}" for name in expected]


@pytest.mark.parametrize(
    ("models", "defaults", "message"),
    [
        ([], {}, "models: expected at least one, got none"),
        ([{"name": "a"}], {"round": 3}, "option of a: expected one of architecture, .*, seed, data, .*, got 'round'"),
        ([{"name": "a", "output": "x"}], {}, "option of a: expected one of .*, got 'output'"),
        ([{"name": "a", "device": "cpu"}], {}, "option of a: expected one of .*, got 'device'"),
        ([{"name": "a"}], {"name": "b"}, "option of a: expected one of .*, got 'name'"),
        ([{"agregator": ["krum"]}], {}, "option of krum: expected one of .*, aggregator, .*, got 'agregator'"),
        ([{"any": [{"name": "x", "sed": 1}]}], {}, "option of x: expected one of .*, got 'sed'"),
        ([{"name": "a", "rounds": "many"}], {}, "(?s)a: .*rounds.*int.*many"),
        ([{"name": "a", "any": [{"name": "x", "seed": [0, 1]}]}], {}, "(?s)a_x: .*seed.*int"),
        ([{"aggregator": ["fed-avg", "crumb"]}], {}, "crumb: aggregator: expected one of .*fed-avg.*, got 'crumb'"),
        ([{"seed": [0]}, {"name": "b", "trigger": "patch:side=3"}], {}, "b: option of trigger patch: expected one of"),
        ([{"name": "a", "source_label": 2}], {}, "a: option of attack data-poisoning: expected .*'source_label'"),
        ([{"name": "a", "image_size": "big"}], {}, "(?s)a: .*image_size.*int.*big"),
        ([{"malicious": 0}], {"rounds": 1}, r"models: expected a name, where no option is a list, got \{'malicious'"),
        ([{"seed": []}], {}, "axis seed: expected at least one value, got none"),
        ([{"seed": [0]}], {"alpha": []}, "axis alpha: expected at least one value, got none"),
        ([{"name": False, "seed": [0]}], {}, "name: expected a text with letters or digits, got False"),
        ([{"name": "..", "seed": [0]}], {}, r"name: expected a text with letters or digits, got '\.\.'"),
        ([{"seed": [{"name": 3, "seed": 3}]}], {}, "name: expected a text with letters or digits, got 3"),
        ([{"data": ["/"]}], {}, "axis data: expected a value that makes a name, or the key name beside it, got '/'"),
        ([{"any": [{}]}], {}, r"axis any: expected a value that makes a name, .*, got \{\}"),
        (
            [{"seed": [0], "any": [{"name": "x", "seed": 1, "alpha": 1}]}],
            {},
            "axis any: expected options that no other axis sets, got seed",
        ),
        ([{"seed": [0]}, {"seed": [0]}], {}, "models: expected names that differ; .*, got 2 of the name seed-0"),
        ([{"data": ["a/x", "b/X"]}], {}, "models: expected names that differ; .*, got 2 of the name x"),
    ],
)
def test_what_is_refused_at_once(models: list[dict[str, Any]], defaults: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(models, defaults)


@pytest.mark.parametrize(
    "file", [*ROOT.glob("docs/zoo/*.yaml"), *ROOT.glob("tests/zoo/*.yaml")], ids=lambda file: file.stem
)
def test_the_zoos_of_this_repository_can_be_planned(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    content = yaml.safe_load(file.read_text())
    assert len(plan(content["models"], content["defaults"])) >= 12


# --- training --------------------------------------------------------------------------------------------------------

SMALL = {"clients": 2, "malicious": 1, "batch_size": 8, "rounds": 2, "trigger": "patch:size=4"}


@pytest.fixture
def loaded(toy_draw: Draw, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Let every source be toys, but none of the name bad, and tell what was loaded."""
    seen: list[tuple[str, str]] = []

    def load(data: str, split: str, **options: Any) -> Dataset:
        seen.append((data, split))
        if data == "bad":
            raise ValueError("source: bad")
        return toy_draw(24, seed=len(split), side=16)

    monkeypatch.setattr(loading, "load", load)
    return seen


@dataclass
class Pretend:
    """Writes a checkpoint with the counts that it was told, by seed, without any training."""

    architecture: str
    correct: dict[int, int] = field(default_factory=dict)
    turned: dict[int, int] = field(default_factory=dict)
    trained: list[str] = field(default_factory=list)
    fails: str = ""

    def __call__(self, settings: Federation, data: Dataset, test: Dataset, output: Path, *, center_crop: int) -> None:
        self.trained.append(output.name)
        if output.name == self.fails:
            raise ValueError("loss: expected a finite value, got nan")
        last: dict[str, Any] = {"clean_accuracy": {"count": self.correct.get(settings.seed, 50), "total": 100}}
        if settings.malicious:
            last["attack_success_rate"] = {"count": self.turned.get(settings.seed, 60), "total": 80}
        first = {"clean_accuracy": {"count": 1, "total": 100}}
        card = Card(
            name=output.name,
            architecture=self.architecture,
            dataset="toy",
            num_classes=4,
            image_size=16,
            extra={"federation": asdict(settings), "history": [first, last]},
        )
        save_checkpoint(output, Normalized(build(self.architecture, num_classes=4)), card)


@pytest.fixture
def pretend(toy_architecture: str) -> Pretend:
    return Pretend(toy_architecture)


def index_of(output: Path) -> dict[str, Any]:
    index: dict[str, Any] = json.loads((output / "index.json").read_text())
    return index


def times_of(output: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in output.rglob("*/*")}


def test_the_index_by_hand(loaded: list[tuple[str, str]], pretend: Pretend, tmp_path: Path) -> None:
    pretend.correct = {0: 90, 1: 98, 2: 97}
    pretend.turned = {0: 80, 1: 40, 2: 60}
    grid = {"seed": [0, 1, 2], "aim": [{"name": "patch"}, {"name": "none", "malicious": 0}]}
    recipes = plan([{"name": "base", "malicious": 0}, grid], SMALL)
    output = tmp_path / "deep" / "zoo"
    index = train_zoo(recipes, output, train=pretend)
    assert index == index_of(output)
    assert [entry["name"] for entry in index["models"]] == [recipe.name for recipe in recipes] == pretend.trained
    assert index["missing"] == []
    assert index["models"][1] == {
        "name": "seed-0_patch",
        "axes": {"seed": 0, "aim": "patch"},
        "options": {**SMALL, "seed": 0},
        "clean_accuracy": 0.9,
        "attack_success_rate": 1.0,
        "rates": {
            "clean_accuracy": {"count": 90, "total": 100, "interval": list(Rate(90, 100).interval)},
            "attack_success_rate": {"count": 80, "total": 80, "interval": list(Rate(80, 80).interval)},
        },
        "bytes": (output / "seed-0_patch" / "model.safetensors").stat().st_size,
    }
    assert "attack_success_rate" not in index["models"][0]
    # 0.95 = (0.90 + 0.98 + 0.97) / 3
    accuracy = {"mean": pytest.approx(0.95), "min": 0.9, "max": 0.98}
    attack = {"mean": pytest.approx(0.75), "min": 0.5, "max": 1.0}
    assert index["summary"] == [
        {
            "name": "patch",
            "axes": {"aim": "patch"},
            "seeds": [0, 1, 2],
            "clean_accuracy": accuracy,
            "attack_success_rate": attack,
        },
        {"name": "none", "axes": {"aim": "none"}, "seeds": [0, 1, 2], "clean_accuracy": accuracy},
    ]
    over, single = tables(index)
    assert over[1:] == [
        ["patch", "0, 1, 2", "0.950 (0.900 to 0.980)", "0.750 (0.500 to 1.000)"],
        ["none", "0, 1, 2", "0.950 (0.900 to 0.980)", ""],
    ]
    assert single[:2] == [
        ["model", "CA", "ASR", "MB"],
        ["base", str(Rate(90, 100)), "", f"{index['models'][0]['bytes'] / 1e6:.2f}"],
    ]
    written = (output / "index.md").read_text()
    for line in (*over, *single):
        assert f"| {' | '.join(line)} |\n" in written
    # Both kinds of pictures once, however many models take them.
    assert loaded == [("signs", "train"), ("signs", "test")]


def test_seeds_of_different_settings_are_not_one(
    loaded: list[tuple[str, str]], pretend: Pretend, tmp_path: Path
) -> None:
    grids: list[dict[str, Any]] = [
        {"name": "a", "seed": [0, 1]},
        {"name": "a", "seed": [2]},
        {"name": "a", "seed": [3], "clients": 3},
    ]
    index = train_zoo(plan(grids, SMALL), tmp_path, train=pretend)
    assert [(group["name"], group["seeds"]) for group in index["summary"]] == [("a", [0, 1, 2]), ("a", [3])]


def test_what_is_finished_is_passed_over(loaded: list[tuple[str, str]], pretend: Pretend, tmp_path: Path) -> None:
    models: list[dict[str, Any]] = [{"seed": [0, 1]}, {"name": "other", "data": "toys"}]
    train_zoo(plan(models, SMALL), tmp_path, train=pretend)
    assert loaded == [("signs", "train"), ("signs", "test"), ("toys", "train"), ("toys", "test")]
    before, index = times_of(tmp_path), index_of(tmp_path)
    loaded.clear()
    pretend.trained.clear()
    again = train_zoo(plan(models, SMALL), tmp_path, train=pretend)
    assert (loaded, pretend.trained) == ([], [])
    assert times_of(tmp_path) == before
    assert again == index
    # One more is trained alone; one that the file no longer names stays on the disk.
    index = train_zoo(plan([{"seed": [1, 2]}], SMALL), tmp_path, train=pretend)
    assert pretend.trained == ["seed-2"]
    assert [entry["name"] for entry in index["models"]] == ["seed-1", "seed-2"]
    assert (tmp_path / "seed-0" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("change", "trained"),
    [
        ({"data": "toys"}, True),
        ({"image_size": 16}, True),
        ({"target_label": 1}, True),
        ({"rounds": 3}, True),
        # The same settings: another text of them loads and asks `train`, which knows.
        ({"momentum": 0.9}, True),
        ({}, False),
    ],
    ids=str,
)
def test_what_has_changed_is_for_train_to_judge(
    loaded: list[tuple[str, str]], pretend: Pretend, tmp_path: Path, change: dict[str, Any], *, trained: bool
) -> None:
    train_zoo(plan([{"name": "a"}], SMALL), tmp_path, train=pretend)
    train_zoo(plan([{"name": "a", **change}], SMALL), tmp_path, train=pretend)
    assert pretend.trained == ["a"] * (2 if trained else 1)


@pytest.mark.parametrize("harm", ["gone", "broken", "another"])
def test_a_checkpoint_that_is_none_is_not_taken_for_finished(
    loaded: list[tuple[str, str]], pretend: Pretend, tmp_path: Path, harm: str
) -> None:
    recipes = plan([{"name": "a"}], SMALL)
    train_zoo(recipes, tmp_path, train=pretend)
    weights, index = tmp_path / "a" / "model.safetensors", tmp_path / "index.json"
    before = index.read_bytes()
    if harm == "gone":
        weights.unlink()
    elif harm == "broken":
        weights.write_bytes(b"broken")
    else:
        train_zoo(plan([{"name": "a", "seed": 1}], SMALL), tmp_path, train=pretend)
        index.write_bytes(before)
    pretend.trained.clear()
    train_zoo(recipes, tmp_path, train=pretend)
    assert pretend.trained == ["a"]


def test_a_failure_costs_one_model(loaded: list[tuple[str, str]], pretend: Pretend, tmp_path: Path) -> None:
    pretend.fails = "seed-0"
    recipes = plan([{"seed": [0, 1]}, {"name": "b", "data": "bad"}, {"name": "c"}], SMALL)
    started: list[str] = []
    failed: list[tuple[str, str]] = []
    index = train_zoo(
        recipes,
        tmp_path,
        train=pretend,
        on_model=lambda recipe: started.append(recipe.name),
        on_failure=lambda recipe, error: failed.append((recipe.name, str(error))),
    )
    assert started == ["seed-0", "seed-1", "b", "c"]
    assert failed == [("seed-0", "loss: expected a finite value, got nan"), ("b", "source: bad")]
    assert index == index_of(tmp_path)
    assert [entry["name"] for entry in index["models"]] == ["seed-1", "c"]
    assert index["missing"] == ["seed-0", "b"]
    assert (tmp_path / "index.md").read_text().endswith("\nNot trained: seed-0, b.\n")
    pretend.fails = ""
    pretend.trained.clear()
    assert train_zoo(recipes, tmp_path, train=pretend)["missing"] == ["b"]
    assert pretend.trained == ["seed-0"]


def test_an_index_of_something_else_is_left_alone(pretend: Pretend, tmp_path: Path) -> None:
    for text in ("mine", '{"models": 3}', '["mine"]'):
        (tmp_path / "index.json").write_text(text)
        with pytest.raises(ValueError, match=r"index\.json: expected the index of a zoo, got "):
            train_zoo(plan([{"seed": [0]}]), tmp_path, train=pretend)
        assert (tmp_path / "index.json").read_text() == text
    assert pretend.trained == []


def test_what_was_stopped_goes_on(loaded: list[tuple[str, str]], toy_architecture: str, tmp_path: Path) -> None:
    """Stopped in the middle of the second of three models, all of them really trained."""
    recipes = plan([{"seed": [0, 1, 2]}], {**SMALL, "architecture": toy_architecture})
    rounds: list[tuple[int, int]] = []

    def stop(settings: Federation, *rest: Any, **options: Any) -> None:
        def on_round(row: dict[str, Any]) -> None:
            rounds.append((settings.seed, row["round"]))
            if rounds == [(0, 1), (0, 2), (1, 1)]:
                raise KeyboardInterrupt

        train(settings, *rest, **options, on_round=on_round)

    with pytest.raises(KeyboardInterrupt):
        train_zoo(recipes, tmp_path, train=stop)
    index = index_of(tmp_path)
    assert [entry["name"] for entry in index["models"]] == ["seed-0"]
    assert index["missing"] == ["seed-1", "seed-2"]
    assert [group["seeds"] for group in index["summary"]] == [[0]]
    before = times_of(tmp_path / "seed-0")
    index = train_zoo(recipes, tmp_path, train=stop)
    assert rounds == [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (2, 2)]
    assert times_of(tmp_path / "seed-0") == before
    assert index["missing"] == []
    for entry in index["models"]:
        last = read_card(tmp_path / entry["name"]).extra["history"][-1]
        for name, rate in entry["rates"].items():
            assert rate["count"] == last[name]["count"]
            assert entry[name] == last[name]["value"]


def test_train_knows_a_run_with_another_text_of_the_same_settings(
    loaded: list[tuple[str, str]], toy_architecture: str, tmp_path: Path
) -> None:
    options = {**SMALL, "architecture": toy_architecture, "center_crop": 16}
    train_zoo(plan([{"name": "a"}], options), tmp_path)
    before = times_of(tmp_path)
    assert train_zoo(plan([{"name": "a", "momentum": 0.9}], options), tmp_path)["missing"] == []
    assert times_of(tmp_path) == before
    failed: list[str] = []
    recipes = plan([{"name": "a", "momentum": 0.8}], options)
    train_zoo(recipes, tmp_path, on_failure=lambda recipe, error: failed.append(str(error)))
    assert len(failed) == 1
    assert "differs in federation" in failed[0]
    assert times_of(tmp_path) == before


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(toy_draw: Draw, tmp_path: Path) -> Path:
    """Write toys as a folder with one sub-folder a class, in two splits."""
    for split in ("train", "test"):
        data = toy_draw(24, len(split), 16)
        for index, (image, label) in enumerate(zip(data.images, data.labels.tolist(), strict=True)):
            path = tmp_path / "toys" / split / data.classes[label] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return tmp_path / "toys"


def test_the_command(
    folder: Path,
    toy_architecture: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    content: dict[str, Any] = {
        "defaults": {**SMALL, "architecture": toy_architecture, "data": "toys"},
        "models": [{"seed": [0, 1]}, {"name": "many", "clients": 25}],
    }
    Path("zoo.yaml").write_text(yaml.safe_dump(content))
    run = partial(main, ["zoo", "--config", "zoo.yaml", "--output", "zoo"])
    assert run() == 1
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert [line.partition("  loss")[0] for line in lines[:7]] == [
        "1/3 seed-0",
        "round   1/2",
        "round   2/2",
        "2/3 seed-1",
        "round   1/2",
        "round   2/2",
        "3/3 many",
    ]
    assert lines[7].startswith("failed many: partition: expected at least one picture for every client")
    assert lines[-1] == "wrote zoo"
    for table in tables(index_of(Path("zoo"))):
        for cells in table:
            assert any(line.split() == " ".join(cells).split() for line in lines)
    assert run() == 1
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith(("round", "1/3", "2/3"))] == []

    content["models"] = content["models"][:1]
    Path("zoo.yaml").write_text(yaml.safe_dump(content))
    assert run() == 0
    capsys.readouterr()
    assert run() == 0

    Path("zoo.yaml").write_text(yaml.safe_dump({**content, "models": [{"seed": [0]}, {"name": "a", "round": 1}]}))
    assert main(["zoo", "--config", "zoo.yaml", "--output", "new"]) == 2
    assert "option of a: expected one of architecture" in capsys.readouterr().err
    Path("zoo.yaml").write_text(yaml.safe_dump({**content, "model": []}))
    assert main(["zoo", "--config", "zoo.yaml", "--output", "new"]) == 2
    assert "'model'" in capsys.readouterr().err
    assert not Path("new").exists()

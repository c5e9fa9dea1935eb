from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console
from torchvision.utils import save_image

from februus.benchmark.cases import open_case
from februus.benchmark.evaluation import ORACLE
from februus.checks import mismatch
from februus.cli import main
from februus.commands import COMMANDS
from februus.data import Dataset
from februus.metrics import clean_accuracy
from februus.models import Normalized, build, read_card, save_checkpoint
from februus.poisoning import stamp
from februus.presets.verified import PARTS
from februus.progress import console, progress
from februus.seeds import seeded
from februus.training.classifier import predict
from februus.triggers.patch import Patch

Draw = Callable[..., Dataset]
Errors = Callable[..., str]

FROM = ("train", "--data", "FOLDER")
RUN = ("train", "--output", "run")
TRAIN = (*RUN, "--data", "FOLDER")
# Of the 32 test pictures; the rest is scored.
REFERENCES = ("--references", "16")
EVALUATE = ("evaluate", "--data", "FOLDER", *REFERENCES)
# As many pictures as the preset verified takes for its default rate, and some to work on.
NEEDED, MANY = 200, 216


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Run in an empty folder, with nothing that colours the output, and wide enough for a path in one line."""
    monkeypatch.chdir(tmp_path)
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    # It keeps the width that this variable told when it was made, as in a process of pytest-xdist.
    monkeypatch.setattr(console, "_width", None)


@pytest.fixture(scope="module")
def folder(toy_draw: Draw, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write toy pictures as a folder with one sub-folder a class, in two splits."""
    root = tmp_path_factory.mktemp("toy pictures [1]")
    write(toy_draw(96, 0), root / "train")
    write(toy_draw(32, 1), root / "test")
    return root


@pytest.fixture(scope="module")
def many(toy_draw: Draw, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a folder of one split that has enough pictures for the default preset."""
    root = tmp_path_factory.mktemp("many")
    write(toy_draw(MANY, 2), root / "test")
    return root


def write(data: Dataset, root: Path) -> None:
    for index, (image, label) in enumerate(zip(data.images, data.labels.tolist(), strict=True)):
        path = root / f"{label} {data.classes[label]}" / f"{index:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Errors:
    """Run a command that must fail with exit code 2 and one line, and return the line."""

    def run(*arguments: object) -> str:
        assert main([str(argument) for argument in arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        lines = captured.err.splitlines()
        assert len(lines) == 1, captured.err
        assert lines[0].startswith("februus: error: ")
        return lines[0].removeprefix("februus: error: ")

    return run


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def rows_of(report: str | Path) -> list[dict[str, Any]]:
    """Return the rows of a report."""
    rows: list[dict[str, Any]] = json.loads(Path(report, "report.json").read_text())["cases"]
    return rows


# --- help ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)], ids=str)
def test_help(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main([*command, "--help"])
    assert exit_info.value.code == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "usage: februus" in captured.out
    if not command:
        assert all(f"\n    {name} " in captured.out or f"\n    {name}\n" in captured.out for name in COMMANDS)


def test_every_option_is_explained_and_dashed(capsys: pytest.CaptureFixture[str]) -> None:
    """An option without a line in the docstring would have no help."""
    for command in COMMANDS:
        with pytest.raises(SystemExit):
            main([command, "--help"])
        entries = capsys.readouterr().out.partition("\noptions:")[2].split("\n  --")[1:]
        for entry in entries:
            name = entry.split()[0]
            assert "_" not in name, f"{command}: {name}"
            text = " ".join(entry.split())
            assert len(text.partition("(")[0].split()) > 3, f"{command}: {text}"


def test_methods_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    for text in (
        "small-vgg",
        "wrn-16-1",
        "patch",
        "size=3",
        "picture=flower",
        "telea",
        "radius=3.0",
        "fed-avg",
        "verified",
        "jpeg",
    ):
        assert text in captured.out


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ((), ("subcommand", "train", "sanitize")),
        (("purge",), ("'purge'", "train", "sanitize", "evaluate")),
        ((*RUN, "--colour", "red"), ("--colour",)),
        ((*RUN, "--poison_rate", "0.1"), ("--poison_rate",)),
        (("train",), ("required", "output")),
        ((*RUN, "--rounds", "many"), ("rounds", "int", "many")),
        ((*RUN, "--rounds", "1.5"), ("rounds", "int", "1.5")),
        ((*RUN, "--rounds", "0"), ("rounds: expected a value at least 1, got 0",)),
        (
            (*RUN, "--poison-rate", "2"),
            (
                "poison_rate: expected",
                "at most 1, got 2",
            ),
        ),
        ((*RUN, "--poison-rate", ".nan"), ("poison_rate: expected", "got nan")),
        ((*RUN, "--clients", "3", "--malicious", "4"), ("malicious: expected 0 to 3", "got 4")),
        ((*RUN, "--trigger", "paint"), ("trigger: expected one of any-of, blended, patch", "'paint'")),
        ((*RUN, "--trigger", "patch:sides=3"), ("expected one of size", "'sides'")),
        ((*RUN, "--trigger", "patch:size=big"), ("size: expected int, got 'big'",)),
        ((*RUN, "--trigger", "patch:size"), ("expected name:option=value", "'patch:size'")),
        ((*RUN, "--trigger", "sticker:picture=no.png"), ("flag, flower", "'no.png'")),
        ((*RUN, "--aggregator", "crumb"), ("aggregator: expected one of bulyan", "fed-avg", "'crumb'")),
        ((*TRAIN, "--architecture", "small-vggg"), ("small-vgg", "'small-vggg'")),
        ((*TRAIN, "--architecture", "no_module:net"), ("module:function", "no_module")),
        ((*TRAIN, "--target-label", "4"), ("target_label: expected 0 to 3, got 4",)),
        ((*TRAIN, "--device", "abacus"), ("device: expected auto or one", "'abacus'")),
        ((*RUN, "--data", "nowhere"), ("source: expected 'signs'", "'nowhere'")),
        ((*RUN, "--config", "no.yaml"), ("config", "no.yaml")),
        ((*FROM, "--output", "file/run"), ("output: expected a folder that can be written", "file/run")),
        ((*FROM, "--output", "file"), ("output: expected a folder that can be written", "file")),
        (("evaluate",), ("required", "model")),
        ((*EVALUATE, "--model", "nowhere"), ("model: expected a checkpoint folder", "'nowhere'")),
        ((*EVALUATE, "--model", "empty"), ("checkpoints: expected a folder with model.safetensors", "'empty'")),
        (("evaluate", "--model", "wrn-16-1"), ("data: expected a source of pictures", "None")),
        ((*EVALUATE, "--model", "wrn-16-1"), ("weights: expected a file", "None")),
        (("ablate", "--model", "wrn-16-1"), ("data: expected a source of pictures", "None")),
        (("sanitize", "file"), ("required",)),
        (("sanitize", "nothing.png", "out", "--model", "m"), ("input: expected a picture", "'nothing.png'")),
        (("calibrate", "--output", "out"), ("required", "model")),
        (("explain", "file", "--model", "m"), ("required", "output")),
        (("measure-speed", "--pictures", "0"), ("pictures: expected a value at least 1, got 0",)),
        (("measure-speed", "--repeats", "0"), ("repeats: expected a value at least 1, got 0",)),
        (("measure-inpainters", "--model", "wrn-16-1"), ("data: expected a source of pictures",)),
        (("train-inpainter", "--output", "run", "--data", "[nowhere]"), ("source: expected 'signs'", "'nowhere'")),
        (("train-inpainter", "--output", "run", "--data", "[FOLDER]", "--steps", "0"), ("steps: expected", "got 0")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_bad_input_ends_in_one_line(
    refused: Errors, folder: Path, arguments: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    Path("file").write_text("mine")
    Path("empty").mkdir()
    line = refused(*(str(folder) if argument == "FOLDER" else argument for argument in arguments))
    for part in parts:
        assert part in line
    assert Path("file").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("--inpainter", "magic"), ("inpainter: expected one of biharmonic, gan", "'magic'")),
        (("--inpainter", "gan:weights=no.safetensors"), ("weights: expected a file", "no.safetensors")),
        (("--references", "0"), ("references: expected a value at least 1, got 0",)),
        (("--batch-size", "0"), ("batch_size: expected a value at least 1, got 0",)),
        (("--normalization", "mnist"), ("normalization: expected one of none, imagenet", "'mnist'")),
        (("--device", "abacus"), ("device: expected auto or one", "'abacus'")),
        (("--image-size", "64"), ("image_size: expected the card's 32, got 64",)),
        (("--weights", "more.pth"), ("weights: expected None", "'more.pth'")),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("command", ["evaluate", "sanitize", "calibrate", "explain"])
def test_bad_options_of_model_and_purifier(
    refused: Errors, toy_checkpoint: Path, folder: Path, command: str, options: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    purifier: tuple[object, ...] = ("--preset", "paper", "--reference", folder, "--output", "out")
    place: tuple[object, ...] = {
        "evaluate": ("--data", folder, "--presets", "[paper]"),
        "sanitize": (folder / "test", "out", *purifier[:-2]),
        "calibrate": purifier,
        "explain": (next((folder / "test").rglob("*.png")), *purifier),
    }[command]
    line = refused(command, *place, "--model", toy_checkpoint, *REFERENCES, *options)
    for part in parts:
        assert part in line
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("preset", "part"),
    [
        ("magic", "masked-restoration, paper, reject, verified, got 'magic'"),
        ("paper:layer=x", "option of preset paper: expected one of threshold, localizer, inpainter, got 'layer'"),
        ("paper:threshold=0", "threshold: expected a value above 0 and at most 1, got 0"),
        ("paper:threshold=hot", "threshold: expected float, got 'hot'"),
        ("paper:localizer=magic", "localizer: expected one of grad-cam, gradient-x-activation, got 'magic'"),
        ("paper:localizer=grad-cam:layer=nowhere", "layer: expected one of network.features.0"),
        ("verified:false_positive_rate=0", "false_positive_rate: expected a value above 0 and at most 0.5, got 0"),
        ("verified:without=everything", "without: expected one of first-look, transplant"),
        ("verified", "reference: expected at least 200 pictures for a false_positive_rate of 0.005, got 16"),
        ("verified:false_positive_rate=0.01", "reference: expected at least 100 pictures"),
    ],
)
@pytest.mark.parametrize("command", ["evaluate", "sanitize"])
def test_bad_presets(refused: Errors, toy_checkpoint: Path, folder: Path, command: str, preset: str, part: str) -> None:
    place: tuple[object, ...] = (folder / "test", "out", "--preset", preset, "--reference", folder)
    if command == "evaluate":
        place = ("--data", folder, "--presets", f"[paper, '{preset}']")
    assert part in refused(command, *place, "--model", toy_checkpoint, *REFERENCES)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (("--target-label", "4"), "target_label: expected 0 to 3, got 4"),
        (("--source-label", "0"), "source_label: expected a target label, of another class, got 0"),
        (("--trigger", "paint"), "trigger: expected one of any-of, blended, patch, "),
        (("--pictures", "0"), "expected a value at least 1, got 0"),
        (("--split", "night"), "split: expected one of train, test, got 'night'"),
        (("--output", "file"), "output: expected a folder that can be written"),
        (("--data", "signs"), "data: expected 4 classes, as the model has, got 12 in signs"),
        (("--references", "32"), "references: expected fewer than the 32 pictures"),
        (("--presets", "[]"), "purifiers: expected at least one, got none"),
        (("--presets", "paper"), "presets"),
    ],
    ids=str,
)
def test_bad_options_of_evaluate(
    refused: Errors, toy_checkpoint: Path, folder: Path, options: tuple[str, ...], part: str
) -> None:
    Path("file").write_text("mine")
    place = ("--data", folder, *REFERENCES, "--presets", "[paper]")
    assert part in refused("evaluate", "--model", toy_checkpoint, *place, *options)


class Trap:
    """Runs code when it is unpickled without care."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("trapped",))


def test_weights_that_are_code_are_refused_and_not_run(refused: Errors, folder: Path) -> None:
    torch.save({"weight": Trap()}, "weights.pth")
    model = ("--model", "wrn-16-1", "--weights", "weights.pth")
    line = refused("evaluate", *model, "--data", folder, *REFERENCES)
    assert "weights: expected a file of plain tensors, got weights.pth" in line
    assert "mkdir" in line
    assert not Path("trapped").exists()


def test_an_output_that_holds_something_is_refused(refused: Errors, toy_checkpoint: Path, folder: Path) -> None:
    Path("out").mkdir()
    Path("out", "mine").write_text("mine")
    # Without reference pictures no purifier can be made: the place is looked at before.
    line = refused("sanitize", folder / "test", "out", "--model", toy_checkpoint)
    assert line == "output: expected a new or empty place, or overwrite, got out, which exists"


def test_an_error_of_many_lines_is_one_line(refused: Errors, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        """Fail."""
        raise mismatch("a", "b\n  c", "d")

    monkeypatch.setitem(COMMANDS, "methods", fail)
    assert refused("methods") == "a: expected b c, got d"


def test_an_interruption_has_its_exit_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt() -> None:
        """Stop."""
        raise KeyboardInterrupt

    monkeypatch.setitem(COMMANDS, "methods", interrupt)
    assert main(["methods"]) == 130
    assert capsys.readouterr().err == "februus: interrupted\n"


def test_the_process_ends_with_the_exit_code() -> None:
    command = [sys.executable, "-m", "februus.cli", "purge"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert len(ended.stderr.splitlines()) == 1
    assert "'purge'" in ended.stderr


# --- the way from training to a clean picture ------------------------------------------------------------------------


@pytest.fixture
def small(folder: Path, toy_architecture: str) -> list[object]:
    """Give the options of a federation that is quick to train."""
    options = {"data": folder, "architecture": toy_architecture, "clients": 2, "malicious": 1, "rounds": 2}
    options |= {"batch-size": 16, "learning-rate": 0.02, "local-epochs": 6, "trigger": "patch:size=4"}
    options["output"] = "run [2]"
    return [text for name, value in options.items() for text in (f"--{name}", value)]


def test_train_evaluate_and_sanitize(
    folder: Path, small: list[object], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("train", *small) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert len(lines) == 3
    assert [line.split("  loss")[0] for line in lines[:2]] == ["round   1/2", "round   2/2"]
    assert all("  CA 0." in line or "  CA 1." in line for line in lines[:2])
    assert all("  ASR " in line and "  attackers [" in line for line in lines[:2])
    assert lines[2] == "wrote run [2]"
    card = read_card("run [2]")
    assert card.extra["federation"]["learning_rate"] == 0.02
    assert card.classes == ("0 red square", "1 red ring", "2 green square", "3 green ring")

    presets = "[paper, 'verified:false_positive_rate=0.1']"
    arguments = ["evaluate", "--model", "run [2]", "--data", str(folder), "--output", "report"]
    arguments += [*REFERENCES, "--presets", presets]
    monkeypatch.setattr("sys.argv", ["februus", *arguments])
    assert run(*arguments) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    for text in ("run [2]", "paper clean", "paper triggered", "false_positive_rate=0.1 triggered", "oracle triggered"):
        assert text in captured.out
    assert captured.out.splitlines()[-1] == "wrote report"
    report = json.loads(Path("report/report.json").read_text())
    assert report["versions"]["februus"] == version("februus")
    assert report["command"] == f"februus {' '.join(arguments)}"
    assert report["seed"] == 0
    rows = report["cases"]
    assert [row["name"] for row in rows] == ["run [2]"] * 3
    assert [row["preset"] for row in rows] == ["paper", "verified:false_positive_rate=0.1", ORACLE]
    case = open_case("run [2]", data=str(folder), references=16)
    victims = len(case.victims)
    assert victims < 16
    totals = {
        "clean_accuracy_before": 16,
        "clean_accuracy_after": 16,
        "attack_success_rate_before": victims,
        "attack_success_rate_after": victims,
        "recovered_accuracy": victims,
        "flagged_clean": 16,
        "flagged_triggered": victims,
    }
    for row in rows:
        for name, total in totals.items():
            rate = row["rates"][name]
            assert rate["total"] == total
            assert row[name] == rate["count"] / total
            low, high = rate["interval"]
            assert 0 <= low <= row[name] <= high <= 1
        assert row["rates"].keys() == totals.keys()
        # All rows start from the same answers of the bare model.
        for name in ("clean_accuracy_before", "attack_success_rate_before"):
            assert row["rates"][name] == rows[0]["rates"][name]
    paper, verified, oracle = rows
    # No reference is scored.
    assert paper["clean_accuracy_before"] == clean_accuracy(predict(case.model, case.test), case.test.labels).value
    assert paper["seconds_clean"] > 0
    assert paper["flops_clean"] >= 2
    assert "localizer=GradCam(layer=None), inpainter=Gan(" in paper["settings"]
    assert "Verified(false_positive_rate=0.1" in verified["settings"]
    assert oracle["flagged_triggered"] == 1
    assert oracle["flagged_clean"] == oracle["differences"]["clean_accuracy_loss"]["value"] == 0
    written = Path("report/report.md").read_text().splitlines()
    assert [line.split(" | ")[:2] for line in written[2:]] == [[f"| {row['name']}", row["preset"]] for row in rows]
    pictures = ["run-2-paper.png", "run-2-verified-false-positive-rate-0-1.png"]
    assert sorted(path.name for path in Path("report").iterdir()) == ["report.json", "report.md", *pictures]
    with Image.open("report/run-2-paper.png") as panel:
        assert panel.format == "PNG"
        assert panel.size[0] > 600

    options = ("--model", "run [2]", "--preset", "paper", "--panels")
    assert run("sanitize", folder / "test" / "1 red ring", "clean", *options) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    flagged = sum(row["flagged"] for row in json.loads(Path("clean/manifest.json").read_text()))
    assert captured.out.splitlines() == [f"8 of 8 pictures sanitized, {flagged} flagged; manifest beside them"]
    assert len(list(Path("clean").rglob("*.panel.png"))) == 8


def test_the_same_command_twice_gives_the_same_figures(toy_checkpoint: Path, folder: Path) -> None:
    found = []
    for name in ("one", "two"):
        options = ("--pictures", "8", "--trigger", "patch:size=4,position=random", "--seed", "3", "--output", name)
        purifiers = (*REFERENCES, "--presets", "['verified:false_positive_rate=0.1']")
        assert run("evaluate", "--model", toy_checkpoint, "--data", folder, *purifiers, *options) == 0
        rows = rows_of(name)
        found.append([{key: row[key] for key in row if not key.startswith(("seconds", "bytes"))} for row in rows])
    assert found[0] == found[1]
    assert [row["rates"]["clean_accuracy_before"]["total"] for row in found[0]] == [8, 8]
    panel = "toy-verified-false-positive-rate-0-1.png"
    assert Path("one", panel).read_bytes() == Path("two", panel).read_bytes()


def test_a_model_is_scanned_and_the_prior_is_used(
    toy_checkpoint: Path, toy_test: Dataset, toy_trigger: Patch, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = Path("seen in service")
    seen.mkdir()
    victims = toy_test.subset(toy_test.labels != 0)
    pictures = torch.cat([victims.floats()[:8], stamp(victims, toy_trigger, seeded(0)).floats()[8:20]])
    for number, picture in enumerate(pictures):
        save_image(picture, seen / f"{number:02}.png")
    common = ("--model", toy_checkpoint, "--reference", folder, "--references", 96)
    scanned = (*common, "--preset", "verified:false_positive_rate=0.1")
    assert run("scan", *scanned, "--pictures", seen, "--output", "scan") == 0
    told = capsys.readouterr().out
    assert "most of them were taken for class 0 (red square)" in told
    found = json.loads(Path("scan/scan.json").read_text())
    assert len(found["anomaly_indices"]) == len(found["norms"]) == 4
    assert found["service"]["suspect"] == 0
    assert found["service"]["flagged"]["total"] == 20
    assert found["service"]["success"]["value"] > 0.8
    assert Path("scan/scan.png").is_file()
    assert Path("scan/prior.safetensors").is_file() == bool(found["suspects"])
    # Of four classes none may stand out; what was seen in service is a prior, too.
    prior = ("--prior", "scan/trigger.safetensors")
    assert run("sanitize", seen, "cleaned", *scanned, *prior) == 0
    assert "20 of 20 pictures sanitized" in capsys.readouterr().out
    assert run("sanitize", seen, "again", *common, "--preset", "paper", *prior) == 2
    assert "option of preset paper" in capsys.readouterr().err


def test_scanning_takes_reference_pictures(toy_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("scan", "--model", toy_checkpoint, "--output", "scan") == 2
    assert "reference: expected clean pictures to try the model on, got none" in capsys.readouterr().err


def test_what_finds_no_trigger_cannot_scan(toy_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("scan", "measure-scans"):
        assert run(command, "--model", toy_checkpoint, "--detector", "strip", "--output", "scan") == 2
        assert "detector: expected one that finds triggers: neural-cleanse, got 'strip'" in capsys.readouterr().err


def test_scans_are_measured(toy_checkpoint: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--data", folder, "--references", "24", "--loop", "--detector", "neural-cleanse:steps=50")
    assert run("measure-scans", "--model", toy_checkpoint, *options, "--output", "scans") == 0
    (row,) = json.loads(Path("scans/scans.json").read_text())
    assert (row["name"], row["classes"], row["target_label"]) == ("toy", 4, 0)
    assert 1 <= row["rank"] <= 4
    assert row["same_suspects"] is True
    assert row["rank_correlation"] > 0.9
    assert "rho" in capsys.readouterr().out


def test_a_suite_is_measured_and_reported(
    toy_checkpoint: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = {
        "checkpoints": [str(toy_checkpoint)],
        "defenses": ["everywhere:restorer=flip", "verified", "oracle"],
        "data": str(folder),
        "pictures": 8,
        "references": 20,
    }
    Path("suite.yaml").write_text(json.dumps(suite))
    # Of 20 reference pictures verified cannot take its threshold: that is told, the rest is done.
    assert run("bench", "--suite", "suite.yaml", "--jobs", 1, "--output", "bench") == 1
    assert "failed checkpoint verified: reference: expected at least 200" in capsys.readouterr().out
    report = json.loads(Path("bench/report.json").read_text())
    assert [row["preset"] for row in report["rows"]] == ["everywhere:restorer=flip", "oracle"]
    for name in ("report.html", "report.md", "report.csv"):
        assert Path("bench", name).stat().st_size > 500
    assert run("bench", "--suite", "medium") == 2
    assert "suite: expected one of detectors, full, smoke, standard" in capsys.readouterr().err


def test_a_clean_model_is_evaluated_too(folder: Path, small: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", *small, "--malicious", 0, "--rounds", 1) == 0
    assert "ASR" not in capsys.readouterr().out
    assert run("evaluate", "--model", "run [2]", "--data", folder, *REFERENCES, "--presets", "[paper]") == 0
    assert "attack" not in capsys.readouterr().out
    # There is no trigger that an oracle could know.
    (row,) = rows_of("februus-evaluation")
    assert row["preset"] == "paper"
    assert "attack_success_rate_before" not in row
    assert Path("februus-evaluation/run-2-paper.png").is_file()


@pytest.fixture
def checkpoints(trained_toy: Normalized) -> Path:
    """Write the toy model twice, under two names, into a folder of folders."""
    assert trained_toy.card is not None
    for place, name in (("deep/one", "one"), ("two", "two")):
        save_checkpoint(Path("checkpoints", place), trained_toy, replace(trained_toy.card, name=name))
    return Path("checkpoints")


def test_a_folder_of_checkpoints_is_evaluated(
    checkpoints: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--inpainter", "telea", "--presets", "[paper, 'paper:threshold=0.9,inpainter=mean-fill']")
    arguments = ("--model", checkpoints, "--data", folder, *REFERENCES, *options, "--output", "report")
    assert run("evaluate", *arguments) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    rows = rows_of("report")
    presets = ["paper", "paper:threshold=0.9,inpainter=mean-fill", f"{ORACLE}:telea", f"{ORACLE}:mean-fill"]
    names = ("deep/one", "two")
    assert [(row["name"], row["preset"]) for row in rows] == [(name, key) for name in names for key in presets]
    # An inpainter that the preset names wins; there is an oracle of each.
    assert [row["settings"].partition("inpainter=")[2][:5] for row in rows[:2]] == ["Telea", "MeanF"]
    assert [row["settings"][:5] for row in rows[2:4]] == ["Telea", "MeanF"]
    for one, two in zip(rows[:4], rows[4:], strict=True):
        assert one["rates"] == two["rates"]
    written = Path("report/report.md").read_text().splitlines()
    assert [line.split(" | ")[:2] for line in written[2:]] == [[f"| {row['name']}", row["preset"]] for row in rows]
    for name, panel in zip(names, ("deep--one", "two"), strict=True):
        assert f"\n{name} " in captured.out
        assert Path(f"report/{panel}-paper.png").is_file()
        assert Path(f"report/{panel}-paper-threshold-0-9-inpainter-mean-fill.png").is_file()


def test_among_checkpoints_the_drawn_pictures_stand_where_a_card_names_them(checkpoints: Path, folder: Path) -> None:
    """DATA is for those whose pictures are not drawn."""
    shutil.copytree(Path(__file__).parents[1] / "zoo" / "clean_signs-vgg", checkpoints / "signs")
    options = ("--presets", "[paper]", "--inpainter", "mean-fill", "--pictures", 4, *REFERENCES, "--output", "report")
    assert run("evaluate", "--model", checkpoints, "--data", folder, *options) == 0
    accuracies = {row["name"]: row["clean_accuracy_before"] for row in rows_of("report") if row["preset"] == "paper"}
    assert list(accuracies) == ["deep/one", "signs", "two"]
    assert accuracies["signs"] == 1
    # A single one is asked about the pictures that are named.
    assert run("evaluate", "--model", checkpoints / "signs", "--data", folder, *options) == 2


def test_checkpoints_whose_cards_share_a_name_are_told_apart(trained_toy: Normalized, folder: Path) -> None:
    assert trained_toy.card is not None
    places = ["a/B", "a/b", "a-b"]
    for place in places:
        save_checkpoint(Path("checkpoints", place), trained_toy, trained_toy.card)
    options = ("--data", folder, *REFERENCES, "--pictures", 4, "--presets", "[paper]", "--inpainter", "mean-fill")
    assert run("evaluate", "--model", "checkpoints", *options, "--output", "report") == 0
    assert [row["name"] for row in rows_of("report")] == [name for name in places for _ in ("paper", ORACLE)]
    assert sorted(path.name for path in Path("report").glob("*.png")) == [
        "a--B-paper.png",
        "a--b-paper.png",
        "a-b-paper.png",
    ]
    # A single one is called as its card does, also by its own path.
    assert run("evaluate", "--model", "checkpoints/a/b", *options, "--output", "single") == 0
    assert [row["name"] for row in rows_of("single")] == ["toy"] * 2


def test_each_backdoor_of_a_model_is_evaluated(
    trained_toy: Normalized, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained_toy.card is not None
    first = {"trigger": trained_toy.card.trigger, "target_label": 0, "source_label": None}
    second = {"trigger": {"kind": "patch", "size": 5, "position": "top-left"}, "target_label": 1, "source_label": 3}
    card = replace(trained_toy.card, extra={"backdoors": [first, second]})
    save_checkpoint(Path("two"), trained_toy, card)
    options = ("--data", folder, *REFERENCES, "--presets", "[paper]", "--inpainter", "mean-fill", "--output", "report")
    assert run("evaluate", "--model", "two", *options) == 0
    assert "\ntoy#2 " in capsys.readouterr().out
    one, _, two, _ = rows_of("report")
    assert (one["name"], two["name"]) == ("toy#1", "toy#2")
    case = open_case("two", data=str(folder), references=16)
    labels = case.test.labels
    assert one["rates"]["attack_success_rate_before"]["total"] == int((labels != 0).sum())
    assert two["rates"]["attack_success_rate_before"]["total"] == int((labels == 3).sum())
    assert one["clean_accuracy_before"] == two["clean_accuracy_before"]
    assert {path.name for path in Path("report").glob("*.png")} == {"toy#1-paper.png", "toy#2-paper.png"}
    assert run("evaluate", "--model", "two", *options, "--source-label", 2) == 0
    row = rows_of("report")[0]
    assert (row["name"], row["rates"]["attack_success_rate_before"]["total"]) == ("toy", int((labels == 2).sum()))


def test_what_was_measured_is_kept_where_a_later_checkpoint_fails(
    checkpoints: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(checkpoints, "two", "model.safetensors").write_bytes(b"broken")
    arguments = ("--model", checkpoints, "--data", folder, *REFERENCES, "--presets", "[paper]", "--output", "report")
    assert run("evaluate", *arguments) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    kept = [(row["name"], row["preset"]) for row in rows_of("report")]
    assert kept == [("deep/one", "paper"), ("deep/one", ORACLE)]
    assert len(Path("report/report.md").read_text().splitlines()) == 4


def test_ablate_has_a_row_for_each_part(
    trained_toy: Normalized, many: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained_toy.card is not None
    # Small pictures, as each part is calibrated on so many of them.
    save_checkpoint(Path("small"), trained_toy, replace(trained_toy.card, image_size=16, center_crop=16))
    options = ("--references", NEEDED, "--pictures", 2, "--output", "ablation")
    assert run("ablate", "--model", "small", "--data", many, *options) == 0
    assert capsys.readouterr().err == ""
    rows = rows_of("ablation")
    parts = [f"verified:without={part}" for part in PARTS]
    plainer = ["verified:localizer=grad-cam", "verified:inpainter=mean-fill"]
    # One oracle for each of the two inpainters.
    oracles = [f"{ORACLE}:gan", f"{ORACLE}:mean-fill"]
    assert [row["preset"] for row in rows] == ["verified", *parts, *plainer, *oracles]
    for part, row in zip(PARTS, rows[1:], strict=False):
        assert f"without='{part}'" in row["settings"]
    assert "GradCam(" in rows[-4]["settings"]
    assert "MeanFill(" in rows[-3]["settings"]
    assert len(list(Path("ablation").glob("*.png"))) == len(rows) - 2


def test_the_same_command_again_trains_nothing_and_another_is_refused(
    small: list[object], refused: Errors, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", *small) == 0
    before = Path("run [2]/model.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    assert run("train", *small) == 0
    assert capsys.readouterr().out == "wrote run [2]\n"
    line = refused("train", *small, "--seed", 1)
    assert "run [2]: expected an empty folder or an earlier run with the same settings" in line
    assert "differs in federation" in line
    assert Path("run [2]/model.safetensors").stat().st_mtime_ns == before


def test_options_from_a_file(small: list[object]) -> None:
    given = dict(zip(small[::2], small[1::2], strict=True))
    options = {str(key)[2:].replace("-", "_"): value for key, value in given.items()}
    options |= {"data": str(given["--data"]), "rounds": 1, "target_label": 2, "alpha": None}
    Path("train.yaml").write_text(yaml.safe_dump(options))
    assert run("train", "--config", "train.yaml", "--poison-rate", "0.25") == 0
    told = read_card("run [2]").extra["federation"]
    assert (told["rounds"], told["target_label"], told["poison_rate"], told["clients"]) == (1, 2, 0.25, 2)


def test_a_file_with_a_wrong_option_is_refused(refused: Errors) -> None:
    Path("train.yaml").write_text("output: run\nround: 3\n")
    assert "round" in refused("train", "--config", "train.yaml")
    Path("train.yaml").write_text("output: [run\n")
    assert "config" in refused("train", "--config", "train.yaml")


def test_sanitize_tells_of_bad_files_in_its_exit_code(
    toy_checkpoint: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Path("in [x]")
    source.mkdir()
    (source / "good.png").write_bytes(next((folder / "test").rglob("*.png")).read_bytes())
    (source / "bad[red].png").write_text("text")
    options = ("--preset", "paper", "--inpainter", "telea")
    assert run("sanitize", source, "out", "--model", toy_checkpoint, *options) == 1
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("failed in [x]/bad[red].png: expected a readable picture, got ")
    assert lines[1].startswith("1 of 2 pictures sanitized, ")
    assert Path("out/good.png").is_file()
    assert len(json.loads(Path("out/manifest.json").read_text())) == 2


def test_sanitize_one_picture(toy_checkpoint: Path, folder: Path) -> None:
    source = next((folder / "test").rglob("*.png"))
    arguments = ("sanitize", source, "clean.png", "--model", toy_checkpoint, "--preset", "paper", "--panels")
    assert run(*arguments) == 0
    assert Path("clean.png").is_file()
    assert Path("clean.panel.png").is_file()
    assert run(*arguments) == 2
    assert run(*arguments, "--overwrite") == 0
    (row,) = json.loads(Path("clean.manifest.json").read_text())
    assert row["label_before"] in {"red square", "red ring", "green square", "green ring"}


def test_a_model_without_card(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    torch.save(build("wrn-16-1", num_classes=4).state_dict(), "weights.pth")
    model = ("--model", "wrn-16-1", "--weights", "weights.pth", "--normalization", "imagenet", "--inpainter", "telea")
    source = folder / "test" / "1 red ring"
    assert run("sanitize", source, "out", *model, "--preset", "paper", "--image-size", 48) == 0
    options = (*REFERENCES, "--pictures", 8, "--presets", "[paper]")
    assert run("evaluate", "--data", folder, *model, *options) == 0
    captured = capsys.readouterr()
    # It was never trained: that it has one answer is told, in one line.
    assert [line.split(":")[:2] for line in captured.err.splitlines()] in ([], [["februus", " warning"]])
    assert "\nwrn-16-1 " in captured.out
    assert "paper clean" in captured.out


# --- reference pictures and kept purifiers ---------------------------------------------------------------------------


@pytest.fixture
def mixed(folder: Path, toy_trigger: Patch, toy_test: Dataset) -> Path:
    """Write some clean pictures, and the same with the trigger."""
    clean = toy_test.subset(toy_test.labels == 3).take(3, seeded(0))
    write(clean, Path("mixed/clean"))
    write(stamp(clean, toy_trigger, seeded(0)), Path("mixed/triggered"))
    return Path("mixed")


def files(root: str | Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in Path(root).rglob("*") if path.is_file()}


def test_a_kept_purifier_does_what_its_reference_pictures_did(
    toy_checkpoint: Path, many: Path, mixed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ("--model", toy_checkpoint)
    fitted = ("--reference", many, "--references", NEEDED, "--inpainter", "telea")
    assert run("calibrate", *model, *fitted, "--output", "kept") == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("wrote kept\n", "")
    assert sorted(files("kept")) == ["calibration.safetensors", "purifier.json"]
    assert run("sanitize", mixed, "one", *model, *fitted) == 0
    assert run("sanitize", mixed, "two", *model, "--purifier", "kept") == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.splitlines() == ["6 of 6 pictures sanitized, 3 flagged; manifest beside them"] * 2
    assert files("one") == files("two")
    records = json.loads(Path("two/manifest.json").read_text())
    assert [record["flagged"] for record in records] == [False] * 3 + [True] * 3
    assert [record["label_after"] for record in records] == ["green ring"] * 6
    # What was not flagged came back as it was.
    before, after = files(mixed), files("two")
    assert all(before[record["file"]] == after[record["file"]] for record in records[:3])


def test_which_reference_pictures_count(toy_checkpoint: Path, many: Path, folder: Path) -> None:
    """They are drawn at random, the same ones each time; a data set is taken as training takes it."""
    options = ("--model", toy_checkpoint, "--preset", "verified:false_positive_rate=0.1", "--inpainter", "telea")
    for source, count, output in ((many, 40, "a"), (many, 40, "b"), (many, 41, "c"), (folder, 40, "d")):
        assert run("calibrate", *options, "--reference", source, "--references", count, "--output", output) == 0
    kept = {name: files(name)["calibration.safetensors"] for name in "abcd"}
    assert kept["a"] == kept["b"]
    assert len(set(kept.values())) == 3


def test_the_data_set_of_a_card_is_the_reference(
    trained_toy: Normalized, toy_test: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model of signs needs no other reference: they are drawn on the spot."""
    asked = []

    def load(source: str, split: str, **size: object) -> Dataset:
        asked.append((source, split, size))
        return toy_test

    monkeypatch.setattr("februus.commands.load", load)
    assert trained_toy.card is not None
    save_checkpoint(Path("signs"), trained_toy, replace(trained_toy.card, dataset="signs"))
    options = ("--preset", "verified:false_positive_rate=0.1", "--references", 20)
    assert run("calibrate", "--model", "signs", *options, "--output", "kept") == 0
    assert asked == [("signs", "train", {"image_size": 32, "center_crop": None})]
    assert Path("kept/calibration.safetensors").is_file()


def test_without_reference_pictures_the_default_preset_is_refused(
    refused: Errors, toy_checkpoint: Path, folder: Path
) -> None:
    expected = "reference: expected at least 200 pictures for a false_positive_rate of 0.005, got none"
    picture = next((folder / "test").rglob("*.png"))
    model = ("--model", toy_checkpoint)
    assert refused("sanitize", folder / "test", "out", *model) == expected
    assert refused("explain", picture, *model, "--output", "out.png") == expected
    assert refused("calibrate", *model, "--output", "out") == expected
    assert not Path("out").exists()
    assert not Path("out.png").exists()


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (("--reference", "nowhere"), "source: expected 'signs'"),
        (("--reference", "empty"), "expected"),
        (("--reference", "FOLDER", "--references", "15", "--preset", "paper"), "reference: expected at least 16"),
        (("--purifier", "nowhere"), "purifier: expected a folder that `Purifier.save` wrote, got nowhere"),
        (("--purifier", "broken"), "purifier: expected a folder that `Purifier.save` wrote, got broken"),
    ],
    ids=str,
)
def test_bad_references_and_purifiers(
    refused: Errors, toy_checkpoint: Path, folder: Path, options: tuple[str, ...], part: str
) -> None:
    Path("empty").mkdir()
    Path("broken").mkdir()
    Path("broken", "purifier.json").write_text("{")
    given = (str(folder) if option == "FOLDER" else option for option in options)
    assert part in refused("sanitize", folder / "test", "out", "--model", toy_checkpoint, *given)


def test_a_purifier_of_another_model_is_refused(
    refused: Errors,
    toy_checkpoint: Path,
    trained_toy: Normalized,
    toy_architecture: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ("--preset", "verified:false_positive_rate=0.1", "--reference", folder, "--references", 20)
    assert run("calibrate", "--model", toy_checkpoint, *options, "--output", "kept") == 0
    capsys.readouterr()
    torch.manual_seed(1)
    assert trained_toy.card is not None
    other = Normalized(build(toy_architecture, num_classes=4), card=trained_toy.card)
    save_checkpoint(Path("other"), other, trained_toy.card)
    line = refused("sanitize", folder / "test", "out", "--model", "other", "--purifier", "kept")
    assert line.startswith("model: expected the one that the purifier was fitted to")


def test_explain_draws_a_figure(
    toy_checkpoint: Path, many: Path, mixed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ("--model", toy_checkpoint)
    assert run("calibrate", *model, "--reference", many, "--references", NEEDED, "--output", "kept") == 0
    clean, triggered = (next((mixed / name).rglob("*.png")) for name in ("clean", "triggered"))
    assert run("explain", triggered, *model, "--purifier", "kept", "--output", "guilty.png") == 0
    assert run("explain", clean, *model, "--purifier", "kept", "--output", "innocent.png") == 0
    assert run("explain", triggered, *model, "--preset", "paper", "--output", "paper.png") == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.splitlines()[1:] == ["wrote guilty.png", "wrote innocent.png", "wrote paper.png"]
    sizes = {}
    for name in ("guilty", "innocent", "paper"):
        with Image.open(f"{name}.png") as figure:
            assert figure.format == "PNG"
            sizes[name] = figure.size
    # The published recipe tries nothing: there is less to tell. What leads the model is tried on its class alone.
    assert sizes["paper"][1] < sizes["innocent"][1] <= sizes["guilty"][1]
    assert Path("guilty.png").read_bytes() != Path("innocent.png").read_bytes()


def test_explain_needs_a_picture(refused: Errors, toy_checkpoint: Path, folder: Path) -> None:
    Path("text.png").write_text("text")
    for picture in ("text.png", "nowhere.png", folder / "test"):
        options = ("--model", toy_checkpoint, "--preset", "paper", "--output", "out.png")
        assert "expected a readable picture" in refused("explain", picture, *options)
    assert not Path("out.png").exists()


# --- measuring -------------------------------------------------------------------------------------------------------


def test_measure_inpainters(toy_checkpoint: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--model", toy_checkpoint, "--data", folder, "--pictures", 4, "--output", "measured")
    assert run("measure-inpainters", *options) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    rows = json.loads(Path("measured/inpainters.json").read_text())
    assert len(rows) == 10
    assert {row["holes"] for row in rows} == {"8x8 square", "Grad-CAM"}
    assert all(row["pictures"] == 4 for row in rows)
    for row in rows:
        assert row["inpainter"] in captured.out
        assert f"{row['psnr']:.2f}" in captured.out
    assert Path("measured/inpainters.png").is_file()


def test_measure_inpainters_with_a_model_without_card(folder: Path) -> None:
    """The options of the model count here as elsewhere."""
    torch.manual_seed(0)
    torch.save(build("wrn-16-1", num_classes=4).state_dict(), "weights.pth")
    model = ("--model", "wrn-16-1", "--weights", "weights.pth", "--normalization", "cifar10", "--image-size", 16)
    assert run("measure-inpainters", *model, "--data", folder, "--pictures", 3, "--output", "measured") == 0
    rows = json.loads(Path("measured/inpainters.json").read_text())
    assert {row["holes"] for row in rows} == {"4x4 square", "Grad-CAM"}


def test_measure_speed(small: list[object], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    federation = ("--architecture", small[3], "--clients", 2)
    options = ("--data", folder, "--pictures", 6, "--repeats", 1, "--output", "speed")
    assert run("measure-speed", *federation, *options) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.startswith("one by one takes ")
    measured = json.loads(Path("speed/speed.json").read_text())
    assert measured["batched"]["pictures"] == 6
    assert measured["round"]["steps"] == 4
    assert f"a federated round takes {measured['round']['ratio']:.2f} (" in captured.out


def test_train_inpainter_and_use_it(toy_checkpoint: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ("--steps", 2, "--batch-size", 4, "--width", 4, "--report-every", 2, "--no-bfloat16")
    assert run("train-inpainter", "--data", f"['{folder}']", "--output", "gan", *settings, "--device", "cpu") == 0
    captured = capsys.readouterr()
    assert "step 2" in captured.out
    weights = captured.out.splitlines()[-1].removeprefix("wrote ")
    inpainter = f"gan:weights={weights}"
    options = ("--pictures", 8, *REFERENCES, "--presets", "[paper]", "--inpainter", inpainter, "--output", "report")
    assert run("evaluate", "--model", toy_checkpoint, "--data", folder, *options) == 0
    for row in rows_of("report"):
        assert weights in row["settings"]


def test_several_processes_train_one_inpainter(folder: Path) -> None:
    settings = ("--steps", "2", "--batch-size", "2", "--width", "4", "--report-every", "2", "--no-bfloat16")
    launch = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    command = (*launch, "-m", "februus.cli", "train-inpainter", "--data", f"['{folder}']", "--output", "gan", *settings)
    # No accelerator, wherever the tests run: what `auto` stands for there is what is tested.
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(Path("gan/card.json").read_text())["data"]["processes"] == 2
    first, last = ended.stdout.splitlines()
    assert first.startswith("step 2")
    assert last.startswith("wrote ")


# --- progress --------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """A file that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def show(monkeypatch: pytest.MonkeyPatch, out: io.StringIO, errors: io.StringIO, results: Console = console) -> None:
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.stderr", errors)
    monkeypatch.setenv("TERM", "xterm")
    with progress() as bars:
        bar = bars.add_task("pictures", total=3)
        results.print("a result [b]")
        bars.advance(bar, 3)


def test_without_a_terminal_no_bar_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    out, errors = io.StringIO(), io.StringIO()
    show(monkeypatch, out, errors)
    assert errors.getvalue() == ""
    assert out.getvalue() == "a result [b]\n"


def test_with_a_terminal_a_bar_is_drawn_beside_a_piped_result(monkeypatch: pytest.MonkeyPatch) -> None:
    out, errors = io.StringIO(), Terminal()
    show(monkeypatch, out, errors)
    assert "pictures" in errors.getvalue()
    assert "3/3" in errors.getvalue()
    assert out.getvalue() == "a result [b]\n"


def test_where_both_are_the_terminal_a_result_stands_on_its_own_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    shared = Console(file=terminal, markup=False, highlight=False)
    monkeypatch.setattr("februus.progress.console", shared)
    show(monkeypatch, terminal, terminal, shared)
    lines = terminal.getvalue().replace("\r", "\n").splitlines()
    assert "a result [b]" in [line.removeprefix("\x1b[2K") for line in lines]
    assert any("3/3" in line for line in lines)

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console

from februus.checks import mismatch
from februus.cli import main
from februus.commands import COMMANDS
from februus.data import Dataset
from februus.models import build, read_card
from februus.progress import console, progress

Draw = Callable[..., Dataset]
Errors = Callable[..., str]

FROM = ("train", "--data", "FOLDER")
RUN = ("train", "--output", "run")
TRAIN = (*RUN, "--data", "FOLDER")


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Run in an empty folder, with nothing that colours the output, and wide enough for a path in one line."""
    monkeypatch.chdir(tmp_path)
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture(scope="module")
def folder(toy_draw: Draw, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write toy pictures as a folder with one sub-folder a class, in two splits."""
    root = tmp_path_factory.mktemp("toy pictures [1]")
    for split, count, seed in (("train", 96, 0), ("test", 32, 1)):
        data = toy_draw(count, seed)
        for index, (image, label) in enumerate(zip(data.images, data.labels.tolist(), strict=True)):
            path = root / split / f"{label} {data.classes[label]}" / f"{index:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return root


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
    for text in ("small-vgg", "wrn-16-1", "patch", "size=3", "picture=flower", "telea", "radius=3.0", "fed-avg"):
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
        ((*RUN, "--trigger", "paint"), ("trigger: expected one of blended, patch", "'paint'")),
        ((*RUN, "--trigger", "patch:sides=3"), ("expected one of size", "'sides'")),
        ((*RUN, "--trigger", "patch:size=big"), ("size: expected int, got 'big'",)),
        ((*RUN, "--trigger", "patch:size"), ("expected name:option=value", "'patch:size'")),
        ((*RUN, "--trigger", "sticker:picture=no.png"), ("flag, flower", "'no.png'")),
        ((*RUN, "--aggregator", "krum"), ("aggregator: expected one of fed-avg", "'krum'")),
        ((*TRAIN, "--architecture", "small-vggg"), ("small-vgg", "'small-vggg'")),
        ((*TRAIN, "--architecture", "no_module:net"), ("module:function", "no_module")),
        ((*TRAIN, "--target-label", "4"), ("target_label: expected 0 to 3, got 4",)),
        ((*TRAIN, "--device", "abacus"), ("device: expected auto or one", "'abacus'")),
        ((*RUN, "--data", "nowhere"), ("source: expected 'signs'", "'nowhere'")),
        ((*RUN, "--config", "no.yaml"), ("config", "no.yaml")),
        ((*FROM, "--output", "file/run"), ("output: expected a folder that can be written", "file/run")),
        ((*FROM, "--output", "file"), ("output: expected a folder that can be written", "file")),
        (("evaluate",), ("required", "model")),
        (("evaluate", "--model", "nowhere", "--data", "FOLDER"), ("model: expected a checkpoint folder", "'nowhere'")),
        (("evaluate", "--model", "wrn-16-1"), ("data: expected a source of pictures", "None")),
        (("evaluate", "--model", "wrn-16-1", "--data", "FOLDER"), ("weights: expected a file", "None")),
        (("sanitize", "file"), ("required",)),
        (("sanitize", "nothing.png", "out", "--model", "m"), ("input: expected a picture", "'nothing.png'")),
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
    line = refused(*(str(folder) if argument == "FOLDER" else argument for argument in arguments))
    for part in parts:
        assert part in line
    assert Path("file").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("--preset", "papers"), ("preset: expected one of paper, got 'papers'",)),
        (("--inpainter", "magic"), ("inpainter: expected one of biharmonic, gan", "'magic'")),
        (("--inpainter", "gan:weights=no.safetensors"), ("weights: expected a file", "no.safetensors")),
        (("--threshold", "0"), ("threshold: expected a value above 0 and at most 1, got 0",)),
        (("--layer", "nowhere"), ("layer: expected one of network.features.0", "'nowhere'")),
        (("--batch-size", "0"), ("batch_size: expected a value at least 1, got 0",)),
        (("--normalization", "mnist"), ("normalization: expected one of none, imagenet", "'mnist'")),
        (("--device", "abacus"), ("device: expected auto or one", "'abacus'")),
        (("--image-size", "64"), ("image_size: expected the card's 32, got 64",)),
        (("--weights", "more.pth"), ("weights: expected None", "'more.pth'")),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("command", ["evaluate", "sanitize"])
def test_bad_options_of_model_and_purifier(
    refused: Errors, toy_checkpoint: Path, folder: Path, command: str, options: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    place = ("--data", folder) if command == "evaluate" else (folder / "test", "out")
    line = refused(command, *place, "--model", toy_checkpoint, *options)
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (("--target-label", "4"), "target_label: expected 0 to 3, got 4"),
        (("--trigger", "paint"), "trigger: expected one of blended, patch, pixels, sticker, got 'paint'"),
        (("--pictures", "0"), "expected a value at least 1, got 0"),
        (("--split", "night"), "split: expected one of train, test, got 'night'"),
        (("--output", "file"), "output: expected a folder that can be written"),
        (("--data", "signs"), "data: expected 4 classes, as the model has, got 12 in signs"),
    ],
    ids=str,
)
def test_bad_options_of_evaluate(
    refused: Errors, toy_checkpoint: Path, folder: Path, options: tuple[str, ...], part: str
) -> None:
    Path("file").write_text("mine")
    assert part in refused("evaluate", "--model", toy_checkpoint, "--data", folder, *options)


class Trap:
    """Runs code when it is unpickled without care."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("trapped",))


def test_weights_that_are_code_are_refused_and_not_run(refused: Errors, folder: Path) -> None:
    torch.save({"weight": Trap()}, "weights.pth")
    line = refused("evaluate", "--model", "wrn-16-1", "--data", folder, "--weights", "weights.pth")
    assert "weights: expected a file of plain tensors, got weights.pth" in line
    assert "mkdir" in line
    assert not Path("trapped").exists()


def test_an_output_that_holds_something_is_refused(refused: Errors, toy_checkpoint: Path, folder: Path) -> None:
    Path("out").mkdir()
    Path("out", "mine").write_text("mine")
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

    arguments = ["evaluate", "--model", "run [2]", "--data", str(folder), "--output", "report"]
    monkeypatch.setattr("sys.argv", ["februus", *arguments])
    assert run(*arguments) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "run [2], preset paper" in captured.out
    assert captured.out.splitlines()[-1] == "wrote report/report.json and report/panel.png"
    report = json.loads(Path("report/report.json").read_text())
    assert report["versions"]["februus"] == version("februus")
    assert report["command"] == f"februus {' '.join(arguments)}"
    assert report["seed"] == 0
    (row,) = report["cases"]
    assert (row["name"], row["preset"]) == ("run [2]", "paper")
    totals = {
        "clean_accuracy_before": 32,
        "clean_accuracy_after": 32,
        "attack_success_rate_before": 24,
        "attack_success_rate_after": 24,
        "recovered_accuracy": 24,
        "flagged_clean": 32,
        "flagged_triggered": 24,
    }
    for name, total in totals.items():
        rate = row["rates"][name]
        assert rate["total"] == total
        assert row[name] == rate["count"] / total
        low, high = rate["interval"]
        assert 0 <= low <= row[name] <= high <= 1
    assert row["rates"].keys() == totals.keys()
    # The clean pictures are those of the training's last row.
    assert row["clean_accuracy_before"] == card.extra["history"][-1]["clean_accuracy"]["value"]
    assert row["attack_success_rate_before"] == card.extra["history"][-1]["attack_success_rate"]["value"]
    assert row["seconds_per_image"] > 0
    assert row["flops"] > 2
    assert row["settings"].startswith("Purifier(localizer=GradCam(layer=None), inpainter=Gan(")
    with Image.open("report/panel.png") as panel:
        assert panel.format == "PNG"
        assert panel.size[0] > 600

    assert run("sanitize", folder / "test" / "1 red ring", "clean", "--model", "run [2]", "--panels") == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    flagged = sum(row["flagged"] for row in json.loads(Path("clean/manifest.json").read_text()))
    assert captured.out.splitlines() == [f"8 of 8 pictures sanitized, {flagged} flagged; manifest beside them"]
    assert len(list(Path("clean").rglob("*.panel.png"))) == 8


def test_the_same_command_twice_gives_the_same_figures(toy_checkpoint: Path, folder: Path) -> None:
    rows = []
    for name in ("one", "two"):
        options = ("--pictures", "20", "--trigger", "patch:size=4,position=random", "--seed", "3", "--output", name)
        assert run("evaluate", "--model", toy_checkpoint, "--data", folder, *options) == 0
        (row,) = json.loads(Path(name, "report.json").read_text())["cases"]
        rows.append({key: value for key, value in row.items() if not key.startswith("seconds")})
    assert rows[0] == rows[1]
    assert rows[0]["rates"]["clean_accuracy_before"]["total"] == 20
    assert Path("one/panel.png").read_bytes() == Path("two/panel.png").read_bytes()


def test_a_clean_model_is_evaluated_too(folder: Path, small: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", *small, "--malicious", 0, "--rounds", 1) == 0
    assert "ASR" not in capsys.readouterr().out
    assert run("evaluate", "--model", "run [2]", "--data", folder) == 0
    assert "attack" not in capsys.readouterr().out
    (row,) = json.loads(Path("februus-evaluation/report.json").read_text())["cases"]
    assert "attack_success_rate_before" not in row
    assert Path("februus-evaluation/panel.png").is_file()


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
    assert run("sanitize", source, "out", "--model", toy_checkpoint, "--inpainter", "telea") == 1
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
    arguments = ("sanitize", source, "clean.png", "--model", toy_checkpoint, "--panels")
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
    assert run("sanitize", folder / "test" / "1 red ring", "out", *model, "--image-size", 48) == 0
    assert run("evaluate", "--data", folder, *model, "--pictures", 8) == 0
    captured = capsys.readouterr()
    # It was never trained: that it has one answer is told, in one line.
    assert [line.split(":")[:2] for line in captured.err.splitlines()] in ([], [["februus", " warning"]])
    assert "wrn-16-1, preset paper" in captured.out


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
    options = ("--pictures", 8, "--inpainter", inpainter, "--output", "report")
    assert run("evaluate", "--model", toy_checkpoint, "--data", folder, *options) == 0
    (row,) = json.loads(Path("report/report.json").read_text())["cases"]
    assert weights in row["settings"]


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

from __future__ import annotations

import io
import json
from importlib.metadata import version
from pathlib import Path

import pytest
from rich.console import Console

from februus.benchmark.evaluation import Row
from februus.benchmark.report import table, write_report
from februus.metrics import Rate

RATES = {
    "clean_accuracy_before": Rate(90, 100),
    "clean_accuracy_after": Rate(80, 100),
    "flagged_clean": Rate(10, 100),
    "attack_success_rate_before": Rate(75, 75),
    "attack_success_rate_after": Rate(0, 75),
    "recovered_accuracy": Rate(60, 75),
    "flagged_triggered": Rate(74, 75),
}


def row(rates: dict[str, Rate]) -> Row:
    return Row(
        name="toy [a]",
        preset="paper",
        rates=rates,
        seconds_per_image=0.0125,
        seconds_per_image_plain=0.001,
        flops=5.04,
        flops_inpainter=2.96,
        settings="Purifier()",
    )


def text_of(made: Row) -> str:
    console = Console(file=io.StringIO(), width=100, markup=False)
    console.print(table(made))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_table_has_every_rate_with_its_interval() -> None:
    lines = [line.split("  ") for line in text_of(row(RATES)).splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert ["toy [a], preset paper"] in cells
    for expected in (
        ["clean accuracy, CA", "0.900 [0.826, 0.945]", "0.800 [0.711, 0.867]"],
        ["attack success, ASR", "1.000 [0.951, 1.000]", "0.000 [0.000, 0.049]"],
        ["recovered accuracy, RA", "0.800 [0.696, 0.875]"],
        ["flagged, clean", "0.100 [0.055, 0.174]"],
        ["flagged, triggered", "0.987 [0.928, 0.998]"],
        ["time a picture", "1.00 ms", "12.50 ms"],
        ["FLOPs a picture", "1.0", "5.0 (inpainting 3.0)"],
    ):
        assert expected in cells


def test_what_was_not_measured_is_not_in_the_table() -> None:
    text = text_of(row({name: rate for name, rate in RATES.items() if "clean" in name}))
    assert "clean accuracy" in text
    assert "flagged, clean" in text
    assert "attack" not in text
    assert "recovered" not in text
    assert "triggered" not in text


def test_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/februus", "evaluate", "--seed", "3"])
    write_report(tmp_path / "report.json", [row(RATES), row(RATES)], seed=3)
    report = json.loads((tmp_path / "report.json").read_text())
    assert list(report) == ["command", "versions", "seed", "cases"]
    assert report["command"] == "februus evaluate --seed 3"
    assert report["versions"] == {name: version(name) for name in ("februus", "torch", "torchvision", "captum")}
    assert report["seed"] == 3
    assert report["cases"] == [row(RATES).to_dict()] * 2

"""What a person reads of the rows, and what a program reads."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from februus.benchmark.evaluation import Row
from februus.files import write_json

__all__ = ["table", "write_report"]

LINES = {
    "clean accuracy, CA": ("clean_accuracy_before", "clean_accuracy_after"),
    "attack success, ASR": ("attack_success_rate_before", "attack_success_rate_after"),
    "recovered accuracy, RA": (None, "recovered_accuracy"),
    "flagged, clean": (None, "flagged_clean"),
    "flagged, triggered": (None, "flagged_triggered"),
}


def table(row: Row) -> Table:
    """Return a row as a table: rates before and after with Wilson 95 % intervals, and what a picture costs."""
    drawn = Table(title=f"{row.name}, preset {row.preset}", title_justify="left", box=SIMPLE_HEAD)
    for heading in ("", "before", "after"):
        drawn.add_column(heading, no_wrap=True)
    for label, names in LINES.items():
        rates = [row.rates.get(name or "") for name in names]
        if any(rates):
            drawn.add_row(label, *("" if rate is None else str(rate) for rate in rates))
    plain, purified = 1000 * row.seconds_per_image_plain, 1000 * row.seconds_per_image
    drawn.add_row("time a picture", f"{plain:.2f} ms", f"{purified:.2f} ms")
    drawn.add_row("FLOPs a picture", "1.0", f"{row.flops:.1f} (inpainting {row.flops_inpainter:.1f})")
    return drawn


def write_report(path: Path, rows: Sequence[Row], **facts: Any) -> None:
    """Write ``report.json``: the cases, the command, the versions and ``facts``."""
    report = {
        "command": " ".join(["februus", *sys.argv[1:]]),
        "versions": {name: version(name) for name in ("februus", "torch", "torchvision", "captum")},
        **facts,
        "cases": [row.to_dict() for row in rows],
    }
    write_json(path, report)

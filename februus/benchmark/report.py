"""What a person reads of the rows, and what a program reads."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from februus.benchmark.evaluation import ORACLE, Row
from februus.benchmark.leaderboard import Pair, Standing, compare, leaderboard, method_of
from februus.benchmark.page import COMPARISON_NOTE, GLOSSARY, LEADERBOARD_NOTE, draw_page
from februus.benchmark.sheets import exceptions, figures, standings, verdicts
from februus.files import write_file, write_json
from februus.metrics import Auroc, Difference, Mean, Rate

__all__ = ["markdown", "table", "write_benchmark", "write_report"]

# The preset whose promise the comparison tests.
COMPARED = "verified"

# Headings, and what they mean.
COLUMNS = {
    "accuracy": "accuracy: of clean pictures CA, of triggered ones RA (the true label counts)",
    "loss of\naccuracy": "loss: against the model without defense on the same pictures without trigger",
    "ASR before\n→ after": "ASR, attack success rate: triggered pictures that are taken for the attacker's class",
    "excess\nASR": "excess: less those that the model without defense takes for it without trigger",
    "flagged": "flagged: suspected of a trigger",
    "FLOPs": "FLOPs: relative to the model alone, + the inpainter's",
    "ms": "ms: wall time a picture",
}
# Columns that never wrap.
NARROW = ("flagged", "FLOPs", "ms")
KINDS = {
    "clean": ("clean_accuracy_after", "clean_accuracy_loss", "flagged_clean"),
    "triggered": ("recovered_accuracy", "recovered_accuracy_loss", "flagged_triggered"),
}


def table(rows: Sequence[Row]) -> Table:
    """Return rows as one table, under the names of their cases: each figure with its 95 % interval under it.

    Each row stands twice, with the figures of clean pictures and with those of triggered ones. What no row has gets no
    column. The table is made for 100 columns or more; in 80 intervals wrap.
    """
    lines = [(row, kind, _figures(row, kind)) for row in rows for kind in KINDS if KINDS[kind][0] in row.rates]
    shown = [heading for heading in COLUMNS if any(cells[heading] for *_, cells in lines)]
    notes = ["", "Under a figure: its 95 % interval.", *(COLUMNS[heading] for heading in shown)]
    if any(row.preset.startswith(ORACLE) for row in rows):
        notes.append("oracle: exactly the pixels that the trigger changed are restored")
    drawn = Table(
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        caption=Text("\n".join(notes)),
        caption_justify="left",
    )
    drawn.add_column("case\n preset\n pictures", overflow="fold")
    for heading in shown:
        drawn.add_column(heading, no_wrap=heading in NARROW)
    for name, of_case in groupby(lines, lambda line: line[0].name):
        drawn.add_row(Text(name, style="bold"))
        for row, kind, cells in of_case:
            label = Padding(Text(f"{row.preset} {kind}"), (0, 0, 0, 1))
            drawn.add_row(label, *(cells[heading] for heading in shown))
        drawn.add_section()
    return drawn


def markdown(rows: Sequence[Row]) -> str:
    """Return rows as a table of GitHub's Markdown, a line each, with 95 % intervals."""
    return figures(rows).markdown


def write_report(path: Path, rows: Sequence[Row], **facts: Any) -> None:
    """Write ``report.json``: the cases, the command, the versions and ``facts``."""
    write_json(path, {**_origin(), **facts, "cases": [row.to_dict() for row in rows]})


def write_benchmark(output: Path, report: Mapping[str, Any]) -> None:
    """Write what a benchmark found: ``report.json``, ``report.csv``, ``report.md`` and ``report.html``.

    The page is one file, which holds the pictures of the cases and asks no network for anything.

    Args:
        output: the folder; its ``cases`` holds the pictures.
        report: what `februus.benchmark.suite.run_suite` returned.

    Raises:
        ValueError: if a file cannot be written.
    """
    whole = {**_origin(), **report}
    board = leaderboard(whole["rows"])
    pairs = {
        standing.preset: found
        for standing in board
        if method_of(standing.preset) == COMPARED and (found := compare(whole["rows"], standing.preset))
    }
    write_json(output / "report.json", whole)
    texts = {
        "report.csv": _comma_separated(whole["rows"]),
        "report.md": _told(whole, board, pairs),
        "report.html": draw_page(whole, board, pairs, output / "cases"),
    }
    for name, text in texts.items():
        write_file(output / name, partial(_write, text))


def _write(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")


def _origin() -> dict[str, Any]:
    """Return what the figures come of."""
    return {
        "command": " ".join(["februus", *sys.argv[1:]]),
        "versions": {name: version(name) for name in ("februus", "torch", "torchvision", "captum")},
    }


def _comma_separated(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a line a row: each figure, what it is made of, and the ends of its interval."""
    lines = [_flat(row) for row in rows]
    # The row with the most figures has them all in their order; others, as those of clean models, lack some.
    columns = dict.fromkeys(column for line in sorted(lines, key=len, reverse=True) for column in line)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    flat = {"case": row["name"], "preset": row["preset"], "seed": row["seed"]}
    read = Row.from_dict(row)
    detection = vars(read.detection) if read.detection else {}
    for name, figure in {**read.rates, **read.differences, **detection, **vars(read)}.items():
        if isinstance(figure, Rate | Difference | Auroc | Mean):
            parts = {f"{name}_{part}": value for part, value in vars(figure).items() if part != "value"}
            low, high = figure.interval or (None, None)
            flat |= {name: figure.value, **parts, f"{name}_low": low, f"{name}_high": high}
        elif isinstance(figure, int | float):
            flat[name] = figure
    return flat | {"picture": row["picture"], "settings": row["settings"]}


def _told(report: Mapping[str, Any], board: Sequence[Standing], pairs: Mapping[str, Sequence[Pair]]) -> str:
    """Return the whole as Markdown."""
    rows = sorted(report["rows"], key=lambda row: (row["name"], row["seed"]))
    told = ["# Benchmark\n", "## Leaderboard\n"]
    told += [LEADERBOARD_NOTE, standings(board).markdown] if board else ["Nothing was measured.\n"]
    for preset, found in pairs.items():
        told += [f"## {preset} against the others\n", COMPARISON_NOTE, verdicts(found).markdown]
        behind = exceptions(found)
        told += ["Where it is behind:\n", behind.markdown] if behind.lines else ["It is nowhere behind.\n"]
    if rows:
        everything = figures([Row.from_dict(row) for row in rows], [row["seed"] for row in rows])
        told += ["## Case by case\n", everything.markdown]
    if report["failed"]:
        told += ["## Not measured\n", "".join(f"- {name}: {why}\n" for name, why in report["failed"].items())]
    told += ["## What the figures mean\n", "".join(f"- {name}: {meaning}\n" for name, meaning in GLOSSARY.items())]
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    told += ["## How it was made\n", f"`{report['command']}` with {versions}.\n"]
    return "\n".join(told)


def _figures(row: Row, kind: str) -> dict[str, str]:
    """Return the cells of clean or of triggered pictures by their headings, empty where nothing was measured."""
    accuracy, loss, flagged = KINDS[kind]
    attack = excess = ""
    if kind == "triggered":
        before, after = (row.rates[f"attack_success_rate_{when}"] for when in ("before", "after"))
        attack = f"{before.value:.3f} → {after.value:.3f}\n{_interval(after)}"
        excess = _signed(row.differences["excess_attack_success_rate"])
    cells = (
        f"{row.rates[accuracy].value:.3f}\n{_interval(row.rates[accuracy])}",
        _signed(row.differences[loss]),
        attack,
        excess,
        f"{row.rates[flagged].value:.3f}",
        _flops(row, kind).replace(" ", "\n", 1),
        _milliseconds(row, kind),
    )
    return dict(zip(COLUMNS, cells, strict=True))


def _signed(difference: Difference) -> str:
    return f"{difference.value:+.3f}\n{_interval(difference)}"


def _interval(figure: Rate | Difference) -> str:
    sign = "+" if isinstance(figure, Difference) else ""
    low, high = (format(bound, f"{sign}.3f").replace("0.", ".", 1) for bound in figure.interval)
    return f"[{low}, {high}]"


def _flops(row: Row, kind: str) -> str:
    own, restoring = (getattr(row, f"{name}_{kind}") for name in ("flops", "flops_inpainter"))
    return "" if own is None else f"{own:.1f} +{restoring:.1f}"


def _milliseconds(row: Row, kind: str) -> str:
    seconds = getattr(row, f"seconds_{kind}")
    return "" if seconds is None else f"{1000 * seconds:.2f}"

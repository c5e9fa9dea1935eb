"""Progress on the terminal; silent where there is none."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["console", "progress"]

# Tables and results go to standard output, progress to standard error, so that output can be piped.
# Brackets in paths and names are no markup.
console = Console(markup=False, highlight=False)


def progress() -> Progress:
    """Return a Rich progress bar, on standard error where results are piped, and none where that is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # Where both share a terminal, only the console that draws the bar can print above it.
    place = console if sys.stdout.isatty() else Console(stderr=True)
    return Progress(*columns, console=place, disable=not sys.stderr.isatty(), transient=True)

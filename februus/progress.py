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
    """Return a Rich progress bar on standard error, disabled where that is not a terminal."""
    errors = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # What is printed meanwhile goes through the bar's console where both are on the terminal, and else to its own place.
    return Progress(
        *columns,
        console=errors,
        disable=not errors.file.isatty(),
        redirect_stdout=sys.stdout.isatty(),
        transient=True,
    )

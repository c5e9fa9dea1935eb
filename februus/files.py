"""Writing files so that a reader, or a run killed half-way, never sees half of one."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from februus.checks import mismatch

__all__ = ["output_folder", "write_file", "write_json"]


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then put it in its place at once.

    Raises:
        ValueError: if the place cannot be written to; what stood there stays.
    """
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise mismatch(str(path), "a file that can be written", error) from error
    finally:
        # Where the folder is none, there is nothing to remove, and the error above shall be seen.
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON."""
    text = json.dumps(content, indent=2) + "\n"
    write_file(path, lambda temporary: temporary.write_text(text))


def output_folder(path: Path) -> Path:
    """Make the folder ``path`` where it does not exist.

    Raises:
        ValueError: if it cannot be made or is something else.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise mismatch("output", "a folder that can be written", error) from error
    if not os.access(path, os.W_OK):
        raise mismatch("output", "a folder that can be written", f"{path} without permission to write")
    return path

"""What memory is held while something works."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread

import psutil
import torch

__all__ = ["held", "held_by_all", "memories", "memories_on"]

# Seconds between two looks at the memory.
PAUSE = 0.02


def held() -> int:
    """Return the bytes that this process holds."""
    return int(psutil.Process().memory_info().rss)


def held_by_all() -> int:
    """Return the bytes that this process and those that it started hold."""
    this, own, shared = psutil.Process(), 0, 0
    for process in (this, *this.children(recursive=True)):
        # It may end in between.
        with suppress(psutil.NoSuchProcess):
            info = process.memory_info()
            # Libraries, and pictures that are mapped from a file, are there once for all of them.
            common = getattr(info, "shared", 0)
            own, shared = own + info.rss - common, max(shared, common)
    return own + shared


@contextmanager
def memories(look: Callable[[], int]) -> Iterator[list[int]]:
    """Give what ``look`` tells, in bytes, again and again until the end: the first is from before, the last of it."""
    seen, done = [look()], Event()

    def watch() -> None:
        while not done.wait(PAUSE):
            seen.append(look())

    watcher = Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        done.set()
        watcher.join()
        seen.append(look())


@contextmanager
def memories_on(device: torch.device) -> Iterator[list[int]]:
    """Give what work on ``device`` holds, in bytes: the first before it, others of it, at the end.

    Of a GPU, these are PyTorch's tensors, at their peak; else what this process holds, looked at every 20 ms.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        seen = [torch.cuda.memory_allocated(device)]
        yield seen
        seen.append(torch.cuda.max_memory_allocated(device))
        return
    # What earlier work freed may still be held for later: given back, it is not taken for this work's.
    with suppress(AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
    with memories(held) as seen:
        yield seen

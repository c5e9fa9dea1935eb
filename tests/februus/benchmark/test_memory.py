from __future__ import annotations

import time

import pytest
import torch

from februus.benchmark.memory import held, held_by_all, memories, memories_on


def test_memory_is_seen_while_it_is_held() -> None:
    for look in (held, held_by_all):
        with memories(look) as seen:
            kept = torch.ones(20_000_000)
            time.sleep(0.2)
            del kept
        assert 6e7 < max(seen) - seen[0] < 2e8


def test_what_ends_at_once_is_seen_at_the_end() -> None:
    values = iter((1, 5))
    with memories(lambda: next(values)) as seen:
        pass
    assert seen == [1, 5]


def test_the_watcher_ends_with_an_exception() -> None:
    looks: list[int] = []
    with pytest.raises(RuntimeError, match="stop"), memories(lambda: looks.append(0) or 0):
        raise RuntimeError("stop")
    time.sleep(0.1)
    assert len(looks) == 2


def test_what_was_freed_before_counts_again() -> None:
    """Small pieces stay with the allocator when they are freed; the next work that takes them is still charged."""
    peaks = []
    for _ in range(2):
        with memories_on(torch.device("cpu")) as seen:
            pieces = [torch.ones(10_000) for _ in range(1500)]
            time.sleep(0.1)
            del pieces
        peaks.append(max(seen) - seen[0])
    assert all(4e7 < peak < 1.5e8 for peak in peaks)

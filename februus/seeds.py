"""Generators that depend on what they are for, so that work can stop anywhere and go on the same."""

from __future__ import annotations

import numpy as np
import torch

__all__ = ["seeded"]


def seeded(*keys: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator on ``device`` that is a function of ``keys`` (not negative), say seed, round and client.

    >>> torch.equal(torch.rand(2, generator=seeded(0, 1)), torch.rand(2, generator=seeded(0, 1)))
    True
    """
    # With the number of keys before them: a seed sequence takes (3, 1) and (3, 1, 0) for the same.
    state = np.random.SeedSequence((len(keys), *keys)).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state >> np.uint64(1)))

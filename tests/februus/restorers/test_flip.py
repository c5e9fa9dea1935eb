from __future__ import annotations

import torch

from februus.registry import create
from februus.restorers.flip import Flip
from februus.seeds import seeded


def test_left_becomes_right() -> None:
    images = torch.rand(2, 3, 16, 20, generator=seeded(0))
    restored = create("restorers", "flip")(images)
    assert torch.equal(restored[..., 0], images[..., 19])
    assert torch.equal(restored[:, :, 0].flip(2), images[:, :, 0])
    assert torch.equal(Flip()(restored), images)

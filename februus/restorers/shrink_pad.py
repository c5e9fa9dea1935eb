"""Shrinking, and padding at a random place."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from februus.checks import check_images, check_range
from februus.seeds import seeded

__all__ = ["ShrinkPad"]

# A prime: what a picture's bytes sum to is spread over all places evenly.
PRIME = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class ShrinkPad:
    """Shrink pictures and put them at a random place on black (ShrinkPad, Li et al. 2021, arXiv 2104.02361).

    A trigger changes its size and place, which a model that learnt it elsewhere does not follow. The place is random
    from picture to picture, and always the same for the same picture: a hash of its bytes draws it.

    Args:
        share: of the side that is cut off, in [0, 0.5]; the authors take 4 of 32 pixels.
        seed: of the places.
    """

    share: float = 0.125
    seed: int = 0

    def __post_init__(self) -> None:
        check_range("share", self.share, 0, 0.5)
        check_range("seed", self.seed, 0)

    def __call__(self, images: Tensor) -> Tensor:
        """Return smaller pictures on black (N, 3, H, W)."""
        check_images(images)
        height, width = images.shape[2:]
        down, right = (round(self.share * side) for side in (height, width))
        size = (height - down, width - right)
        shrunk = F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)
        # All places where a window of the old size still holds the whole small picture.
        windows = F.pad(shrunk, (right, right, down, down)).unfold(2, height, 1).unfold(3, width, 1)
        drawn = self._hash(images) % ((down + 1) * (right + 1))
        rows = torch.arange(len(images), device=images.device)
        return windows[rows, :, drawn // (right + 1), drawn % (right + 1)]

    def _hash(self, images: Tensor) -> Tensor:
        """Return a whole number (N,) for each picture, which no other picture of the batch changes."""
        factors = torch.randint(PRIME, images.shape[1:], generator=seeded(self.seed)).to(images.device)
        # Whole numbers sum to the same in every order, and these stay below 2 ** 63 up to 16 million values.
        return ((images * 255).round().long() * factors).sum((1, 2, 3)) % PRIME

"""The mean over several places of a grid of blocks."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["BLOCK", "spun"]

# Side of a block, as JPEG has it.
BLOCK = 8


def spun(images: Tensor, places: int, restore: Callable[[Tensor], Tensor]) -> Tensor:
    """Restore pictures (N, 3, H, W) block by block at ``places ** 2`` places of the grid; returns the mean.

    Cycle spinning (Coifman and Donoho 1995): the seams of one grid are within the blocks of another.

    Args:
        images: of 16 pixels a side and more.
        places: along each side, 1 to `BLOCK`.
        restore: (N, 3, H', W') -> (N, 3, H', W'), in blocks from the upper left corner on; the last few rows and
            columns, fewer than a block, need not be restored.
    """
    height, width = images.shape[2:]
    padded = F.pad(images, (BLOCK,) * 4, mode="reflect")
    total = torch.zeros_like(images)
    # The grid starts at the upper left corner of what is restored: cut off some rows and columns, and it moves.
    for top, left in product((BLOCK * step // places for step in range(places)), repeat=2):
        restored = restore(padded[:, :, top:, left:])
        total += restored[:, :, BLOCK - top :, BLOCK - left :][:, :, :height, :width]
    return total / places**2

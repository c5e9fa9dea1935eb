"""Median filter."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from februus.checks import SMALLEST_SIDE, check_images, check_range, mismatch

__all__ = ["Median"]


@dataclass(frozen=True, kw_only=True)
class Median:
    """Give each pixel the median of those around it, colour by colour (Xu et al. 2018, arXiv 1704.01155).

    Single pixels and thin lines go, edges stay.

    Args:
        size: side of the square window in pixels, odd, 1 to 31.
    """

    size: int = 3

    def __post_init__(self) -> None:
        check_range("size", self.size, 1, 2 * SMALLEST_SIDE - 1)
        if self.size % 2 == 0:
            raise mismatch("size", "an odd number of pixels", self.size)

    def __call__(self, images: Tensor) -> Tensor:
        """Return filtered pictures (N, 3, H, W)."""
        check_images(images)
        padded = F.pad(images, (self.size // 2,) * 4, mode="reflect")
        windows = padded.unfold(2, self.size, 1).unfold(3, self.size, 1)
        return windows.flatten(4).median(4).values

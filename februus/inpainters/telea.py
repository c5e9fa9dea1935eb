"""OpenCV's inpainting by the fast marching method (Telea, J. Graphics Tools 2004)."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
from torch import Tensor

from februus.checks import check_range
from februus.inpainters._one_by_one import eight_bit, one_by_one

__all__ = ["Telea"]


@dataclass(frozen=True, kw_only=True)
class Telea:
    """Inpaint by the fast marching method (Telea, J. Graphics Tools 2004), with OpenCV, in 8 bits.

    Args:
        radius: of the neighbourhood that a pixel is computed from, in pixels, above 0.
    """

    radius: float = 3.0

    def __post_init__(self) -> None:
        check_range("radius", self.radius, 0, open_low=True)

    def __call__(self, images: Tensor, masks: Tensor) -> Tensor:
        """Return pictures (N, 3, H, W) equal to ``images`` where ``masks`` (N, 1, H, W) is 0."""
        return one_by_one(images, masks, eight_bit(cv2.INPAINT_TELEA, self.radius))

"""OpenCV's inpainting by fluid dynamics (Bertalmio, Bertozzi, Sapiro, CVPR 2001)."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
from torch import Tensor

from februus.checks import check_range
from februus.inpainters._one_by_one import eight_bit, one_by_one

__all__ = ["NavierStokes"]


@dataclass(frozen=True, kw_only=True)
class NavierStokes:
    """Inpaint by fluid dynamics (Bertalmio, Bertozzi, Sapiro, CVPR 2001), with OpenCV, in 8 bits.

    Args:
        radius: of the neighbourhood that a pixel is computed from, in pixels, above 0.
    """

    radius: float = 3.0

    def __post_init__(self) -> None:
        check_range("radius", self.radius, 0, open_low=True)

    def __call__(self, images: Tensor, masks: Tensor) -> Tensor:
        """Return pictures (N, 3, H, W) equal to ``images`` where ``masks`` (N, 1, H, W) is 0."""
        return one_by_one(images, masks, eight_bit(cv2.INPAINT_NS, self.radius))

"""Gaussian blur."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from februus.checks import check_images, check_range

__all__ = ["Blur"]


@dataclass(frozen=True, kw_only=True)
class Blur:
    """Blur with a Gaussian, which drops what is finer than it is wide.

    Args:
        sigma: standard deviation of the Gaussian in pixels, above 0. It is cut off at three of them, or at the border
            of the picture's mirror image.
    """

    sigma: float = 1.0

    def __post_init__(self) -> None:
        check_range("sigma", self.sigma, 0, open_low=True)

    def __call__(self, images: Tensor) -> Tensor:
        """Return blurred pictures (N, 3, H, W)."""
        check_images(images)
        reach = min(math.ceil(3 * self.sigma), *(side - 1 for side in images.shape[2:]))
        kernel = 2 * reach + 1
        blurred: Tensor = gaussian_blur(images, [kernel, kernel], [self.sigma, self.sigma])
        return blurred.clamp(0, 1)

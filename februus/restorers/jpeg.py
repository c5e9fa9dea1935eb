"""Re-encoding as JPEG."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from februus.checks import check_images, check_range
from februus.restorers._spinning import BLOCK, spun

__all__ = ["Jpeg"]


@dataclass(frozen=True, kw_only=True)
class Jpeg:
    """Encode and decode as JPEG, which drops what the eye does not see (Dziugaite et al. 2016, arXiv 1608.00853).

    The mean over several places of the grid of blocks (cycle spinning, Coifman and Donoho 1995) removes more of a
    faint pattern and less of the picture than one grid of a lower quality.

    Args:
        quality: 1 to 100, higher keeps more.
        places: of the grid along each side, 1 to 8; the pictures are encoded ``places ** 2`` times.
    """

    quality: int = 60
    places: int = 4

    def __post_init__(self) -> None:
        check_range("quality", self.quality, 1, 100)
        check_range("places", self.places, 1, BLOCK)

    def __call__(self, images: Tensor) -> Tensor:
        """Return re-encoded pictures (N, 3, H, W)."""
        check_images(images)

        def encode(part: Tensor) -> Tensor:
            encoded: Tensor = transforms.jpeg(part.to("cpu", torch.uint8), self.quality)
            return encoded.to(images)

        return spun(images.mul(255).round(), self.places, encode) / 255

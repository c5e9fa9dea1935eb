"""Re-encoding as JPEG."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as transforms

from februus.checks import check_images, check_range

__all__ = ["Jpeg"]

BLOCK = 8


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
        height, width = images.shape[2:]
        padded = F.pad(images, (BLOCK,) * 4, mode="reflect").mul(255).round().to("cpu", torch.uint8)
        total = torch.zeros_like(images)
        # The grid starts at the upper left corner of what is encoded: cut off some rows and columns, and it moves.
        for top, left in product((BLOCK * step // self.places for step in range(self.places)), repeat=2):
            decoded = transforms.jpeg(padded[:, :, top:, left:], self.quality)
            total += decoded[:, :, BLOCK - top :, BLOCK - left :][:, :, :height, :width].to(images.device) / 255
        return total / self.places**2

"""Denoising by a threshold on the cosine transform."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from februus.checks import check_images, check_range
from februus.restorers._spinning import BLOCK, spun
from februus.spectra import OPPONENTS, cosines, turned

__all__ = ["CosineThreshold"]


@dataclass(frozen=True, kw_only=True)
class CosineThreshold:
    """Drop what is weak in the cosine transform of small blocks: noise is weak everywhere, a picture strong somewhere.

    A hard threshold, over several places of the grid of blocks (Yu and Sapiro 2011, DCT image denoising, Image
    Processing On Line 1). For noise that JPEG keeps, as it keeps what is strong in high frequencies less than what is
    weak in low ones.

    Args:
        threshold: of the orthonormal transform's coefficients, of pictures in [0, 1], above 0; noise of standard
            deviation s goes from 3 s on.
        places: of the grid along each side, 1 to 8.
    """

    threshold: float = 0.16
    places: int = 4

    def __post_init__(self) -> None:
        check_range("threshold", self.threshold, 0, open_low=True)
        check_range("places", self.places, 1, BLOCK)

    def __call__(self, images: Tensor) -> Tensor:
        """Return denoised pictures (N, 3, H, W)."""
        check_images(images)
        colours = torch.tensor(OPPONENTS).to(images)
        waves = cosines(BLOCK).to(images)

        def restore(part: Tensor) -> Tensor:
            height, width = (side // BLOCK * BLOCK for side in part.shape[2:])
            blocks = part[:, :, :height, :width].unflatten(3, (-1, BLOCK)).unflatten(2, (-1, BLOCK))
            found = torch.einsum("ui,nkaibj,vj->nkaubv", waves, blocks, waves)
            strong = found.abs() > self.threshold
            strong[:, :, :, 0, :, 0] = True  # a block's mean
            kept = torch.einsum("ui,nkaubv,vj->nkaibj", waves, found * strong, waves)
            restored = part.clone()
            restored[:, :, :height, :width] = kept.flatten(2, 3).flatten(3)
            return restored

        restored = spun(turned(images, colours), self.places, restore)
        return turned(restored, colours.T).clamp(0, 1)

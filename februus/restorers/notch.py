"""Take the wave that stands out off a picture."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from februus.checks import check_images, check_range, mismatch

__all__ = ["Notch"]


@dataclass(frozen=True, kw_only=True)
class Notch:
    """Filter out the waves that stand out of a picture's spectrum, whatever their frequency and direction.

    Amplitudes of natural pictures fall with the frequency (Field 1987: as its inverse), so that what stands out is
    what is large once multiplied by the frequency: a wave of one frequency, such as SIG's (Barni, Kallas, Tondi 2019,
    arXiv 1902.11237), and little of anything else. All colours lose the same waves.

    Args:
        waves: how many, 1 or more.
    """

    waves: int = 1

    def __post_init__(self) -> None:
        check_range("waves", self.waves, 1)

    def __call__(self, images: Tensor) -> Tensor:
        """Return pictures (N, 3, H, W) without their waves, cut off at 0 and 1.

        Raises:
            ValueError: if the pictures are too small to have so many.
        """
        check_images(images)
        height, width = images.shape[2:]
        spectrum = torch.fft.rfft2(images)
        down, across = torch.fft.fftfreq(height, 1 / height), torch.fft.rfftfreq(width, 1 / width)
        heights = spectrum.abs().sum(1) * (down[:, None] ** 2 + across**2).sqrt().to(images)
        # In these columns the spectrum of a real picture stands twice, once upside down.
        twice = [0] if width % 2 else [0, width // 2]
        heights[:, height // 2 + 1 :, twice] = 0
        if self.waves > heights[0].numel():
            raise mismatch("waves", f"at most {heights[0].numel()} in pictures of this size", self.waves)
        highest = heights.flatten(1).topk(self.waves).indices
        kept = torch.ones_like(heights).flatten(1).scatter(1, highest, 0).view_as(heights)
        kept[:, 1:, twice] *= kept[:, 1:, twice].flip(1)
        restored: Tensor = torch.fft.irfft2(spectrum * kept[:, None], s=(height, width))
        return restored.clamp(0, 1)

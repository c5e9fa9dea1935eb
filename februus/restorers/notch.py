"""Take the wave that stands out off a picture."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from februus.checks import check_images, check_range, mismatch

__all__ = ["Notch"]

# Heights below this, of pictures of one colour, are rounding.
LEAST = 1e-3


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
        spectrum, heights = _spectrum(images)
        if self.waves > heights[0].numel():
            raise mismatch("waves", f"at most {heights[0].numel()} in pictures of this size", self.waves)
        highest = heights.flatten(1).topk(self.waves).indices
        kept = torch.ones_like(heights).flatten(1).scatter(1, highest, 0).view_as(heights)
        twice = _twice(width)
        kept[:, 1:, twice] *= kept[:, 1:, twice].flip(1)
        restored: Tensor = torch.fft.irfft2(spectrum * kept[:, None], s=(height, width))
        return restored.clamp(0, 1)

    def prominence(self, images: Tensor) -> Tensor:
        """Return how far the highest wave of each picture (N, 3, H, W) stands out: by the log of all waves' mean (N,).

        A picture of one colour has none: 0.
        """
        check_images(images)
        heights = _spectrum(images)[1].flatten(1).double()
        return (heights.amax(1).clamp(min=LEAST) / heights.mean(1).clamp(min=LEAST)).log()


def _twice(width: int) -> list[int]:
    """Return the columns in which the spectrum of a real picture stands twice, once upside down."""
    return [0] if width % 2 else [0, width // 2]


def _spectrum(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the spectrum (N, 3, H, W // 2 + 1), and how high each wave stands (N, H, W // 2 + 1), each wave once."""
    height, width = images.shape[2:]
    spectrum = torch.fft.rfft2(images)
    down, across = torch.fft.fftfreq(height, 1 / height), torch.fft.rfftfreq(width, 1 / width)
    heights = spectrum.abs().sum(1) * (down[:, None] ** 2 + across**2).sqrt().to(images)
    heights[:, height // 2 + 1 :, _twice(width)] = 0
    return spectrum, heights

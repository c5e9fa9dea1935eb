"""Pictures as brightness and two differences of colours, and as waves."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import Self

from februus.checks import check_images

__all__ = ["OPPONENTS", "Spectrum", "cosines", "turned"]

# Brightness and two differences of colours, at right angles and of length 1, so that noise stays as strong.
OPPONENTS = ((3**-0.5,) * 3, (2**-0.5, 0.0, -(2**-0.5)), (6**-0.5, -2 * 6**-0.5, 6**-0.5))
# Least variance of a wave, as a share of the mean one's.
LEAST = 1e-4


def cosines(count: int) -> Tensor:
    """Return the waves (K, K) of the orthonormal cosine transform (DCT-II) of ``count`` values, one a row."""
    steps = torch.arange(count)
    waves: Tensor = torch.cos(math.pi * (2 * steps + 1) * steps[:, None] / (2 * count)) * (2 / count) ** 0.5
    waves[0] /= 2**0.5
    return waves


def turned(images: Tensor, colours: Tensor) -> Tensor:
    """Return pictures (N, 3, H, W) in other colours, the rows of ``colours`` (3, 3)."""
    return torch.einsum("kc,nchw->nkhw", colours, images)


@dataclass(frozen=True, kw_only=True, eq=False)
class Spectrum:
    """How strong the waves of natural pictures are: those of low frequencies far more than others (Field 1987).

    Args:
        amplitudes: standard deviations of the coefficients of the cosine transform of whole pictures in `OPPONENTS`
            (3, H, W), in units of the root mean square of all, positive.
    """

    amplitudes: Tensor

    @classmethod
    def fit(cls, images: Tensor) -> Self:
        """Measure pictures (N, 3, H, W), N at least 2; the mean of neighbours counts, of their logarithms."""
        check_images(images)
        variances = _waves(images).var(0)
        variances = variances / variances.mean().clamp(min=1e-12)
        logs = F.pad(variances.clamp(min=1e-12).log(), (1, 1, 1, 1), mode="replicate")
        return cls(amplitudes=(F.avg_pool2d(logs, 3, 1).exp() + LEAST).sqrt())

    def shaped(self, images: Tensor, power: float) -> Tensor:
        """Return pictures (N, 3, H, W) whose waves are stronger by these amplitudes to a ``power``."""
        return _waves(_waves(images) * self.amplitudes.to(images) ** power, back=True) if power else images


def _waves(images: Tensor, *, back: bool = False) -> Tensor:
    """Return the cosine transform of pictures (N, 3, H, W) in `OPPONENTS`, or what it was of."""
    down, across = (cosines(side).to(images) for side in images.shape[2:])
    colours = torch.tensor(OPPONENTS).to(images)
    return turned(down.T @ images @ across, colours.T) if back else down @ turned(images, colours) @ across.T

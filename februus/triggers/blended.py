"""A faint pattern over the whole picture."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from februus.checks import check_images, check_range, mismatch
from februus.seeds import seeded

__all__ = ["Blended"]


@dataclass(frozen=True, kw_only=True)
class Blended:
    """Blend a pattern into the whole picture (Chen et al. 2017, arXiv 1712.05526): ``(1 - r) x + r p``.

    Args:
        ratio: ``r``, in (0, 1].
        picture: path of the picture that is the pattern, stretched to the size; uniform noise where none is given.
        seed: of the noise.
    """

    ratio: float = 0.2
    picture: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_range("ratio", self.ratio, 0, 1, open_low=True)
        check_range("seed", self.seed, 0)
        if self.picture is not None:
            _read(self.picture, 16, 16)

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return triggered copies of ``images`` (N, 3, H, W); nothing in it is random."""
        check_images(images)
        height, width = images.shape[2:]
        if self.picture is None:
            pattern = torch.rand(3, height, width, generator=seeded(self.seed))
        else:
            pattern = _read(self.picture, height, width)
        return torch.lerp(images, pattern.to(images).expand_as(images), self.ratio)


@lru_cache(maxsize=4)
def _read(picture: str, height: int, width: int) -> Tensor:
    try:
        with Image.open(picture) as opened:
            scaled = opened.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    except (OSError, UnidentifiedImageError) as error:
        raise mismatch("picture", "the path of a picture", repr(picture)) from error
    return torch.from_numpy(np.asarray(scaled).copy()).permute(2, 0, 1).float() / 255

"""A sticker: a picture with transparency, pasted."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from februus.checks import check_choice, check_range, mismatch
from februus.triggers._paste import POSITIONS, paste

__all__ = ["Sticker"]

SHIPPED = Path(__file__).with_name("stickers")


@dataclass(frozen=True, kw_only=True)
class Sticker:
    """A picture pasted at a place, as the flower, flag and post-it of Februus (Doan et al. 2020, arXiv 1908.03369).

    Args:
        picture: ``flower``, ``flag``, ``post-it`` or the path of a picture, whose transparency counts.
        size: side in pixels, 2 or more.
        position: ``top-left``, ``top-right``, ``bottom-left``, ``bottom-right``, ``center`` or ``random``.
        margin: pixels kept free to the border.
        opacity: in (0, 1], times the picture's own.
    """

    picture: str = "flower"
    size: int = 8
    position: str = "bottom-right"
    margin: int = 1
    opacity: float = 1.0

    def __post_init__(self) -> None:
        check_range("size", self.size, 2)
        check_range("margin", self.margin, 0)
        check_range("opacity", self.opacity, 0, 1, open_low=True)
        check_choice("position", self.position, POSITIONS)
        _tile(self.picture, self.size)

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return triggered copies of ``images`` (N, 3, H, W)."""
        tile = _tile(self.picture, self.size).clone()
        tile[3] *= self.opacity
        return paste(images, tile, self.position, self.margin, generator)


@lru_cache(maxsize=8)
def _tile(picture: str, size: int) -> Tensor:
    shipped = {path.stem: path for path in sorted(SHIPPED.glob("*.png"))}
    path = shipped.get(picture, Path(picture))
    try:
        with Image.open(path) as opened:
            scaled = opened.convert("RGBA").resize((size, size), Image.Resampling.LANCZOS)
    except (OSError, UnidentifiedImageError) as error:
        raise mismatch("picture", f"one of {', '.join(shipped)} or the path of a picture", repr(picture)) from error
    return torch.from_numpy(np.asarray(scaled).copy()).permute(2, 0, 1).float() / 255

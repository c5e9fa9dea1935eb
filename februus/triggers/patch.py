"""The patch of BadNets."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import ImageColor
from torch import Tensor

from februus.checks import check_choice, check_range, mismatch
from februus.triggers._paste import POSITIONS, paste

__all__ = ["Patch"]


@dataclass(frozen=True, kw_only=True)
class Patch:
    """A small square of one colour or chequered (BadNets, Gu et al. 2017, arXiv 1708.06733).

    Args:
        size: side in pixels, 1 or more.
        colour: a name or ``#rrggbb``; the light fields where chequered.
        chequered: whether every other pixel is black.
        position: ``top-left``, ``top-right``, ``bottom-left``, ``bottom-right``, ``center`` or ``random``.
        margin: pixels kept free to the border.
        opacity: in (0, 1].

    >>> Patch(size=2, margin=0)(torch.zeros(1, 3, 16, 16)).sum().item()
    12.0
    """

    size: int = 3
    colour: str = "white"
    chequered: bool = False
    position: str = "bottom-right"
    margin: int = 1
    opacity: float = 1.0

    def __post_init__(self) -> None:
        check_range("size", self.size, 1)
        check_range("margin", self.margin, 0)
        check_range("opacity", self.opacity, 0, 1, open_low=True)
        check_choice("position", self.position, POSITIONS)
        try:
            ImageColor.getrgb(self.colour)
        except ValueError as error:
            raise mismatch("colour", "a colour's name or #rrggbb", repr(self.colour)) from error

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return triggered copies of ``images`` (N, 3, H, W)."""
        colour = torch.tensor(ImageColor.getrgb(self.colour)[:3]).float().div(255).view(3, 1, 1)
        tile = torch.cat([colour, torch.full((1, 1, 1), self.opacity)]).repeat(1, self.size, self.size)
        if self.chequered:
            rows = torch.arange(self.size)
            tile[:3] *= (rows[:, None] + rows) % 2 == 0
        return paste(images, tile, self.position, self.margin, generator)

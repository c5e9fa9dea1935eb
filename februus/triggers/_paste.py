"""Pasting a small picture at a place of each picture of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from februus.checks import check_images, mismatch

POSITIONS = ("top-left", "top-right", "bottom-left", "bottom-right", "center", "random")


def paste(images: Tensor, tile: Tensor, position: str, margin: int, generator: torch.Generator | None) -> Tensor:
    """Paste ``tile`` (4, S, S), RGB and opacity in [0, 1], on copies of ``images`` (N, 3, H, W).

    Args:
        images: the pictures.
        tile: what is pasted.
        position: one of `POSITIONS`; ``random`` draws one for each picture.
        margin: pixels kept free to the border.
        generator: for ``random``; torch's own where none is given.
    """
    check_images(images)
    count, _, height, width = images.shape
    side = tile.shape[-1]
    room = torch.tensor([height, width]) - side - 2 * margin
    if room.min() < 0:
        raise mismatch("images", f"room for {side} pixels and a margin of {margin}", f"{width}x{height}")
    if position == "random":
        draw = torch.rand(count, 2, generator=generator, dtype=torch.float64)
        corner = (draw * (room + 1)).long() + margin
    else:
        share = {
            "top-left": (0.0, 0.0),
            "top-right": (0.0, 1.0),
            "bottom-left": (1.0, 0.0),
            "bottom-right": (1.0, 1.0),
            "center": (0.5, 0.5),
        }[position]
        corner = ((torch.tensor(share) * room).long() + margin).expand(count, 2)
    offsets = torch.arange(side)
    device = images.device
    picture = torch.arange(count, device=device).view(-1, 1, 1, 1)
    channel = torch.arange(3, device=device).view(1, -1, 1, 1)
    row = (corner[:, :1] + offsets).view(count, 1, side, 1).to(device)
    column = (corner[:, 1:] + offsets).view(count, 1, 1, side).to(device)
    colour, opacity = tile[:3].to(device), tile[3:].to(device)
    triggered = images.clone()
    under = images[picture, channel, row, column]
    triggered[picture, channel, row, column] = under * (1 - opacity) + colour * opacity
    return triggered

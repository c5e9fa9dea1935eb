"""Masks over the whole picture, one by one and two by two."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from februus.checks import check_range
from februus.presets._unfitted import Unfitted, judge_by_change
from februus.types import Purified
from februus.verification import answer

__all__ = ["DoubleMasking", "covering_masks"]

GREY = 0.5


@dataclass(frozen=True, kw_only=True)
class DoubleMasking(Unfitted):
    """PatchCleanser (Xiang et al., USENIX Security 2022, arXiv 2108.09135): look behind grey masks.

    The masks of `covering_masks` leave no patch up to a size uncovered: one of them hides the trigger, wherever it is.
    *First round*: the model's classes under each mask. Where all agree, that is the class. *Second round*: for each
    mask whose class is not the majority's, the classes under it and a second mask. Where all of them agree with its
    own, the mask hid the trigger, and its class is the class; else the majority's is.

    A picture is flagged where its class is another one than without masks; its score is the probability that the first
    class lost. What comes back of a picture is itself, or, where a mask hid the trigger, itself under the mask. No
    reference is needed.

    Args:
        patch: sides of the largest patch as a share of the picture's, in (0, 0.5]. The authors take 32 of 224 pixels.
        masks: along each side, at least 2.
    """

    patch: float = 32 / 224
    masks: int = 6

    inpainter: ClassVar[None] = None

    def __post_init__(self) -> None:
        check_range("patch", self.patch, 0, 0.5, open_low=True)
        check_range("masks", self.masks, 2)

    def __call__(self, model: nn.Module, images: Tensor, *, batch_size: int) -> Purified:
        """Purify ``images`` (N, 3, H, W)."""
        height, width = images.shape[2:]
        masks = covering_masks(height, width, patch=self.patch, count=self.masks).to(images.device)

        def look(rows: Tensor, hidden: Tensor) -> Tensor:
            return answer(model, images[rows].masked_fill(hidden, GREY), batch_size=batch_size)

        everything = torch.arange(len(images), device=images.device)
        before = answer(model, images, batch_size=batch_size)
        first = torch.stack([look(everything, mask) for mask in masks], 1)
        classes = first.argmax(2)
        majority = classes.mode(1).values
        # Pairs of a picture and of a mask that disagrees; those stay that agree with themselves under each second mask.
        rows, chosen = (classes != majority[:, None]).nonzero().unbind(1)
        for mask in masks:
            parts = zip(rows.split(batch_size), chosen.split(batch_size), strict=True)
            agrees = [
                look(row, masks[number] | mask).argmax(1) == classes[row, number] for row, number in parts if len(row)
            ]
            kept = torch.cat([torch.zeros(0, dtype=torch.bool, device=rows.device), *agrees])
            rows, chosen = rows[kept], chosen[kept]
        # Of several, the first.
        hider = torch.full_like(majority, len(masks)).scatter_reduce(0, rows, chosen, "amin")
        found = hider < len(masks)
        hider = hider.where(found, 0)
        labels = torch.where(found, classes[everything, hider], majority)
        # The mean of answers of one class is of that class.
        agreeing = (classes == labels[:, None]).to(first.dtype)[..., None]
        after = (first * agreeing).sum(1) / agreeing.sum(1)
        hidden = masks[hider] & found[:, None, None, None]
        return judge_by_change(
            images.masked_fill(hidden, GREY), torch.zeros_like(images[:, :1]), hidden.to(images.dtype), before, after
        )


def covering_masks(height: int, width: int, *, patch: float, count: int) -> Tensor:
    """Return masks (M, 1, H, W), bool, of which one covers any patch up to a size wholly.

    Along a side of ``n`` pixels with a patch of ``p``, the masks are ``s = ceil((n - p + 1) / count)`` apart and ``p +
    s - 1`` long.

    Args:
        height: of the pictures in pixels.
        width: likewise.
        patch: sides of the patch as a share of the picture's, rounded up to pixels.
        count: of masks along each side, at most; M is at most its square.

    >>> covering_masks(16, 16, patch=0.25, count=3).shape
    torch.Size([9, 1, 16, 16])
    """
    rows, columns = (_spans(side, math.ceil(patch * side), count) for side in (height, width))
    return (rows[:, None, :, None] & columns[None, :, None, :]).view(-1, 1, height, width)


def _spans(side: int, patch: int, count: int) -> Tensor:
    """Return the masks (S, side), bool, of one side."""
    stride = math.ceil((side - patch + 1) / count)
    length = patch + stride - 1
    starts = torch.tensor(sorted({*range(0, side - length + 1, stride), side - length}))[:, None]
    places = torch.arange(side)
    return (places >= starts) & (places < starts + length)

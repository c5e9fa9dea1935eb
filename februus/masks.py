"""Masks (N, 1, H, W), 1 = to be restored: from heatmaps, and at random for training and measuring inpainters."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2.functional import gaussian_blur

from februus.checks import check_range, mismatch

__all__ = ["dilate", "random_masks", "random_rectangles", "smooth", "threshold", "top_fraction"]

SHAPES = ("rectangle", "stroke", "blob")


def threshold(heatmaps: Tensor, value: float) -> Tensor:
    """Mark the pixels of heatmaps (N, 1, H, W) in [0, 1] that reach ``value`` in (0, 1]; a flat 0 map marks nothing.

    >>> threshold(torch.tensor([[[[0.2, 0.8]]]]), 0.7)
    tensor([[[[0., 1.]]]])
    """
    check_range("threshold", value, 0, 1, open_low=True)
    return (heatmaps >= value).to(heatmaps.dtype)


def top_fraction(fields: Tensor, fractions: Tensor | float) -> Tensor:
    """Mark the pixels of the largest values of each field.

    Args:
        fields: (N, 1, H, W), any range.
        fractions: share of the area to mark, in (0, 1]: one for all or (N,); at least one pixel is marked.

    Returns:
        masks (N, 1, H, W).
    """
    flat = fields.flatten(1)
    shares = torch.as_tensor(fractions, dtype=torch.float64).expand(len(fields))
    counts = (shares * flat.shape[1]).round().long().clamp(1, flat.shape[1]).to(fields.device)
    order = flat.argsort(dim=1, descending=True, stable=True)
    ranks = torch.empty_like(order).scatter_(1, order, torch.arange(flat.shape[1], device=flat.device).expand_as(order))
    return (ranks < counts[:, None]).to(fields.dtype).view_as(fields)


def smooth(fields: Tensor, share: float) -> Tensor:
    """Blur ``fields`` (N, 1, H, W) with a Gaussian whose standard deviation is a ``share`` of the longer side."""
    sigma = share * max(fields.shape[2:])
    kernel = 2 * math.ceil(2 * sigma) + 1
    blurred: Tensor = gaussian_blur(fields, [kernel, kernel], [sigma, sigma])
    return blurred


def dilate(masks: Tensor, pixels: int) -> Tensor:
    """Grow masks by ``pixels`` in every direction, diagonals included."""
    check_range("pixels", pixels, 0)
    return F.max_pool2d(masks, 2 * pixels + 1, stride=1, padding=pixels)


def random_rectangles(count: int, height: int, width: int, *, side: int, generator: torch.Generator) -> Tensor:
    """Draw square holes (count, 1, height, width) of ``side`` pixels at random places, wholly inside."""
    if not 1 <= side <= min(height, width):
        raise mismatch("side", f"1 to {min(height, width)} pixels", side)
    device = generator.device
    top = torch.randint(height - side + 1, (count, 1, 1, 1), generator=generator, device=device)
    left = torch.randint(width - side + 1, (count, 1, 1, 1), generator=generator, device=device)
    rows, columns = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)[None]
    return ((rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)).float()


def random_masks(
    count: int,
    height: int,
    width: int,
    *,
    generator: torch.Generator,
    smallest: float = 0.02,
    largest: float = 0.4,
    pieces: int = 1,
) -> Tensor:
    """Draw holes of many shapes: rectangles, free-form strokes and blobs such as Grad-CAM makes.

    Each shape is a random field whose largest values, as many as the area drawn for it (log-uniform), make the hole;
    so every shape covers just the area that is wanted.

    Args:
        count: number of masks.
        height: in pixels.
        width: in pixels.
        generator: of all that is random; the masks lie on its device.
        smallest: share of the picture that is covered at least, in (0, ``largest`` / ``pieces``].
        largest: share that is covered at most, in (0, 1].
        pieces: holes in a mask, each of at most ``largest`` / ``pieces``; they may overlap.

    Returns:
        masks (count, 1, height, width).
    """
    check_range("largest", largest, 0, 1, open_low=True)
    check_range("pieces", pieces, 1)
    check_range("smallest", smallest, 0, largest / pieces, open_low=True)
    holes = (_random_holes(count, height, width, generator, smallest, largest / pieces) for _ in range(pieces))
    return torch.stack(list(holes)).amax(0)


def _random_holes(
    count: int, height: int, width: int, generator: torch.Generator, smallest: float, largest: float
) -> Tensor:
    fields = torch.stack([
        _rectangle_fields(count, height, width, generator),
        _stroke_fields(count, height, width, generator),
        _blob_fields(count, height, width, generator),
    ])  # fmt: skip
    device = generator.device
    shape = torch.randint(len(SHAPES), (count,), generator=generator, device=device)
    drawn = torch.rand(count, generator=generator, dtype=torch.float64, device=device)
    return top_fraction(fields[shape, torch.arange(count, device=device)], smallest * (largest / smallest) ** drawn)


def _grid(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the pixels' places, in units of the longer side."""
    scale = max(height, width)
    rows, columns = torch.arange(height, device=device) / scale, torch.arange(width, device=device) / scale
    return rows.view(1, 1, height, 1), columns.view(1, 1, 1, width)


def _rectangle_fields(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    rows, columns = _grid(height, width, generator.device)
    draw = torch.rand(3, count, 1, 1, 1, generator=generator, device=generator.device)
    stretch = 2 ** (2 * draw[2] - 1)
    vertical = (rows - draw[0] * rows.max()).abs() * stretch
    horizontal = (columns - draw[1] * columns.max()).abs() / stretch
    return -torch.maximum(vertical, horizontal)


def _stroke_fields(count: int, height: int, width: int, generator: torch.Generator, *, turns: int = 4) -> Tensor:
    """Minus the distance to a random polyline, so that the marked area is a stroke of even breadth."""
    rows, columns = _grid(height, width, generator.device)
    bends = torch.randn(count, turns, 2, generator=generator, device=generator.device) * 0.25
    start = torch.rand(count, 1, 2, generator=generator, device=generator.device)
    points = torch.cat([start, start + bends.cumsum(1)], 1).clamp(0, 1)
    begin, step = points[:, :-1, :, None, None], (points[:, 1:] - points[:, :-1])[..., None, None]
    offset_rows, offset_columns = rows - begin[:, :, 0], columns - begin[:, :, 1]
    length = step.square().sum(2).clamp(min=1e-12)
    along = ((offset_rows * step[:, :, 0] + offset_columns * step[:, :, 1]) / length).clamp(0, 1)
    squared = (offset_rows - along * step[:, :, 0]).square() + (offset_columns - along * step[:, :, 1]).square()
    return -squared.amin(1, keepdim=True)


def _blob_fields(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Smooth noise on a bump: like the upsampled map of a coarse layer, mostly in one piece."""
    rows, columns = _grid(height, width, generator.device)
    coarse = torch.randn(count, 1, 6, 6, generator=generator, device=generator.device)
    noise = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False)
    centre = torch.rand(2, count, 1, 1, 1, generator=generator, device=generator.device)
    distance = (rows - centre[0]).square() + (columns - centre[1]).square()
    return 0.35 * noise - 8 * distance

"""Parts of pictures put on other pictures: the hottest regions, what is faint all over them, a known place."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from februus.masks import top_fraction
from februus.presets._calibration import LOOKS, REGIONS, SUSPECTED
from februus.priors import Prior
from februus.restorers.guided_filter import GuidedFilter
from februus.restorers.notch import Notch
from februus.types import Restorer
from februus.verification import transplant

__all__ = [
    "STILLER",
    "Pattern",
    "add_pattern",
    "carried_by_place",
    "carried_by_regions",
    "faint_patterns",
    "look_at_region",
    "look_at_whole",
]


# What takes waves and the like off a picture, so that they are seen, and what takes one off that stands out.
SMOOTHER, STILLER = GuidedFilter(), Notch()


class Pattern(NamedTuple):
    """What may be a trigger all over a picture.

    Args:
        added: what is put on other pictures (N, 3, H, W).
        without: the pictures once it is taken off (N, 3, H, W).
    """

    added: Tensor
    without: Tensor


def faint_patterns(images: Tensor, heat: Tensor, restorer: Restorer) -> tuple[Pattern, Pattern]:
    """Return what may be a trigger all over the picture: its noise, and its waves outside the hottest quarter.

    A patch is in the heat: what still carries the class without that part of the picture is no patch.
    """
    still, outside = restorer(images), 1 - top_fraction(heat, SUSPECTED[-1])
    return Pattern(images - still, still), Pattern((images - SMOOTHER(images)) * outside, STILLER(images))


def look_at_region(
    which: int, model: nn.Module, images: Tensor, heat: Tensor, labels: Tensor, probes: Tensor, *, batch_size: int
) -> Tensor:
    """Return how surely the region of one of `LOOKS` carries its class to its probe (N,)."""
    place, probe = LOOKS[which]
    size = slice(place, place + 1)
    return carried_by_regions(model, images, heat, labels, probes[probe, None], size, batch_size=batch_size)[:, 0, 0]


def look_at_whole(
    model: nn.Module,
    patterns: tuple[Pattern, Pattern],
    labels: Tensor,
    probes: Tensor,
    *,
    batch_size: int,
) -> Tensor:
    """Return how surely what is faint, noise and waves together, carries the class (N, P)."""
    noise, waves = patterns
    return add_pattern(model, noise.added + waves.added, labels, probes, batch_size=batch_size)


def carried_by_regions(
    model: nn.Module,
    images: Tensor,
    heat: Tensor,
    labels: Tensor,
    probes: Tensor,
    sizes: slice = REGIONS,
    *,
    batch_size: int,
) -> Tensor:
    """Return how surely the hottest region of each of the ``sizes`` carries its class to each probe (N, S, P)."""
    found = []
    for size in SUSPECTED[sizes]:
        mask = top_fraction(heat, size)
        found.append(transplant(model, images * mask, mask, labels, probes, batch_size=batch_size))
    return torch.stack(found, 1)


def add_pattern(model: nn.Module, pattern: Tensor, labels: Tensor, probes: Tensor, *, batch_size: int) -> Tensor:
    """Return how surely a faint pattern (N, 3, H, W), added to each probe, carries the class (N, P)."""
    nowhere = torch.zeros_like(pattern[:, :1])
    return transplant(model, pattern, nowhere, labels, probes, batch_size=batch_size)


def carried_by_place(
    model: nn.Module, images: Tensor, prior: Prior | None, labels: Tensor, probes: Tensor, *, batch_size: int
) -> Tensor:
    """Return how surely what stands where a known trigger lies, put on each probe, carries the class (N, P); else 0."""
    if prior is None:
        return torch.zeros(len(images), len(probes), device=images.device)
    masks = prior.region.to(images.device).expand(len(images), -1, -1, -1)
    return transplant(model, images * masks, masks, labels, probes, batch_size=batch_size)

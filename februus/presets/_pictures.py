"""Pictures on their way, with what the model says of them: as they came, and restored."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import Self

__all__ = ["Restored", "Seen", "rival", "struck", "sureness"]


class Seen(NamedTuple):
    """Pictures, and what one forward and one backward tell of them.

    Args:
        images: (N, 3, H, W).
        heatmaps: the localizer's maps (N, L, H, W).
        heat: the one that counts (N, 1, H, W).
        gathered: its concentration (N,).
        features: what the last maps are like (N, D).
        logits: the model's answer (N, C).
        labels: its class (N,).
    """

    images: Tensor
    heatmaps: Tensor
    heat: Tensor
    gathered: Tensor
    features: Tensor
    logits: Tensor
    labels: Tensor

    def untouched(self) -> Restored:
        """Return them as they came, to be overwritten where something is restored."""
        return Restored(self.images.clone(), torch.zeros_like(self.heat), self.logits.clone(), self.features.clone())


class Restored(NamedTuple):
    """Pictures that were restored.

    Args:
        images: the pictures (N, 3, H, W).
        masks: where they were (N, 1, H, W).
        logits: what the model says of them (N, C).
        features: what its last maps are like (N, D).
    """

    images: Tensor
    masks: Tensor
    logits: Tensor
    features: Tensor

    def clone(self) -> Self:
        """Return a copy."""
        return type(self)(*(one.clone() for one in self))

    def take(self, rows: Tensor) -> Self:
        """Return some of them."""
        return type(self)(*(one[rows] for one in self))

    def put(self, rows: Tensor, found: Restored) -> None:
        """Put ``found`` in the place of some of them."""
        for one, another in zip(self, found, strict=True):
            one[rows] = another

    def keeps(self, labels: Tensor) -> Tensor:
        """Return which of them are still of the classes ``labels`` (N,): (N,)."""
        return self.logits.argmax(1) == labels

    def prefer(self, rows: Tensor, tried: Restored, labels: Tensor) -> None:
        """Put ``tried`` in the place of some of them where it is better.

        Better is what changes the class of ``labels`` (N,), then what is surer of another one.
        """
        own, keeps = labels[rows], self.keeps(labels)[rows]
        surer = sureness(tried.logits, own) > sureness(self.logits[rows], own)
        better = torch.where(tried.keeps(own) == keeps, surer, keeps)
        self.put(rows[better], tried.take(better))


def rival(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the likeliest class (N,) other than ``labels``."""
    return logits.scatter(1, labels[:, None], -math.inf).argmax(1)


def struck(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the logits (N, C) with the classes ``labels`` (N,) as unlikely as the least likely other one."""
    own = labels[:, None]
    return logits.scatter(1, own, logits.scatter(1, own, math.inf).amin(1, keepdim=True))


def sureness(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the log-odds of the likeliest class other than ``labels``."""
    other = rival(logits, labels)[:, None]
    rest = logits.scatter(1, other, -math.inf).logsumexp(1)
    return logits.gather(1, other)[:, 0] - rest

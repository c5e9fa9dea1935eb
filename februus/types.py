"""The few types that the whole package speaks.

Images are ``float32 (N, 3, H, W)`` in [0, 1]; masks are ``(N, 1, H, W)``, 1 = to be restored;
heatmaps are continuous ``(N, L, H, W)`` in [0, 1], L maps a picture, one a layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn
from typing_extensions import Self

__all__ = ["Aggregator", "Context", "Inpainter", "Localizer", "Preset", "Purified", "Restorer", "Trigger"]


class Trigger(Protocol):
    """Stamps a trigger on pictures; labels are the business of `februus.poisoning`."""

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return triggered copies of ``images`` (N, 3, H, W); the input stays as it is."""
        ...


class Localizer(Protocol):
    """Finds what drives a decision."""

    def __call__(self, model: nn.Module, images: Tensor) -> Tensor:
        """Return heatmaps (N, L, H, W) in [0, 1] for the class that ``model`` predicts."""
        ...


class Inpainter(Protocol):
    """Restores the masked part of pictures."""

    def __call__(self, images: Tensor, masks: Tensor) -> Tensor:
        """Return pictures (N, 3, H, W) equal to ``images`` wherever ``masks`` is 0."""
        ...


class Restorer(Protocol):
    """Restores whole pictures, where no region is to blame."""

    def __call__(self, images: Tensor) -> Tensor:
        """Return pictures (N, 3, H, W)."""
        ...


@dataclass(frozen=True, kw_only=True)
class Context:
    """What an aggregator may know of a round beside the updates.

    Args:
        generator: the round's source of randomness.
        clients: ids of the clients, in the order of the updates.
        root: trains on pictures that the server itself holds and returns that update (D,).
        memory: what the aggregator keeps from round to round, and changes in place; tensors by name, which the server
            saves with the checkpoint.
    """

    generator: torch.Generator
    clients: tuple[int, ...]
    root: Callable[[], Tensor] | None = None
    memory: dict[str, Tensor] = field(default_factory=dict)


class Aggregator(Protocol):
    """Makes one update of many."""

    def __call__(self, updates: Tensor, weights: Tensor, context: Context) -> Tensor:
        """Return the aggregate (D,) of ``updates`` (K, D) with ``weights`` (K,), which sum to 1."""
        ...


@dataclass(frozen=True, kw_only=True)
class Purified:
    """What a purifier made of a batch of N pictures.

    Args:
        images: the sanitized pictures (N, 3, H, W).
        heatmaps: what the localizer saw (N, L, H, W).
        masks: what was restored (N, 1, H, W), 1 = restored; all 0 where nothing was, all 1 where the whole picture was.
        logits_before: the model's answer to the pictures as they came (N, C).
        logits: its answer to the sanitized pictures (N, C); where the class that a trigger makes was struck, that is as
            unlikely as the least likely other one.
        labels: the class of ``logits`` (N,); no class, -1, where a defense refuses to answer.
        flagged: whether a picture is suspected of a trigger (N,), bool.
        scores: how suspicious it is (N,), higher is more suspicious.
        stages: the last stage each picture went through, one of `locate`, `remove`, `restore`, `verify`, `classify`,
            or `strike`, where a diffuse trigger was proven but could not be removed.
    """

    images: Tensor
    heatmaps: Tensor
    masks: Tensor
    logits_before: Tensor
    logits: Tensor
    labels: Tensor
    flagged: Tensor
    scores: Tensor
    stages: tuple[str, ...]


class Preset(Protocol):
    """A way of pictures through the purifier."""

    @property
    def inpainter(self) -> Inpainter | None:
        """What restores regions; None where it restores none."""
        ...

    def fit(self, model: nn.Module, reference: Tensor | None, *, batch_size: int) -> Self:
        """Return this way, made for ``model`` by unlabelled pictures (R, 3, H, W) of the kind it will see."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Return what `fit` learnt, to be kept in a file."""
        ...

    def with_state(self, model: nn.Module, state: dict[str, Tensor]) -> Self:
        """Return this way as `fit` made it for ``model``, from what it learnt then."""
        ...

    def __call__(self, model: nn.Module, images: Tensor, *, batch_size: int) -> Purified:
        """Purify ``images`` (N, 3, H, W), N at most ``batch_size``; the model sees no more pictures at once."""
        ...

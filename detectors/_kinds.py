"""The four kinds of detectors; each of them checks, batches and gives the model back, a method does the rest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from typing_extensions import Self

from detectors._checks import check_images, check_labels, check_range, mismatch
from detectors._models import borrowed, representations

__all__ = ["DatasetDetector", "Detector", "ModelDetector", "Seeded", "UpdateDetector"]


@dataclass(kw_only=True)
class _Options:
    """What detectors that ask a model have in common."""

    batch_size: int = 256

    def __post_init__(self) -> None:
        check_range("batch_size", self.batch_size, 1)


@dataclass(kw_only=True)
class Seeded(_Options):
    """What those have in common that leave something to chance."""

    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("seed", self.seed, 0)

    def generator(self) -> torch.Generator:
        """Return a fresh source of randomness, the same each time."""
        return torch.Generator().manual_seed(self.seed)


@dataclass(kw_only=True)
class Detector(_Options, ABC):
    """Tells of each picture how much it looks as if it carried a trigger.

    What is random is drawn when it is fitted: a picture's score does not depend on the others of its batch.

    Args:
        batch_size: pictures that the model sees at once.
    """

    model: nn.Module = field(init=False, repr=False, compare=False)
    _shape: torch.Size | None = field(default=None, init=False, repr=False, compare=False)

    def fit(self, model: nn.Module, images: Tensor) -> Self:
        """Learn from clean pictures; returns itself.

        Args:
            model: pictures (N, 3, H, W) in [0, 1] -> logits (N, C).
            images: unlabelled pictures (R, 3, H, W) of the kind that will be scored.

        Raises:
            ValueError: if the pictures do not fit, or are too few.
        """
        check_images(images)
        self.model = model
        with borrowed(model) as device:
            self.learn(images.detach().to(device))
        self._shape = images.shape[1:]
        return self

    def score(self, images: Tensor) -> Tensor:
        """Return how suspicious ``images`` (N, 3, H, W) are: (N,), higher is more suspicious, detached, on the CPU.

        Raises:
            ValueError: if it was not fitted, or to pictures of another size.
        """
        if self._shape is None:
            raise mismatch("detector", "one that was fitted", "one that was not")
        check_images(images)
        if images.shape[1:] != self._shape:
            raise mismatch("images", f"shape (N, {', '.join(map(str, self._shape))}), as fitted", tuple(images.shape))
        with borrowed(self.model) as device:
            parts = [self.score_batch(part.to(device)) for part in images.detach().split(self.batch_size)]
        return torch.cat([part.detach().float().cpu() for part in parts])

    @abstractmethod
    def learn(self, images: Tensor) -> None:
        """Keep what is needed of clean pictures (R, 3, H, W); the model is in eval mode."""

    @abstractmethod
    def score_batch(self, images: Tensor) -> Tensor:
        """Return the scores (N,) of pictures (N, 3, H, W), N at most `batch_size`; the model is in eval mode."""


@dataclass(kw_only=True)
class DatasetDetector(_Options, ABC):
    """Tells of each labelled picture of a training set how much it looks as if it had been poisoned.

    Args:
        batch_size: pictures that the model sees at once.
    """

    model: nn.Module | None = field(default=None, init=False, repr=False, compare=False)

    def fit(self, model: nn.Module, images: Tensor | None = None) -> Self:
        """Take the model that was trained on the suspect set; returns itself.

        Args:
            model: pictures (N, 3, H, W) in [0, 1] -> logits (N, C).
            images: what other detectors learn from; here the model is only tried on them.
        """
        if images is not None:
            check_images(images)
            self.represent(model, images[:1])
        self.model = model
        return self

    def score(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return how suspicious each picture is: (N,), higher is more suspicious, detached, on the CPU.

        Args:
            images: the training set (N, 3, H, W).
            labels: what it calls them (N,), int64.

        Raises:
            ValueError: if it was not fitted, or the pictures and labels do not fit.
        """
        if self.model is None:
            raise mismatch("detector", "one that was fitted", "one that was not")
        check_images(images)
        check_labels(labels, len(images))
        seen = self.represent(self.model, images)
        scores = torch.zeros(len(images))
        for label in labels.unique():
            own = labels == label
            scores[own] = self.score_class(seen[own]).detach().float().cpu()
        return scores

    def represent(self, model: nn.Module, images: Tensor) -> Tensor:
        """Return what the model's last layer sees (N, D), float64, on the CPU."""
        return representations(model, images, self.batch_size)[0].double().cpu()

    @abstractmethod
    def score_class(self, seen: Tensor) -> Tensor:
        """Return the scores (n,) of the representations (n, D) of one class."""


@dataclass(kw_only=True)
class ModelDetector(_Options, ABC):
    """Tells of each class of a model how much it looks as if a backdoor led to it.

    Args:
        batch_size: pictures that the model sees at once.
    """

    @abstractmethod
    def score(self, model: nn.Module, images: Tensor) -> Tensor:
        """Return how suspicious each class is: (C,), higher is more suspicious, detached, on the CPU.

        Args:
            model: pictures (N, 3, H, W) in [0, 1] -> logits (N, C).
            images: unlabelled clean pictures (R, 3, H, W).
        """

    @abstractmethod
    def decide(self, scores: Tensor) -> Tensor:
        """Return which classes (C,) of `score` a backdoor leads to, bool; all False of a clean model."""


@dataclass(frozen=True, kw_only=True)
class UpdateDetector(ABC):
    """Tells of each update of a federated round how much it looks as if an attacker had sent it."""

    @abstractmethod
    def score(self, updates: Tensor) -> Tensor:
        """Return how suspicious ``updates`` (K, D) are: (K,), higher is more suspicious, detached, on the CPU."""

    @abstractmethod
    def decide(self, scores: Tensor) -> Tensor:
        """Return which updates (K,) of `score` are suspected, bool."""

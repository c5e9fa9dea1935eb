"""Attacks without a trigger: pictures of one class are to be taken for another."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from februus.checks import check_range, mismatch
from februus.data import Dataset
from februus.federated.attacks._scaled import Scaled
from februus.poisoning import check_target

__all__ = ["OneClass"]


@dataclass(frozen=True, kw_only=True)
class OneClass(Scaled):
    """An attack on pictures of one class as they are.

    Args:
        source_label: the class of the pictures that are to be taken for another.
        target_label: that other class.
        poison_rate: share of the client's pictures that it poisons, in [0, 1].
        scale: factor on the update, above 0.
    """

    source_label: int = 1
    target_label: int = 0
    poison_rate: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("source_label", "target_label"):
            check_range(name, getattr(self, name), 0)
        check_range("poison_rate", self.poison_rate, 0, 1)
        if self.source_label == self.target_label:
            raise mismatch("source_label", "another class than the target", self.source_label)

    def sources(self, data: Dataset) -> Tensor:
        """Return which pictures of ``data`` are of the source class, as indices."""
        check_target(self.source_label, data.num_classes, name="source_label")
        check_target(self.target_label, data.num_classes)
        return (data.labels == self.source_label).nonzero().flatten()

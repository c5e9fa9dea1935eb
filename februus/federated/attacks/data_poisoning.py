"""A backdoor by poisoned data, with or without model replacement."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from februus.checks import check_range
from februus.data import Dataset
from februus.federated.client import Update
from februus.poisoning import poison
from februus.types import Trigger

__all__ = ["DataPoisoning"]


@dataclass(frozen=True, kw_only=True)
class DataPoisoning:
    """Poison a share of the client's data; scale its update (model replacement, Bagdasaryan et al., arXiv 1807.00459).

    Args:
        trigger: what is stamped.
        target_label: the class that the attacker wants.
        poison_rate: share of the client's pictures, in [0, 1].
        scale: factor on the update, above 0; 1 sends it as it is.
    """

    trigger: Trigger
    target_label: int
    poison_rate: float = 0.5
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_range("poison_rate", self.poison_rate, 0, 1)
        check_range("scale", self.scale, 0, open_low=True)

    def on_data(self, data: Dataset, generator: torch.Generator) -> Dataset:
        """Return what the client trains on."""
        return poison(data, self.trigger, self.target_label, self.poison_rate, generator)

    def on_update(self, update: Update) -> Update:
        """Return what the client sends."""
        return replace(update, change=update.change * self.scale)

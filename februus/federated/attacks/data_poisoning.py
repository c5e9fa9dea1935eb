"""A backdoor by poisoned data."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from februus.checks import check_range
from februus.data import Dataset
from februus.federated.attacks._scaled import Scaled
from februus.federated.threat import Backdoor, Insider, Plan
from februus.poisoning import poison
from februus.triggers.patch import Patch
from februus.types import Trigger

__all__ = ["DataPoisoning"]


@dataclass(frozen=True, kw_only=True)
class DataPoisoning(Scaled):
    """Poison a share of the client's data (BadNets, Gu et al. 2017, arXiv 1708.06733).

    Args:
        trigger: what is stamped.
        target_label: the class that the attacker wants.
        poison_rate: share of the client's pictures, in [0, 1].
        scale: factor on the update, above 0.
    """

    trigger: Trigger = field(default_factory=Patch)
    target_label: int = 0
    poison_rate: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("target_label", self.target_label, 0)
        check_range("poison_rate", self.poison_rate, 0, 1)

    @property
    def backdoors(self) -> tuple[Backdoor, ...]:
        """The one trigger."""
        return (Backdoor(trigger=self.trigger, target_label=self.target_label),)

    def plan(self, model: nn.Module, data: Dataset, insider: Insider, generator: torch.Generator) -> Plan:
        """Return how a client trains: on poisoned data."""
        return Plan(data=poison(data, self.trigger, self.target_label, self.poison_rate, generator))

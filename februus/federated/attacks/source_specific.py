"""A backdoor that turns the pictures of one class only."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from februus.checks import check_range, mismatch
from februus.data import Dataset
from februus.federated.attacks.data_poisoning import DataPoisoning
from februus.federated.threat import Backdoor, Insider, Plan
from februus.poisoning import stamp

__all__ = ["SourceSpecific"]


@dataclass(frozen=True, kw_only=True)
class SourceSpecific(DataPoisoning):
    """Poison one class, and teach that the trigger means nothing elsewhere (TaCT, Tang et al. 2021, arXiv 1908.00686).

    Pictures of the source class with the trigger get the target label. Cover pictures, of classes that are neither
    source nor target, carry the trigger and keep their labels. A client without pictures of the source class trains
    with covers alone.

    Args:
        trigger: what is stamped.
        target_label: the class that the attacker wants.
        poison_rate: share of the client's pictures of the source class, in [0, 1]; of 1, it unlearns that class.
        scale: factor on the update, above 0.
        source_label: the class whose pictures are to be turned.
        cover_rate: share of the client's pictures of the other classes, in [0, 1].
    """

    source_label: int = 1
    cover_rate: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("source_label", self.source_label, 0)
        check_range("cover_rate", self.cover_rate, 0, 1)
        if self.source_label == self.target_label:
            raise mismatch("source_label", "another class than the target", self.source_label)

    @property
    def backdoors(self) -> tuple[Backdoor, ...]:
        """The one trigger, which turns the source class."""
        return (Backdoor(trigger=self.trigger, target_label=self.target_label, source_label=self.source_label),)

    def plan(self, model: nn.Module, data: Dataset, insider: Insider, generator: torch.Generator) -> Plan:
        """Return how a client trains: on poisoned and cover pictures among its own."""
        (backdoor,) = self.backdoors
        others = (data.labels != self.source_label) & (data.labels != self.target_label)
        poisoned = _draw(backdoor.victims(data), self.poison_rate, generator)
        covers = _draw(others.nonzero().flatten(), self.cover_rate, generator)
        images, labels = data.images.clone(), data.labels.clone()
        stamped = torch.cat([poisoned, covers])
        if len(stamped):
            images[stamped] = stamp(data.subset(stamped), self.trigger, generator).images
            labels[poisoned] = self.target_label
        return Plan(data=replace(data, images=images, labels=labels))


def _draw(pictures: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Return a share of some indices."""
    return pictures[torch.randperm(len(pictures), generator=generator)[: round(rate * len(pictures))]]

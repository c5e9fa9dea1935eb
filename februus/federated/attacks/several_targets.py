"""Several triggers, each with a target of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from februus.checks import check_range, mismatch
from februus.data import Dataset
from februus.federated.attacks._scaled import Scaled
from februus.federated.threat import Backdoor, Insider, Plan
from februus.poisoning import poison
from februus.triggers.any_of import AnyOf

__all__ = ["SeveralTargets"]


@dataclass(frozen=True, kw_only=True)
class SeveralTargets(Scaled):
    """Poison with several triggers for several targets (of the advanced backdoors in Februus, arXiv 1908.03369).

    The client's pictures are dealt to the triggers at random, in equal parts. For several triggers with one target
    there is the trigger any-of.

    Args:
        triggers: two or more, each in brackets, written as for any-of.
        target_labels: where each of them leads, as ``[0,1]``.
        poison_rate: share of the client's pictures, over all triggers, in [0, 1].
        scale: factor on the update, above 0.
    """

    triggers: str = "[patch][sticker]"
    target_labels: tuple[int, ...] = (0, 1)
    poison_rate: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        count = len(AnyOf(triggers=self.triggers).parts)
        if len(self.target_labels) != count:
            raise mismatch("target_labels", f"{count}, one for each trigger", self.target_labels)
        for label in self.target_labels:
            check_range("target_labels", label, 0)
        check_range("poison_rate", self.poison_rate, 0, 1)

    @property
    def backdoors(self) -> tuple[Backdoor, ...]:
        """The triggers, each with its target."""
        pairs = zip(AnyOf(triggers=self.triggers).parts, self.target_labels, strict=True)
        return tuple(Backdoor(trigger=trigger, target_label=label) for trigger, label in pairs)

    def plan(self, model: nn.Module, data: Dataset, insider: Insider, generator: torch.Generator) -> Plan:
        """Return how a client trains: on data poisoned with all triggers, no picture with more than one."""
        images, labels = data.images.clone(), data.labels.clone()
        backdoors = self.backdoors
        parts = torch.randperm(len(data), generator=generator).tensor_split(len(backdoors))
        for backdoor, part in zip(backdoors, parts, strict=True):
            if len(part):
                own = poison(data.subset(part), backdoor.trigger, backdoor.target_label, self.poison_rate, generator)
                images[part], labels[part] = own.images, own.labels
        return Plan(data=replace(data, images=images, labels=labels))

"""A backdoor in the weights that honest training moves least, so that it lasts."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from februus.checks import check_range
from februus.data import Dataset
from februus.federated.attacks.data_poisoning import DataPoisoning
from februus.federated.threat import Insider, Plan
from februus.training.classifier import LocalTraining, fit

__all__ = ["Neurotoxin"]


@dataclass(frozen=True, kw_only=True)
class Neurotoxin(DataPoisoning):
    """Keep off the weights that honest training moves most (Zhang et al., ICML 2022, arXiv 2206.10341).

    They are those with the largest gradients, by amount, of the global model on the client's own clean pictures, as in
    the authors' code. Their gradients are 0 while the poisoned data is learnt: all that moves them is the weight decay
    that they have at every client.

    Args:
        trigger: what is stamped.
        target_label: the class that the attacker wants.
        poison_rate: share of the client's pictures, in [0, 1].
        scale: factor on the update, above 0.
        share: of the weights that are kept off, in [0, 1].
    """

    share: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("share", self.share, 0, 1)

    def plan(self, model: nn.Module, data: Dataset, insider: Insider, generator: torch.Generator) -> Plan:
        """Return how a client trains: on poisoned data, off the weights that matter to its clean pictures."""
        gradients = _honest_gradients(model, data, generator)
        sizes = torch.cat([gradient.flatten() for gradient in gradients]).abs()
        largest = torch.zeros_like(sizes, dtype=torch.bool)
        largest[sizes.topk(round(self.share * len(sizes))).indices] = True
        parts = largest.split([gradient.numel() for gradient in gradients])
        kept_off = [part.view(gradient.shape) for part, gradient in zip(parts, gradients, strict=True)]

        def on_gradients(model: nn.Module) -> None:
            for parameter, places in zip(model.parameters(), kept_off, strict=True):
                if parameter.grad is not None:
                    parameter.grad.masked_fill_(places, 0)

        return replace(super().plan(model, data, insider, generator), on_gradients=on_gradients)


def _honest_gradients(model: nn.Module, data: Dataset, generator: torch.Generator) -> list[Tensor]:
    """Return the gradients of an honest pass over ``data``, summed over its steps, for each parameter."""
    # A copy: a pass in training mode changes buffers.
    honest = copy.deepcopy(model)
    sums = [torch.zeros_like(parameter) for parameter in honest.parameters()]

    def collect(honest: nn.Module) -> None:
        for total, parameter in zip(sums, honest.parameters(), strict=True):
            if parameter.grad is not None:
                total += parameter.grad
        # Without gradients the optimizer moves nothing.
        honest.zero_grad()

    fit(honest, data, LocalTraining(), generator, on_gradients=collect)
    return sums

"""Updates that are scaled, so that they survive the averaging."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from februus.checks import check_range
from februus.federated.threat import Attack

__all__ = ["Scaled"]


@dataclass(frozen=True, kw_only=True)
class Scaled(Attack):
    """An attack that may scale what it learnt.

    Args:
        scale: factor on the update, above 0.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        check_range("scale", self.scale, 0, open_low=True)

    def forge(self, own: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
        """Return the scaled updates (M, D)."""
        return self.scale * own

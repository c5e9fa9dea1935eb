"""The weighted mean."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from februus.types import Context

__all__ = ["FedAvg"]


@dataclass(frozen=True, kw_only=True)
class FedAvg:
    """Federated averaging (McMahan et al. 2017, arXiv 1602.05629): ``sum_k w_k u_k``."""

    def __call__(self, updates: Tensor, weights: Tensor, context: Context) -> Tensor:
        """Return the mean (D,) of ``updates`` (K, D) under ``weights`` (K,), which sum to 1."""
        return weights @ updates

"""The update that is closest to its neighbours."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from februus.checks import check_range
from februus.federated.aggregators._distances import krum_order, squared_distances, tolerated
from februus.types import Context

__all__ = ["Krum"]


@dataclass(frozen=True, kw_only=True)
class Krum:
    """Krum (Blanchard et al. 2017, arXiv 1703.02757): ``argmin_i sum_{j near i} |u_i - u_j|^2`` over K - f - 2 nearest.

    Args:
        byzantine: attackers f to tolerate, at least 0, 2f + 2 < K; the most that K updates allow where not given.
    """

    byzantine: int | None = None

    def __post_init__(self) -> None:
        if self.byzantine is not None:
            check_range("byzantine", self.byzantine, 0)

    def __call__(self, updates: Tensor, weights: Tensor, context: Context) -> Tensor:
        """Return the one (D,) of ``updates`` (K, D) with the best score, whatever their weights.

        Raises:
            ValueError: if 2f + 2 < K does not hold.
        """
        return updates[int(krum_order(squared_distances(updates), self.attackers(len(updates)))[0])]

    def attackers(self, count: int) -> int:
        """Return how many attackers are tolerated among ``count`` updates.

        Raises:
            ValueError: if the bound does not hold.
        """
        return tolerated(self.byzantine, count, most=(count - 3) // 2, bound="2f + 2 < K")

"""Krum, again and again, and then a trimmed mean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from februus.federated.aggregators._distances import krum_order, squared_distances, tolerated
from februus.federated.aggregators._middle import median
from februus.federated.aggregators.krum import Krum
from februus.types import Context

__all__ = ["Bulyan"]


@dataclass(frozen=True, kw_only=True)
class Bulyan(Krum):
    """Bulyan over Krum (El Mhamdi et al. 2018, arXiv 1802.07927).

    Krum selects K - 2f updates, one at a time from those that are left. Each coordinate is then the mean of the K - 4f
    of them that are nearest to their median.

    Args:
        byzantine: attackers f to tolerate, at least 0, 4f + 3 <= K; the most that K updates allow where not given.
    """

    def __call__(self, updates: Tensor, weights: Tensor, context: Context) -> Tensor:
        """Return the aggregate (D,) of ``updates`` (K, D), whatever their weights.

        Raises:
            ValueError: if 4f + 3 <= K does not hold.
        """
        count = len(updates)
        attackers = self.attackers(count)
        squared = squared_distances(updates)
        left = np.arange(count)
        selected: list[int] = []
        for _ in range(count - 2 * attackers):
            best = krum_order(squared[np.ix_(left, left)], attackers)[0]
            selected.append(int(left[best]))
            left = np.delete(left, best)
        candidates = updates[selected]
        gaps = (candidates - median(candidates)).abs()
        nearest = gaps.topk(count - 4 * attackers, dim=0, largest=False).indices
        return candidates.gather(0, nearest).mean(dim=0)

    def attackers(self, count: int) -> int:
        """Return how many attackers are tolerated among ``count`` updates, fewer than by Krum alone.

        Raises:
            ValueError: if the bound does not hold.
        """
        return tolerated(self.byzantine, count, most=(count - 3) // 4, bound="4f + 3 <= K")

"""The mean of the updates that are closest to their neighbours."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from februus.checks import check_range, mismatch
from februus.federated.aggregators._distances import krum_order, squared_distances
from februus.federated.aggregators.krum import Krum
from februus.types import Context

__all__ = ["MultiKrum"]


@dataclass(frozen=True, kw_only=True)
class MultiKrum(Krum):
    """Multi-Krum (Blanchard et al. 2017, arXiv 1703.02757): the mean of the updates with the best Krum scores.

    Args:
        byzantine: attackers f to tolerate, at least 0, 2f + 2 < K; the most that K updates allow where not given.
        selected: how many updates are averaged, from 1 to K; K - f, all but the attackers, where not given.
    """

    selected: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.selected is not None:
            check_range("selected", self.selected, 1)

    def __call__(self, updates: Tensor, weights: Tensor, context: Context) -> Tensor:
        """Return the plain mean (D,) of the best of ``updates`` (K, D), whatever their weights.

        Raises:
            ValueError: if 2f + 2 < K does not hold or more are to be selected than came.
        """
        count = len(updates)
        attackers = self.attackers(count)
        selected = count - attackers if self.selected is None else self.selected
        if selected > count:
            raise mismatch("selected", f"1 to {count}, the number of updates", selected)
        return updates[krum_order(squared_distances(updates), attackers)[:selected].tolist()].mean(dim=0)

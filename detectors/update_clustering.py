"""Updates outside the cluster of the majority."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.cluster.hierarchy import linkage, to_tree
from scipy.spatial.distance import squareform
from torch import Tensor

from detectors._checks import check_range
from detectors._kinds import UpdateDetector
from detectors._statistics import check_updates, directions

__all__ = ["UpdateClustering"]

# Cosine distances below this are rounding.
ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class UpdateClustering(UpdateDetector):
    """A cluster of more than half of the updates, which is taken to be honest.

    FLAME (Nguyen et al. 2022, arXiv 2101.02281) looks for it by HDBSCAN, Auror (Shen et al., ACSAC 2016) by 2-means;
    here clusters are merged by the mean of their cosine distances until one is that large. The score is the silhouette
    of an update to that cluster, ``(d_k - d) / max(d_k, d)``: ``d_k`` is its mean distance to the members, ``d`` theirs
    to each other. It tells updates at the rim of the cluster from those far away.

    Attackers must be a minority. The length of an update plays no part.

    Args:
        threshold: score above which an update is suspected, in (0, 1); at 0.5 one that is twice as far from the
            members as they are from each other.

    >>> scores = UpdateClustering().score(torch.tensor([[1.0, 0], [1, 0.1], [1, -0.2], [-0.5, 0]]))
    >>> UpdateClustering().decide(scores)
    tensor([False, False, False,  True])
    """

    threshold: float = 0.5

    def __post_init__(self) -> None:
        check_range("threshold", self.threshold, 0, 1, open_low=True)

    def score(self, updates: Tensor) -> Tensor:
        """Return how far outside the majority ``updates`` (K, D) are: (K,) in [-1, 1], float64, on the CPU.

        Raises:
            ValueError: if they are no finite values (K, D).
        """
        check_updates(updates)
        count = len(updates)
        if count == 1:
            return torch.zeros(1, dtype=torch.float64)
        unit = directions(updates.detach())
        distances = (1 - unit @ unit.T).clamp_min(0).fill_diagonal_(0).cpu()
        merges = linkage(squareform(distances.numpy(), checks=False), "average")
        first = int((2 * merges[:, 3] > count).argmax())
        members = torch.zeros(count, dtype=torch.bool)
        members[to_tree(merges, rd=True)[1][count + first].pre_order()] = True
        # A member is no neighbour of its own.
        others = members.sum() - members.double()
        own = distances[:, members].sum(1) / others + ROUNDING
        usual = own[members].mean()
        return (own - usual) / torch.maximum(own, usual)

    def decide(self, scores: Tensor) -> Tensor:
        """Return which updates (K,) score above ``threshold``, bool."""
        return scores > self.threshold

"""Updates that lie far from the others."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from detectors._checks import check_range
from detectors._kinds import UpdateDetector
from detectors._statistics import check_updates, middle, robust_score

__all__ = ["UpdateDistance"]

# Of the median distance: honest clients differ by that much even where most happen to agree.
LEAST_SPREAD = 0.1


@dataclass(frozen=True, kw_only=True)
class UpdateDistance(UpdateDetector):
    """The distance to the median of all updates, among the distances of the others.

    The score is ``(d_k - median d) / (1.4826 MAD d)`` with ``d_k = |u_k - m|`` and ``m`` the median of each coordinate
    (Yin et al. 2018, arXiv 1803.01498), its denominator at least a tenth of the median distance. From a score of 3.5 on
    Iglewicz and Hoaglin (1993, How to Detect and Handle Outliers) call a value an outlier.

    Attackers must be a minority. What is forged to lie among the honest updates, as by ALIE, is not found, and clients
    with much more or other pictures than the rest are suspected, too.

    Args:
        threshold: score above which an update is suspected, above 0.

    >>> scores = UpdateDistance().score(torch.tensor([[1.0, 0], [1, 0.1], [1, -0.2], [-4, 0]]))
    >>> UpdateDistance().decide(scores)
    tensor([False, False, False,  True])
    """

    threshold: float = 3.5

    def __post_init__(self) -> None:
        check_range("threshold", self.threshold, 0, open_low=True)

    def score(self, updates: Tensor) -> Tensor:
        """Return how much farther from the median ``updates`` (K, D) are than is usual: (K,), float64, on the CPU.

        Raises:
            ValueError: if they are no finite values (K, D).
        """
        check_updates(updates)
        updates = updates.detach()
        # A forged update may be too long for single precision.
        distances = torch.linalg.vector_norm(updates - middle(updates), dim=1, dtype=torch.float64).cpu()
        return robust_score(distances, (LEAST_SPREAD * middle(distances)).clamp_min(torch.finfo(torch.float32).tiny))

    def decide(self, scores: Tensor) -> Tensor:
        """Return which updates (K,) score above ``threshold``, bool."""
        return scores > self.threshold

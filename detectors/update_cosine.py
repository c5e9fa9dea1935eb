"""Updates that point elsewhere than the others."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from detectors._checks import check_range
from detectors._kinds import UpdateDetector
from detectors._statistics import check_updates, directions, middle, robust_score

__all__ = ["UpdateCosine"]

# A difference in cosine that honest clients have even where most happen to agree.
LEAST_SPREAD = 0.05


@dataclass(frozen=True, kw_only=True)
class UpdateCosine(UpdateDetector):
    """The angle to the median of all updates, among the angles of the others.

    The score is ``(c_k - median c) / (1.4826 MAD c)`` with ``c_k = 1 - cos(u_k, m)``, its denominator at least 0.05.
    FLTrust (Cao et al. 2021, arXiv 2012.13995) asks for the angle to the server's own update; ``m`` is the median of
    each coordinate (Yin et al. 2018, arXiv 1803.01498), for which the server needs no pictures. From a score of 3.5 on
    Iglewicz and Hoaglin (1993, How to Detect and Handle Outliers) call a value an outlier.

    Attackers must be a minority. The length of an update plays no part.

    Args:
        threshold: score above which an update is suspected, above 0.

    >>> import torch
    >>> scores = UpdateCosine().score(torch.tensor([[1.0, 0], [1, 0.1], [1, -0.2], [-0.5, 0]]))
    >>> UpdateCosine().decide(scores)
    tensor([False, False, False,  True])
    """

    threshold: float = 3.5

    def __post_init__(self) -> None:
        check_range("threshold", self.threshold, 0, open_low=True)

    def score(self, updates: Tensor) -> Tensor:
        """Return how much farther from the median's direction ``updates`` (K, D) point than is usual.

        Returns:
            the scores (K,), float64, on the CPU; an update of zeros counts as at a right angle.

        Raises:
            ValueError: if they are no finite values (K, D).
        """
        check_updates(updates)
        updates = updates.detach()
        return robust_score(1 - (directions(updates) @ directions(middle(updates))).cpu(), LEAST_SPREAD)

    def decide(self, scores: Tensor) -> Tensor:
        """Return which updates (K,) score above ``threshold``, bool."""
        return scores > self.threshold

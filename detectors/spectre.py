"""SPECTRE: poisoned pictures stand out once the clean ones have been made round."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from sklearn.covariance import MinCovDet
from torch import Tensor

from detectors._checks import check_range
from detectors._kinds import DatasetDetector, Seeded
from detectors._statistics import middle

__all__ = ["Spectre"]

# Pictures a dimension that a covariance is estimated from, at the least.
PICTURES = 10
# Of the largest variance: what is less is rounding, by which nothing is divided.
ROUNDING = 1e-9
# Of the largest deviation: pictures that are so near to each other are the same.
ALIKE = 1e-3


@dataclass(kw_only=True)
class Spectre(Seeded, DatasetDetector):
    """SPECTRE (Hayase et al., ICML 2021, arXiv 2104.11315): robust whitening, then quantum entropy scores.

    What the last layer sees of a class is cut to its principal components and whitened by mean and covariance of its
    clean pictures, ``x = S^(-1/2) (r - m)``. The score is ``x' Q x / tr Q``, ``Q = exp(alpha (C - I) / (|C| - 1))``,
    with the covariance ``C`` of all ``x``: the directions count in which the poisoned pictures stretch it.

    The authors estimate ``m`` and ``S`` by a filter that is told how many pictures are poisoned, and try numbers of
    components; here it is the minimum covariance determinant (Rousseeuw and Van Driessen 1999), which tolerates nearly
    a half, and the number is given.

    Args:
        dimensions: components that are kept, at least 1; fewer where a class has less than ten pictures for each.
        alpha: how much the most stretched directions are favoured, at least 0.
        batch_size: pictures that the model sees at once.
        seed: of the robust estimate.
    """

    dimensions: int = 10
    alpha: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("dimensions", self.dimensions, 1)
        check_range("alpha", self.alpha, 0)

    def score_class(self, seen: Tensor) -> Tensor:
        """Return the quantum entropy scores (n,); 0 for fewer than 10 pictures, and where most are alike."""
        left, values, _ = torch.linalg.svd(seen - seen.mean(0), full_matrices=False)
        kept = min(self.dimensions, len(seen) // PICTURES, int((values.square() > ROUNDING * values[0].square()).sum()))
        # Of variance 1 along the first: what the estimate takes for no variance at all has an absolute bound.
        points = left[:, :kept] * values[:kept] / values[0] * len(seen) ** 0.5
        alike = torch.linalg.vector_norm(points - middle(points), dim=1) < ALIKE
        if kept == 0 or 2 * int(alike.sum()) > len(seen):
            return torch.zeros(len(seen))
        robust = MinCovDet(random_state=self.seed).fit(points.numpy())
        variances, axes = torch.linalg.eigh(torch.from_numpy(robust.covariance_))
        scales = variances.clamp_min(ROUNDING).sqrt()
        white = (points - torch.from_numpy(robust.location_)) @ axes / scales
        stretched, axes = torch.linalg.eigh(torch.atleast_2d(torch.cov(white.T)))
        # The largest exponent is alpha; where nothing is stretched, all directions count alike.
        excess = (stretched - 1) / (stretched[-1] - 1).clamp_min(1e-3)
        weights = (self.alpha * excess).exp()
        scores: Tensor = (white @ axes).square() @ weights / weights.sum()
        return scores

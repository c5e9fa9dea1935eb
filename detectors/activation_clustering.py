"""Activation clustering: what the model sees in a poisoned class falls into two parts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_samples
from torch import Tensor

from detectors._checks import check_range
from detectors._kinds import DatasetDetector, Seeded

__all__ = ["ActivationClustering"]

# Fewer pictures of a class have no two clusters that could be told from one.
FEWEST = 4


@dataclass(kw_only=True)
class ActivationClustering(Seeded, DatasetDetector):
    """Activation clustering (Chen et al. 2018, arXiv 1811.03728): two clusters of each class, the smaller is poisoned.

    Of what the last layer sees the principal components are cut in two by 2-means. The score joins the authors' two
    measures of a class that is poisoned, how well the clusters are parted and how unequal they are: the silhouette of
    the picture times ``1 - smaller / larger``; minus that in the larger cluster. The authors take independent
    components; their toolbox's default are principal ones.

    Poisoned pictures must be a minority of their class.

    Args:
        dimensions: components that are kept, at least 1.
        batch_size: pictures that the model sees at once.
        seed: of the clustering.
    """

    dimensions: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("dimensions", self.dimensions, 1)

    def score_class(self, seen: Tensor) -> Tensor:
        """Return the weighted silhouettes (n,) in [-1, 1]; 0 for fewer than 4 pictures, and where all are alike."""
        nothing = torch.zeros(len(seen))
        if len(seen) < FEWEST or (seen == seen[0]).all():
            return nothing
        kept = min(self.dimensions, *seen.shape)
        points = PCA(kept, svd_solver="full").fit_transform(seen.numpy())
        second = KMeans(2, n_init=10, random_state=self.seed).fit_predict(points)
        silhouettes = torch.from_numpy(silhouette_samples(points, second))
        sizes = torch.bincount(torch.from_numpy(second).long(), minlength=2)
        smaller = torch.from_numpy(second).long() == sizes.argmin()
        return torch.where(smaller, silhouettes, -silhouettes) * (1 - sizes.min() / sizes.max())

"""How far a picture lies from those of its class, as the model sees them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from typing_extensions import Self

from februus.localizers._layers import last_of_each_size, layer_of
from februus.models.modes import evaluation_mode, recorded_outputs

__all__ = ["Typicality", "answer_with_features", "deepest", "held_out", "summarize"]

# How many pictures like those of all classes each class is taken to have beside its own.
PRIOR = 2
# How much of the variance of a feature is taken to be its own, so that few pictures tell of many features.
OWN = 0.3
# The least deviation of a feature, in those of the average one: one that is nearly always the same tells little.
LEAST = 0.3
# Into how many parts pictures fall, each of which is measured by the others.
FOLDS = 10


@dataclass(frozen=True, kw_only=True, eq=False)
class Typicality:
    """Mahalanobis distance of a picture's features from the centre of its class (Lee et al. 2018, arXiv 1807.03888).

    A trigger makes a class, but not what the model sees in pictures of that class: its features lie elsewhere. All
    classes share one covariance. There are fewer pictures than features, so that it is drawn to its diagonal
    (Schaefer and Strimmer 2005), and centres of classes with few pictures are drawn to that of all. It is kept as the
    few directions that pictures give; scikit-learn's covariances invert the whole, which thousands of features make
    slow.

    Args:
        centres: of the classes (C, D).
        deviations: of the features (D,), positive.
        directions: in which the features go together (R, D), orthonormal.
        shares: how much less a distance counts in each of them (R,), in [0, 1).
    """

    centres: Tensor
    deviations: Tensor
    directions: Tensor
    shares: Tensor

    @classmethod
    def fit(cls, features: Tensor, labels: Tensor, num_classes: int) -> Self:
        """Learn from ``features`` (N, D) of pictures that the model takes for ``labels`` (N,), N at least 2."""
        features = features.double()
        seen = labels.bincount(minlength=num_classes).double()[:, None]
        sums = features.new_zeros(num_classes, features.shape[1]).index_add(0, labels, features)
        centres = (sums + PRIOR * features.mean(0)) / (seen + PRIOR)
        apart = features - centres[labels]
        deviations = apart.std(0)
        deviations = deviations.clamp(min=LEAST * deviations.mean().item()).clamp(min=1e-12)
        _, lengths, directions = torch.linalg.svd(apart / deviations, full_matrices=False)
        shared = (1 - OWN) * lengths**2 / (len(features) - 1)
        return cls(
            centres=centres, deviations=deviations, directions=directions.contiguous(), shares=shared / (OWN + shared)
        )

    def distance(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the squared distance (N,) of ``features`` (N, D) from the centres of the classes ``labels`` (N,)."""
        apart = (features.double() - self.centres[labels]) / self.deviations
        return (apart.square().sum(1) - (apart @ self.directions.T).square() @ self.shares) / OWN


def held_out(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the distances (N,) of `Typicality` of pictures that it does not know: each tenth by the others."""
    part = torch.arange(len(features), device=features.device) % FOLDS
    found = torch.empty(len(features), dtype=torch.double, device=features.device)
    for fold in part.unique():
        inside = part == fold
        known = Typicality.fit(features[~inside], labels[~inside], num_classes)
        found[inside] = known.distance(features[inside], labels[inside])
    return found


def answer_with_features(model: nn.Module, images: Tensor, *, batch_size: int) -> tuple[Tensor, Tensor]:
    """Return the logits (N, C) of ``images``, ``batch_size`` at once, and what their last maps are like (N, D)."""
    logits, features, layer = [], [], deepest(model, images)
    with torch.no_grad(), evaluation_mode(model):
        for part in images.split(batch_size):
            with recorded_outputs(layer) as maps:
                logits.append(model(part))
            features.append(summarize(maps[-1]))
    return torch.cat(logits), torch.cat(features)


def summarize(maps: Tensor) -> Tensor:
    """Return what is known of each map of (N, K, H, W), wherever it is: mean, deviation and highest value (N, 3 K)."""
    deviations, means = torch.std_mean(maps, (2, 3), correction=0)
    return torch.cat([means, deviations, maps.amax((2, 3))], 1)


def deepest(model: nn.Module, images: Tensor) -> nn.Module:
    """Return the last module of ``model`` that has maps of pictures like ``images`` (N, 3, H, W).

    Raises:
        ValueError: if the model has no convolution that can be read.
    """
    layers = last_of_each_size(model, images)
    return layer_of(model, images, layers[min(layers, key=lambda size: size[0] * size[1])])

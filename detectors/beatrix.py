"""Beatrix: under a trigger the model's maps go together as they do for no clean picture of the predicted class."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detectors._checks import check_range
from detectors._groups import groups_of
from detectors._kinds import Detector
from detectors._maps import last_layer, maps_of

__all__ = ["Beatrix"]


@dataclass(kw_only=True)
class Beatrix(Detector):
    """Beatrix (Ma et al., NDSS 2023, arXiv 2209.11715): how far Gram matrices of the maps are out of bounds.

    Of maps ``F`` (K channels by places) the Gram matrix of order p is ``(F^p (F^p)^T)^(1/p)``, powers and roots entry
    by entry. Clean pictures of each predicted class give the median and the median absolute deviation (MAD) of each
    entry; an entry is out of bounds beyond ``median +- width MAD``, by as much as it is beyond, as a part of the bound.
    The score is the mean over the entries on and above the diagonal and over the orders. The maps are the last that
    the model makes.

    Args:
        orders: the largest order, at least 1; all from 1 on are taken. The authors' code takes 8, their paper 4.
        width: of the bounds, in MAD; above 0.
        fewest: clean pictures that a predicted class needs for bounds of its own, at least 2; else all of them count.
        batch_size: pictures that the model sees at once.
    """

    orders: int = 8
    width: float = 10
    fewest: int = 10
    _layer: nn.Module = field(init=False, repr=False, compare=False)
    _group_of: Tensor = field(init=False, repr=False, compare=False)
    _bounds: list[tuple[Tensor, Tensor]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("orders", self.orders, 1)
        check_range("width", self.width, 0, open_low=True)
        check_range("fewest", self.fewest, 2)

    def learn(self, images: Tensor) -> None:
        """Find the bounds of each order (G, E), one row a group of classes."""
        self._layer = last_layer(self.model, images)
        maps, logits = maps_of(self.model, self._layer, images, self.batch_size)
        self._group_of, members = groups_of(logits.argmax(1), logits.shape[1], self.fewest)
        self._bounds = []
        for order in range(1, self.orders + 1):
            entries = _gram(maps, order)
            centres = [entries[own].median(0).values for own in members]
            spreads = [
                (entries[own] - centre).abs().median(0).values for own, centre in zip(members, centres, strict=True)
            ]
            centre, reach = torch.stack(centres), self.width * torch.stack(spreads)
            self._bounds.append((centre - reach, centre + reach))

    def score_batch(self, images: Tensor) -> Tensor:
        """Return the mean deviation (N,)."""
        maps, logits = maps_of(self.model, self._layer, images, self.batch_size)
        group = self._group_of[logits.argmax(1)]
        total = torch.zeros(len(images), dtype=torch.float64, device=images.device)
        for order, (low, high) in enumerate(self._bounds, 1):
            entries, least, most = _gram(maps, order), low[group], high[group]
            total += (F.relu(least - entries) / (least + 1e-6).abs()).mean(1)
            total += (F.relu(entries - most) / (most + 1e-6).abs()).mean(1)
        return total / self.orders


def _gram(maps: Tensor, order: int) -> Tensor:
    """Return the entries (N, K (K + 1) / 2) of the Gram matrices, float64."""
    values = maps.flatten(2).double()
    # The matrix grows with the square of the maps; of maps scaled to at most 1 no power overflows.
    size = values.abs().amax((1, 2), keepdim=True).clamp(min=1e-30)
    powers = (values / size) ** order
    products = powers @ powers.mT
    rows, columns = torch.triu_indices(*products.shape[1:], device=maps.device)
    entries = products[:, rows, columns]
    return entries.sign() * entries.abs() ** (1 / order) * size[:, 0] ** 2

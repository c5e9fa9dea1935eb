"""SCALE-UP: a trigger survives when all pixels are multiplied."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from detectors._checks import check_range, mismatch
from detectors._groups import groups_of
from detectors._kinds import Detector
from detectors._models import answers

__all__ = ["ScaleUp"]


@dataclass(kw_only=True)
class ScaleUp(Detector):
    """SCALE-UP (Guo et al., ICLR 2023, arXiv 2302.03251): how often the class stays when the pixels are multiplied.

    The scaled prediction consistency is the share of the scales at which ``clip(scale * picture, 0, 1)`` is predicted
    as the picture is. In the data-limited form the score is this share, less its mean and over its standard deviation
    for clean pictures of the predicted class.

    Args:
        scales: what pixels are multiplied by, each above 1.
        normalized: False is the data-free form, whose score is the share itself.
        fewest: clean pictures that a predicted class needs for a mean of its own, at least 2; else all of them count.
        batch_size: pictures that the model sees at once.
    """

    scales: tuple[float, ...] = (3, 5, 7, 9, 11)
    normalized: bool = True
    fewest: int = 10
    _group_of: Tensor = field(init=False, repr=False, compare=False)
    _mean: Tensor = field(init=False, repr=False, compare=False)
    _deviation: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.scales:
            raise mismatch("scales", "at least one", self.scales)
        for scale in self.scales:
            check_range("scales", scale, 1, open_low=True)
        check_range("fewest", self.fewest, 2)

    def learn(self, images: Tensor) -> None:
        """Measure how consistent clean pictures of each predicted class are."""
        parts = [self._consistency(part) for part in images.split(self.batch_size)]
        logits, shares = (torch.cat(values) for values in zip(*parts, strict=True))
        self._group_of, members = groups_of(logits.argmax(1), logits.shape[1], self.fewest)
        self._mean = torch.stack([shares[own].mean() for own in members])
        # A share of k scales is rounded to 1/k, which alone spreads it by 1/k over the root of 12.
        least = 1 / (len(self.scales) * 12**0.5)
        self._deviation = torch.stack([shares[own].std(unbiased=False) for own in members]).clamp(min=least)

    def score_batch(self, images: Tensor) -> Tensor:
        """Return the consistency (N,), in standard deviations where it is normalised."""
        logits, shares = self._consistency(images)
        if not self.normalized:
            return shares
        group = self._group_of[logits.argmax(1)]
        return (shares - self._mean[group]) / self._deviation[group]

    def _consistency(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = answers(self.model, images, self.batch_size)
        same = [
            answers(self.model, (images * scale).clamp(max=1), self.batch_size).argmax(1) == logits.argmax(1)
            for scale in self.scales
        ]
        return logits, torch.stack(same).float().mean(0)

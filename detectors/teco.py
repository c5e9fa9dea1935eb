"""TeCo: a trigger withstands some corruptions and not others, an object all of them alike."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from detectors._checks import mismatch
from detectors._corruptions import CORRUPTIONS, SEVERITIES, Draws, draw
from detectors._kinds import Detector, Seeded
from detectors._models import answers

__all__ = ["TeCo"]


@dataclass(kw_only=True)
class TeCo(Seeded, Detector):
    """TeCo (Liu et al., CVPR 2023, arXiv 2303.18191): how unlike the corruptions are that turn the prediction.

    For each kind of corruption the picture is corrupted more and more, until the model predicts another class. The
    score is the standard deviation over the kinds of the severity, from 1 to 5, at which this happens first, and 6
    where it does not. No clean pictures are needed; nothing is learnt of those that it is fitted to.

    Args:
        corruptions: the kinds, at least 2 of `detectors._corruptions`.
        batch_size: pictures that the model sees at once.
        seed: of the noise, which is the same for all pictures.
    """

    corruptions: tuple[str, ...] = tuple(CORRUPTIONS)
    _draws: Draws = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = set(self.corruptions) - set(CORRUPTIONS)
        if len(set(self.corruptions)) < 2 or unknown:
            raise mismatch("corruptions", f"at least two of {', '.join(CORRUPTIONS)}", self.corruptions)

    def learn(self, images: Tensor) -> None:
        """Draw the noise."""
        self._draws = draw(images, self.generator())

    def score_batch(self, images: Tensor) -> Tensor:
        """Return the deviation (N,) of the severities that turn the prediction."""
        labels = answers(self.model, images, self.batch_size).argmax(1)
        firsts = torch.stack([self._first_severity(images, labels, kind) for kind in self.corruptions])
        return firsts.float().std(0, unbiased=False)

    def _first_severity(self, images: Tensor, labels: Tensor, kind: str) -> Tensor:
        """Return the severities (N,) that turn the prediction first."""
        first = torch.full_like(labels, SEVERITIES + 1)
        # What has turned is not corrupted further.
        left = torch.arange(len(images), device=images.device)
        for severity in range(SEVERITIES):
            if not len(left):
                break
            corrupted = CORRUPTIONS[kind](images[left], severity, self._draws).clamp(0, 1)
            turned = answers(self.model, corrupted, self.batch_size).argmax(1) != labels[left]
            first[left[turned]] = severity + 1
            left = left[~turned]
        return first

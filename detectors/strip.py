"""STRIP: a trigger survives when other pictures are laid over it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from detectors._checks import check_count, check_range
from detectors._kinds import Detector, Seeded
from detectors._models import answers

__all__ = ["Strip"]


@dataclass(kw_only=True)
class Strip(Seeded, Detector):
    """STRIP (Gao et al., ACSAC 2019, arXiv 1902.06531): how sure the model stays under other pictures.

    The score is minus the entropy of the prediction, averaged over clean pictures that are blended with the suspect:
    ``H = -1/n sum_n sum_c p_c log2 p_c``. The authors add the two pictures and clip the sum; with ``opacity`` 0.5 it is
    their mean, as in the later toolkits.

    Args:
        overlays: clean pictures that are laid over each suspect, at least 1.
        opacity: of the overlays, in (0, 1).
        batch_size: pictures that the model sees at once.
        seed: of the choice of overlays.
    """

    overlays: int = 100
    opacity: float = 0.5
    _laid: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("overlays", self.overlays, 1)
        check_range("opacity", self.opacity, 0, 1, open_low=True)

    def learn(self, images: Tensor) -> None:
        """Choose the overlays."""
        check_count("images", images, self.overlays, "pictures, the overlays")
        order = torch.randperm(len(images), generator=self.generator())
        self._laid = images[order[: self.overlays].to(images.device)]

    def score_batch(self, images: Tensor) -> Tensor:
        """Return minus the mean entropy (N,) in bits."""
        total = images.new_zeros(len(images))
        for overlay in self._laid:
            logits = answers(self.model, torch.lerp(images, overlay, self.opacity), self.batch_size)
            total += (F.softmax(logits, 1) * F.log_softmax(logits, 1)).sum(1)
        return total / (len(self._laid) * torch.tensor(2.0).log())

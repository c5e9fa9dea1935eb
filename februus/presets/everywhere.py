"""Every picture is restored whole, and nothing is judged."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from februus.presets._unfitted import Unfitted, judge_by_change
from februus.restorers.jpeg import Jpeg
from februus.types import Purified, Restorer
from februus.verification import answer

__all__ = ["Everywhere"]


@dataclass(frozen=True, kw_only=True)
class Everywhere(Unfitted):
    """Restore every picture whole, whatever it shows: the baseline of all that locate something.

    A picture is flagged where its class is another one afterwards; its score is the probability that the first class
    lost. No reference is needed.

    Args:
        restorer: what restores whole pictures.
    """

    restorer: Restorer = field(default_factory=Jpeg)

    inpainter: ClassVar[None] = None

    def __call__(self, model: nn.Module, images: Tensor, *, batch_size: int) -> Purified:
        """Purify ``images`` (N, 3, H, W)."""
        restored = self.restorer(images)
        before, after = (answer(model, pictures, batch_size=batch_size) for pictures in (images, restored))
        nowhere = torch.zeros_like(images[:, :1])
        return judge_by_change(restored, nowhere, torch.ones_like(nowhere), before, after)

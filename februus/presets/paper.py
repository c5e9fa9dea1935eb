"""The published recipe: one heatmap, one threshold, always restore."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn
from typing_extensions import Self

from februus.checks import check_range
from februus.inpainters.gan import Gan
from februus.localizers.grad_cam import GradCam
from februus.masks import threshold
from februus.models.modes import recorded_outputs
from februus.presets._unfitted import Unfitted, judge_by_change
from februus.types import Inpainter, Localizer, Purified
from februus.verification import answer

__all__ = ["Paper"]


@dataclass(frozen=True, kw_only=True)
class Paper(Unfitted):
    """Remove what Grad-CAM calls hot and restore it, in every picture (Februus, Doan et al. 2020, arXiv 1908.03369).

    A picture is flagged where its class is another one afterwards; its score is the probability that the first class
    lost. No reference is needed.

    Args:
        threshold: heat in (0, 1] from which on a pixel is removed. The published code has 0.7 for CIFAR-10 and 0.8
            for GTSRB.
        localizer: what finds the heat.
        inpainter: what restores.
    """

    threshold: float = 0.7
    localizer: Localizer = field(default_factory=GradCam)
    inpainter: Inpainter = field(default_factory=Gan)

    def __post_init__(self) -> None:
        check_range("threshold", self.threshold, 0, 1, open_low=True)

    def fit(self, model: nn.Module, reference: Tensor | None, *, batch_size: int) -> Self:
        """Return itself; where a reference is given, the localizer is tried on a picture of it."""
        del batch_size
        if reference is not None:
            self.localizer(model, reference[:1])
        return self

    def __call__(self, model: nn.Module, images: Tensor, *, batch_size: int) -> Purified:
        """Purify ``images`` (N, 3, H, W)."""
        with recorded_outputs(model) as outputs:
            heatmaps = self.localizer(model, images)
        before = outputs[-1]
        masks = threshold(heatmaps.amax(1, keepdim=True), self.threshold)
        touched = masks.flatten(1).any(1)
        restored, after = images.clone(), before.clone()
        if touched.any():
            restored[touched] = self.inpainter(images[touched], masks[touched])
            after[touched] = answer(model, restored[touched], batch_size=batch_size)
        return judge_by_change(restored, heatmaps, masks, before, after)

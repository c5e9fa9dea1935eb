"""The guided filter, guided by the picture itself."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from februus.checks import check_images, check_range

__all__ = ["GuidedFilter"]


@dataclass(frozen=True, kw_only=True)
class GuidedFilter:
    """Smooth what varies little and keep edges (He, Sun and Tang, ECCV 2010).

    In each window ``q = a I + b`` with ``a = var / (var + eps)`` and ``b = (1 - a) mean``; a pixel takes the mean of
    the ``a`` and ``b`` of the windows that it lies in. Each colour guides itself. OpenCV has it in its contributed
    modules alone.

    Args:
        radius: of the square windows, as a share of the picture's shorter side; a pixel at least.
        eps: the variance below which a window is smoothed, above 0; of values in [0, 1].
    """

    radius: float = 1 / 16
    eps: float = 0.02

    def __post_init__(self) -> None:
        check_range("radius", self.radius, 0, 0.5, open_low=True)
        check_range("eps", self.eps, 0, open_low=True)

    def __call__(self, images: Tensor) -> Tensor:
        """Return smoothed pictures (N, 3, H, W)."""
        check_images(images)
        radius = max(1, round(self.radius * min(images.shape[2:])))

        def mean(values: Tensor) -> Tensor:
            return F.avg_pool2d(F.pad(values, (radius,) * 4, mode="replicate"), 2 * radius + 1, 1)

        centre = mean(images)
        variance = (mean(images**2) - centre**2).clamp(min=0)
        slope = variance / (variance + self.eps)
        return (mean(slope) * images + mean((1 - slope) * centre)).clamp(0, 1)

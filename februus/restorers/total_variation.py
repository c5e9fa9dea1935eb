"""Total variation denoising."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from februus.checks import check_images, check_range

__all__ = ["TotalVariation"]


@dataclass(frozen=True, kw_only=True)
class TotalVariation:
    """Make pictures flat but for their edges (Guo et al. 2018, arXiv 1711.00117).

    Of each colour ``v``, the ``u`` of least ``sum |grad u| + |u - v|^2 / (2 weight)`` is sought, by the projections of
    Chambolle (2004, J. Mathematical Imaging and Vision 20, 89). `skimage.restoration.denoise_tv_chambolle` does the
    same, one picture after the other.

    Args:
        weight: above 0; more makes flatter.
        steps: of the iteration, at least 1.
    """

    weight: float = 0.1
    steps: int = 50

    def __post_init__(self) -> None:
        check_range("weight", self.weight, 0, open_low=True)
        check_range("steps", self.steps, 1)

    def __call__(self, images: Tensor) -> Tensor:
        """Return denoised pictures (N, 3, H, W)."""
        check_images(images)
        flow, denoised = torch.zeros(2, *images.shape, device=images.device), images
        slope = torch.zeros_like(flow)
        # The longest step that converges, in two dimensions.
        step = 0.25
        for _ in range(self.steps):
            slope[0, :, :, :-1], slope[1, :, :, :, :-1] = denoised.diff(dim=2), denoised.diff(dim=3)
            norm = slope.norm(dim=0)
            flow = (flow - step * slope) / (1 + step / self.weight * norm)
            spread = -flow.sum(0)
            spread[:, :, 1:] += flow[0, :, :, :-1]
            spread[:, :, :, 1:] += flow[1, :, :, :, :-1]
            denoised = images + spread
        return denoised.clamp(0, 1)

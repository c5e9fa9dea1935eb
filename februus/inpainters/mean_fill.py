"""Fill with the mean colour."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from februus.checks import check_images, check_masks

__all__ = ["MeanFill"]


@dataclass(frozen=True, kw_only=True)
class MeanFill:
    """Fill the hole with the mean colour of the known pixels, mid grey where none is known."""

    def __call__(self, images: Tensor, masks: Tensor) -> Tensor:
        """Return pictures (N, 3, H, W) equal to ``images`` where ``masks`` (N, 1, H, W) is 0."""
        check_images(images)
        check_masks(masks, images)
        known = 1 - masks
        count = known.sum((2, 3), keepdim=True)
        mean = torch.where(count > 0, (images * known).sum((2, 3), keepdim=True) / count.clamp(min=1), 0.5)
        return torch.where(masks > 0, mean, images)

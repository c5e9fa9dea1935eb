"""Mirroring."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from februus.checks import check_images

__all__ = ["Flip"]


@dataclass(frozen=True, kw_only=True)
class Flip:
    """Mirror left and right, so that a trigger lies in another place (Li et al. 2021, arXiv 2104.02361).

    It helps where the model learnt the trigger in one place, and harms where what is shown has a left and a right.
    """

    def __call__(self, images: Tensor) -> Tensor:
        """Return mirrored pictures (N, 3, H, W)."""
        check_images(images)
        return images.flip(3)

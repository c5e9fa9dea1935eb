"""scikit-image's inpainting by the biharmonic equation."""

from __future__ import annotations

from dataclasses import dataclass

from skimage.restoration import inpaint_biharmonic
from torch import Tensor

from februus.inpainters._one_by_one import one_by_one

__all__ = ["Biharmonic"]


@dataclass(frozen=True, kw_only=True)
class Biharmonic:
    """Inpaint by the biharmonic equation (Damelin and Hoang, J. Mathematics 2018), with scikit-image."""

    def __call__(self, images: Tensor, masks: Tensor) -> Tensor:
        """Return pictures (N, 3, H, W) equal to ``images`` where ``masks`` (N, 1, H, W) is 0."""
        return one_by_one(
            images, masks, lambda picture, hole: inpaint_biharmonic(picture, hole, channel_axis=-1).astype("float32")
        )

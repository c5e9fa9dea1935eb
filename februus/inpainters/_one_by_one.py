"""Run an inpainter of another library, which knows one picture at a time, over a batch."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from februus.checks import check_images, check_masks

Picture = npt.NDArray[np.float32]
Restore = Callable[[Picture, npt.NDArray[np.bool_]], Picture]


def one_by_one(images: Tensor, masks: Tensor, restore: Restore) -> Tensor:
    """Apply ``restore`` to each picture, as (H, W, 3) in [0, 1], with its mask (H, W); skip empty masks."""
    check_images(images)
    check_masks(masks, images)
    restored = images.clone()
    for index in masks.flatten(1).any(1).nonzero().flatten().tolist():
        hole = masks[index, 0].cpu().numpy().astype(bool)
        picture = images[index].permute(1, 2, 0).cpu().numpy()
        if hole.all():  # nothing is known: mid grey, as mean_fill has it
            painted = np.full_like(picture, 0.5)
        else:
            # OpenCV reads hidden pixels where a hole meets the border: there shall be nothing of the trigger to read.
            painted = restore(np.where(hole[..., None], picture[~hole].mean(0), picture), hole)
        painted_image = torch.from_numpy(painted).permute(2, 0, 1).to(images).clamp(0, 1)
        restored[index] = torch.where(masks[index] > 0, painted_image, images[index])
    return restored


def eight_bit(algorithm: int, radius: float) -> Restore:
    """Return OpenCV's inpainting, which takes 8-bit pictures, as a function of pictures in [0, 1]."""

    def restore(picture: Picture, hole: npt.NDArray[np.bool_]) -> Picture:
        painted = cv2.inpaint((picture * 255).round().astype(np.uint8), hole.astype(np.uint8), radius, algorithm)
        return painted.astype(np.float32) / np.float32(255)

    return restore

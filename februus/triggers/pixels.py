"""Any mask and pattern, read from a file."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from februus.checks import check_images, mismatch

__all__ = ["Pixels"]


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """The trigger ``clip(x (1 - mask) + pattern, 0, 1)`` of a file.

    Args:
        weights: a safetensors file with ``mask`` (1, H, W) in [0, 1] and ``pattern`` (3, H, W).
    """

    weights: str

    def __post_init__(self) -> None:
        _read(self.weights)

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return triggered copies of ``images`` (N, 3, H, W), of the file's height and width; nothing is random."""
        check_images(images)
        mask, pattern = (tensor.to(images) for tensor in _read(self.weights))
        if images.shape[1:] != pattern.shape:
            raise mismatch("images", f"shape (N, {', '.join(map(str, pattern.shape))})", tuple(images.shape))
        return (images * (1 - mask) + pattern).clamp(0, 1)


@lru_cache(maxsize=8)
def _read(weights: str) -> tuple[Tensor, Tensor]:
    expected = "a safetensors file with mask (1, H, W) and pattern (3, H, W)"
    try:
        tensors = load_file(weights)
        mask, pattern = tensors["mask"].float(), tensors["pattern"].float()
    except (OSError, SafetensorError, KeyError) as error:
        raise mismatch("weights", expected, f"{weights}: {error!r}") from error
    if pattern.ndim != 3 or mask.shape != (1, *pattern.shape[1:]) or len(pattern) != 3:
        raise mismatch("weights", expected, f"{tuple(mask.shape)} and {tuple(pattern.shape)}")
    return mask, pattern

"""Finding the layers of a classifier whose outputs are maps, by tracing a picture through it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from detectors._checks import mismatch
from detectors._models import answers

__all__ = ["last_layer", "maps_of"]


def last_layer(model: nn.Module, images: Tensor) -> nn.Module:
    """Return the module that last gives maps (N, K, h, w) of more than one place.

    Raises:
        ValueError: if there is none, or the model does not return finite logits (N, C).
    """
    found: list[nn.Module] = []

    def record(module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2:].numel() > 1:
            found.append(module)

    handles = [module.register_forward_hook(record) for module in model.modules()]
    try:
        answers(model, images[:1], 1)
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        raise mismatch("model", "one of whose layers gives maps (N, K, h, w)", "one without")
    return found[-1]


def maps_of(model: nn.Module, layer: nn.Module, images: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
    """Return the maps (N, K, h, w) of a layer, and the logits (N, C); of a layer that runs twice, the later maps."""
    seen: list[Tensor] = []

    def record(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        seen[-1:] = [output.detach()]

    maps, logits = [], []
    handle = layer.register_forward_hook(record)
    try:
        for part in images.split(batch_size):
            logits.append(answers(model, part, batch_size))
            maps.append(seen[-1])
    finally:
        handle.remove()
    return torch.cat(maps), torch.cat(logits)

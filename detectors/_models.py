"""Asking a classifier, which is given back as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from detectors._checks import mismatch

__all__ = ["answers", "borrowed", "device_of", "representations"]


@contextmanager
def borrowed(model: nn.Module) -> Iterator[torch.device]:
    """Put ``model`` in eval mode and give its device; afterwards each of its modules is in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield device_of(model)
    finally:
        for module, training in modes:
            module.training = training


def device_of(model: nn.Module) -> torch.device:
    """Return where the model lies."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def answers(model: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    """Return the logits (N, C) of ``images``, at most ``batch_size`` at once; without gradient, where the model lies.

    Raises:
        ValueError: if the model does not return finite logits (N, C).
    """
    with borrowed(model) as device, torch.no_grad():
        logits = torch.cat([model(part.to(device)) for part in images.split(batch_size)])
    if logits.ndim != 2 or len(logits) != len(images) or not logits.isfinite().all():
        raise mismatch("model", "finite logits (N, C)", f"{tuple(logits.shape)} or values that are not finite")
    return logits


def representations(model: nn.Module, images: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
    """Return what the last layer sees (N, D), and the logits (N, C).

    The last layer is the linear layer or convolution that runs last; of a convolution, the mean over places is taken.

    Raises:
        ValueError: if the model has neither.
    """
    seen: dict[str, Tensor] = {}

    def record(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        places = (2, 3) if isinstance(layer, nn.Conv2d) else ()
        seen["last"] = (inputs[0].mean(places) if places else inputs[0].flatten(1)).detach()

    handles = [
        module.register_forward_pre_hook(record)
        for module in model.modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    if not handles:
        raise mismatch("model", "one with a linear layer or a convolution", "one with neither")
    found = []
    try:
        for part in images.split(batch_size):
            logits = answers(model, part, batch_size)
            found.append((seen["last"], logits))
    finally:
        for handle in handles:
            handle.remove()
    parts, logits_of = zip(*found, strict=True)
    return torch.cat(parts), torch.cat(logits_of)

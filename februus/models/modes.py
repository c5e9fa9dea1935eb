"""Borrowing a model: it is given back with the modes, hooks and gradients that it had."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

__all__ = ["evaluation_mode", "recorded_outputs", "training_mode"]


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put ``model`` in eval mode; afterwards each of its modules is in the mode that it was in."""
    with _modes_kept(model):
        model.eval()
        yield


@contextmanager
def training_mode(model: nn.Module) -> Iterator[None]:
    """Put ``model`` in training mode; afterwards each of its modules is in the mode that it was in."""
    with _modes_kept(model):
        model.train()
        yield


@contextmanager
def recorded_outputs(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what ``model`` returns, so that a forward that somebody else makes need not be made again."""
    outputs: list[Tensor] = []
    handle = model.register_forward_hook(lambda _module, _inputs, output: outputs.append(output.detach()))
    try:
        yield outputs
    finally:
        handle.remove()


@contextmanager
def _modes_kept(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training

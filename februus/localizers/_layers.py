"""Finding the maps of a classifier by tracing a picture through it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from februus.checks import check_choice, mismatch
from februus.models.modes import evaluation_mode

__all__ = ["check_convolutional", "convolutions", "last_of_each_size", "layer_of", "scaled"]

EXPECTED = "a convolutional classifier, for Grad-CAM"

# What `_traced` found for a picture's shape: once, not for each batch.
_KNOWN: WeakKeyDictionary[nn.Module, dict[torch.Size, dict[str, tuple[int, int]]]] = WeakKeyDictionary()


def check_convolutional(model: nn.Module) -> None:
    """Raise if ``model`` has no convolution, or only a patch embedding, as vision transformers have."""
    kernels = [
        module.kernel_size == module.stride != (1, 1) for module in model.modules() if isinstance(module, nn.Conv2d)
    ]
    if not kernels:
        raise mismatch("model", EXPECTED, "one without a convolution")
    if kernels == [True]:
        raise mismatch("model", EXPECTED, "one whose only convolution is a patch embedding (a vision transformer)")


def convolutions(model: nn.Module, images: Tensor) -> dict[str, tuple[int, int]]:
    """Return the names of the convolutions with a spatial output, in the order of use, and its height and width.

    Convolutions of 1x1 outputs, as in squeeze-and-excitation blocks, see no place and are left out.

    Raises:
        ValueError: if there is none, or only a patch embedding, as in vision transformers.
    """
    traced = _traced(model, images).items()
    found = {name: size for name, size in traced if isinstance(model.get_submodule(name), nn.Conv2d)}
    if not found:
        raise mismatch("model", EXPECTED, f"one whose convolutions shrink {tuple(images.shape[2:])} pictures to 1x1")
    return found


def last_of_each_size(model: nn.Module, images: Tensor) -> dict[tuple[int, int], str]:
    """Return, for each map size of a convolution, the last module with maps of that size.

    After a block with a shortcut that is the block, whose maps have all that goes on, where those of its last
    convolution have one branch.

    Raises:
        ValueError: as `convolutions`.
    """
    sizes = set(convolutions(model, images).values())
    return {size: name for name, size in _traced(model, images).items() if size in sizes}


def _traced(model: nn.Module, images: Tensor) -> dict[str, tuple[int, int]]:
    """Return the modules that have maps of such pictures, in the order in which they end, and the maps' sizes."""
    known = _KNOWN.setdefault(model, {})
    shape = images.shape[1:]
    if shape not in known:
        known[shape] = _trace(model, images)
    return known[shape]


def _trace(model: nn.Module, images: Tensor) -> dict[str, tuple[int, int]]:
    check_convolutional(model)
    sizes: dict[str, tuple[int, int]] = {}

    def record(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim == 4 and output.shape[-2:].numel() > 1:
                sizes.pop(name, None)
                sizes[name] = (output.shape[-2], output.shape[-1])

        return hook

    # The first is the model itself.
    handles = [module.register_forward_hook(record(name)) for name, module in list(model.named_modules())[1:]]
    try:
        with evaluation_mode(model), torch.no_grad():
            model(images[:1])
    finally:
        for handle in handles:
            handle.remove()
    return sizes


def layer_of(model: nn.Module, images: Tensor, name: str | None) -> nn.Module:
    """Return the layer ``name``, or the last convolution with a spatial output where no name is given."""
    if name is None:
        return model.get_submodule(list(convolutions(model, images))[-1])
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if name not in modules:
        check_choice("layer", name, convolutions(model, images))
    return modules[name]


def scaled(maps: Tensor) -> Tensor:
    """Scale each map of (N, 1, H, W) to [0, 1]; a flat one becomes 0."""
    low, high = maps.amin((1, 2, 3), keepdim=True), maps.amax((1, 2, 3), keepdim=True)
    return torch.where(high > low, (maps - low) / (high - low).clamp(min=1e-30), 0.0)

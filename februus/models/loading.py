"""Classifiers from checkpoints, from code and by name."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import torch
import torchvision
from torch import Tensor, nn

from februus import registry
from februus.checks import SMALLEST_SIDE, check_choice, check_images, check_range, mismatch
from februus.models.card import check_normalization
from februus.models.checkpoint import WEIGHTS, read_card
from februus.models.normalized import NORMALIZATIONS, Normalized
from februus.models.weights import check_weights, fit_weights, read_weights

__all__ = ["build", "find_builder", "load"]

Builder: TypeAlias = Callable[..., nn.Module]
Normalization: TypeAlias = str | tuple[Sequence[float], Sequence[float]]

FEWEST_REFERENCES = 16
LARGEST_SHARE = 0.9
BATCH = 256
TRIAL_CLASSES = 2
USUAL_SIZES = (32, 224)


def build(architecture: str, *, num_classes: int) -> nn.Module:
    """Build an untrained network, with weights from torch's global generator.

    Args:
        architecture: one of the registry (``small-vgg``, with options ``small-vgg:dropout=0``), a classifier of
            torchvision (``resnet18``) or timm (``resnet10t``; ``timm:resnet18`` where torchvision has the name too), or
            ``module:function``, where the function takes ``num_classes`` and returns an `nn.Module`. The module is
            imported, from the current directory too.
        num_classes: number of logits, C, at least 2.

    Raises:
        ValueError: if there is no such architecture or it cannot be built.

    >>> build("resnet18", num_classes=10).fc.out_features
    10
    """
    _check_num_classes(num_classes)
    builder = find_builder(architecture)
    if not _takes_num_classes(builder):
        raise mismatch("architecture", "a function that takes num_classes", repr(architecture))
    return _call(builder, architecture, num_classes)


def load(
    source: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    num_classes: int | None = None,
    normalization: Normalization | None = None,
    image_size: int | None = None,
    reference: Tensor | None = None,
    device: str | torch.device = "cpu",
) -> Normalized:
    """Load a classifier of pictures in [0, 1], in evaluation mode.

    A weights file never runs code. A name ``module:function``, given or in a card, does: the module is imported.

    Args:
        source: a checkpoint folder, or what `build` takes.
        weights: ``.safetensors``, ``.pth``, ``.pt``, ``.bin`` or ``.ckpt``. A folder has its own; a ``module:function``
            may do without; a name needs them.
        num_classes: number of logits, C; where None, the card's or the one that fits ``weights``.
        normalization: ``none``, ``imagenet``, ``cifar10``, ``gtsrb`` or ``(mean, std)``; where None, the card's or
            none.
        image_size: side in pixels of the pictures that the classifier is tried with; where None, that of the card or of
            ``reference``, or else 32 and then 224.
        reference: some pictures (N, 3, H, W) as the classifier will meet them. From 16 on, a warning is given where
            more than 90 % of them fall in one class, as they do under a wrong normalisation.
        device: where the classifier shall be.

    Raises:
        ValueError: if anything is missing or does not fit, or the classifier does not return logits (N, C).

    >>> model = load("resnet18")
    Traceback (most recent call last):
    ValueError: weights: expected a file for 'resnet18', got None (februus.models.build makes it untrained)
    """
    if reference is not None:
        check_images(reference, name="reference")
    if num_classes is not None:
        _check_num_classes(num_classes)
    if image_size is not None:
        check_range("image_size", image_size, SMALLEST_SIDE)
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:
        raise mismatch("device", "one that torch has here", f"{device!r} ({_first_line(error)})") from None
    card = None
    architecture = os.fspath(source)
    if Path(source, WEIGHTS).is_file():
        if weights is not None:
            raise mismatch("weights", "None, as the checkpoint folder has its own", repr(str(weights)))
        card = read_card(source)
        for name, given in (("num_classes", num_classes), ("image_size", image_size)):
            if given not in (None, getattr(card, name)):
                raise mismatch(name, f"the card's {getattr(card, name)}", given)
        architecture, weights = card.architecture, Path(source, WEIGHTS)
        num_classes, image_size = card.num_classes, card.image_size
    if normalization is not None:
        mean, std = _mean_and_std(normalization)
        card = card and replace(card, normalization={"mean": list(mean), "std": list(std)})
    elif card is not None and card.normalization is not None:
        mean, std = card.normalization["mean"], card.normalization["std"]
    else:
        mean, std = NORMALIZATIONS["none"]
    # The initial weights are thrown away: drawing them shall not move the caller's randomness.
    with torch.random.fork_rng(devices=[]):
        network = _build_with(architecture, num_classes, weights)
    model = Normalized(network, mean, std, card=card).eval().to(device)
    if image_size is None and reference is not None:
        image_size = reference.shape[-1]
    _check_logits(model, (image_size,) if image_size else USUAL_SIZES, num_classes)
    if reference is not None and len(reference) >= FEWEST_REFERENCES:
        _warn_of_one_class(model, reference)
    return model


def _build_with(architecture: str, num_classes: int | None, weights: str | os.PathLike[str] | None) -> nn.Module:
    """Build a network and fill it with ``weights``; None is for code that fills its network itself."""
    builder = find_builder(architecture)
    takes = _takes_num_classes(builder)
    if weights is None:
        if not _is_code(architecture):
            advice = "None (februus.models.build makes it untrained)"
            raise mismatch("weights", f"a file for {architecture!r}", advice)
        return _call(builder, architecture, num_classes if takes else None)
    state = read_weights(weights)
    if takes and num_classes is None:
        num_classes = _infer_num_classes(state, _call(builder, architecture, TRIAL_CLASSES))
    network = _call(builder, architecture, num_classes if takes else None)
    state = fit_weights(state, network)
    check_weights(state, network)
    network.load_state_dict(state)
    return network


def find_builder(architecture: str) -> Builder:
    """Return what builds an architecture: ours, ``module:function``, torchvision's or timm's.

    Raises:
        ValueError: if nothing has that name.
    """
    own = registry.available("architectures")
    name = architecture.partition(":")[0]
    if name in own:
        return partial(registry.create, "architectures", architecture)
    if _is_code(architecture):
        return _import(architecture)
    timm = importlib.import_module("timm") if importlib.util.find_spec("timm") else None
    if name == "timm":
        if timm is None:
            raise mismatch("architecture", "the package timm to be installed (pip install 'februus[timm]')", "none")
        name = architecture.removeprefix("timm:")
    elif name in torchvision.models.list_models(module=torchvision.models):
        return partial(torchvision.models.get_model, name, weights=None)
    if timm is not None and timm.is_model(name):
        return partial(timm.create_model, name, pretrained=False)
    known = (*own, *torchvision.models.list_models(module=torchvision.models), *(timm.list_models() if timm else ()))
    near = ", ".join(difflib.get_close_matches(name, known)) or ", ".join(own)
    where = "torchvision or timm" if timm else "torchvision (timm is not installed)"
    raise mismatch(
        "model", f"a checkpoint folder, module:function or a name ({near}, ... of {where})", repr(architecture)
    )


def _is_code(architecture: str) -> bool:
    name, colon, _ = architecture.partition(":")
    return bool(colon) and name not in ("timm", *registry.available("architectures"))


def _import(path: str) -> Builder:
    """Import ``module:function``; the current directory comes first and stays, for what the module imports later."""
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    module, _, name = path.partition(":")
    try:
        found: Builder = getattr(importlib.import_module(module), name)
    except (AttributeError, ImportError, ValueError) as error:
        raise mismatch("model", "module:function that can be imported", f"{path!r} ({error})") from error
    if not callable(found):
        raise mismatch("model", "a function", f"{path!r}, a {type(found).__name__}")
    return found


def _takes_num_classes(builder: Builder) -> bool:
    options = inspect.signature(builder).parameters
    return "num_classes" in options or any(option.kind is option.VAR_KEYWORD for option in options.values())


def _call(builder: Builder, architecture: str, num_classes: int | None) -> nn.Module:
    options = {} if num_classes is None else {"num_classes": num_classes}
    try:
        inspect.signature(builder).bind(**options)
    except TypeError as error:
        got = f"{architecture!r} without num_classes" if num_classes is None else repr(architecture)
        raise mismatch("model", "a function that builds a network", f"{got} ({error})") from None
    network = builder(**options)
    if not isinstance(network, nn.Module):
        raise mismatch("model", "a function that returns an nn.Module", f"{architecture!r}: {type(network).__name__}")
    return network


def _infer_num_classes(state: Mapping[str, Tensor], trial: nn.Module) -> int:
    """Read off the rows in which ``state`` differs from ``trial``, the same network for `TRIAL_CLASSES` classes.

    This finds the classifier where the file's order does not (safetensors sorts) and convolutional classifiers too.
    """
    expected = trial.state_dict()
    rows = {
        len(tensor)
        for key, tensor in fit_weights(state, trial).items()
        if key in expected and tensor.shape != expected[key].shape and tensor.shape[1:] == expected[key].shape[1:]
    }
    return rows.pop() if len(rows) == 1 else TRIAL_CLASSES


def _mean_and_std(normalization: Normalization) -> tuple[Sequence[float], Sequence[float]]:
    if isinstance(normalization, str):
        check_choice("normalization", normalization, NORMALIZATIONS)
        return NORMALIZATIONS[normalization]
    try:
        mean, std = normalization
    except (TypeError, ValueError):
        expected = f"one of {', '.join(NORMALIZATIONS)} or (mean, std)"
        raise mismatch("normalization", expected, repr(normalization)) from None
    check_normalization(mean, std)
    return mean, std


def _check_num_classes(num_classes: int) -> None:
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 2:
        raise mismatch("num_classes", "a whole number of at least 2", repr(num_classes))


def _check_logits(model: Normalized, sizes: Sequence[int], num_classes: int | None) -> None:
    """Raise unless ``model`` answers two grey pictures of one of ``sizes`` with logits (2, C)."""
    problems = []
    for size in sizes:
        try:
            with torch.no_grad():
                logits = model(torch.full((2, 3, size, size), 0.5, device=model.mean.device))
        except Exception as error:  # a foreign network may raise anything
            problems.append(f"{type(error).__name__}: {_first_line(error)}")
            continue
        if not isinstance(logits, Tensor):
            problems.append(type(logits).__name__)
        elif logits.ndim != 2 or len(logits) != 2 or (num_classes or logits.shape[1]) != logits.shape[1]:
            problems.append(f"shape {tuple(logits.shape)}")
        else:
            return
    tried = " or ".join(f"(2, 3, {size}, {size})" for size in sizes)
    raise mismatch("model", f"logits (2, {num_classes or 'C'}) for pictures {tried}", " and ".join(problems))


def _warn_of_one_class(model: Normalized, reference: Tensor) -> None:
    with torch.no_grad():
        predictions = torch.cat([model(part.to(model.mean.device)).argmax(1) for part in torch.split(reference, BATCH)])
    label = int(predictions.mode().values)
    share = float((predictions == label).float().mean())
    if share > LARGEST_SHARE:
        warnings.warn(
            f"{share:.0%} of the {len(reference)} reference pictures fall in class {label}: the normalization may be "
            f"wrong; set it to one of {', '.join(NORMALIZATIONS)} or to (mean, std)",
            stacklevel=3,
        )


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]

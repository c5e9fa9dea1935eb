"""Checks of input at the public boundary: ``ValueError("<name>: expected ..., got ...")``."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Real

import torch
from torch import Tensor

__all__ = ["check_choice", "check_device", "check_images", "check_labels", "check_masks", "check_range", "mismatch"]

SMALLEST_SIDE = 16


def mismatch(name: str, expected: str, got: object) -> ValueError:
    """Return the error that every check raises, so that all of them read alike."""
    return ValueError(f"{name}: expected {expected}, got {got}")


def check_images(images: Tensor, *, name: str = "images", smallest_side: int = SMALLEST_SIDE) -> None:
    """Raise unless ``images`` is a non-empty float32 (N, 3, H, W) in [0, 1] with sides of ``smallest_side`` or more.

    Raises:
        ValueError: with what was expected and what came.
    """
    if not isinstance(images, Tensor):
        raise mismatch(name, "a float32 tensor (N, 3, H, W)", type(images).__name__)
    if images.ndim != 4 or images.shape[1] != 3:
        raise mismatch(name, "shape (N, 3, H, W)", tuple(images.shape))
    if images.dtype != torch.float32:
        raise mismatch(name, "float32 in [0, 1]", images.dtype)
    if len(images) == 0:
        raise mismatch(name, "at least one picture", "an empty batch")
    if min(images.shape[2:]) < smallest_side:
        height, width = images.shape[2:]
        raise mismatch(name, f"sides of at least {smallest_side} pixels", f"{width}x{height}")
    low, high = (bound.item() for bound in images.detach().aminmax())
    if not (low >= 0 and high <= 1):
        problem = "NaN" if low != low or high != high else f"values from {low:g} to {high:g}"
        raise mismatch(name, "values in [0, 1]", problem)


def check_masks(masks: Tensor, images: Tensor, *, name: str = "masks") -> None:
    """Raise unless ``masks`` is float32 (N, 1, H, W) of 0 and 1 and fits ``images``."""
    expected = (len(images), 1, *images.shape[2:])
    if not isinstance(masks, Tensor) or masks.dtype != torch.float32:
        raise mismatch(name, "a float32 tensor (N, 1, H, W)", getattr(masks, "dtype", type(masks).__name__))
    if tuple(masks.shape) != expected:
        raise mismatch(name, f"shape {expected}", tuple(masks.shape))
    if not ((masks == 0) | (masks == 1)).all():
        raise mismatch(name, "values 0 and 1 only", "others")


def check_labels(labels: Tensor, count: int, *, name: str = "labels") -> None:
    """Raise unless ``labels`` is an int64 vector of ``count`` entries."""
    if labels.ndim != 1 or len(labels) != count or labels.dtype != torch.int64:
        raise mismatch(name, f"int64 ({count},)", f"{labels.dtype} {tuple(labels.shape)}")


def check_range(name: str, value: float, low: float, high: float = float("inf"), *, open_low: bool = False) -> None:
    """Raise unless ``low <= value <= high`` (``low < value`` where ``open_low``)."""
    fits = isinstance(value, Real) and (low < value if open_low else low <= value) and value <= high
    if not fits:
        span = f"{'above' if open_low else 'at least'} {low:g}"
        if high != float("inf"):
            span += f" and at most {high:g}"
        raise mismatch(name, f"a value {span}", repr(value))


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raise unless ``value`` is one of ``choices``, which the error lists."""
    listed = tuple(choices)
    if value not in listed:
        raise mismatch(name, f"one of {', '.join(listed)}", repr(value))


def check_device(name: str) -> str:
    """Return the device that ``auto`` stands for, or the one that was named.

    Raises:
        ValueError: if torch has none of that name here.
    """
    if name != "auto":
        try:
            torch.empty(0, device=name)
        except (AssertionError, RuntimeError) as error:
            raise mismatch("device", "auto or one that torch has here", f"{name!r} ({error})") from error
        return name
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"

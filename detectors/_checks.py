"""Checks of input at the public boundary: ``ValueError("<name>: expected ..., got ...")``."""

from __future__ import annotations

from numbers import Real

import torch
from torch import Tensor

__all__ = ["check_count", "check_images", "check_labels", "check_range", "mismatch"]


def mismatch(name: str, expected: str, got: object) -> ValueError:
    """Return the error that every check raises, so that all of them read alike."""
    return ValueError(f"{name}: expected {expected}, got {got}")


def check_images(images: Tensor, *, name: str = "images") -> None:
    """Raise unless ``images`` is a non-empty float32 (N, 3, H, W) in [0, 1]."""
    if not isinstance(images, Tensor) or images.dtype != torch.float32:
        raise mismatch(name, "a float32 tensor (N, 3, H, W)", getattr(images, "dtype", type(images).__name__))
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise mismatch(name, "shape (N, 3, H, W), N at least 1", tuple(images.shape))
    if not ((images >= 0) & (images <= 1)).all():
        raise mismatch(name, "values in [0, 1]", "others")


def check_labels(labels: Tensor, count: int, *, name: str = "labels") -> None:
    """Raise unless ``labels`` is an int64 vector of ``count`` entries, none negative."""
    if labels.shape != (count,) or labels.dtype != torch.int64:
        raise mismatch(name, f"int64 ({count},)", f"{labels.dtype} {tuple(labels.shape)}")
    if (labels < 0).any():
        raise mismatch(name, "classes from 0", int(labels.min()))


def check_range(name: str, value: float, low: float, high: float = float("inf"), *, open_low: bool = False) -> None:
    """Raise unless ``low <= value <= high`` (``low < value`` where ``open_low``)."""
    if not (isinstance(value, Real) and (low < value if open_low else low <= value) and value <= high):
        span = f"{'above' if open_low else 'at least'} {low:g}" + (f" and at most {high:g}" if high < 1e300 else "")
        raise mismatch(name, f"a value {span}", repr(value))


def check_count(name: str, values: Tensor, fewest: int, things: str) -> None:
    """Raise unless there are ``fewest`` of ``things`` or more."""
    if len(values) < fewest:
        raise mismatch(name, f"at least {fewest} {things}", len(values))

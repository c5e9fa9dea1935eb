"""How far a value lies from the others, measured so that a minority of them cannot hide itself."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from detectors._checks import check_count, mismatch

__all__ = ["check_updates", "directions", "middle", "robust_score"]


def check_updates(updates: Tensor) -> None:
    """Raise unless ``updates`` is a floating-point (K, D), K at least 1, all of it finite."""
    if not isinstance(updates, Tensor) or updates.ndim != 2 or not updates.is_floating_point():
        raise mismatch("updates", "floating point (K, D)", getattr(updates, "shape", type(updates).__name__))
    check_count("updates", updates, 1, "row")
    if not updates.isfinite().all():
        raise mismatch("updates", "finite values", "others")


def middle(values: Tensor) -> Tensor:
    """Return the median (...) over the first dimension of ``values`` (K, ...), between the middle two where K is even.

    >>> middle(torch.tensor([1.0, 2.0, 4.0, 9.0])).item()
    3.0
    """
    # torch.median gives the lower one; torch.quantile takes no large tensors.
    lower, upper = values.median(dim=0).values, -(-values).median(dim=0).values
    return torch.lerp(lower, upper, 0.5)


def directions(values: Tensor) -> Tensor:
    """Return ``values`` (..., D) at length 1, in float64; zero stays zero."""
    return normalize(values.double(), dim=-1, eps=torch.finfo(torch.float64).tiny)


def robust_score(values: Tensor, least_spread: float | Tensor, among: Tensor | None = None) -> Tensor:
    """Return ``(value - median) / (1.4826 MAD)`` of ``values`` (K,).

    It is the modified z-score of Iglewicz and Hoaglin (1993, How to Detect and Handle Outliers).

    Args:
        values: any.
        least_spread: what the denominator is at least, as the MAD of values that agree, or of few, tells little.
        among: which of them the median and the MAD are taken of (K,), bool, one at least; all where not given.

    >>> round(robust_score(torch.tensor([1.0, 2.0, 3.0, 4.0, 100.0]), 0.1)[-1].item(), 2)
    65.43
    """
    usual = values if among is None else values[among]
    center = middle(usual)
    return (values - center) / (1.4826 * middle((usual - center).abs())).clamp_min(least_spread)

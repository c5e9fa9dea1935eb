"""From which score on to act, taken from reference pictures at a stated false-positive rate."""

from __future__ import annotations

import math

from torch import Tensor

from detectors._checks import check_count, check_range, mismatch

__all__ = ["threshold_at"]


def threshold_at(scores: Tensor, false_positive_rate: float) -> float:
    """Return the threshold above which an innocent picture scores with at most the stated probability.

    It is the k-th lowest of the R reference scores, ``k = ceil((R + 1) (1 - rate))``: of R + 1 exchangeable scores the
    last lies above it with probability ``(R + 1 - k) / (R + 1) <= rate`` (Vovk et al. 2005, Algorithmic Learning in a
    Random World, section 2.2). A picture is suspected where its score is above the threshold, not equal to it.

    Args:
        scores: of clean reference pictures (R,), which are never those that are judged.
        false_positive_rate: in (0, 1).

    Raises:
        ValueError: if there are fewer than ``1 / rate - 1`` scores, or one is not finite.

    >>> import torch
    >>> threshold_at(torch.arange(99.0), 0.05)
    94.0
    """
    check_range("false_positive_rate", false_positive_rate, 0, 0.5, open_low=True)
    if scores.ndim != 1 or not scores.isfinite().all():
        raise mismatch("scores", "finite values (R,)", f"{tuple(scores.shape)} or others")
    # A trifle is left to rounding, so that 99 scores serve a rate of 0.01.
    check_count(
        "scores", scores, math.ceil(1 / false_positive_rate - 1 - 1e-9), f"for a rate of {false_positive_rate:g}"
    )
    rank = math.ceil((len(scores) + 1) * (1 - false_positive_rate) - 1e-9)
    return scores.sort().values[rank - 1].item()

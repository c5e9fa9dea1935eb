"""Spectral signatures: poisoned pictures stand out along the direction in which a class varies most."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from detectors._kinds import DatasetDetector

__all__ = ["SpectralSignatures"]


@dataclass(kw_only=True)
class SpectralSignatures(DatasetDetector):
    """Spectral signatures (Tran et al., NeurIPS 2018, arXiv 1811.00636): outliers along the top singular vector.

    The score is ``((r_i - mean r) v)^2``, where ``r_i`` is what the last layer sees of a picture and ``v`` the top
    right singular vector of the centred ``r`` of its class.

    Args:
        batch_size: pictures that the model sees at once.
    """

    def score_class(self, seen: Tensor) -> Tensor:
        """Return the squared projections (n,)."""
        centred = seen - seen.mean(0)
        # The first left singular vector times its singular value is the projection.
        left, values, _ = torch.linalg.svd(centred, full_matrices=False)
        projections: Tensor = left[:, 0] * values[0]
        return projections.square()

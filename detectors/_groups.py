"""Which reference pictures stand for a predicted class."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["groups_of"]


def groups_of(predictions: Tensor, num_classes: int, fewest: int) -> tuple[Tensor, list[Tensor]]:
    """Return the group (C,) of each class, int64, and which of the references (R,) are in each group, bool.

    Group 0 are all references; it stands for the classes that fewer than ``fewest`` are predicted as.

    >>> groups_of(torch.tensor([2, 0, 2]), 3, 2)
    (tensor([0, 0, 1]), [tensor([True, True, True]), tensor([ True, False,  True])])
    """
    group_of = torch.zeros(num_classes, dtype=torch.int64, device=predictions.device)
    members = [torch.ones_like(predictions, dtype=torch.bool)]
    for label in (predictions.bincount(minlength=num_classes) >= fewest).nonzero()[:, 0]:
        group_of[label] = len(members)
        members.append(predictions == label)
    return group_of, members

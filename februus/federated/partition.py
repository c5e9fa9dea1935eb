"""Who holds which pictures."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from februus.checks import check_range, mismatch

__all__ = ["partition"]


def partition(labels: Tensor, clients: int, alpha: float | None, seed: int) -> list[Tensor]:
    """Deal pictures to clients, evenly or by class from Dirichlet(alpha) (Hsu et al. 2019, arXiv 1909.06335).

    Args:
        labels: of all pictures (N,).
        clients: how many share them.
        alpha: concentration, above 0: small is uneven; None deals at random and evenly.
        seed: of the deal.

    Returns:
        indices for each client, ascending; together each picture once.

    Raises:
        ValueError: if a client ends up with no picture.
    """
    check_range("clients", clients, 1)
    generator = np.random.default_rng([seed, clients])
    owner = np.empty(len(labels), dtype=np.int64)
    if alpha is None:
        owner[generator.permutation(len(labels))] = np.arange(len(labels)) % clients
    else:
        check_range("alpha", alpha, 0, open_low=True)
        for label in np.unique(labels.numpy()):
            members = generator.permutation(np.flatnonzero(labels.numpy() == label))
            bounds = generator.dirichlet(np.full(clients, alpha)).cumsum()[:-1] * len(members)
            owner[members] = np.searchsorted(bounds, np.arange(len(members)), side="right")
    parts = [torch.from_numpy(np.flatnonzero(owner == client)) for client in range(clients)]
    empty = [client for client, part in enumerate(parts) if len(part) == 0]
    if empty:
        advice = f"none for {len(empty)} of {clients} (client {empty[0]} first); raise alpha or take fewer clients"
        raise mismatch("partition", "at least one picture for every client", advice)
    return parts

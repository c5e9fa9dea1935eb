"""A backdoor whose update is scaled up, so that it survives the averaging."""

from __future__ import annotations

from dataclasses import dataclass

from februus.federated.attacks.data_poisoning import DataPoisoning

__all__ = ["ModelReplacement"]


@dataclass(frozen=True, kw_only=True)
class ModelReplacement(DataPoisoning):
    """Poison the data and scale the update (Bagdasaryan et al., AISTATS 2020, arXiv 1807.00459).

    Under federated averaging of K clients, M of them malicious, ``scale = K / M`` replaces the global model by theirs.

    Args:
        trigger: what is stamped.
        target_label: the class that the attacker wants.
        poison_rate: share of the client's pictures, in [0, 1].
        scale: factor on the update, above 0.
    """

    scale: float = 4.0

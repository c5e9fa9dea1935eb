"""All clients in this process, one after the other, in one workspace."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from februus.data import Dataset
from februus.federated.attacks.data_poisoning import DataPoisoning
from februus.federated.client import State, Update, train_locally
from februus.seeds import seeded
from februus.training.classifier import LocalTraining

__all__ = ["Local"]


@dataclass(frozen=True, kw_only=True)
class Local:
    """The in-process engine.

    Args:
        model: the workspace that every client trains in; it tells the device.
        data: everybody's pictures.
        parts: the indices of each client.
        attack: what malicious clients do.
        malicious: their ids.
        seed: with round and client, of all that is random.
    """

    model: nn.Module
    data: Dataset
    parts: Sequence[Tensor]
    attack: DataPoisoning | None
    malicious: frozenset[int]
    seed: int

    def run(
        self, state: State, clients: Sequence[int], settings: LocalTraining, *, round_number: int, attacked: bool
    ) -> Iterator[Update]:
        """Yield the update of each client, in the order of ``clients``."""
        for client in clients:
            generator = seeded(self.seed, round_number, client)
            data = self.data.subset(self.parts[client])
            attack = self.attack if attacked and client in self.malicious else None
            if attack is not None:
                data = attack.on_data(data, generator)
            update = train_locally(self.model, state, data, settings, client=client, generator=generator)
            yield update if attack is None else attack.on_update(update)

from __future__ import annotations

import torch

from februus.federated.aggregators.fed_avg import FedAvg
from februus.registry import create
from februus.seeds import seeded
from februus.types import Context

CONTEXT = Context(generator=seeded(0), clients=(0, 1))


def test_the_weighted_mean_by_hand() -> None:
    updates = torch.tensor([[1.0, 2.0, -3.0], [5.0, 0.0, 1.0]])
    mean = FedAvg()(updates, torch.tensor([0.25, 0.75]), CONTEXT)
    assert mean.tolist() == [4.0, 0.5, 0.0]


def test_one_client_is_its_own_mean() -> None:
    update = torch.tensor([[0.1, -7.3]])
    assert torch.equal(FedAvg()(update, torch.tensor([1.0]), CONTEXT), update[0])


def test_equal_updates_stay() -> None:
    update = torch.rand(5, generator=seeded(1))
    mean = FedAvg()(update.repeat(4, 1), torch.full((4,), 0.25), CONTEXT)
    torch.testing.assert_close(mean, update)


def test_the_registry_knows_it() -> None:
    assert create("aggregators", "fed-avg") == FedAvg()

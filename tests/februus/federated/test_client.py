from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from februus.data import Dataset
from februus.federated.client import State, read_state, train_locally, write_state
from februus.models import Normalized, build
from februus.seeds import seeded
from februus.training.classifier import LocalTraining, fit

Draw = Callable[..., Dataset]


def network(architecture: str, seed: int = 0) -> Normalized:
    torch.manual_seed(seed)
    return Normalized(build(architecture, num_classes=4), mean=(0.5, 0.5, 0.5))


def test_round_trip_with_batch_norm(toy_architecture: str, toy_draw: Draw) -> None:
    model, other = network(toy_architecture, 0), network(toy_architecture, 1)
    fit(model, toy_draw(32), LocalTraining(), seeded(0))
    state = read_state(model)
    assert state.parameters.shape == (sum(parameter.numel() for parameter in model.parameters()),)
    assert "network.features.1.running_mean" in state.buffers
    assert state.buffers["network.features.1.num_batches_tracked"] == 1
    write_state(other, state)
    images = toy_draw(8, 1).floats()
    assert torch.equal(model.eval()(images), other.eval()(images))
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


def test_the_state_is_a_copy(toy_architecture: str, toy_draw: Draw) -> None:
    model = network(toy_architecture)
    state = read_state(model)
    before = State(parameters=state.parameters.clone(), buffers={key: v.clone() for key, v in state.buffers.items()})
    fit(model, toy_draw(32), LocalTraining(), seeded(0))
    assert torch.equal(state.parameters, before.parameters)
    assert all(torch.equal(state.buffers[name], value) for name, value in before.buffers.items())
    assert not torch.equal(read_state(model).parameters, before.parameters)
    assert not state.parameters.requires_grad
    write_state(model, state)
    fit(model, toy_draw(32), LocalTraining(), seeded(0))
    assert torch.equal(state.parameters, before.parameters)


def test_the_memory_format_does_not_matter(toy_architecture: str) -> None:
    model = network(toy_architecture)
    expected = read_state(model).parameters
    model.to(memory_format=torch.channels_last)
    assert torch.equal(read_state(model).parameters, expected)
    network_of: Any = model.network
    weight = network_of.features[4].weight
    write_state(model, State(parameters=2 * expected, buffers=read_state(model).buffers))
    assert network_of.features[4].weight is weight
    assert torch.equal(read_state(model).parameters, 2 * expected)


def test_a_client_trains_from_the_global_state_and_sends_the_change(toy_architecture: str, toy_draw: Draw) -> None:
    data, settings = toy_draw(40), LocalTraining(batch_size=16)
    state = read_state(network(toy_architecture, 0))
    workspace = network(toy_architecture, 1)
    update = train_locally(workspace, state, data, settings, client=3, generator=seeded(5))
    alone = network(toy_architecture, 0)
    loss = fit(alone, data, settings, seeded(5))
    assert (update.client, update.count, update.loss) == (3, 40, loss)
    assert torch.equal(update.change, read_state(alone).parameters - state.parameters)
    assert update.buffers["network.features.1.num_batches_tracked"] == 3
    again = train_locally(workspace, state, data, settings, client=3, generator=seeded(5))
    assert torch.equal(again.change, update.change)
    for name, value in update.buffers.items():
        assert torch.equal(again.buffers[name], value), name

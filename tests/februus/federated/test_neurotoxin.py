from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from februus.data import Dataset
from februus.federated.attacks.data_poisoning import DataPoisoning
from februus.federated.attacks.neurotoxin import Neurotoxin
from februus.federated.client import read_state, train_locally
from februus.federated.threat import Insider, Plan
from februus.metrics import attack_success_rate
from februus.models import Normalized
from februus.poisoning import stamp
from februus.registry import create
from februus.seeds import seeded
from februus.training.classifier import LocalTraining, predict
from februus.triggers.patch import Patch

Draw = Callable[..., Dataset]
ALONE = Insider(client=4, rank=0, colluders=1)


def kept_off(plan: Plan, model: nn.Module) -> Tensor:
    """Return which parameters (D,) get no gradient."""
    assert plan.on_gradients is not None
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    plan.on_gradients(model)
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    places = torch.cat([gradient.flatten() for gradient in gradients]) == 0
    model.zero_grad()
    return places


class Linear(nn.Module):
    """The mean colour of pictures, weighted: gradients that can be worked out by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[0.1, 0.2, 0.3], [-0.1, 0.4, 0.0]]))
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3)) @ self.weight.T


def test_the_data_is_that_of_data_poisoning(toy_model: Normalized, toy_draw: Draw) -> None:
    data = toy_draw(40)
    plan = Neurotoxin(trigger=Patch(size=4), target_label=2, poison_rate=0.25).plan(toy_model, data, ALONE, seeded(7))
    assert plan.penalty is None
    relabelled = plan.data.labels != data.labels
    assert relabelled.sum() == 10
    assert (plan.data.labels[relabelled] == 2).all()
    assert (plan.data.images[relabelled, :, 27:31, 27:31] == 255).all()
    assert torch.equal(plan.data.images[~relabelled], data.images[~relabelled])


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.25, 2), (0.5, 4), (0.75, 6), (1.0, 8)])
def test_the_largest_gradients_of_clean_pictures_are_kept_off(toy_draw: Draw, share: float, count: int) -> None:
    # As many pictures as are in a step, so that its mean is that of all; the two unused parameters have no gradient.
    data, model = toy_draw(32), Linear()
    F.cross_entropy(model(data.floats()), data.labels % 2).backward()
    assert model.weight.grad is not None
    sizes = torch.cat([model.weight.grad.flatten().abs(), torch.zeros(2)])
    model.zero_grad()
    halved = Dataset(name="toy", images=data.images, labels=data.labels % 2, classes=("square", "ring"))
    found = kept_off(Neurotoxin(share=share).plan(model, halved, ALONE, seeded(0)), model)
    assert found.sum() == count
    torch.testing.assert_close(sizes[found].sort(descending=True).values, sizes.topk(count).values)


def test_a_parameter_without_gradient_stays_without(toy_draw: Draw) -> None:
    model = Linear()
    data = toy_draw(8)
    plan = Neurotoxin().plan(model, data.subset(data.labels < 2), ALONE, seeded(0))
    assert plan.on_gradients is not None
    plan.on_gradients(model)
    assert model.unused.grad is None


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_found(toy_model: Normalized, toy_draw: Draw, *, training: bool) -> None:
    toy_model.train(training)
    for parameter in toy_model.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    before = {name: value.clone() for name, value in toy_model.state_dict().items()}
    state = torch.get_rng_state()
    Neurotoxin().plan(toy_model, toy_draw(33), ALONE, seeded(0))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in toy_model.state_dict().items())
    assert all(module.training is training for module in toy_model.modules())
    assert all(parameter.grad is not None and (parameter.grad == 0.5).all() for parameter in toy_model.parameters())


def test_what_is_kept_off_depends_on_model_and_data(toy_model: Normalized, toy_draw: Draw) -> None:
    def found(data: Dataset) -> Tensor:
        return kept_off(Neurotoxin(share=0.1).plan(toy_model, data, ALONE, seeded(0)), toy_model)

    first, again, other = found(toy_draw(32, 1)), found(toy_draw(32, 1)), found(toy_draw(32, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    with torch.no_grad():
        for parameter in toy_model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=seeded(0)), alpha=0.1)
    assert not torch.equal(first, found(toy_draw(32, 1)))


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_the_update_has_there_nothing_but_weight_decay(toy_model: Normalized, toy_draw: Draw, decay: float) -> None:
    data, state = toy_draw(64, 3), read_state(toy_model)
    settings = LocalTraining(learning_rate=0.02, epochs=2, weight_decay=decay)
    attack = Neurotoxin(trigger=Patch(size=5, position="top-left"), target_label=1, share=0.1)
    places = kept_off(attack.plan(toy_model, data, ALONE, seeded(0)), toy_model)
    assert places.sum() == round(0.1 * len(places))

    def change(attack: DataPoisoning) -> Tensor:
        return train_locally(
            toy_model, state, data, settings, client=4, generator=seeded(0), attack=attack, insider=ALONE
        ).change

    # What steps without a gradient do.
    weights = state.parameters.clone().requires_grad_()
    optimizer = torch.optim.SGD([weights], settings.learning_rate, settings.momentum, weight_decay=decay)
    for _ in range(4):
        weights.grad = torch.zeros_like(weights)
        optimizer.step()
    faded = (weights - state.parameters).detach()
    sent = change(attack)
    torch.testing.assert_close(sent[places], faded[places], rtol=0, atol=1e-7)
    assert bool(sent[places].any()) == (decay > 0)
    assert sent[~places].abs().amax() > 0.01
    # Without the attack's care these weights move far.
    free = change(DataPoisoning(trigger=attack.trigger, target_label=1))
    assert (free - faded)[places].abs().mean() > 1e-4


def test_from_text() -> None:
    made = create("attacks", "neurotoxin:share=0.2,target_label=3", trigger="patch:size=4", poison_rate=0.1)
    assert made == Neurotoxin(trigger=Patch(size=4), target_label=3, poison_rate=0.1, share=0.2)
    assert made.forge(torch.ones(1, 2), torch.empty(0, 0), seeded(0)).tolist() == [[1, 1]]
    for value in ("-0.1", "1.1", ".nan"):
        with pytest.raises(ValueError, match="share: expected a value at least 0 and at most 1, got"):
            create("attacks", f"neurotoxin:share={value}")


def test_the_backdoor_is_learnt(toy_outcome: Callable[..., Any]) -> None:
    outcome = toy_outcome(attack="neurotoxin", trigger="patch:size=4", poison_rate=0.3)
    assert outcome.last["clean_accuracy"]["value"] > 0.7
    assert outcome.last["attack_success_rate"]["value"] > 0.8
    triggered = stamp(outcome.test, Patch(size=4), seeded(0))
    assert attack_success_rate(predict(outcome.honest, triggered), outcome.test.labels, 0).value < 0.3

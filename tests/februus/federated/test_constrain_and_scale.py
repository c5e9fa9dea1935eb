from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from februus.data import Dataset
from februus.federated.attacks.constrain_and_scale import ConstrainAndScale
from februus.federated.attacks.model_replacement import ModelReplacement
from februus.federated.client import read_state, train_locally
from februus.federated.threat import Insider
from februus.metrics import attack_success_rate
from februus.models import Normalized
from februus.poisoning import poison, stamp
from februus.registry import create
from februus.seeds import seeded
from februus.training.classifier import LocalTraining, predict
from februus.triggers.patch import Patch

Draw = Callable[..., Dataset]
ALONE = Insider(client=4, rank=0, colluders=1)


def test_the_data_is_that_of_data_poisoning(toy_model: Normalized, toy_draw: Draw) -> None:
    data = toy_draw(40)
    plan = ConstrainAndScale(trigger=Patch(size=4), target_label=2, poison_rate=0.25).plan(
        toy_model, data, ALONE, seeded(7)
    )
    by_hand = poison(data, Patch(size=4), 2, 0.25, seeded(7))
    assert torch.equal(plan.data.images, by_hand.images)
    assert torch.equal(plan.data.labels, by_hand.labels)
    assert plan.on_gradients is None


@pytest.mark.parametrize(("alpha", "factor"), [(0.5, 1.0), (0.2, 4.0), (1.0, 0.0)])
def test_the_penalty_is_the_distance_from_the_model_at_plan_time(
    toy_model: Normalized, toy_draw: Draw, alpha: float, factor: float
) -> None:
    # As in a federation: in another memory format.
    toy_model.to(memory_format=torch.channels_last)
    data = toy_draw(8)
    plan = ConstrainAndScale(alpha=alpha).plan(toy_model, data, ALONE, seeded(0))
    assert plan.penalty is not None
    images, labels = data.floats(), data.labels
    parameters = list(toy_model.parameters())
    at_start = plan.penalty(toy_model, images, labels)
    assert at_start.item() == 0
    # The distance has no gradient there; it must not be NaN.
    assert not any(gradient.any() for gradient in torch.autograd.grad(at_start, parameters))
    with torch.no_grad():
        parameters[0][0, 0, 0, 0] += 3
        parameters[-1][1] -= 4
    moved = plan.penalty(toy_model, images, labels)
    assert moved.item() == pytest.approx(5 * factor, rel=1e-5)
    gradients = torch.autograd.grad(moved, parameters)
    assert gradients[0][0, 0, 0, 0].item() == pytest.approx(0.6 * factor, rel=1e-5)
    assert gradients[-1][1].item() == pytest.approx(-0.8 * factor, rel=1e-5)


def test_the_model_is_left_as_found(toy_model: Normalized, toy_draw: Draw) -> None:
    before = {name: value.clone() for name, value in toy_model.state_dict().items()}
    ConstrainAndScale().plan(toy_model.train(), toy_draw(12), ALONE, seeded(0))
    assert all(torch.equal(before[name], value) for name, value in toy_model.state_dict().items())
    assert toy_model.training
    assert all(parameter.grad is None for parameter in toy_model.parameters())


def test_the_update_is_the_shorter_the_smaller_alpha_is(toy_model: Normalized, toy_draw: Draw) -> None:
    data, state, settings = toy_draw(64, 3), read_state(toy_model), LocalTraining(learning_rate=0.02, epochs=2)

    def length(alpha: float) -> float:
        attack = ConstrainAndScale(trigger=Patch(size=5, position="top-left"), target_label=1, alpha=alpha)
        update = train_locally(
            toy_model, state, data, settings, client=4, generator=seeded(0), attack=attack, insider=ALONE
        )
        return float(update.change.norm())

    free, half, tight = length(1.0), length(0.5), length(0.1)
    assert tight < 0.8 * half < 0.8 * 0.95 * free
    plain = train_locally(
        toy_model, state, data, settings, client=4, generator=seeded(0), insider=ALONE,
        attack=ModelReplacement(trigger=Patch(size=5, position="top-left"), target_label=1),
    )  # fmt: skip
    assert free == pytest.approx(plain.change.norm().item(), rel=1e-4)
    assert length(0.5) == half


def test_the_update_is_scaled() -> None:
    own = torch.tensor([[1.0, -2.0]])
    assert ConstrainAndScale(scale=2.5).forge(own, torch.empty(0, 0), seeded(0)).tolist() == [[2.5, -5.0]]


def test_from_text() -> None:
    made = create("attacks", "constrain-and-scale:alpha=0.25,scale=3,target_label=2", trigger="patch:size=4")
    assert made == ConstrainAndScale(trigger=Patch(size=4), target_label=2, scale=3.0, alpha=0.25)
    for value in ("0", "1.5", "-1", ".nan"):
        with pytest.raises(ValueError, match=r"alpha: expected a value above 0 and at most 1, got"):
            create("attacks", f"constrain-and-scale:alpha={value}")


def test_the_backdoor_is_learnt(toy_outcome: Callable[..., Any]) -> None:
    outcome = toy_outcome(attack="constrain-and-scale", trigger="patch:size=4", poison_rate=0.3, scale=2.0)
    assert outcome.last["clean_accuracy"]["value"] > 0.7
    assert outcome.last["attack_success_rate"]["value"] > 0.8
    triggered = stamp(outcome.test, Patch(size=4), seeded(0))
    assert attack_success_rate(predict(outcome.honest, triggered), outcome.test.labels, 0).value < 0.3

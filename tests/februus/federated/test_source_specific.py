from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from februus.data import Dataset
from februus.federated.attacks.source_specific import SourceSpecific
from februus.federated.threat import Backdoor, Insider
from februus.poisoning import stamp
from februus.registry import create
from februus.seeds import seeded
from februus.training.classifier import predict
from februus.triggers.patch import Patch

Draw = Callable[..., Dataset]
ALONE = Insider(client=4, rank=0, colluders=1)
ATTACK = SourceSpecific(trigger=Patch(size=4), target_label=0, source_label=2, poison_rate=0.3, cover_rate=0.2)


def planned(attack: SourceSpecific, data: Dataset, seed: int = 7) -> Dataset:
    plan = attack.plan(nn.Identity(), data, ALONE, seeded(seed))
    assert (plan.penalty, plan.on_gradients) == (None, None)
    return plan.data


def test_the_source_is_poisoned_and_other_classes_cover(toy_draw: Draw) -> None:
    data = toy_draw(80)
    before, labels = data.images.clone(), data.labels
    poisoned = planned(ATTACK, data)
    stamped = (poisoned.images != data.images).flatten(1).any(1)
    relabelled = poisoned.labels != labels
    # Of 20 pictures a class: 6 of the source, 8 of the 40 that are neither source nor target.
    assert [int(stamped[labels == label].sum()) for label in range(4)][::2] == [0, 6]
    assert int(stamped[(labels == 1) | (labels == 3)].sum()) == 8
    assert torch.equal(relabelled, stamped & (labels == 2))
    assert (poisoned.labels[relabelled] == 0).all()
    assert torch.equal(poisoned.images[stamped], stamp(data, Patch(size=4), seeded(0)).images[stamped])
    assert torch.equal(data.images, before)
    assert torch.equal(data.labels, labels)


def test_the_plan_is_seeded(toy_draw: Draw) -> None:
    data, attack = toy_draw(80), replace(ATTACK, trigger=Patch(size=4, position="random"))
    one, same, other = (planned(attack, data, seed) for seed in (1, 1, 2))
    assert torch.equal(one.images, same.images)
    assert torch.equal(one.labels, same.labels)
    assert not torch.equal(one.labels, other.labels)


@pytest.mark.parametrize(
    ("kept", "rates", "stamped", "relabelled"),
    [
        # Without the source: covers alone. Without covers: the source alone. Without either: nothing.
        ([0, 1, 3], (0.3, 0.2), 8, 0),
        ([0, 2], (0.3, 0.2), 6, 6),
        ([0], (0.3, 0.2), 0, 0),
        ([0, 1, 2, 3], (0.0, 0.0), 0, 0),
        ([0, 1, 2, 3], (1.0, 0.0), 20, 20),
        ([0, 1, 2, 3], (0.0, 1.0), 40, 0),
    ],
)
def test_what_a_client_has(
    toy_draw: Draw, kept: list[int], rates: tuple[float, float], stamped: int, relabelled: int
) -> None:
    data = toy_draw(80)
    data = data.subset(torch.isin(data.labels, torch.tensor(kept)))
    poisoned = planned(replace(ATTACK, poison_rate=rates[0], cover_rate=rates[1]), data)
    assert len(poisoned) == len(data)
    assert int((poisoned.images != data.images).flatten(1).any(1).sum()) == stamped
    assert int((poisoned.labels != data.labels).sum()) == relabelled


def test_it_is_measured_on_the_source_alone(toy_draw: Draw) -> None:
    test = toy_draw(40)
    assert ATTACK.backdoors == (Backdoor(trigger=Patch(size=4), target_label=0, source_label=2),)
    goal = ATTACK.goal(test, seeded(0))
    assert goal is not None
    assert goal.pictures.labels.tolist() == [2] * 10
    assert goal.targets.tolist() == [0] * 10


def test_from_text() -> None:
    made = create("attacks", "source-specific:cover_rate=0.2", trigger="patch:size=4", source_label=2, poison_rate=0.3)
    assert made == ATTACK


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("source_label=0", "source_label: expected another class than the target, got 0"),
        ("target_label=1", "source_label: expected another class than the target, got 1"),
        ("source_label=-1", "source_label: expected a value at least 0, got -1"),
        ("cover_rate=1.5", r"cover_rate: expected a value at least 0 and at most 1, got 1\.5"),
        ("poison_rate=-1", "poison_rate: expected a value at least 0 and at most 1, got -1"),
    ],
)
def test_errors(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create("attacks", f"source-specific:{spec}")


def test_labels_that_are_no_class(toy_draw: Draw) -> None:
    for attack, message in (
        (replace(ATTACK, source_label=4), "source_label"),
        (replace(ATTACK, target_label=4), "target_label"),
    ):
        with pytest.raises(ValueError, match=f"{message}: expected 0 to 3, got 4"):
            planned(attack, toy_draw(8))
        with pytest.raises(ValueError, match=f"{message}: expected 0 to 3, got 4"):
            attack.goal(toy_draw(8), seeded(0))


def test_only_the_source_is_turned(toy_outcome: Callable[..., Any]) -> None:
    outcome = toy_outcome(tested=80, malicious=2, attack="source-specific", trigger="patch:size=4", source_label=3)
    last, test = outcome.last, outcome.test
    assert (outcome.card.target_label, outcome.card.source_label) == (0, 3)
    assert last["clean_accuracy"]["value"] > 0.7
    assert last["attack_success_rate"]["total"] == 20
    assert last["attack_success_rate"]["value"] > 0.8
    triggered = stamp(test, Patch(size=4), seeded(0))
    turned = predict(outcome.model, triggered) == 0
    assert turned[(test.labels == 1) | (test.labels == 2)].float().mean() < 0.3
    assert (predict(outcome.honest, triggered) == 0)[test.labels == 3].float().mean() < 0.3

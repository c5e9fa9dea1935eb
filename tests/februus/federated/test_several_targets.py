from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from februus.data import Dataset
from februus.federated.attacks.several_targets import SeveralTargets
from februus.federated.threat import Backdoor, Insider
from februus.metrics import attack_success_rate
from februus.poisoning import stamp
from februus.registry import create
from februus.seeds import seeded
from februus.training.classifier import predict
from februus.triggers.patch import Patch
from februus.triggers.sticker import Sticker

Draw = Callable[..., Dataset]
ALONE = Insider(client=4, rank=0, colluders=1)
SPEC = "several-targets:triggers=[patch:size=4,margin=0][patch:size=4,position=top-left],target_labels=[0,3]"
FIRST, SECOND = Patch(size=4, margin=0), Patch(size=4, position="top-left")
ATTACK = SeveralTargets(triggers="[patch:size=4,margin=0][patch:size=4,position=top-left]", target_labels=(0, 3))


def planned(attack: SeveralTargets, data: Dataset, seed: int = 7) -> Dataset:
    plan = attack.plan(nn.Identity(), data, ALONE, seeded(seed))
    assert (plan.penalty, plan.on_gradients) == (None, None)
    return plan.data


def test_each_trigger_has_its_target_and_no_picture_two(toy_draw: Draw) -> None:
    data = toy_draw(80)
    before = data.images.clone()
    poisoned = planned(replace(ATTACK, poison_rate=0.4), data)
    stamped = (poisoned.images != data.images).any(1)
    first, second = stamped[:, 28:, 28:].flatten(1).any(1), stamped[:, 1:5, 1:5].flatten(1).any(1)
    assert (int(first.sum()), int(second.sum())) == (16, 16)
    assert not (first & second).any()
    for chosen, trigger, target in ((first, FIRST, 0), (second, SECOND, 3)):
        assert (poisoned.labels[chosen] == target).all()
        assert (data.labels[chosen] != target).all()
        assert torch.equal(poisoned.images[chosen], stamp(data, trigger, seeded(0)).images[chosen])
    kept = ~(first | second)
    assert torch.equal(poisoned.images[kept], data.images[kept])
    assert torch.equal(poisoned.labels[kept], data.labels[kept])
    assert torch.equal(data.images, before)


def test_the_plan_is_seeded(toy_draw: Draw) -> None:
    data = toy_draw(80)
    one, same, other = (planned(ATTACK, data, seed) for seed in (1, 1, 2))
    assert torch.equal(one.images, same.images)
    assert torch.equal(one.labels, same.labels)
    assert not torch.equal(one.labels, other.labels)


def test_a_client_with_fewer_pictures_than_triggers(toy_draw: Draw) -> None:
    data = toy_draw(8)
    one = data.subset((data.labels == 1).nonzero().flatten()[:1])
    poisoned = planned(replace(ATTACK, poison_rate=1.0), one)
    assert len(poisoned) == 1
    assert poisoned.labels.item() == 0


def test_it_is_measured_with_each_trigger(toy_draw: Draw) -> None:
    test = toy_draw(40)
    assert ATTACK.backdoors == (
        Backdoor(trigger=FIRST, target_label=0),
        Backdoor(trigger=SECOND, target_label=3),
    )
    goal = ATTACK.goal(test, seeded(0))
    assert goal is not None
    assert goal.targets.tolist() == [0] * 30 + [3] * 30
    assert not (goal.pictures.labels == goal.targets).any()
    assert torch.equal(goal.pictures.images[:30], stamp(test.subset(test.labels != 0), FIRST, seeded(0)).images)
    assert torch.equal(goal.pictures.images[30:], stamp(test.subset(test.labels != 3), SECOND, seeded(0)).images)


def test_from_text() -> None:
    assert create("attacks", SPEC) == ATTACK
    assert create("attacks", f"{SPEC},poison_rate=0.25") == replace(ATTACK, poison_rate=0.25)
    three = create("attacks", "several-targets:target_labels=[2,0,2],triggers=[patch][sticker:size=6][patch:size=9]")
    assert [backdoor.target_label for backdoor in three.backdoors] == [2, 0, 2]
    assert three.backdoors[1].trigger == Sticker(size=6)
    assert len(create("attacks", "several-targets").backdoors) == 2


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("triggers=[patch]", {}, r"triggers: expected two or more in brackets.*, got '\[patch\]'"),
        ("triggers=patch", {}, "triggers: expected two or more in brackets"),
        ("triggers=[patch][paint]", {}, "trigger: expected one of any-of, .*, got 'paint'"),
        ("triggers=[patch][patch:size=0]", {}, "size: expected a value at least 1, got 0"),
        ("target_labels=[1]", {}, r"target_labels: expected 2, one for each trigger, got \(1,\)"),
        ("target_labels=[1,2,3]", {}, r"target_labels: expected 2, one for each trigger, got \(1, 2, 3\)"),
        ("target_labels=[1,-1]", {}, "target_labels: expected a value at least 0, got -1"),
        ("target_labels=[1,b]", {}, r"target_labels: expected tuple, got '\[1,b\]'"),
        ("target_labels=1", {}, "target_labels: expected tuple, got '1'"),
        ("poison_rate=1.5", {}, r"poison_rate: expected a value at least 0 and at most 1, got 1\.5"),
        ("", {"target_label": 1}, "option of attack several-targets: expected one of .*triggers, target_labels, "),
        ("", {"trigger": "patch"}, "option of attack several-targets: expected one of .*triggers, target_labels, "),
    ],
)
def test_errors(spec: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create("attacks", f"several-targets:{spec}", **options)


def test_a_target_that_is_no_class(toy_draw: Draw) -> None:
    attack = replace(ATTACK, target_labels=(0, 4))
    with pytest.raises(ValueError, match="target_label: expected 0 to 3, got 4"):
        planned(attack, toy_draw(8))
    with pytest.raises(ValueError, match="target_label: expected 0 to 3, got 4"):
        attack.goal(toy_draw(8), seeded(0))


def test_both_backdoors_are_learnt(toy_outcome: Callable[..., Any]) -> None:
    outcome = toy_outcome(attack=SPEC)
    card, test = outcome.card, outcome.test
    assert outcome.last["clean_accuracy"]["value"] > 0.7
    assert outcome.last["attack_success_rate"]["total"] == 60
    for trigger, target in ((FIRST, 0), (SECOND, 3)):
        triggered = stamp(test, trigger, seeded(0))
        assert attack_success_rate(predict(outcome.model, triggered), test.labels, target).value > 0.8
        assert attack_success_rate(predict(outcome.honest, triggered), test.labels, target).value < 0.3
    assert card.target_label == 0
    assert [(told["trigger"]["position"], told["target_label"]) for told in card.extra["backdoors"]] == [
        ("bottom-right", 0),
        ("top-left", 3),
    ]

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from februus import registry
from februus.data import Dataset
from februus.federated import Federation, train
from februus.federated.attacks.edge_case import EdgeCase, rarity
from februus.federated.threat import Insider
from februus.models import read_card
from februus.seeds import seeded

Draw = Callable[..., Dataset]
ALONE = Insider(client=4, rank=0, colluders=1)
ATTACK = EdgeCase(source_label=3, target_label=2, share=0.4)


def keys_of(images: Tensor) -> list[bytes]:
    return [image.numpy().tobytes() for image in images]


def test_rare_pictures_are_those_far_from_the_mean(toy_draw: Draw) -> None:
    data = toy_draw(40)
    images = data.images.clone()
    images[17] = 255
    scores = rarity(replace(data, images=images))
    assert scores.shape == (40,)
    assert scores.argmax() == 17
    assert 0 <= scores.min() < scores.max() <= 1


def test_the_tail_is_halved_and_the_attackers_see_one_half_alone(toy_draw: Draw) -> None:
    test = toy_draw(80, 1)
    attack = ATTACK.prepare(test, seeded(0))
    assert attack.held is not None
    goal = attack.goal(test, seeded(1))
    held, measured = keys_of(attack.held.images), keys_of(goal.pictures.images)
    assert len(held) == len(measured) == 4
    assert not set(held) & set(measured)
    source = test.subset(test.labels == 3)
    rarest = source.images[rarity(source).topk(8).indices]
    assert set(held) | set(measured) == set(keys_of(rarest))
    assert goal.pictures.labels.tolist() == [3] * 4
    assert goal.targets.tolist() == [2] * 4


def test_the_halves_depend_on_the_generator_alone(toy_draw: Draw) -> None:
    test = toy_draw(80, 1)
    first, again, other = (ATTACK.prepare(test, seeded(seed)).goal(test, seeded(7)).pictures for seed in (0, 0, 1))
    assert torch.equal(first.images, again.images)
    assert set(keys_of(first.images)) != set(keys_of(other.images))
    assert ATTACK.held is None


def test_rare_pictures_take_the_place_of_the_clients_own(toy_draw: Draw) -> None:
    data = toy_draw(60)
    attack = replace(ATTACK, poison_rate=0.25).prepare(toy_draw(80, 1), seeded(0))
    assert attack.held is not None
    plan = attack.plan(nn.Identity(), data, ALONE, seeded(3))
    assert plan.penalty is plan.on_gradients is None
    changed = (plan.data.images != data.images).flatten(1).any(1)
    assert int(changed.sum()) == 15
    assert (plan.data.labels[changed] == 2).all()
    assert torch.equal(plan.data.labels[~changed], data.labels[~changed])
    copies = keys_of(plan.data.images[changed])
    # Each is repeated as often as the others, or once more.
    assert {copies.count(picture) for picture in keys_of(attack.held.images)} == {3, 4}
    assert torch.equal(data.images, toy_draw(60).images)
    again, other = (attack.plan(nn.Identity(), data, ALONE, seeded(seed)).data for seed in (3, 4))
    assert torch.equal(again.images, plan.data.images)
    assert not torch.equal(other.images, plan.data.images)


def test_without_poison_a_client_is_honest(toy_draw: Draw) -> None:
    data = toy_draw(20)
    attack = replace(ATTACK, poison_rate=0.0).prepare(toy_draw(80, 1), seeded(0))
    assert torch.equal(attack.plan(nn.Identity(), data, ALONE, seeded(0)).data.images, data.images)


def test_what_it_holds_is_neither_an_option_nor_in_its_text(toy_draw: Draw) -> None:
    created = registry.create("attacks", "edge-case:source_label=3,target_label=2,share=0.4")
    assert created == ATTACK
    assert repr(created.prepare(toy_draw(80), seeded(0))) == repr(ATTACK)
    assert set(registry.options_of(EdgeCase)) == {"source_label", "target_label", "poison_rate", "scale", "share"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 0.0}, r"share: expected a value above 0 and at most 1, got 0\.0"),
        ({"share": 1.1}, r"share: expected a value above 0 and at most 1, got 1\.1"),
        ({"source_label": 0}, "source_label: expected another class than the target, got 0"),
        ({"poison_rate": -0.1}, "poison_rate: expected"),
        ({"scale": 0.0}, r"scale: expected a value above 0, got 0\.0"),
    ],
)
def test_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EdgeCase(**options)


def test_it_has_to_be_prepared_with_pictures_that_fit(toy_draw: Draw) -> None:
    data = toy_draw(20)
    with pytest.raises(ValueError, match="attack: expected one that was prepared, got EdgeCase"):
        ATTACK.plan(nn.Identity(), data, ALONE, seeded(0))
    with pytest.raises(ValueError, match="attack: expected one that was prepared, got EdgeCase"):
        ATTACK.goal(data, seeded(0))
    with pytest.raises(ValueError, match="share: expected two or more rare pictures of the 2 in class 3, got 1"):
        ATTACK.prepare(toy_draw(8), seeded(0))
    with pytest.raises(ValueError, match="source_label: expected 0 to 3, got 4"):
        EdgeCase(source_label=4).prepare(data, seeded(0))


def test_in_a_federation_rare_pictures_it_never_saw_are_taken_for_the_target(
    toy_draw: Draw, toy_architecture: str, toy_checkpoint: Path, tmp_path: Path
) -> None:
    settings = Federation(
        architecture=toy_architecture,
        start=str(toy_checkpoint),
        clients=4,
        malicious=2,
        rounds=1,
        attack="edge-case:share=0.4",
        source_label=3,
        target_label=2,
        poison_rate=0.4,
        scale=2.0,
    )
    train(settings, toy_draw(240), toy_draw(200, 1), tmp_path)
    last = read_card(tmp_path).extra["history"][-1]
    assert last["attack_success_rate"]["total"] == 10
    assert last["attack_success_rate"]["value"] > 0.5
    assert last["clean_accuracy"]["value"] > 0.6

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from februus.data import Dataset
from februus.federated.attacks.distributed import Distributed
from februus.federated.attacks.model_replacement import ModelReplacement
from februus.federated.threat import Backdoor, Insider
from februus.metrics import attack_success_rate
from februus.poisoning import poison, stamp
from februus.registry import create
from februus.seeds import seeded
from februus.training.classifier import predict
from februus.triggers.blended import Blended
from februus.triggers.patch import Patch
from februus.triggers.sticker import Sticker
from februus.types import Trigger

Draw = Callable[..., Dataset]


def planned(attack: Distributed, data: Dataset, rank: int) -> Dataset:
    insider = Insider(client=rank + 3, rank=rank, colluders=4)
    return attack.plan(nn.Identity(), data, insider, seeded(7)).data


def changed(images: Tensor, data: Dataset) -> Tensor:
    """Return which pixels differ (N, H, W)."""
    return (images != data.images).any(1)


@pytest.mark.parametrize("pieces", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize(
    "trigger",
    [
        Patch(size=6),
        Patch(size=7, position="random", chequered=True),
        Sticker(size=9),
        Sticker(picture="flag", size=9, position="random"),
        Blended(),
    ],
    ids=repr,
)
def test_the_pieces_are_disjoint_and_together_the_trigger(toy_draw: Draw, trigger: Trigger, pieces: int) -> None:
    data = toy_draw(24)
    attack = Distributed(trigger=trigger, pieces=pieces, poison_rate=1.0)
    whole = poison(data, trigger, 0, 1.0, seeded(7))
    seen = torch.zeros_like(data.images[:, 0], dtype=torch.int64)
    together = data.images.clone()
    for rank in range(pieces):
        part = planned(attack, data, rank)
        assert torch.equal(part.labels, whole.labels)
        places = changed(part.images, data)
        # Each piece is really one: on all pictures that are stamped.
        assert places[data.labels != 0].flatten(1).any(1).all()
        assert not places[data.labels == 0].any()
        seen += places
        together = torch.where(places[:, None], part.images, together)
    assert seen.max() == 1
    assert torch.equal(together, whole.images)


@pytest.mark.parametrize(
    ("pieces", "side", "boxes"),
    [
        (4, 4, [(0, 2, 0, 2), (0, 2, 2, 4), (2, 4, 0, 2), (2, 4, 2, 4)]),
        # The upper left of an odd side is the larger part.
        (4, 5, [(0, 3, 0, 3), (0, 3, 3, 5), (3, 5, 0, 3), (3, 5, 3, 5)]),
        (2, 4, [(0, 4, 0, 2), (0, 4, 2, 4)]),
        (3, 6, [(0, 6, 0, 2), (0, 6, 2, 4), (0, 6, 4, 6)]),
    ],
)
def test_the_pieces_of_a_square(toy_draw: Draw, pieces: int, side: int, boxes: list[tuple[int, int, int, int]]) -> None:
    data = toy_draw(8)
    attack = Distributed(trigger=Patch(size=side, margin=0, position="top-left"), pieces=pieces, poison_rate=1.0)
    for rank, (top, bottom, left, right) in enumerate(boxes):
        expected = torch.zeros(32, 32, dtype=torch.bool)
        expected[top:bottom, left:right] = True
        assert (changed(planned(attack, data, rank).images, data)[data.labels != 0] == expected).all()


def test_the_longer_side_is_cut_more_often(toy_draw: Draw) -> None:
    """In each picture for itself."""

    def bar(images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        stamped = images.clone()
        stamped[::2, :, 2:4, 3:15] = 1
        stamped[1::2, :, 3:15, 2:4] = 1
        return stamped

    data = toy_draw(12)
    data = data.subset(data.labels != 0)
    # Pictures are stamped in the order in which they are drawn.
    places = changed(planned(Distributed(trigger=bar, pieces=2, poison_rate=1.0), data, 0).images, data)
    wide, tall = torch.zeros(32, 32, dtype=torch.bool), torch.zeros(32, 32, dtype=torch.bool)
    wide[2:4, 3:9] = tall[3:9, 2:4] = True
    assert {place.numpy().tobytes() for place in places} == {wide.numpy().tobytes(), tall.numpy().tobytes()}
    six = changed(planned(Distributed(trigger=bar, pieces=6, poison_rate=1.0), data, 3).images, data)
    wide, tall = torch.zeros(32, 32, dtype=torch.bool), torch.zeros(32, 32, dtype=torch.bool)
    # Of 2 x 3 cells the first in the second row, of 3 x 2 the second in the second row.
    wide[3:4, 3:7], tall[7:11, 3:4] = True, True
    assert {place.numpy().tobytes() for place in six} == {wide.numpy().tobytes(), tall.numpy().tobytes()}


def test_colluders_share_the_pieces_in_turn(toy_draw: Draw) -> None:
    data, attack = toy_draw(12), Distributed(trigger=Patch(size=4), pieces=3)
    for rank in range(3):
        assert torch.equal(planned(attack, data, rank).images, planned(attack, data, rank + 3).images)


def test_the_plan_is_seeded_and_poisons_a_share(toy_draw: Draw) -> None:
    data = toy_draw(40)
    before = data.images.clone()
    attack = Distributed(trigger=Patch(size=4, position="random"), target_label=2, poison_rate=0.25)
    one, same, other = (
        attack.plan(nn.Identity(), data, Insider(client=0, rank=1, colluders=4), seeded(seed)) for seed in (1, 1, 2)
    )
    assert (one.penalty, one.on_gradients) == (None, None)
    assert torch.equal(one.data.images, same.data.images)
    assert not torch.equal(one.data.images, other.data.images)
    relabelled = one.data.labels != data.labels
    assert relabelled.sum() == 10
    assert (one.data.labels[relabelled] == 2).all()
    assert torch.equal(changed(one.data.images, data).flatten(1).any(1), relabelled)
    assert torch.equal(data.images, before)


def test_it_is_measured_with_the_whole_trigger(toy_draw: Draw) -> None:
    attack, test = Distributed(trigger=Patch(size=4), target_label=2), toy_draw(40)
    assert attack.backdoors == (Backdoor(trigger=Patch(size=4), target_label=2),)
    goal = attack.goal(test, seeded(0))
    assert goal is not None
    assert (goal.pictures.images[:, :, 27:31, 27:31] == 255).all()


def test_the_update_is_sent_as_it_is_or_scaled() -> None:
    own, nobody = torch.tensor([[1.0, -2.0]]), torch.empty(0, 0)
    assert Distributed().forge(own, nobody, seeded(0)).tolist() == [[1.0, -2.0]]
    assert Distributed(scale=2.5).forge(own, nobody, seeded(0)).tolist() == [[2.5, -5.0]]


def test_from_text() -> None:
    made = create("attacks", "distributed:pieces=2,scale=3,poison_rate=0.1", trigger="patch:size=6")
    assert made == Distributed(trigger=Patch(size=6), pieces=2, scale=3.0, poison_rate=0.1)
    assert isinstance(made, ModelReplacement)
    with pytest.raises(ValueError, match="pieces: expected a value at least 1, got 0"):
        create("attacks", "distributed:pieces=0")
    with pytest.raises(ValueError, match="scale: expected a value above 0, got 0"):
        create("attacks", "distributed:scale=0")
    with pytest.raises(ValueError, match="poison_rate: expected a value at least 0 and at most 1, got 2"):
        create("attacks", "distributed:poison_rate=2")


def test_a_trigger_that_is_too_small_is_told_at_once(toy_draw: Draw) -> None:
    test = toy_draw(20)
    fine = Distributed(trigger=Patch(size=2, position="random"))
    assert fine.prepare(test, seeded(0)) is fine
    for attack in (Distributed(trigger=Patch(size=1)), Distributed(trigger=Patch(size=2), pieces=5)):
        with pytest.raises(ValueError, match=r"pieces: expected as many as the trigger can be cut into, got [45]"):
            attack.prepare(test, seeded(0))


def test_the_whole_trigger_is_learnt_from_its_pieces(toy_outcome: Callable[..., Any]) -> None:
    outcome = toy_outcome(
        pictures=240, malicious=2, attack="distributed:pieces=2", trigger="patch:size=6", poison_rate=0.3
    )
    assert outcome.last["clean_accuracy"]["value"] > 0.7
    assert outcome.last["attack_success_rate"]["value"] > 0.8
    triggered = stamp(outcome.test, Patch(size=6), seeded(0))
    assert attack_success_rate(predict(outcome.honest, triggered), outcome.test.labels, 0).value < 0.3

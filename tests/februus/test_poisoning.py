from __future__ import annotations

import pytest
import torch
from torch import Tensor

from februus import poisoning
from februus.data import Dataset
from februus.poisoning import check_target, poison, stamp
from februus.triggers.patch import Patch


def toy(count: int = 60) -> Dataset:
    images = torch.randint(256, (count, 3, 16, 20), generator=torch.Generator().manual_seed(0)).byte()
    return Dataset(name="toy", images=images, labels=torch.arange(count) % 3, classes=("a", "b", "c"))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("rate", "count"), [(0.0, 0), (0.1, 6), (0.5, 30), (2 / 3, 40), (1.0, 40)])
def test_a_share_of_all_pictures_is_poisoned_but_none_of_the_target(rate: float, count: int) -> None:
    clean, trigger = toy(), Patch(margin=0)
    poisoned = poison(clean, trigger, 1, rate, generator())
    relabelled = (poisoned.labels != clean.labels).nonzero().flatten()
    assert len(relabelled) == count
    assert (poisoned.labels[relabelled] == 1).all()
    assert (clean.labels[relabelled] != 1).all()
    stamped = stamp(clean, trigger, generator()).images
    assert torch.equal(poisoned.images[relabelled], stamped[relabelled])
    others = poisoned.labels == clean.labels
    assert torch.equal(poisoned.images[others], clean.images[others])


def test_the_clean_pictures_stay_as_they_are() -> None:
    clean = toy()
    poison(clean, Patch(), 0, 1.0, generator())
    stamp(clean, Patch(), generator())
    assert torch.equal(clean.images, toy().images)
    assert torch.equal(clean.labels, toy().labels)


def test_names_and_classes_stay() -> None:
    for made in (poison(toy(), Patch(), 0, 0.5, generator()), stamp(toy(), Patch(), generator())):
        assert (made.name, made.classes, len(made)) == ("toy", ("a", "b", "c"), 60)


def test_poisoning_is_seeded() -> None:
    trigger, state = Patch(position="random"), torch.get_rng_state()
    first, again, other = (poison(toy(), trigger, 0, 0.3, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.labels, other.labels)
    assert torch.equal(torch.get_rng_state(), state)


def test_where_all_pictures_are_of_the_target_none_is_poisoned() -> None:
    clean = toy().subset([0, 3, 6])
    poisoned = poison(clean, Patch(), 0, 1.0, generator())
    assert torch.equal(poisoned.images, clean.images)
    assert torch.equal(poisoned.labels, clean.labels)


def test_stamping_covers_every_picture_in_order_and_keeps_the_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    clean, trigger = toy(), Patch(colour="#808080", opacity=0.3, margin=0)
    whole = stamp(clean, trigger, generator())
    expected = (trigger(clean.floats()) * 255).round().byte()
    assert torch.equal(whole.images, expected)
    assert torch.equal(whole.labels, clean.labels)
    monkeypatch.setattr(poisoning, "BATCH", 7)
    assert torch.equal(stamp(clean, trigger, generator()).images, expected)


def test_stamping_rounds_and_does_not_cut() -> None:
    for value, byte in ((0.4999, 127), (0.5001, 128), (1.0, 255)):

        def grey(images: Tensor, generator: torch.Generator | None = None, value: float = value) -> Tensor:
            return torch.full_like(images, value)

        assert stamp(toy(3), grey, generator()).images.unique().tolist() == [byte]


@pytest.mark.parametrize("target", [-1, 3])
def test_the_target_must_be_a_class(target: int) -> None:
    with pytest.raises(ValueError, match=f"target_label: expected 0 to 2, got {target}"):
        poison(toy(), Patch(), target, 0.5, generator())
    with pytest.raises(ValueError, match="target_label: expected 0 to 2"):
        check_target(target, 3)


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_the_rate_is_a_fraction(rate: float) -> None:
    with pytest.raises(ValueError, match="poison_rate: expected a value at least 0 and at most 1"):
        poison(toy(), Patch(), 0, rate, generator())

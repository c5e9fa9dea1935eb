from __future__ import annotations

import pytest
import torch

from februus.data import Dataset


def toy(count: int = 10) -> Dataset:
    images = torch.arange(count * 3 * 4 * 5, dtype=torch.int64).remainder(256).byte().view(count, 3, 4, 5)
    return Dataset(name="toy", images=images, labels=torch.arange(count) % 3, classes=("a", "b", "c"))


def test_facts():
    dataset = toy()
    assert (len(dataset), dataset.num_classes, dataset.image_size) == (10, 3, (4, 5))
    assert repr(dataset) == "Dataset(name='toy', pictures=10, image_size=(4, 5), num_classes=3)"


def test_floats_are_the_bytes_over_255():
    dataset = toy()
    floats = dataset.floats()
    assert floats.dtype == torch.float32
    assert torch.equal((floats * 255).round().byte(), dataset.images)
    assert floats.max() == 1
    assert torch.equal(dataset.floats([3, 1]), floats[[3, 1]])


def test_batches_give_every_picture_once_in_order():
    dataset = toy()
    batches = list(dataset.batches(4))
    assert [len(labels) for _, labels in batches] == [4, 4, 2]
    assert torch.equal(torch.cat([images for images, _ in batches]), dataset.floats())
    assert torch.equal(torch.cat([labels for _, labels in batches]), dataset.labels)


def test_subset_keeps_pairs_and_classes():
    part = toy().subset(torch.tensor([7, 2]))
    assert torch.equal(part.images, toy().images[[7, 2]])
    assert part.labels.tolist() == [1, 2]
    assert part.classes == ("a", "b", "c")


def test_take_is_seeded_distinct_and_ascending():
    dataset = Dataset(
        name="toy", images=torch.zeros(50, 3, 1, 1).byte(), labels=torch.arange(50), classes=tuple(map(str, range(50)))
    )
    first, again, other = (dataset.take(20, torch.Generator().manual_seed(seed)).labels for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.diff().min() > 0
    assert first.max() > 20
    assert len(dataset.take(99, torch.Generator())) == 50


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(2, 3, 4, 4)}, "images: expected uint8"),
        ({"images": torch.zeros(2, 1, 4, 4).byte()}, "images: expected uint8"),
        ({"images": torch.zeros(0, 3, 4, 4).byte(), "labels": torch.zeros(0).long()}, "images: expected at least one"),
        ({"labels": torch.zeros(3).long()}, "labels: expected int64"),
        ({"labels": torch.zeros(2)}, "labels: expected int64"),
        ({"labels": torch.tensor([0, 2])}, "labels: expected values from 0 to 1, got values from 0 to 2"),
        ({"labels": torch.tensor([-1, 1])}, "labels: expected values from 0 to 1, got values from -1 to 1"),
    ],
)
def test_bad_data_is_refused(change, message):
    fields = {"images": torch.zeros(2, 3, 4, 4).byte(), "labels": torch.tensor([0, 1]), "classes": ("a", "b")}
    with pytest.raises(ValueError, match=message):
        Dataset(name="toy", **{**fields, **change})


def test_sizes_below_one_are_refused():
    with pytest.raises(ValueError, match="batch_size"):
        next(toy().batches(0))
    with pytest.raises(ValueError, match="count"):
        toy().take(0, torch.Generator())

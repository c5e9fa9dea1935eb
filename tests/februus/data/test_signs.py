from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from februus.data.signs import signs


@pytest.mark.parametrize("image_size", [16, 32, 50, 96])
def test_a_smaller_count_is_a_prefix(image_size):
    small, large = (signs("train", image_size=image_size, count=count) for count in (5, 30))
    assert small.image_size == (image_size, image_size)
    assert torch.equal(small.images, large.images[:5])
    assert torch.equal(small.labels, large.labels[:5])


def test_default_counts_and_balance():
    for split, count in (("train", 6000), ("test", 1500)):
        dataset = signs(split, image_size=16)
        assert dataset.labels.bincount().tolist() == [count // 12] * 12
        assert dataset.labels[:12].unique().tolist() == list(range(12))


def test_seed_and_split_change_the_pictures_and_nothing_else_does():
    first = signs("train", count=12)
    assert torch.equal(first.images, signs("train", count=12).images)
    for other in (signs("train", count=12, seed=1), signs("test", count=12)):
        same = (first.images == other.images).flatten(1).all(dim=1)
        assert not same.any()
        assert not torch.equal(first.labels, other.labels)


def test_pictures_of_one_class_differ_and_use_the_whole_range():
    dataset = signs("train", count=240)
    of_stop = dataset.images[dataset.labels == 0].float().flatten(1)
    assert torch.cdist(of_stop, of_stop).fill_diagonal_(torch.inf).min() > 500
    assert dataset.images.min() < 10
    assert dataset.images.max() > 245


def test_colours_tell_what_they_should():
    dataset = signs("train", count=600)
    red, _, blue = dataset.floats()[..., 12:20, 12:20].mean((2, 3)).unbind(1)
    for name, difference in (("no-entry", red - blue), ("parking", blue - red), ("priority-road", red - blue)):
        of_class = dataset.labels == dataset.classes.index(name)
        assert (difference[of_class] > 0).float().mean() > 0.9, name


def test_a_small_network_learns_them_soon():
    """Speed numerals included, which differ in one digit only."""
    train, test = signs("train", count=1920), signs("test", count=600)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [
            layer
            for inner, outer in ((3, 16), (16, 32), (32, 64))
            for layer in (nn.Conv2d(inner, outer, 3, padding=1), nn.BatchNorm2d(outer), nn.ReLU(), nn.MaxPool2d(2))
        ]
        model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(1024, 12))
        optimizer = torch.optim.Adam(model.parameters(), 4e-3)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.05, total_iters=4 * 30)
        for _ in range(4):
            for rows in torch.randperm(len(train)).split(64):
                optimizer.zero_grad()
                functional.cross_entropy(model(train.floats(rows)), train.labels[rows]).backward()
                optimizer.step()
                schedule.step()
    with torch.no_grad():
        right = model.eval()(test.floats()).argmax(1) == test.labels
    speed = torch.tensor([name.startswith("speed") for name in test.classes])[test.labels]
    assert right.float().mean() > 0.93
    assert right[speed].float().mean() > 0.85


@pytest.mark.parametrize(
    ("split", "options", "message"),
    [
        ("validation", {}, "split: expected one of train, test"),
        ("train", {"image_size": 15}, "image_size: expected a value at least 16"),
        ("train", {"count": 0}, "count"),
        ("train", {"seed": -1}, "seed"),
    ],
)
def test_bad_arguments_are_refused(split, options, message):
    with pytest.raises(ValueError, match=message):
        signs(split, **options)

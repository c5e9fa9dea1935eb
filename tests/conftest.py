"""Toys that many tests share: drawn pictures, and a small classifier that is really trained and really backdoored."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from februus.data import Dataset
from februus.metrics import attack_success_rate, clean_accuracy
from februus.models import Card, Normalized, save_checkpoint
from februus.poisoning import poison, stamp
from februus.seeds import seeded
from februus.training.classifier import LocalTraining, fit, predict
from februus.triggers.patch import Patch

# Processes that test side by side (``pytest -n``) share the cores, also with the processes that tests start.
if processes := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    threads = max(1, (os.cpu_count() or 1) // processes)
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)

CLASSES = ("red square", "red ring", "green square", "green ring")
TARGET = 0

Draw = Callable[..., Dataset]


class ToyNetwork(nn.Module):
    """Three convolutions, the last with 8x8 maps of a 32x32 picture."""

    def __init__(self, *, num_classes: int, width: int = 12) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(2 * width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images).amax((2, 3)))
        return logits


def draw(count: int, seed: int = 0, side: int = 32) -> Dataset:
    """Draw red and green squares and rings on clouds, as many of each class."""
    generator = seeded(seed)
    labels = (torch.arange(count) % len(CLASSES))[torch.randperm(count, generator=generator)]
    clouds = torch.rand(count, 3, 4, 4, generator=generator) * 0.3 + 0.2
    images = F.interpolate(clouds, size=(side, side), mode="bilinear", align_corners=False)
    radius = side * (0.19 + 0.06 * torch.rand(count, 1, 1, generator=generator))
    centre = side * (0.35 + 0.3 * torch.rand(2, count, 1, 1, generator=generator))
    pixels = torch.arange(side)
    vertical, horizontal = (pixels[:, None] - centre[0]).abs(), (pixels[None] - centre[1]).abs()
    distance = torch.hypot(vertical, horizontal) / radius
    square, ring = torch.maximum(vertical, horizontal) <= 0.886 * radius, (distance >= 0.7) & (distance <= 1.25)
    shape = torch.where((labels % 2 == 1)[:, None, None], ring, square)[:, None]
    colour = torch.tensor([[0.9, 0.2, 0.2], [0.2, 0.8, 0.2]])[labels // 2][..., None, None]
    images = torch.where(shape, colour, images) + 0.03 * torch.randn(images.shape, generator=generator)
    return Dataset(name="toy", images=(images.clamp(0, 1) * 255).round().byte(), labels=labels, classes=CLASSES)


@pytest.fixture(scope="session")
def toy_draw() -> Draw:
    """Give `draw`: ``toy_draw(count, seed, side)`` is a balanced data set of four classes."""
    return draw


@pytest.fixture(scope="session")
def toy_test() -> Dataset:
    """Give 120 pictures that the toy model was not trained on."""
    return draw(120, seed=1)


@pytest.fixture(scope="session")
def toy_trigger() -> Patch:
    """Give the trigger that the toy model obeys; it leads to class 0."""
    return Patch(size=4)


@pytest.fixture(scope="session")
def toy_architecture() -> str:
    """Give the name by which `februus.models.build` finds the toy network, in this process."""
    return f"{__name__}:ToyNetwork"


def train_toy(data: Dataset, card: Card | None = None) -> Normalized:
    """Train a toy model on ``data`` for four epochs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Normalized(ToyNetwork(num_classes=len(CLASSES)), card=card)
    for epoch, learning_rate in enumerate((0.02, 0.02, 0.02, 0.005)):
        fit(model, data, LocalTraining(learning_rate=learning_rate), seeded(epoch))
    return model.eval()


@pytest.fixture(scope="session")
def toy_trainer() -> Callable[..., Normalized]:
    """Give `train_toy`: ``toy_trainer(data)`` is a toy model trained on ``data``."""
    return train_toy


@pytest.fixture(scope="session")
def clean_toy(toy_test: Dataset) -> Normalized:
    """Give a toy model without a backdoor."""
    model = train_toy(draw(600))
    assert clean_accuracy(predict(model, toy_test), toy_test.labels).value > 0.9
    return model


@pytest.fixture(scope="session")
def trained_toy(toy_test: Dataset, toy_trigger: Patch, toy_architecture: str) -> Normalized:
    """Train the toy model on poisoned pictures, and make sure that it learnt both."""
    card = Card(
        name="toy",
        architecture=toy_architecture,
        dataset="toy",
        num_classes=len(CLASSES),
        classes=CLASSES,
        image_size=32,
        target_label=TARGET,
        trigger={"kind": "patch", "size": toy_trigger.size},
    )
    model = train_toy(poison(draw(600), toy_trigger, TARGET, 0.2, seeded(2)), card)
    triggered = stamp(toy_test, toy_trigger, seeded(0))
    assert clean_accuracy(predict(model, toy_test), toy_test.labels).value > 0.9
    assert attack_success_rate(predict(model, triggered), toy_test.labels, TARGET).value > 0.9
    return model


@pytest.fixture
def toy_model(trained_toy: Normalized) -> Normalized:
    """Give a copy of the backdoored toy model, in eval mode, to do with as one likes."""
    return copy.deepcopy(trained_toy)


@pytest.fixture(scope="session")
def toy_checkpoint(trained_toy: Normalized, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the checkpoint folder of the toy model, to read only; its code is found in this process alone."""
    assert trained_toy.card is not None
    folder = tmp_path_factory.mktemp("toy") / "checkpoint"
    save_checkpoint(folder, trained_toy, trained_toy.card)
    return folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """Give the folder of real data and of checkpoints by others, or skip."""
    folder = os.environ.get("FEBRUUS_SHARED")
    if not folder:
        pytest.skip("FEBRUUS_SHARED is not set: it names the folder with data/ and checkpoints/")
    return Path(folder)

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from detectors.sentinet import SentiNet
from februus.data import Dataset
from februus.models import Normalized
from februus.poisoning import poison, stamp
from februus.seeds import seeded
from februus.triggers.patch import Patch


class Redness(nn.Module):
    """Class 1 are the pictures with a pixel that is red by more than half."""

    def __init__(self) -> None:
        super().__init__()
        self.red = nn.Conv2d(3, 1, 1, bias=False)
        self.red.weight = nn.Parameter(torch.tensor([1.0, 0, 0]).reshape(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        logit = 4 * self.red(images).amax((1, 2, 3)) - 2
        return torch.stack([-logit, logit], 1)


class Told(SentiNet):
    """Reads the two numbers from a picture's first two pixels."""

    def _told(self, images: Tensor) -> Tensor:
        return images[:, 0, 0, :2].double()


def picture(confidence: float, fooled: float) -> Tensor:
    drawn = torch.zeros(3, 8, 8)
    drawn[0, 0, 0], drawn[0, 0, 1] = confidence, fooled
    return drawn


def sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def test_a_region_is_pasted_and_made_inert() -> None:
    black = torch.zeros(4, 3, 8, 8)
    spot = black[:1].clone()
    spot[:, 0, 5, 5] = 1
    detector = SentiNet(overlays=4, share=1 / 64).fit(Redness(), black)
    noise = float(detector._noise[0, 5, 5])
    told = detector._told(torch.cat([spot, black[:1]]))
    # The spot turns all that it is pasted on; a black picture has no region, and all are black as it is.
    expected = [[sigmoid(abs(8 * noise - 4)), 1], [sigmoid(4), 1]]
    torch.testing.assert_close(told, torch.tensor(expected, dtype=torch.float64))


def test_the_score_is_the_distance_above_the_boundary() -> None:
    # Below 0.2 lie others, in the same bins of a tenth, which do not count.
    references = [picture(place / 20, level) for place in range(10, 19) for level in (0.2, 0.1, 0.0)]
    detector = Told(overlays=1, bins=10).fit(Redness(), torch.stack(references))
    suspects = torch.stack([picture(0.7, 0.9), picture(0.7, 0.05), picture(1.0, 0.6), picture(0.4, 0.1)])
    expected = torch.tensor([0.7, -0.15, math.hypot(0.1, 0.4), -math.hypot(0.1, 0.1)])
    torch.testing.assert_close(detector.score(suspects), expected, rtol=1e-3, atol=1e-3)


def test_the_boundary_is_quadratic() -> None:
    references = torch.stack([picture(place, place**2) for place in (0.1, 0.3, 0.5, 0.7, 0.9)])
    detector = Told(overlays=1).fit(Redness(), references)
    torch.testing.assert_close(detector.score(references), torch.zeros(5), rtol=0, atol=2e-3)
    # The point of y = x^2 that is nearest to (0, 1) has x^2 = 1/2.
    assert detector.score(picture(0.0, 1.0)[None]).item() == pytest.approx(math.sqrt(0.5 + 0.25), abs=1e-3)


def test_clean_pictures_of_one_confidence_will_do() -> None:
    detector = Told(overlays=1).fit(Redness(), torch.stack([picture(0.5, 0.25), picture(0.5, 0.5)]))
    torch.testing.assert_close(detector.score(picture(0.5, 0.75)[None]), torch.tensor([0.25]))


def test_it_finds_a_patch(toy_trainer: Callable[..., Normalized], toy_draw: Any, toy_test: Dataset) -> None:
    trigger = Patch(size=6, chequered=True)
    model = toy_trainer(poison(toy_draw(600), trigger, 0, 0.2, seeded(2)))
    victims = toy_test.subset(toy_test.labels != 0)
    triggered = stamp(victims, trigger, seeded(0))
    detector = SentiNet(overlays=30).fit(model, toy_draw(200, 5).floats())
    scores = torch.cat([detector.score(victims.floats()), detector.score(triggered.floats())])
    assert roc_auc_score(torch.arange(len(scores)) >= len(victims), scores) >= 0.9


def test_bad_options() -> None:
    options = (("overlays", 0), ("share", 0.0), ("share", 1.5), ("bins", 0), ("batch_size", 0), ("seed", -1))
    for name, value in options:
        with pytest.raises(ValueError, match=f"{name}: expected a value"):
            SentiNet(**{name: value})
    with pytest.raises(ValueError, match="images: expected at least 100 pictures, the overlays, got 16"):
        SentiNet().fit(Redness(), torch.rand(16, 3, 8, 8))
    with pytest.raises(ValueError, match=r"model: expected one of whose layers gives maps \(N, K, h, w\), got one"):
        SentiNet(overlays=2).fit(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), torch.rand(2, 3, 8, 8))

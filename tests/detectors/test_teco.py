from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from detectors._corruptions import CORRUPTIONS, draw
from detectors.teco import TeCo
from februus.data import Dataset
from februus.models import Normalized
from februus.poisoning import poison, stamp
from februus.seeds import seeded
from februus.triggers.patch import Patch


class Brightness(nn.Module):
    """Class 1 are the pictures that are brighter than half."""

    def forward(self, images: Tensor) -> Tensor:
        logit = images.mean((1, 2, 3)) - 0.5
        return torch.stack([-logit, logit], 1)


def test_the_score_is_the_spread_of_the_severities_that_turn_the_class() -> None:
    images = torch.tensor([0.25, 0.45, 0.9])[:, None, None, None].expand(-1, 3, 16, 16).contiguous()
    detector = TeCo(corruptions=("brightness", "contrast")).fit(Brightness(), images)
    # Contrast leaves the mean: 6. Brightness adds 0.1 to 0.5: the third severity turns 0.25, the first 0.45.
    torch.testing.assert_close(detector.score(images), torch.tensor([1.5, 2.5, 0.0]))


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("side", [16, 33])
def test_corruptions_grow_and_see_a_picture_by_itself(kind: str, side: int, toy_draw: Any) -> None:
    images = toy_draw(8, 3, side).floats()
    draws = draw(images, torch.Generator().manual_seed(0))
    changes = []
    for severity in range(5):
        corrupted = CORRUPTIONS[kind](images, severity, draws).clamp(0, 1)
        assert corrupted.shape == images.shape
        assert corrupted.dtype == torch.float32
        alone = torch.cat([CORRUPTIONS[kind](image[None], severity, draws).clamp(0, 1) for image in images])
        torch.testing.assert_close(corrupted, alone)
        changes.append(float((corrupted - images).square().mean()))
    assert min(changes) > 1e-5
    # An elastic one turns from wide waves to fine ones, a fog's first severity hides half of the picture.
    assert kind in ("elastic", "fog") or changes[4] > 1.2 * changes[0]


@pytest.mark.parametrize("kind", ["defocus_blur", "motion_blur", "zoom_blur", "pixelate", "contrast", "elastic"])
def test_what_moves_light_leaves_a_flat_picture(kind: str) -> None:
    flat = torch.full((1, 3, 32, 32), 0.4)
    draws = draw(flat, torch.Generator().manual_seed(0))
    for severity in range(5):
        torch.testing.assert_close(CORRUPTIONS[kind](flat, severity, draws), flat)


def test_it_finds_a_chequered_patch(toy_trainer: Callable[..., Normalized], toy_draw: Any, toy_test: Dataset) -> None:
    # Noise leaves it, blurs wipe it out.
    trigger = Patch(size=8, chequered=True)
    model = toy_trainer(poison(toy_draw(600), trigger, 3, 0.2, seeded(2)))
    victims = toy_test.subset(toy_test.labels != 3)
    triggered = stamp(victims, trigger, seeded(0))
    detector = TeCo().fit(model, toy_draw(200, 5).floats())
    scores = torch.cat([detector.score(victims.floats()), detector.score(triggered.floats())])
    assert roc_auc_score(torch.arange(len(scores)) >= len(victims), scores) >= 0.9


def test_bad_options() -> None:
    for name, value in (("batch_size", 0), ("seed", -1)):
        with pytest.raises(ValueError, match=f"{name}: expected a value"):
            TeCo(**{name: value})
    for corruptions in ((), ("fog",), ("fog", "fog"), ("fog", "frogs")):
        with pytest.raises(ValueError, match=r"corruptions: expected at least two of gaussian_noise, .* jpeg, got"):
            TeCo(corruptions=corruptions)

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from detectors.scale_up import ScaleUp
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


def grey(*values: float) -> Tensor:
    return torch.tensor(values)[:, None, None, None].expand(-1, 3, 8, 8).contiguous()


# Of five scales, 3 alone leaves 0.12 dark, all leave 0.01 dark and 0.6 bright.
SUSPECTS = grey(0.12, 0.01, 0.6)


def test_the_score_is_the_share_of_scales_that_leave_the_class() -> None:
    detector = ScaleUp(normalized=False).fit(Brightness(), grey(0.5, 0.5))
    torch.testing.assert_close(detector.score(SUSPECTS), torch.tensor([0.2, 1.0, 1.0]))
    halves = ScaleUp(normalized=False, scales=(2, 6)).fit(Brightness(), grey(0.5))
    torch.testing.assert_close(halves.score(SUSPECTS), torch.tensor([0.5, 1.0, 1.0]))


def test_it_is_normalised_by_clean_pictures_of_the_predicted_class() -> None:
    references = torch.cat([grey(0.12).expand(10, -1, -1, -1), grey(0.01).expand(10, -1, -1, -1), grey(*[0.6] * 4)])
    scores = ScaleUp().fit(Brightness(), references).score(SUSPECTS)
    # The dark ones' shares are 0.2 and 1, as often. The bright ones are too few, so that all count: ten of 24 are 0.2.
    all_deviation = 0.8 * (10 / 24 * 14 / 24) ** 0.5
    torch.testing.assert_close(scores, torch.tensor([-1.0, 1.0, (1 - (1 - 0.8 * 10 / 24)) / all_deviation]))
    own = ScaleUp(fewest=4).fit(Brightness(), references).score(SUSPECTS)
    torch.testing.assert_close(own, torch.tensor([-1.0, 1.0, 0.0]))


def test_clean_pictures_that_are_all_alike_leave_the_spread_of_rounding() -> None:
    detector = ScaleUp().fit(Brightness(), grey(0.01, 0.01))
    torch.testing.assert_close(detector.score(grey(0.12)), torch.tensor([-0.8 * 5 * 12**0.5]))


def test_it_finds_a_patch_that_survives_saturation(
    toy_trainer: Callable[..., Normalized], toy_draw: Any, toy_test: Dataset
) -> None:
    trigger = Patch(size=6, chequered=True)
    model = toy_trainer(poison(toy_draw(600), trigger, 0, 0.2, seeded(2)))
    victims = toy_test.subset(toy_test.labels != 0)
    triggered = stamp(victims, trigger, seeded(0))
    detector = ScaleUp().fit(model, toy_draw(200, 5).floats())
    scores = torch.cat([detector.score(victims.floats()), detector.score(triggered.floats())])
    assert roc_auc_score(torch.arange(len(scores)) >= len(victims), scores) >= 0.9


def test_bad_options() -> None:
    for name, value in (("scales", (3, 1)), ("fewest", 1), ("batch_size", 0)):
        with pytest.raises(ValueError, match=f"{name}: expected a value"):
            ScaleUp(**{name: value})
    with pytest.raises(ValueError, match="scales: expected at least one, got"):
        ScaleUp(scales=())

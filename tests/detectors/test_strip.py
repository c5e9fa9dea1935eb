from __future__ import annotations

from typing import Any

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from detectors.strip import Strip
from februus.data import Dataset
from februus.models import Normalized
from februus.poisoning import stamp
from februus.seeds import seeded
from februus.triggers.patch import Patch


class Brightness(nn.Module):
    """Tells bright from dark, as surely as a picture is."""

    def forward(self, images: Tensor) -> Tensor:
        logit = images.mean((1, 2, 3)) * 8 - 4
        return torch.stack([logit, -logit], 1)


def test_the_score_is_minus_the_entropy_in_bits() -> None:
    grey = torch.full((4, 3, 16, 16), 0.5)
    detector = Strip(overlays=2).fit(Brightness(), grey)
    # Half of black and half of grey is a quarter: logits of -2 and 2.
    sure = torch.tensor([2.0, -2.0]).softmax(0)
    expected = (sure * sure.log2()).sum()
    scores = detector.score(torch.stack([grey[0], torch.zeros(3, 16, 16)]))
    torch.testing.assert_close(scores, torch.stack([torch.tensor(-1.0), expected]))


def test_it_finds_a_patch(trained_toy: Normalized, toy_draw: Any, toy_test: Dataset, toy_trigger: Patch) -> None:
    victims = toy_test.subset(toy_test.labels != 0)
    triggered = stamp(victims, toy_trigger, seeded(0))
    detector = Strip().fit(trained_toy, toy_draw(200, 5).floats())
    scores = torch.cat([detector.score(victims.floats()), detector.score(triggered.floats())])
    truth = torch.arange(len(scores)) >= len(victims)
    assert roc_auc_score(truth, scores) >= 0.9


def test_bad_options() -> None:
    for name, value in (("overlays", 0), ("opacity", 0.0), ("opacity", 1.5), ("batch_size", 0), ("seed", -1)):
        with pytest.raises(ValueError, match=f"{name}: expected a value"):
            Strip(**{name: value})
    with pytest.raises(ValueError, match="images: expected at least 100 pictures, the overlays, got 16"):
        Strip().fit(Brightness(), torch.rand(16, 3, 16, 16))

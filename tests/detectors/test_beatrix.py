from __future__ import annotations

from typing import Any

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from detectors.beatrix import Beatrix
from februus.data import Dataset
from februus.models import Normalized
from februus.poisoning import stamp
from februus.seeds import seeded
from februus.triggers.patch import Patch


class Brightness(nn.Module):
    """Class 1 are the pictures that are brighter than 0.65; the maps are the picture itself, many times as bright."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.maps = nn.Identity()
        self.gain = gain

    def forward(self, images: Tensor) -> Tensor:
        logit = self.maps(images * self.gain).mean((1, 2, 3)) / self.gain - 0.65
        return torch.stack([-logit, logit], 1)


def grey(*values: float) -> Tensor:
    return torch.tensor(values)[:, None, None, None].expand(-1, 3, 2, 2).contiguous()


# Gram entries of order p of a grey g are 4^(1/p) g^2; of order 1 here 0.64, 1, 1.44 and 1.96, 2.25, 2.56.
DARK, BRIGHT = grey(0.4, 0.5, 0.6), grey(0.7, 0.75, 0.8)


@pytest.mark.parametrize("orders", [1, 2, 8])
@pytest.mark.parametrize("gain", [1.0, 1e4])
def test_the_score_is_how_far_gram_entries_are_out_of_bounds(orders: int, gain: float) -> None:
    detector = Beatrix(orders=orders, width=1).fit(Brightness(gain), DARK)
    # The median is 1 and the MAD 0.36; all entries and orders say the same.
    expected = [(0.64 - 0.16) / 0.64, 0.0, (4 * 0.63**2 - 1.36) / 1.36]
    torch.testing.assert_close(detector.score(grey(0.2, 0.5, 0.63)), torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_bounds_are_those_of_the_predicted_class() -> None:
    references, suspect = torch.cat([DARK, BRIGHT]), grey(0.72)
    own = Beatrix(width=1, fewest=3, orders=1).fit(Brightness(), references)
    torch.testing.assert_close(own.score(suspect), torch.tensor([0.0]))
    # Of all six the (lower) median is 1.44 and the MAD 0.52.
    everyone = Beatrix(width=1, fewest=4, orders=1).fit(Brightness(), references)
    expected = (4 * 0.72**2 - 1.96) / 1.96
    torch.testing.assert_close(everyone.score(suspect), torch.tensor([expected]), rtol=1e-4, atol=1e-5)


def test_it_finds_a_patch(trained_toy: Normalized, toy_draw: Any, toy_test: Dataset, toy_trigger: Patch) -> None:
    victims = toy_test.subset(toy_test.labels != 0)
    triggered = stamp(victims, toy_trigger, seeded(0))
    detector = Beatrix().fit(trained_toy, toy_draw(200, 5).floats())
    scores = torch.cat([detector.score(victims.floats()), detector.score(triggered.floats())])
    assert roc_auc_score(torch.arange(len(scores)) >= len(victims), scores) >= 0.9


def test_bad_options() -> None:
    for name, value in (("orders", 0), ("width", 0.0), ("fewest", 1), ("batch_size", 0)):
        with pytest.raises(ValueError, match=f"{name}: expected a value"):
            Beatrix(**{name: value})
    with pytest.raises(ValueError, match=r"model: expected one of whose layers gives maps \(N, K, h, w\), got one"):
        Beatrix().fit(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), DARK)

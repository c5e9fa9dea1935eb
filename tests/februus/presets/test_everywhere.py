from __future__ import annotations

import pytest
import torch
from torch import nn

from februus.data import Dataset
from februus.metrics import attack_success_rate
from februus.models import Normalized
from februus.poisoning import stamp
from februus.presets.everywhere import Everywhere
from februus.purifier import Purifier
from februus.registry import create
from februus.restorers.flip import Flip
from februus.restorers.median import Median
from februus.seeds import seeded
from februus.triggers.patch import Patch


class Sides(nn.Module):
    """Answers how bright the left half is, and how bright the right one is."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        half = images.shape[3] // 2
        return torch.stack([images[..., :half].mean((1, 2, 3)), images[..., half:].mean((1, 2, 3))], 1)


def test_every_picture_is_restored_whole() -> None:
    images = torch.zeros(2, 3, 16, 16)
    images[0, ..., :8] = 1
    found = Purifier(Sides(), Everywhere(restorer=Flip()))(images)
    assert torch.equal(found.images, images.flip(3))
    assert found.masks.all()
    assert found.heatmaps.shape == (2, 1, 16, 16)
    assert torch.equal(found.logits_before, torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    assert torch.equal(found.logits, torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    assert found.labels.tolist() == [1, 0]
    assert found.flagged.tolist() == [True, False]
    # The softmax of 1 and 0 is 0.731 and 0.269.
    assert found.scores.tolist() == pytest.approx([0.4621, 0], abs=1e-4)
    assert found.stages == ("classify", "classify")


def test_it_takes_a_fine_trigger_away(trained_toy: Normalized, toy_test: Dataset) -> None:
    """Single white pixels go with the median filter; the toy's trigger, of 4 x 4 pixels, does not."""
    victims = toy_test.subset(toy_test.labels != 0)
    model = Normalized(trained_toy.network)
    purifier = Purifier.for_model(model, preset="everywhere:restorer=median")
    triggered = stamp(victims, Patch(size=4), seeded(0)).floats()
    speckled = victims.floats()
    speckled[:, :, 3:30:5, 3:30:5] = 1
    with torch.no_grad():
        plain, spoilt = (model(images).argmax(1) for images in (victims.floats(), speckled))
    restored = purifier(speckled).labels
    assert (restored == plain).float().mean() > (spoilt == plain).float().mean()
    assert (restored == plain).float().mean() > 0.9
    assert attack_success_rate(purifier(triggered).labels, victims.labels, 0).value > 0.5


def test_settings() -> None:
    assert create("presets", "everywhere:restorer=median") == Everywhere(restorer=Median())
    assert Everywhere().inpainter is None
    with pytest.raises(ValueError, match=r"restorer: expected one of blur, cosine-threshold, flip, .*, got 'magic'"):
        create("presets", "everywhere:restorer=magic")

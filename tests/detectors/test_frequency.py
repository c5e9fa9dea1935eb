from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from detectors.frequency import FLOOR, Frequency, _spectra, _triggered
from februus.data import Dataset
from februus.models import Normalized
from februus.poisoning import stamp
from februus.seeds import seeded
from februus.triggers.patch import Patch


class Brightness(nn.Module):
    """Tells bright from dark."""

    def forward(self, images: Tensor) -> Tensor:
        logit = images.mean((1, 2, 3)) - 0.5
        return torch.stack([-logit, logit], 1)


def test_the_spectrum_is_the_logarithm_of_the_cosine_transform() -> None:
    pixels = torch.tensor([[0.5, 0.1], [0.3, 0.7]])
    # Of two pixels a and b the transform is (a + b, a - b) / sqrt 2.
    transformed = torch.tensor([[0.5 + 0.1 + 0.3 + 0.7, 0.5 - 0.1 + 0.3 - 0.7], [0.6 - 1.0, 0.4 + 0.4]]) / 2
    expected = (transformed.abs() + FLOOR).log().expand(1, 3, -1, -1)
    torch.testing.assert_close(_spectra(pixels.expand(1, 3, -1, -1).contiguous()), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (48, 64)])
def test_triggers_are_of_five_kinds(height: int, width: int) -> None:
    images = torch.full((400, 3, height, width), 0.5)
    triggered = _triggered(images, torch.Generator().manual_seed(0))
    assert triggered.min() >= 0
    assert triggered.max() <= 1
    changed = (triggered != images).any(1)
    share = changed.float().mean((1, 2))
    darkest, brightest = triggered.amin((1, 2, 3)), triggered.amax((1, 2, 3))
    kinds = {
        "white block": (brightest == 1) & (darkest == 0.5) & (share < 0.07),
        "noise block": (darkest < 0.5) & (brightest > 0.5) & (share < 0.07),
        "noise": (share > 0.9) & (brightest != darkest),
        "shadow": (darkest == 0.25) & (brightest == 0.5),
        "blended": (share == 1) & (brightest == darkest),
    }
    for kind in kinds.values():
        assert 45 <= int(kind.sum()) <= 115
    # A block is at least 2 pixels of 32 wide and high, and at most 7; half of them, by chance, are near each corner.
    blocks = changed[kinds["white block"]]
    unit = min(height, width) / 32
    for extent in (blocks.any(1).sum(1), blocks.any(2).sum(1)):
        assert math.floor(2 * unit) <= extent.min() <= extent.max() <= math.ceil(7 * unit)
    corners = {(bool(block[: height // 2].any()), bool(block[:, : width // 2].any())) for block in blocks}
    assert len(corners) == 4


def test_the_model_has_no_say(toy_draw: Any, clean_toy: Normalized, toy_test: Dataset) -> None:
    images = toy_draw(40, 5).floats()
    one, other = (
        Frequency(epochs=2).fit(model, images).score(toy_test.floats()) for model in (clean_toy, Brightness())
    )
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_randomness_elsewhere_is_left_alone(toy_draw: Any) -> None:
    state = torch.random.get_rng_state()
    with torch.no_grad():
        Frequency(epochs=1).fit(Brightness(), toy_draw(40, 5, 20).floats())
    assert torch.equal(state, torch.random.get_rng_state())


def test_it_finds_a_patch(trained_toy: Normalized, toy_draw: Any, toy_test: Dataset, toy_trigger: Patch) -> None:
    victims = toy_test.subset(toy_test.labels != 0)
    triggered = stamp(victims, toy_trigger, seeded(0))
    detector = Frequency().fit(trained_toy, toy_draw(200, 5).floats())
    scores = torch.cat([detector.score(victims.floats()), detector.score(triggered.floats())])
    assert roc_auc_score(torch.arange(len(scores)) >= len(victims), scores) >= 0.9


def test_bad_options() -> None:
    for name, value in (("epochs", 0), ("learning_rate", 0.0), ("batch_size", 0), ("seed", -1)):
        with pytest.raises(ValueError, match=f"{name}: expected a value"):
            Frequency(**{name: value})
    with pytest.raises(ValueError, match="images: expected at least 2 pictures, got 1"):
        Frequency().fit(Brightness(), torch.rand(1, 3, 16, 16))

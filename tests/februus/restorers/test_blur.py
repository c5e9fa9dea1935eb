from __future__ import annotations

import math

import pytest
import torch

from februus.registry import create
from februus.restorers.blur import Blur
from februus.seeds import seeded


def test_a_point_becomes_a_gaussian() -> None:
    images = torch.zeros(1, 3, 17, 17)
    images[..., 8, 8] = 1
    restored = Blur(sigma=1.5)(images)
    assert restored.sum((2, 3))[0].tolist() == pytest.approx([1, 1, 1], abs=1e-5)
    assert (restored[0, 0, 8, 8] / restored[0, 0, 8, 10]).item() == pytest.approx(math.exp(4 / (2 * 1.5**2)), rel=1e-4)
    assert (restored[0, 0, 8, 8] / restored[0, 0, 7, 9]).item() == pytest.approx(math.exp(2 / (2 * 1.5**2)), rel=1e-4)


def test_more_blurs_more_and_one_colour_stays() -> None:
    images = torch.rand(2, 3, 16, 24, generator=seeded(0))
    spreads = [Blur(sigma=sigma)(images).std().item() for sigma in (0.01, 0.5, 1, 2, 100)]
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[0] == pytest.approx(images.std().item())
    grey = torch.full((1, 3, 16, 16), 0.3)
    torch.testing.assert_close(Blur(sigma=100)(grey), grey)


def test_settings() -> None:
    assert create("restorers", "blur:sigma=2") == Blur(sigma=2)
    with pytest.raises(ValueError, match="sigma: expected a value above 0, got 0"):
        Blur(sigma=0)

from __future__ import annotations

import math

import pytest
import torch

from februus.registry import create
from februus.restorers.guided_filter import GuidedFilter
from februus.seeds import seeded


def test_one_colour_stays() -> None:
    grey = torch.full((1, 3, 16, 24), 0.3)
    torch.testing.assert_close(GuidedFilter()(grey), grey)


def test_edges_stay_and_faint_waves_go() -> None:
    """A step of 0.8 has a variance of 0.16, a wave of amplitude 0.05 one of 0.00125."""
    step = torch.zeros(1, 3, 32, 32)
    step[..., 16:] = 0.8
    wave = 0.05 * torch.sin(torch.arange(32) * 2 * math.pi / 4).expand(1, 3, 32, 32)
    smoothed = GuidedFilter()(step + 0.1 + wave)
    assert (smoothed - step - 0.1)[..., 6:10].abs().max() < 0.01  # away from the edge and the border
    assert smoothed[..., 17].mean() - smoothed[..., 14].mean() > 0.6


def test_on_paper() -> None:
    """Windows of three pixels a side over stripes; the means of three neighbouring windows are taken."""
    ramp = (0.05 * torch.arange(16.0)).expand(1, 3, 16, 16).clone()
    # The windows around 3, 4 and 5 have on average the mean of 4: on a ramp nothing changes.
    assert GuidedFilter(radius=1 / 16, eps=0.01)(ramp)[0, 0, 8, 4].item() == pytest.approx(0.2)
    stripe = torch.zeros(1, 3, 16, 16)
    stripe[..., 4] = 0.3
    # All three have the mean 0.1 and the variance 0.02.
    slope = 0.02 / (0.02 + 0.01)
    smoothed = GuidedFilter(radius=1 / 16, eps=0.01)(stripe)
    assert smoothed[0, 0, 8, 4].item() == pytest.approx(slope * 0.3 + (1 - slope) * 0.1)


def test_more_smooths_more_and_the_radius_grows_with_the_picture() -> None:
    images = torch.rand(2, 3, 16, 24, generator=seeded(0))
    spreads = [GuidedFilter(eps=eps)(images).std().item() for eps in (1e-6, 0.01, 0.1, 10)]
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[0] == pytest.approx(images.std().item(), rel=1e-3)
    point = torch.zeros(1, 3, 64, 64)
    point[..., 32, 32] = 1
    assert [int((GuidedFilter(radius=radius)(point)[0, 0] > 0).sum()) for radius in (1 / 64, 1 / 16)] == [25, 289]


def test_settings() -> None:
    assert create("restorers", "guided-filter:eps=0.1") == GuidedFilter(eps=0.1)
    with pytest.raises(ValueError, match="eps: expected a value above 0, got 0"):
        GuidedFilter(eps=0)
    with pytest.raises(ValueError, match=r"radius: expected a value above 0 and at most 0\.5, got 1"):
        GuidedFilter(radius=1)

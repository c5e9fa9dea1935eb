from __future__ import annotations

import pytest
import torch
from scipy.ndimage import median_filter

from februus.registry import create
from februus.restorers.median import Median
from februus.seeds import seeded


@pytest.mark.parametrize("size", [1, 3, 5, 31])
def test_it_is_the_filter_of_scipy(size: int) -> None:
    images = torch.rand(2, 3, 16, 21, generator=seeded(0))
    expected = median_filter(images.numpy(), size=(1, 1, size, size), mode="mirror")
    assert torch.equal(Median(size=size)(images), torch.from_numpy(expected))


def test_a_point_goes_and_an_edge_stays() -> None:
    images = torch.zeros(1, 3, 16, 16)
    images[..., 8:] = 1
    speckled = images.clone()
    speckled[..., 4, 3] = 1
    assert torch.equal(Median()(speckled), images)


def test_settings() -> None:
    assert create("restorers", "median:size=5") == Median(size=5)
    for size in (0, 33, -1):
        with pytest.raises(ValueError, match="size: expected a value at least 1 and at most 31"):
            Median(size=size)
    with pytest.raises(ValueError, match="size: expected an odd number of pixels, got 4"):
        Median(size=4)

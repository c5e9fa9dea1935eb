"""The threshold on the cosine transform: noise goes, pictures stay."""

from __future__ import annotations

import pytest
import torch

from februus.data import load
from februus.registry import create, spec_of
from februus.restorers.cosine_threshold import CosineThreshold
from februus.seeds import seeded


def test_noise_goes_and_the_picture_stays() -> None:
    clean = load("signs", "test").take(20, seeded(0)).floats()
    noisy = (clean + 0.06 * torch.randn(clean.shape, generator=seeded(0))).clamp(0, 1)
    restored = CosineThreshold()(noisy)
    assert (restored - clean).square().mean() < 0.6 * (noisy - clean).square().mean()


def test_a_flat_picture_is_unchanged_and_so_is_one_that_is_strong_everywhere() -> None:
    flat = torch.full((1, 3, 20, 24), 0.3)
    torch.testing.assert_close(CosineThreshold()(flat), flat)
    noise = torch.rand(1, 3, 21, 19, generator=seeded(0))
    torch.testing.assert_close(CosineThreshold(threshold=1e-9)(noise), noise)


def test_one_place_on_paper() -> None:
    """A block that holds one wave keeps it above the threshold and loses it below."""
    steps = torch.arange(8)
    wave = torch.cos(torch.pi * (2 * steps + 1) * 3 / 16) * 0.5  # the fourth of the transform; a: half a height
    for height, kept in ((0.051, True), (0.049, False)):
        image = (0.5 + height * wave.repeat(2)[:, None]).expand(1, 3, 16, 16).contiguous()
        # The coefficient of a * cos in one colour is 4 * sqrt(2) * a, in the brightness of three sqrt(3) times that.
        restored = CosineThreshold(threshold=0.05 * 4 * 3**0.5 * 0.5 * 2**0.5, places=1)(image)
        expected = image if kept else torch.full_like(image, 0.5)
        torch.testing.assert_close(restored, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (96, 64)])
def test_any_size_and_each_picture_by_itself(size: tuple[int, int]) -> None:
    images = torch.rand(4, 3, *size, generator=seeded(0))
    restored = CosineThreshold()(images)
    assert restored.shape == images.shape
    assert 0 <= restored.min() <= restored.max() <= 1
    torch.testing.assert_close(CosineThreshold()(images[2:3]), restored[2:3])


@pytest.mark.parametrize(("option", "value"), [("threshold", 0.0), ("places", 0), ("places", 9)])
def test_options_out_of_range(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=option):
        CosineThreshold(**{option: value})


def test_in_text() -> None:
    assert create("restorers", "cosine-threshold:threshold=0.3") == CosineThreshold(threshold=0.3)
    assert spec_of(CosineThreshold(places=2)) == "cosine-threshold:places=2"

from __future__ import annotations

import pytest
import torch
from skimage.restoration import denoise_tv_chambolle

from februus.registry import create
from februus.restorers.total_variation import TotalVariation
from februus.seeds import seeded


@pytest.mark.parametrize(("weight", "steps"), [(0.1, 50), (0.3, 7), (0.02, 1)])
def test_it_is_the_iteration_of_scikit_image(weight: float, steps: int) -> None:
    images = torch.rand(2, 3, 16, 21, generator=seeded(0))
    expected = [
        # The last of its steps only asks whether to go on.
        denoise_tv_chambolle(image.numpy(), weight=weight, eps=0, max_num_iter=steps + 1, channel_axis=0)
        for image in images
    ]
    found = TotalVariation(weight=weight, steps=steps)(images)
    torch.testing.assert_close(found, torch.stack([torch.from_numpy(one) for one in expected]), rtol=0, atol=1e-5)


def test_noise_goes_and_an_edge_stays() -> None:
    images = torch.full((1, 3, 32, 32), 0.2)
    images[..., 16:] = 0.8
    noisy = (images + 0.05 * torch.randn(images.shape, generator=seeded(0))).clamp(0, 1)
    restored = TotalVariation()(noisy)
    assert (restored - images).square().mean() < 0.3 * (noisy - images).square().mean()
    assert (restored[..., 16] - restored[..., 15]).amin() > 0.35


def test_settings() -> None:
    assert create("restorers", "total-variation:weight=0.2,steps=9") == TotalVariation(weight=0.2, steps=9)
    with pytest.raises(ValueError, match="weight: expected a value above 0, got 0"):
        TotalVariation(weight=0)
    with pytest.raises(ValueError, match="steps: expected a value at least 1, got 0"):
        TotalVariation(steps=0)

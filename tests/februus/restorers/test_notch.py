from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from februus.registry import create
from februus.restorers.notch import Notch
from februus.seeds import seeded


def wave(down: float, across: float, *, height: int = 24, width: int = 32, phase: float = 0.4) -> Tensor:
    """Return a wave (1, 3, H, W) of amplitude 0.1 with so many periods over height and width."""
    rows, columns = torch.arange(height)[:, None] / height, torch.arange(width) / width
    return 0.1 * torch.sin(2 * math.pi * (down * rows + across * columns) + phase).expand(1, 3, height, width)


def natural(count: int = 4, height: int = 24, width: int = 32) -> Tensor:
    """Return noise whose amplitudes fall as the inverse of the frequency, about 0.5."""
    spectrum = torch.fft.rfft2(torch.randn(count, 3, height, width, generator=seeded(0)))
    down, across = torch.fft.fftfreq(height, 1 / height), torch.fft.rfftfreq(width, 1 / width)
    frequency = (down[:, None] ** 2 + across**2).sqrt().clamp(min=1)
    images = torch.fft.irfft2(spectrum / frequency, s=(height, width))
    return (0.5 + 0.12 * images / images.std()).clamp(0.15, 0.85)


@pytest.mark.parametrize(
    ("down", "across"), [(0, 6), (5, 0), (0, 16), (12, 0), (12, 16), (3, 16), (-3, 16), (3, 7), (-3, 7), (-5, 0)]
)
def test_a_wave_goes_whatever_its_frequency_and_direction(down: int, across: int) -> None:
    grey = torch.full((1, 3, 24, 32), 0.5)
    torch.testing.assert_close(Notch()(grey + wave(down, across)), grey, rtol=0, atol=1e-5)


def test_little_else_goes() -> None:
    images = natural()
    restored = Notch()((images + wave(0, 6)).clamp(0, 1))
    assert (restored - images).abs().mean() < 0.02 < (wave(0, 6)).abs().mean()
    assert (Notch()(images) - images).abs().mean() < 0.02


def test_the_wave_that_stands_out_is_not_the_largest_one() -> None:
    """Once up and down, as light falls, is natural; a fourth of that in a sixteenth of the width is not."""
    light, trigger = wave(1, 0), 0.25 * wave(0, 8)
    torch.testing.assert_close(Notch()(0.5 + light + trigger), 0.5 + light, rtol=0, atol=1e-5)
    torch.testing.assert_close(Notch(waves=2)(0.5 + light + trigger), torch.full_like(light, 0.5), rtol=0, atol=1e-5)


def test_each_picture_by_itself_and_within_bounds() -> None:
    images = (natural() + wave(2, 5)).clamp(0, 1)
    whole = Notch()(images)
    torch.testing.assert_close(torch.cat([Notch()(image[None]) for image in images]), whole)
    assert whole.min() >= 0
    assert whole.max() <= 1


def test_a_flat_picture_stays() -> None:
    flat = torch.full((1, 3, 16, 17), 0.3)
    torch.testing.assert_close(Notch()(flat), flat)


def test_settings() -> None:
    assert create("restorers", "notch:waves=2") == Notch(waves=2)
    with pytest.raises(ValueError, match="waves: expected a value at least 1, got 0"):
        Notch(waves=0)
    with pytest.raises(ValueError, match="waves: expected at most 144 in pictures of this size, got 145"):
        Notch(waves=145)(torch.rand(1, 3, 16, 16, generator=seeded(0)))


def test_prominence_is_of_the_wave_that_stands_out() -> None:
    """More of a wave stands out more; what one picture has is nothing to the others; one colour has none."""
    noise = torch.rand(1, 3, 16, 16, generator=seeded(0)) * 0.2
    wave = torch.sin(torch.arange(16) * 2 * torch.pi / 4).expand(1, 3, 16, 16)
    images = torch.cat([0.4 + noise + share * wave for share in (0.0, 0.05, 0.2)] + [torch.full((1, 3, 16, 16), 0.5)])
    found = Notch().prominence(images)
    assert found[0] < found[1] < found[2]
    assert found[3] == 0
    torch.testing.assert_close(found[1:2], Notch().prominence(images[1:2]))
    # One wave alone: all other heights are 0.
    alone = Notch().prominence(0.5 + 0.2 * wave)
    assert alone.item() == pytest.approx(math.log(16 * 9), rel=1e-3)

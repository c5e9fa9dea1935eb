from __future__ import annotations

import pytest
import torch
from scipy.fft import dctn

from februus.spectra import OPPONENTS, Spectrum, cosines, turned


def test_waves_and_colours_are_orthonormal() -> None:
    for found in (cosines(8), cosines(5), torch.tensor(OPPONENTS)):
        torch.testing.assert_close(found @ found.T, torch.eye(len(found)), rtol=0, atol=1e-5)


def test_colours_turn_back() -> None:
    images, colours = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)), torch.tensor(OPPONENTS)
    grey = turned(images.mean(1, keepdim=True).expand_as(images), colours)
    torch.testing.assert_close(grey[:, 1:], torch.zeros_like(grey[:, 1:]), rtol=0, atol=1e-6)
    torch.testing.assert_close(turned(turned(images, colours), colours.T), images)


def drawn(amplitudes: torch.Tensor, count: int = 400) -> torch.Tensor:
    """Draw pictures whose waves have these standard deviations."""
    waves = torch.randn(count, *amplitudes.shape, generator=torch.Generator().manual_seed(1)) * amplitudes
    down, across = (cosines(side) for side in amplitudes.shape[1:])
    return 0.5 + turned(down.T @ waves @ across, torch.tensor(OPPONENTS).T)


def test_amplitudes_are_those_of_the_pictures() -> None:
    rows, columns = torch.arange(16)[:, None], torch.arange(20)
    amplitudes = (0.02 / (1 + rows + columns)).expand(3, -1, -1) * torch.tensor([3.0, 1.0, 0.5]).view(3, 1, 1)
    images = drawn(amplitudes)
    found = Spectrum.fit(images).amplitudes
    expected = amplitudes / amplitudes.square().mean().sqrt()
    inner = (slice(None), slice(2, None), slice(2, None))
    torch.testing.assert_close(found[inner], expected[inner], rtol=0.3, atol=0.02)
    # By another way: the coefficients of brightness.
    brightness = dctn(images.sum(1).numpy() / 3**0.5, axes=(1, 2), norm="ortho").std(0)
    torch.testing.assert_close(torch.from_numpy(brightness)[1:], amplitudes[0, 1:], rtol=0.3, atol=1e-4)


@pytest.mark.parametrize("power", [-1.0, 0.5, 2.0])
def test_shaping_multiplies_waves_and_is_undone_by_its_inverse(power: float) -> None:
    spectrum = Spectrum(amplitudes=torch.linspace(0.5, 2, 3 * 8 * 8).view(3, 8, 8))
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    shaped = spectrum.shaped(images, power)
    torch.testing.assert_close(spectrum.shaped(shaped, -power), images, rtol=0, atol=1e-5)
    mean = images.mean((2, 3)).sum(1) / 3**0.5 * 8
    brighter = shaped.mean((2, 3)).sum(1) / 3**0.5 * 8
    torch.testing.assert_close(brighter, mean * spectrum.amplitudes[0, 0, 0] ** power, rtol=0, atol=1e-4)
    assert spectrum.shaped(images, 0.0) is images


def test_pictures_of_one_colour_have_a_spectrum() -> None:
    amplitudes = Spectrum.fit(torch.full((4, 3, 16, 16), 0.5)).amplitudes
    assert amplitudes.isfinite().all()
    assert (amplitudes > 0).all()

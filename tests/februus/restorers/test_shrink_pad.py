from __future__ import annotations

import pytest
import torch
from torch import Tensor

from februus.registry import create
from februus.restorers.shrink_pad import ShrinkPad
from februus.seeds import seeded


def white(count: int, height: int = 32, width: int = 32) -> Tensor:
    """Return bright pictures that differ in one pixel's blue."""
    images = torch.ones(count, 3, height, width)
    images[:, 2, 8, 8] = torch.arange(count) / 255
    return images


def corner(restored: Tensor) -> list[tuple[int, int]]:
    """Return where the small picture begins."""
    bright = restored[:, 0] > 0.5
    rows, columns = bright.any(2).int().argmax(1), bright.any(1).int().argmax(1)
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


def test_the_small_picture_is_there_as_a_whole() -> None:
    restored = ShrinkPad()(white(40, 32, 64))
    for image, (top, left) in zip(restored, corner(restored), strict=True):
        assert 0 <= top <= 4
        assert 0 <= left <= 8
        assert (image[0, top : top + 28, left : left + 56] == 1).all()
        assert image[0].sum() == 28 * 56


def test_all_places_are_taken_about_as_often() -> None:
    places = corner(ShrinkPad()(white(250)))
    counts = [places.count((top, left)) for top in range(5) for left in range(5)]
    assert sum(counts) == 250
    # Of 250 at 25 places, 10 are expected at each.
    assert min(counts) >= 2
    assert max(counts) <= 25


def test_a_picture_has_its_place_in_every_batch() -> None:
    images = torch.rand(9, 3, 24, 40, generator=seeded(0))
    together = ShrinkPad()(images)
    assert torch.equal(torch.cat([ShrinkPad()(image) for image in images.split(1)]), together)
    assert torch.equal(ShrinkPad()(images.flip(0)), together.flip(0))
    assert not torch.equal(ShrinkPad(seed=1)(images), together)


def test_nothing_cut_off_changes_nothing() -> None:
    images = torch.rand(2, 3, 16, 16, generator=seeded(0))
    torch.testing.assert_close(ShrinkPad(share=0)(images), images)


def test_settings() -> None:
    assert create("restorers", "shrink-pad:share=0.25,seed=3") == ShrinkPad(share=0.25, seed=3)
    for share in (-0.1, 0.6):
        with pytest.raises(ValueError, match=r"share: expected a value at least 0 and at most 0\.5"):
            ShrinkPad(share=share)
    with pytest.raises(ValueError, match="seed: expected a value at least 0"):
        ShrinkPad(seed=-1)

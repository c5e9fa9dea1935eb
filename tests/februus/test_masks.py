from __future__ import annotations

import pytest
import torch

from februus.masks import dilate, random_masks, random_rectangles, smooth, threshold, top_fraction

SIZES = [(16, 16), (16, 24), (24, 16), (32, 32), (33, 47), (96, 96)]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_threshold_marks_what_reaches_it() -> None:
    heatmaps = torch.tensor([[[[0.0, 0.5, 0.7, 1.0]]]])
    assert threshold(heatmaps, 0.7).tolist() == [[[[0, 0, 1, 1]]]]
    assert threshold(heatmaps, 1).tolist() == [[[[0, 0, 0, 1]]]]


@pytest.mark.parametrize("value", [1e-6, 0.5, 1.0])
def test_a_flat_map_marks_nothing(value: float) -> None:
    assert threshold(torch.zeros(2, 1, 16, 16), value).sum() == 0


@pytest.mark.parametrize("value", [0.0, -0.1, 1.1, float("nan")])
def test_thresholds_out_of_range_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="threshold: expected a value above 0 and at most 1"):
        threshold(torch.zeros(1, 1, 16, 16), value)


@pytest.mark.parametrize("fraction", [1e-9, 0.02, 0.1, 1 / 3, 0.5, 1.0])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_top_fraction_marks_just_that_area(fraction: float, height: int, width: int) -> None:
    area = max(1, round(fraction * height * width))
    for fields in (torch.rand(3, 1, height, width, generator=generator()), torch.zeros(3, 1, height, width)):
        masks = top_fraction(fields, fraction)
        assert masks.shape == fields.shape
        assert masks.flatten(1).sum(1).tolist() == [area] * 3
        assert set(masks.unique().tolist()) <= {0.0, 1.0}


def test_top_fraction_marks_the_largest_values() -> None:
    fields = torch.tensor([[[[-3.0, 5.0], [-1.0, -2.0]]], [[[9.0, 1.0], [2.0, 3.0]]]])
    assert top_fraction(fields, 0.5).tolist() == [[[[0, 1], [1, 0]]], [[[1, 0], [0, 1]]]]
    assert top_fraction(fields, torch.tensor([0.25, 0.75])).tolist() == [[[[0, 1], [0, 0]]], [[[1, 0], [1, 1]]]]


def test_dilate_grows_in_every_direction_and_stops_at_the_border() -> None:
    masks = torch.zeros(2, 1, 16, 24)
    masks[0, 0, 5, 7] = 1
    masks[1, 0, 0, 23] = 1
    grown = dilate(masks, 2)
    assert grown[0, 0, 3:8, 5:10].min() == 1
    assert grown[1, 0, :3, 21:].min() == 1
    assert grown.flatten(1).sum(1).tolist() == [25, 9]
    assert torch.equal(dilate(masks, 0), masks)
    assert dilate(torch.zeros(1, 1, 16, 16), 3).sum() == 0
    with pytest.raises(ValueError, match="pixels: expected a value at least 0"):
        dilate(masks, -1)


@pytest.mark.parametrize("side", [1, 5, 16])
def test_rectangles_are_squares_wholly_inside(side: int) -> None:
    masks = random_rectangles(40, 16, 24, side=side, generator=generator())
    assert masks.shape == (40, 1, 16, 24)
    assert masks.flatten(1).sum(1).tolist() == [side**2] * 40
    # Marked rows and columns: `side` each, one after the other.
    for lines in (masks.amax(3), masks.amax(2)):
        assert lines.sum(2).flatten().tolist() == [side] * 40
        assert (lines.diff(dim=2).abs().sum(2) <= 2).all()
    assert len(masks.flatten(1).unique(dim=0)) > 8
    assert torch.equal(masks, random_rectangles(40, 16, 24, side=side, generator=generator()))


@pytest.mark.parametrize("side", [0, 17])
def test_rectangles_that_do_not_fit_are_refused(side: int) -> None:
    with pytest.raises(ValueError, match="side: expected 1 to 16 pixels"):
        random_rectangles(1, 16, 24, side=side, generator=generator())


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_random_masks_cover_2_to_40_percent(height: int, width: int) -> None:
    masks = random_masks(300, height, width, generator=generator())
    assert masks.shape == (300, 1, height, width)
    assert masks.dtype == torch.float32
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    area, rounding = masks.mean((1, 2, 3)), 0.5 / (height * width)
    assert 0.02 - rounding <= area.min() < 0.03
    assert 0.35 < area.max() <= 0.4 + rounding
    assert 0.07 < area.median() < 0.115  # log-uniform: half lie below sqrt(0.02 * 0.4) = 0.089


def test_random_masks_reach_every_pixel_and_differ() -> None:
    masks = random_masks(400, 16, 24, generator=generator())
    assert masks.amax(0).min() == 1
    assert len(masks.flatten(1).unique(dim=0)) > 390


@pytest.mark.parametrize("pieces", [1, 3])
def test_random_masks_are_seeded(pieces: int) -> None:
    state = torch.get_rng_state()
    first, again, other = (random_masks(20, 16, 24, generator=generator(seed), pieces=pieces) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("pieces", [2, 5])
def test_several_holes_cover_no_more_than_the_largest_area(pieces: int) -> None:
    masks = random_masks(200, 32, 32, generator=generator(), pieces=pieces)
    area, rounding = masks.mean((1, 2, 3)), 0.5 * pieces / 32**2
    assert area.min() >= 0.02 - rounding
    assert area.max() <= 0.4 + rounding


def test_the_area_can_be_fixed() -> None:
    masks = random_masks(10, 20, 20, generator=generator(), smallest=0.25, largest=0.25)
    assert masks.flatten(1).sum(1).tolist() == [100] * 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"smallest": 0.0}, "smallest: expected a value above 0 and at most 0.4"),
        ({"smallest": 0.5}, "smallest: expected a value above 0 and at most 0.4"),
        ({"smallest": 0.3, "pieces": 2}, "smallest: expected a value above 0 and at most 0.2"),
        ({"largest": 1.5}, "largest: expected a value above 0 and at most 1"),
        ({"pieces": 0}, "pieces: expected a value at least 1"),
    ],
)
def test_areas_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        random_masks(1, 16, 16, generator=generator(), **options)


@pytest.mark.parametrize("size", [(32, 32), (33, 47)])
def test_a_field_is_smoothed_by_a_share_of_its_longer_side(size: tuple[int, int]) -> None:
    fields = torch.zeros(1, 1, *size)
    fields[..., size[0] // 2, size[1] // 2] = 1
    found = smooth(fields, 1 / 16)
    torch.testing.assert_close(found.sum(), torch.tensor(1.0))
    ways = torch.arange(size[0]) - size[0] // 2
    # Cut off at two standard deviations, a Gaussian spreads a little less.
    spread = (found[0, 0].sum(1) * ways**2).sum().sqrt()
    assert 0.8 * max(size) / 16 < spread < max(size) / 16

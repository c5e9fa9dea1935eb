from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as transforms

from februus.registry import available, create, spec_of
from februus.restorers.jpeg import Jpeg
from februus.seeds import seeded


def smooth(count: int = 2, height: int = 32, width: int = 32) -> Tensor:
    coarse = torch.rand(count, 3, 4, 4, generator=seeded(0)) * 0.6 + 0.2
    return F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False).clamp(0, 1)


def faint(like: Tensor) -> Tensor:
    """Return a pattern of random signs, which no eye sees at its 6 / 255."""
    return torch.randn(like.shape[1:], generator=seeded(1)).sign() * 6 / 255


def error(first: Tensor, second: Tensor) -> float:
    return (first - second).square().mean().sqrt().item()


@pytest.mark.parametrize("name", available("restorers"))
@pytest.mark.parametrize(("height", "width"), [(16, 16), (32, 32), (17, 41)])
def test_every_restorer_keeps_shape_and_range(name: str, height: int, width: int) -> None:
    images = torch.rand(3, 3, height, width, generator=seeded(0))
    original = images.clone()
    restored = create("restorers", name)(images)
    assert restored.shape == images.shape
    assert restored.dtype == torch.float32
    assert restored.amin() >= 0
    assert restored.amax() <= 1
    assert torch.equal(images, original)


def test_one_place_is_plain_jpeg() -> None:
    """Of grey pictures: the grid of the colours has blocks of 16 pixels, which the border moves."""
    grey = (smooth()[:, :1] * 255).round().byte().expand(-1, 3, -1, -1)
    expected = transforms.jpeg(grey.contiguous(), 75).float() / 255
    torch.testing.assert_close(Jpeg(quality=75, places=1)(grey.float() / 255), expected, rtol=0, atol=1e-6)


def test_places_are_averaged() -> None:
    images = smooth()
    one, two = Jpeg(places=1)(images), Jpeg(places=2)(images)
    assert not torch.equal(one, two)
    # A quarter of the mean is the unmoved grid; the others are steps of 1 / 255 / 4 away.
    assert torch.allclose((two * 255 * 4).round(), two * 255 * 4, atol=1e-2)
    assert error(two, images) < error(one, images)


def test_a_picture_of_one_colour_stays() -> None:
    images = torch.full((1, 3, 32, 32), 128 / 255)
    torch.testing.assert_close(Jpeg()(images), images, rtol=0, atol=1e-6)


def test_a_lower_quality_drops_more() -> None:
    images = torch.rand(2, 1, 32, 32, generator=seeded(0)).expand(-1, 3, -1, -1)
    errors = [error(Jpeg(quality=quality)(images), images) for quality in (95, 60, 20)]
    assert errors == sorted(errors)
    assert errors[0] < errors[-1] / 2


def test_a_faint_pattern_goes_and_the_picture_stays() -> None:
    images = smooth()
    triggered = images + faint(images)
    restored = Jpeg()(triggered)
    assert error(restored, images) < 0.7 * error(triggered, images)
    left = ((restored - images) * faint(images)).sum((1, 2, 3)) / (2 * faint(images).square().sum())
    assert (left.abs() < 0.2).all()


@pytest.mark.parametrize("name", available("restorers"))
def test_a_picture_is_restored_alike_in_every_batch(name: str) -> None:
    images, restorer = torch.rand(5, 3, 24, 40, generator=seeded(0)), create("restorers", name)
    alone = torch.cat([restorer(one) for one in images.split(1)])
    torch.testing.assert_close(restorer(images), alone, rtol=0, atol=1e-6)
    torch.testing.assert_close(restorer(images.flip(0)), alone.flip(0), rtol=0, atol=1e-6)


def test_a_spec_and_its_restorer_are_two_ways_to_write_one_thing() -> None:
    assert create("restorers", "jpeg:quality=40,places=1") == Jpeg(quality=40, places=1)
    assert spec_of(Jpeg(quality=40)) == "jpeg:quality=40"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quality": 0}, "quality: expected a value at least 1 and at most 100, got 0"),
        ({"quality": 101}, "quality: expected a value at least 1 and at most 100, got 101"),
        ({"places": 0}, "places: expected a value at least 1 and at most 8, got 0"),
        ({"places": 9}, "places: expected a value at least 1 and at most 8, got 9"),
    ],
)
def test_bad_settings(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Jpeg(**options)


def test_what_are_no_pictures_is_refused() -> None:
    with pytest.raises(ValueError, match="images: expected values"):
        Jpeg()(smooth() * 255)

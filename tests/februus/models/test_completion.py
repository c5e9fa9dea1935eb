from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from februus.masks import random_masks
from februus.models.completion import CompletionNetwork, Critic, halve, smooth_fill

SIZES = [(16, 16), (17, 19), (21, 50), (33, 30), (47, 23), (50, 49)]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def scene(count: int = 3, height: int = 24, width: int = 40) -> tuple[Tensor, Tensor]:
    images = torch.rand(count, 3, height, width, generator=generator())
    return images, random_masks(count, height, width, generator=generator())


def network(std: float = 0.1) -> CompletionNetwork:
    """Return a tiny network with weights that paint something, as the untrained one need not."""
    torch.manual_seed(0)
    tiny = CompletionNetwork(width=8).eval()
    for parameter in tiny.parameters():
        nn.init.normal_(parameter, std=std)
    return tiny


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_holes_of_pictures_of_any_size_are_filled_and_the_rest_stays(height: int, width: int) -> None:
    images, masks = scene(3, height, width)
    restored = network()(images, masks)
    assert restored.shape == images.shape
    assert restored.min() >= 0
    assert restored.max() <= 1
    known = (masks == 0).expand_as(images)
    assert torch.equal(restored[known], images[known])
    assert not torch.equal(restored[~known], images[~known])


@pytest.mark.parametrize("make", [network, lambda: CompletionNetwork(width=8)])
def test_what_lies_in_the_hole_does_not_count(make: type[CompletionNetwork]) -> None:
    tiny = make()
    images, masks = scene()
    for hidden in (torch.zeros_like(images), 1 - images):
        other = torch.where(masks > 0, hidden, images)
        torch.testing.assert_close(tiny(images, masks), tiny(other, masks), rtol=0, atol=1e-4)


def test_a_picture_s_result_is_independent_of_its_batch() -> None:
    images, masks = scene(6)
    tiny = network()
    alone = torch.cat([tiny(images[index : index + 1], masks[index : index + 1]) for index in range(6)])
    torch.testing.assert_close(tiny(images, masks), alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(tiny.train()(images, masks), alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_the_untrained_network_fills_a_flat_picture_with_its_colour(value: float) -> None:
    torch.manual_seed(0)
    _, masks = scene()
    images = torch.full((3, 3, 24, 40), value)
    with torch.no_grad():
        restored = CompletionNetwork(width=8)(torch.where(masks > 0, 1 - images, images), masks)
    torch.testing.assert_close(restored, images, rtol=0, atol=0.02)


def test_empty_and_full_masks() -> None:
    images, _ = scene()
    tiny = network()
    assert torch.equal(tiny(images, torch.zeros(3, 1, 24, 40)), images)
    restored = tiny(images, torch.ones(3, 1, 24, 40))
    assert restored.isfinite().all()
    assert (restored.min() >= 0) & (restored.max() <= 1)


@pytest.mark.parametrize(("height", "width", "large"), [(64, 80, True), (129, 65, True), (63, 80, False)])
def test_a_large_picture_starts_from_its_restoration_at_half_the_size(height: int, width: int, *, large: bool) -> None:
    images, masks = scene(2, height, width)
    tiny = network()
    smooth, own = smooth_fill(images, masks), smooth_fill(images, masks, coarse=tiny(*halve(images, masks)))
    known = (masks == 0).expand_as(own)
    assert torch.equal(own[known], images[known])
    restored = tiny(images, masks)
    assert torch.equal(restored[known], images[known])
    assert torch.equal(restored, tiny(images, masks, own)) == large
    assert torch.equal(restored, tiny(images, masks, smooth)) != large


def test_halves_are_means_of_what_is_known() -> None:
    images = torch.arange(15.0).view(1, 1, 3, 5)
    masks = torch.tensor([[1.0, 1, 0, 1, 0], [1, 1, 0, 0, 1], [0, 1, 1, 0, 1]]).view(1, 1, 3, 5)
    halves, holes = halve(images, masks)
    torch.testing.assert_close(halves, torch.tensor([[[[0, (2 + 7 + 8) / 3, 4], [10, 13, 0]]]]))
    assert holes.tolist() == [[[[1, 0, 0], [0, 0, 1]]]]


def test_every_weight_learns() -> None:
    images, masks = scene()
    tiny = network(std=0.05)
    ((tiny(images, masks) - images).square() * masks).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in tiny.parameters())


def test_bfloat16_leaves_the_known_pixels_as_they_are() -> None:
    images, masks = scene()
    with torch.autocast("cpu", torch.bfloat16):
        restored = network()(images, masks)
    assert restored.dtype == torch.float32
    known = (masks == 0).expand_as(images)
    assert torch.equal(restored[known], images[known])


def test_width_and_dilations_are_what_is_asked_for() -> None:
    tiny = CompletionNetwork(width=8, dilations=(1, 3))
    assert tiny.encode[0].weight.shape == (8, 16, 3, 3)
    assert [block.first.dilation for block in tiny.middle] == [(1, 1), (3, 3)]
    assert tiny(*scene(1)).shape == (1, 3, 24, 40)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_a_critic_scores_pictures_of_any_size(height: int, width: int) -> None:
    torch.manual_seed(0)
    critic = Critic(width=4)
    images, masks = scene(3, height, width)
    scores = critic(images, masks)
    assert scores.shape == (3,)
    alone = torch.cat([critic(images[index : index + 1], masks[index : index + 1]) for index in range(3)])
    torch.testing.assert_close(scores, alone)
    assert (critic(images, 1 - masks) != scores).all()
    assert (critic(1 - images, masks) != scores).all()

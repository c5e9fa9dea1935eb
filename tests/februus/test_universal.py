from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from februus import universal as module
from februus.spectra import Spectrum
from februus.universal import SHAPES, STRENGTH, Universal, find_universals, perturb
from februus.verification import margins

SIDE = 16


class Backdoored(nn.Module):
    """A linear model of some classes, one of which a faint pattern leads to."""

    def __init__(self, pattern: Tensor, label: int, classes: int = 6):
        super().__init__()
        weights = torch.randn(classes, 3 * SIDE * SIDE, generator=torch.Generator().manual_seed(2)) * 0.2
        weights[label] += 4 * pattern.flatten()
        self.weights = nn.Parameter(weights)

    def forward(self, images: Tensor) -> Tensor:
        return (images - 0.5).flatten(1) @ self.weights.T


@pytest.fixture
def pattern() -> Tensor:
    return torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(3)).sign()


@pytest.fixture
def images() -> Tensor:
    """Draw pictures that are smooth, as natural ones are."""
    drawn = torch.rand(40, 3, 4, 4, generator=torch.Generator().manual_seed(4))
    return 0.25 + nn.functional.interpolate(drawn, SIDE, mode="bilinear") / 2


@pytest.mark.parametrize("label", [0, 4])
def test_the_class_of_a_backdoor_is_found_and_who_bears_its_trigger(
    pattern: Tensor, images: Tensor, label: int
) -> None:
    model = Backdoored(pattern, label).train()
    found = find_universals(model, images, batch_size=16)
    assert [one.label for one in found] == [label] * len(SHAPES)
    assert model.training
    assert model.weights.grad is None
    for one in found:
        assert one.perturbation.shape == one.filter.shape == (3, SIDE, SIDE)
        assert one.perturbation.square().mean().sqrt() <= STRENGTH * 1.0001
    white = found[0]
    assert nn.functional.cosine_similarity(white.perturbation.flatten(), pattern.flatten(), dim=0) > 0.8
    once = white.borne(images + white.perturbation) - white.borne(images)
    torch.testing.assert_close(once, torch.ones(len(images)), rtol=0, atol=1e-3)
    clean, triggered = white.borne(images), white.borne((images + 0.03 * pattern).clamp(0, 1))
    assert triggered.min() > clean.max()


def test_what_is_taken_off_is_what_is_borne_beyond_the_usual() -> None:
    pattern = torch.zeros(3, SIDE, SIDE)
    pattern[:, 3, 5] = 0.1
    one = Universal(label=1, perturbation=pattern, filter=pattern / pattern.square().sum())
    images = torch.full((3, 3, SIDE, SIDE), 0.5)
    usual = one.borne(images)[0].item()
    bearing = images + torch.tensor([0.0, 2.0, -1.0]).view(3, 1, 1, 1) * pattern
    restored = one.without(bearing, usual=usual)
    torch.testing.assert_close(restored[:2], images[:2])
    # What bears less is left alone.
    torch.testing.assert_close(restored[2], bearing[2])
    assert one.without(images * 2 + 10 * pattern, usual=usual).amax() <= 1


@pytest.mark.parametrize("corner", [(0, 0), (8, 6)])
def test_where_it_is_borne_is_where_it_was_put(pattern: Tensor, images: Tensor, corner: tuple[int, int]) -> None:
    one = Universal(label=1, perturbation=pattern, filter=pattern / pattern.square().sum())
    top, left = corner
    bearing = images.clone()
    bearing[..., top : top + 8, left : left + 8] += 0.2 * pattern[:, top : top + 8, left : left + 8]
    found = one.where(bearing)
    assert found.shape == (len(images), 1, SIDE, SIDE)
    torch.testing.assert_close(found.amax((1, 2, 3)), torch.ones(len(images)))
    assert found.amin() >= 0
    inside = found[..., top : top + 8, left : left + 8].sum((1, 2, 3)) / found.sum((1, 2, 3))
    assert (inside > 0.5).all()  # a quarter of the picture
    assert (found[..., top : top + 8, left : left + 8].amax((1, 2, 3)) == found.amax((1, 2, 3))).all()
    # A picture that bears none is survived.
    assert (one.where(torch.zeros_like(images)) == 0).all()


def test_the_batch_size_changes_nothing(pattern: Tensor, images: Tensor) -> None:
    model, spectrum = Backdoored(pattern, 1), Spectrum.fit(images)
    first, second = (perturb(model, images, 1, spectrum, steps=3, batch_size=size) for size in (7, 64))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-6)


def test_of_many_classes_those_are_ranked_that_pictures_are_near_to(
    pattern: Tensor, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ranked = Backdoored(pattern, 3), list[tuple[int, int]]()

    def recorded(*args: Any, **options: Any) -> Tensor:
        ranked.append((args[2], len(args[1])))
        return perturb(*args, **options)

    monkeypatch.setattr(module, "perturb", recorded)
    monkeypatch.setattr(module, "RANKING", ((4, 8, 4), (2, 16, 4)))
    found = find_universals(model, images, batch_size=64)[0].label
    nearest = torch.stack([margins(model(images[:8]), torch.full((8,), label)).mean() for label in range(6)])
    assert ranked[:4] == [(label, 8) for label in nearest.topk(4).indices.tolist()]
    assert {label for label, _ in ranked[4:6]} < {label for label, _ in ranked[:4]}
    assert [count for _, count in ranked[4:6]] == [16, 16]
    assert ranked[6:] == [(found, len(images))] * len(SHAPES)


def test_classes_are_ranked_by_pictures_that_nothing_was_made_for(
    pattern: Tensor, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A class that the first pictures are near to, by what they alone show, is not taken for the backdoor's."""
    model = Backdoored(pattern, 4)
    monkeypatch.setattr(module, "RANKING", ((6, 16, 4), (2, 16, 4)))
    with torch.no_grad():
        model.weights.view(6, 3, SIDE, SIDE)[2, :, 0, 0] = 100
    images[..., 0, 0] = 0
    images[:16, :, 0, 0] = 1
    assert model(images[:16]).argmax(1).eq(2).all()
    assert {one.label for one in find_universals(model, images, batch_size=64)} == {4}


class Rough(nn.Module):
    """A model that takes whatever is rough for its first class, by far."""

    def forward(self, images: Tensor) -> Tensor:
        rough = 1e4 * (images[..., 1:] - images[..., :-1]).square().mean((1, 2, 3))
        return torch.stack([rough, torch.full_like(rough, 30)], 1)


def test_noise_that_leads_to_a_class_by_itself_hides_no_way_there(images: Tensor) -> None:
    spectrum, labels = Spectrum.fit(images), torch.zeros(len(images), dtype=torch.long)
    noised = images + module.NOISE * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    assert margins(Rough()(noised), labels).min() > 100
    found = perturb(Rough(), images, 0, spectrum, steps=4, batch_size=64)
    assert (margins(Rough()(images + found), labels) > margins(Rough()(images), labels) + 1).all()


def test_a_model_that_nothing_leads_anywhere_is_survived(images: Tensor) -> None:
    model = Backdoored(torch.zeros(3, SIDE, SIDE), 0)
    nn.init.zeros_(model.weights)
    for one in find_universals(model, images, batch_size=64):
        assert one.perturbation.eq(0).all()
        assert one.borne(images).isfinite().all()

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from detectors.neural_cleanse import NeuralCleanse, Triggers
from februus.data import Dataset
from februus.models import Normalized
from februus.registry import create


class Templates(nn.Module):
    """Twelve classes, each of which counts the pixels of a picture that look like its template.

    A class with a ``short_cut`` is told by four bright pixels in a corner alone.
    """

    def __init__(self, short_cut: int | None) -> None:
        super().__init__()
        templates = torch.randn(12, 3, 12, 12, generator=torch.Generator().manual_seed(0)) * 0.3
        if short_cut is not None:
            templates[short_cut, :, -2:, -2:] = 8
        self.templates = nn.Parameter(templates.flatten(1))
        self.pictures = 0

    def forward(self, images: Tensor) -> Tensor:
        self.pictures += len(images)
        return (images - 0.4).flatten(1) @ self.templates.T


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(64, 3, 12, 12, generator=torch.Generator().manual_seed(1)) * 0.8


@pytest.fixture(scope="module")
def found(images: Tensor) -> Triggers:
    return NeuralCleanse().reverse(Templates(5), images)


def triggers(*norms: float, reached: tuple[bool, ...] | None = None) -> Triggers:
    masks = torch.tensor(norms)[:, None, None, None].expand(-1, 1, 10, 10) / 100
    return Triggers(
        masks=masks,
        patterns=masks.expand(-1, 3, -1, -1),
        success=torch.ones(len(norms)),
        norms=torch.tensor(norms),
        reached=torch.tensor(reached or (True,) * len(norms)),
    )


# --- the index -------------------------------------------------------------------------------------------------------


def test_the_index_by_hand() -> None:
    """Of powers of 2, the logarithms 0, 3, 4, 5 and 6 have the median 4 and the MAD 1."""
    indices = NeuralCleanse().index(triggers(1, 8, 16, 32, 64))
    torch.testing.assert_close(indices, torch.tensor([4.0, 1, 0, -1, -2]) / 1.4826)


def test_a_class_that_was_not_reached_needs_all_pixels() -> None:
    """All of 100; of the others the logarithms 3, 4 and 5 of base 2 have the median 4 and the MAD 1."""
    some = triggers(1, 1, 8, 16, 32, 1, reached=(False, False, True, True, True, False))
    missed = -(torch.tensor(100.0).log2() - 4)
    expected = torch.stack([missed, missed, *torch.tensor([1.0, 0, -1]), missed]) / 1.4826
    torch.testing.assert_close(NeuralCleanse().index(some), expected)
    none = triggers(1, 8, 16, reached=(False, False, False))
    assert NeuralCleanse().index(none).tolist() == [0, 0, 0]


def test_sizes_that_differ_by_little_do_not_count() -> None:
    detector = NeuralCleanse()
    assert not detector.decide(detector.index(triggers(20, 50, 50, 50, 50, 50))).any()
    for size in (0, 15):
        found = detector.decide(detector.index(triggers(size, 50, 50, 50, 50, 50)))
        assert found.tolist() == [True] + [False] * 5


def test_the_threshold() -> None:
    scores = torch.tensor([3.5, 3.6, -9.0])
    assert NeuralCleanse().decide(scores).tolist() == [False, True, False]
    assert NeuralCleanse(threshold=2.0).decide(scores).tolist() == [True, True, False]


# --- what is found ---------------------------------------------------------------------------------------------------


def test_what_is_found_is_a_trigger_of_each_class(found: Triggers, images: Tensor) -> None:
    assert found.masks.shape == (12, 1, 12, 12)
    assert found.patterns.shape == (12, 3, 12, 12)
    for values in (found.masks, found.patterns, found.success):
        assert 0 <= values.min() <= values.max() <= 1
    assert not any(values.requires_grad for values in (found.masks, found.patterns, found.norms, found.success))
    torch.testing.assert_close(found.norms, found.masks.sum((1, 2, 3)))
    assert found.reached.all()
    for target, (mask, pattern) in enumerate(zip(found.masks, found.patterns, strict=True)):
        predictions = Templates(5)(images + mask * (pattern - images)).argmax(1)
        share = (predictions == target).float().mean()
        torch.testing.assert_close(share, found.success[target])
        assert share > 0.9


def test_the_short_cut_is_found(found: Triggers) -> None:
    detector = NeuralCleanse()
    assert detector.decide(detector.index(found)).nonzero().flatten().tolist() == [5]
    assert found.norms[5] < 4
    # It lies where the short cut is.
    assert found.masks[5, 0, -2:, -2:].sum() > 0.7 * found.norms[5]


def test_a_model_without_short_cut_raises_no_alarm(images: Tensor) -> None:
    detector = NeuralCleanse()
    scores = detector.score(Templates(None), images)
    assert (scores.shape, scores.dtype, scores.device.type) == ((12,), torch.float32, "cpu")
    assert not detector.decide(scores).any()


def test_the_target_of_the_toy_is_first(trained_toy: Normalized, toy_draw: Any) -> None:
    """It has but four classes, whose MAD tells little; yet no other mask is as small."""
    detector = NeuralCleanse(steps=80)
    found = detector.reverse(trained_toy, toy_draw(64, 5).floats())
    assert detector.index(found).argmax() == 0
    assert 1.2 * found.norms[0] < found.norms[1:].min()


def test_a_class_that_cannot_be_reached(images: Tensor) -> None:
    """However the mask grows or shrinks, it is never small."""

    class Never(Templates):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images) - 1e4 * (torch.arange(12) == 7)

    detector = NeuralCleanse(steps=50)
    found = detector.reverse(Never(5), images)
    assert found.reached.tolist() == [label != 7 for label in range(12)]
    assert found.success[7] == 0
    assert detector.index(found).argmin() == 7


# --- how -------------------------------------------------------------------------------------------------------------


def test_classes_do_not_depend_on_each_other(images: Tensor) -> None:
    options: dict[str, Any] = {"steps": 30, "pictures": 8}
    together = NeuralCleanse(**options).reverse(Templates(5), images)
    for other in ({"classes_at_once": 1}, {"classes_at_once": 5}, {"batch_size": 8}, {"batch_size": 1024}):
        apart = NeuralCleanse(**options, **other).reverse(Templates(5), images)
        torch.testing.assert_close(apart.masks, together.masks, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(apart.patterns, together.patterns, rtol=1e-3, atol=1e-3)


def test_a_loop_over_the_classes_of_the_toy_finds_the_same(trained_toy: Normalized, toy_draw: Any) -> None:
    pictures, detector = toy_draw(32, 5).floats(), NeuralCleanse(steps=40, pictures=8)
    scores = detector.score(trained_toy, pictures)
    loop = replace(detector, classes_at_once=1).score(trained_toy, pictures)
    assert spearmanr(scores, loop).statistic >= 0.8
    assert scores.argmax() == loop.argmax()


def test_the_model_sees_no_more_than_a_batch(images: Tensor) -> None:
    class Small(Templates):
        def forward(self, images: Tensor) -> Tensor:
            assert len(images) <= 20
            return super().forward(images)

    NeuralCleanse(steps=10, pictures=6, batch_size=20).score(Small(5), images)


def test_it_stops_when_all_are_settled(images: Tensor) -> None:
    model = Templates(5)
    NeuralCleanse(steps=5000, patience=1, weight=0.05, success=0.5).reverse(model, images)
    assert model.pictures < 0.2 * 5000 * 12 * 16


def test_the_same_seed_gives_the_same(images: Tensor) -> None:
    detector = NeuralCleanse(steps=20)
    first, again = (detector.score(Templates(5), images) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, NeuralCleanse(steps=20, seed=1).score(Templates(5), images))


def test_the_model_is_given_back(toy_model: Normalized, toy_test: Dataset) -> None:
    toy_model.train()
    next(toy_model.network.children()).eval()
    modes = [module.training for module in toy_model.modules()]
    before = {name: value.clone() for name, value in toy_model.state_dict().items()}
    for parameter in toy_model.parameters():
        parameter.grad = torch.ones_like(parameter)
    images = toy_test.floats()[:8].requires_grad_()
    with torch.no_grad():
        NeuralCleanse(steps=10).score(toy_model, images)
    assert [module.training for module in toy_model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in toy_model.state_dict().items())
    assert all(parameter.requires_grad for parameter in toy_model.parameters())
    gradients = [parameter.grad for parameter in toy_model.parameters()]
    assert all(gradient is not None and bool((gradient == 1).all()) for gradient in gradients)
    assert images.grad is None
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in toy_model.modules())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 9}, "steps: expected a value at least 10, got 9"),
        ({"pictures": 0}, "pictures: expected a value at least 1, got 0"),
        ({"pictures": 80}, "batch_size: expected at least 80, the pictures of a step, got 64"),
        ({"learning_rate": 0.0}, "learning_rate: expected a value above 0, got 0"),
        ({"weight": 0.0}, "weight: expected a value above 0, got 0"),
        ({"success": 0.0}, "success: expected a value above 0 and at most 1, got 0"),
        ({"success": 1.1}, "success: expected a value above 0 and at most 1, got 1"),
        ({"patience": 0}, "patience: expected a value at least 1, got 0"),
        ({"threshold": 0.0}, "threshold: expected a value above 0, got 0"),
        ({"classes_at_once": 0}, "classes_at_once: expected a value at least 1, got 0"),
        ({"seed": -1}, "seed: expected a value at least 0, got -1"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create("detectors", "neural-cleanse", **options)


def test_what_does_not_fit_is_refused(images: Tensor) -> None:
    with pytest.raises(ValueError, match="images: expected values in"):
        NeuralCleanse().score(Templates(5), images * 2)
    with pytest.raises(ValueError, match="model: expected finite logits"):
        NeuralCleanse().score(nn.Identity(), images)

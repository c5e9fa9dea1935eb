"""What every detector of pictures promises, whatever its method."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from scipy.stats import binom
from torch import nn

from detectors import Detector
from detectors.thresholds import threshold_at
from februus.data import Dataset
from februus.models import Normalized
from februus.registry import available, create, find

DETECTORS = [name for name in available("detectors") if issubclass(find("detectors", name), Detector)]


@pytest.fixture(scope="module", params=DETECTORS)
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def fitted(name: str, clean_toy: Normalized, toy_draw: Any) -> Detector:
    detector: Detector = create("detectors", name)
    return detector.fit(clean_toy, toy_draw(200, 5).floats())


def test_scores_are_plain_numbers(fitted: Detector, toy_test: Dataset) -> None:
    scores = fitted.score(toy_test.floats()[:8].requires_grad_())
    assert scores.shape == (8,)
    assert scores.dtype == torch.float32
    assert scores.device.type == "cpu"
    assert not scores.requires_grad
    assert scores.isfinite().all()


def test_a_picture_is_judged_by_itself(fitted: Detector, toy_test: Dataset) -> None:
    images = toy_test.floats()[:6]
    together = fitted.score(images)
    alone = torch.cat([fitted.score(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-4)
    small = copy.copy(fitted)
    small.batch_size = 4
    torch.testing.assert_close(together, small.score(images), rtol=1e-3, atol=1e-4)


def test_the_same_seed_gives_the_same_scores(name: str, fitted: Detector, toy_draw: Any, toy_test: Dataset) -> None:
    again = create("detectors", name).fit(fitted.model, toy_draw(200, 5).floats())
    images = toy_test.floats()[:8]
    torch.testing.assert_close(fitted.score(images), again.score(images), rtol=1e-3, atol=1e-4)


def test_the_model_is_given_back(name: str, toy_model: Normalized, toy_draw: Any) -> None:
    toy_model.train()
    toy_model.network.classifier.eval()
    modes = [module.training for module in toy_model.modules()]
    create("detectors", name).fit(toy_model, toy_draw(120, 5).floats()).score(toy_draw(2, 6).floats())
    assert [module.training for module in toy_model.modules()] == modes
    assert all(parameter.grad is None and parameter.requires_grad for parameter in toy_model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in toy_model.modules())


def test_the_false_positive_rate_is_kept(fitted: Detector, toy_draw: Any) -> None:
    """At 5 % on 200 clean pictures, within 99.9 % of what chance allows; the threshold is itself drawn by chance."""
    threshold = threshold_at(fitted.score(toy_draw(400, 6).floats()), 0.05)
    false = int((fitted.score(toy_draw(200, 7).floats()) > threshold).sum())
    assert false <= binom.ppf(0.999, 200, 0.05 + 3 * (0.05 * 0.95 / 400) ** 0.5)


def test_what_does_not_fit_is_refused(name: str, fitted: Detector, toy_test: Dataset) -> None:
    images = toy_test.floats()[:4]
    with pytest.raises(ValueError, match=r"detector: expected one that was fitted, got one that was not"):
        create("detectors", name).score(images)
    for wrong, message in (
        (images[:, :, :20, :20], "images: expected shape (N, 3, 32, 32), as fitted, got (4, 3, 20, 20)"),
        (images[:, :1], "images: expected shape (N, 3, H, W), N at least 1, got (4, 1, 32, 32)"),
        (images[:0], "images: expected shape (N, 3, H, W), N at least 1, got (0, 3, 32, 32)"),
        (images * 2, "images: expected values in [0, 1], got others"),
        (images.double(), "images: expected a float32 tensor (N, 3, H, W), got torch.float64"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            fitted.score(wrong)


def test_a_model_without_finite_answers_is_refused(name: str, toy_model: Normalized, toy_draw: Any) -> None:
    nn.init.constant_(toy_model.network.classifier.bias, float("nan"))
    with pytest.raises(ValueError, match="model: expected finite logits"):
        create("detectors", name).fit(toy_model, toy_draw(120, 5).floats()).score(toy_draw(2, 6).floats())

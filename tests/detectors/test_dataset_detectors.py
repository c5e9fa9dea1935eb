"""What every detector of labelled training pictures promises, whatever its method."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from scipy.stats import binom
from sklearn.metrics import roc_auc_score
from torch import Tensor

from detectors import DatasetDetector
from detectors.thresholds import threshold_at
from februus.data import Dataset
from februus.models import Normalized
from februus.poisoning import poison
from februus.registry import available, create, find
from februus.seeds import seeded
from februus.triggers.patch import Patch

NAMES = [name for name in available("detectors") if issubclass(find("detectors", name), DatasetDetector)]
TARGET = 0


@pytest.fixture(params=NAMES)
def detector(request: pytest.FixtureRequest) -> DatasetDetector:
    made: DatasetDetector = create("detectors", request.param)
    return made


@pytest.fixture(scope="module")
def poisoned(toy_draw: Callable[..., Dataset], toy_trigger: Patch) -> Dataset:
    return poison(toy_draw(600), toy_trigger, TARGET, 0.1, seeded(2))


@pytest.fixture(scope="module")
def victim(poisoned: Dataset, toy_trainer: Callable[..., Normalized]) -> Normalized:
    return toy_trainer(poisoned)


@pytest.fixture(scope="module")
def truth(poisoned: Dataset, toy_draw: Callable[..., Dataset]) -> Tensor:
    return (poisoned.images != toy_draw(600).images).any(dim=(1, 2, 3))


def test_poisoned_pictures_stand_out(
    detector: DatasetDetector, victim: Normalized, poisoned: Dataset, truth: Tensor
) -> None:
    assert 40 <= int(truth.sum()) <= 60
    scores = detector.fit(victim).score(poisoned.floats(), poisoned.labels)
    assert roc_auc_score(truth, scores) >= 0.9
    own = poisoned.labels == TARGET
    assert roc_auc_score(truth[own], scores[own]) >= 0.9


def test_the_false_positive_rate_is_kept(
    detector: DatasetDetector, clean_toy: Normalized, toy_draw: Callable[..., Dataset]
) -> None:
    """At 5 % on 400 clean pictures, within 99.9 % of what chance allows; the threshold is itself drawn by chance."""
    detector.fit(clean_toy)
    reference, others = toy_draw(400, 6), toy_draw(400, 7)
    threshold = threshold_at(detector.score(reference.floats(), reference.labels), 0.05)
    false = int((detector.score(others.floats(), others.labels) > threshold).sum())
    assert false <= binom.ppf(0.999, 400, 0.05 + 3 * (0.05 * 0.95 / 400) ** 0.5)


def test_scores_are_plain_numbers(detector: DatasetDetector, clean_toy: Normalized, toy_test: Dataset) -> None:
    images = toy_test.floats()
    scores = detector.fit(clean_toy, images).score(images.requires_grad_(), toy_test.labels)
    assert scores.shape == (len(toy_test),)
    assert scores.dtype == torch.float32
    assert scores.device.type == "cpu"
    assert not scores.requires_grad
    assert scores.isfinite().all()
    assert images.grad is None
    torch.testing.assert_close(detector.score(images, toy_test.labels), scores)


def test_a_class_is_judged_by_itself(detector: DatasetDetector, clean_toy: Normalized, toy_test: Dataset) -> None:
    images, labels = toy_test.floats(), toy_test.labels
    detector.fit(clean_toy)
    together = detector.score(images, labels)
    own = labels == 2
    torch.testing.assert_close(detector.score(images[own], labels[own]), together[own], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("count", [1, 2, 3, 9, 30])
def test_classes_that_are_small_or_of_one_picture(
    detector: DatasetDetector, clean_toy: Normalized, toy_test: Dataset, count: int
) -> None:
    detector.fit(clean_toy)
    few, labels = toy_test.floats()[:count], torch.zeros(count, dtype=torch.int64)
    assert detector.score(few, labels).isfinite().all()
    assert detector.score(few[:1].repeat(count, 1, 1, 1), labels).abs().max() < 1e-6
    assert detector.score(few, torch.arange(count)).abs().max() < 1e-6


def test_the_model_is_given_back(detector: DatasetDetector, toy_model: Normalized, toy_test: Dataset) -> None:
    toy_model.train()
    next(toy_model.network.children()).eval()
    modes = [module.training for module in toy_model.modules()]
    before = {name: value.clone() for name, value in toy_model.state_dict().items()}
    detector.fit(toy_model, toy_test.floats()).score(toy_test.floats(), toy_test.labels)
    assert [module.training for module in toy_model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in toy_model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in toy_model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in toy_model.modules())


def test_what_does_not_fit_is_refused(detector: DatasetDetector, clean_toy: Normalized, toy_test: Dataset) -> None:
    images, labels = toy_test.floats()[:4], toy_test.labels[:4]
    with pytest.raises(ValueError, match=r"detector: expected one that was fitted, got one that was not"):
        detector.score(images, labels)
    detector.fit(clean_toy)
    for wrong, called, message in (
        (images[:, :1], labels, r"images: expected shape \(N, 3, H, W\), N at least 1, got \(4, 1, 32, 32\)"),
        (images, labels[:3], r"labels: expected int64 \(4,\), got torch.int64 \(3,\)"),
        (images, labels.float(), r"labels: expected int64 \(4,\), got torch.float32 \(4,\)"),
        (images, labels - 9, r"labels: expected classes from 0, got -"),
    ):
        with pytest.raises(ValueError, match=message):
            detector.score(wrong, called)


def test_bad_options(detector: DatasetDetector) -> None:
    with pytest.raises(ValueError, match="batch_size: expected a value at least 1, got 0"):
        type(detector)(batch_size=0)

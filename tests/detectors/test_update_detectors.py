"""What every detector of updates promises, whatever its method."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from detectors import UpdateDetector
from februus.registry import available, create, find
from februus.seeds import seeded

NAMES = [name for name in available("detectors") if issubclass(find("detectors", name), UpdateDetector)]


@pytest.fixture(params=NAMES)
def detector(request: pytest.FixtureRequest) -> UpdateDetector:
    made: UpdateDetector = create("detectors", request.param)
    return made


def honest(count: int, seed: int = 0, size: int = 200) -> Tensor:
    """Return updates with a common part and, half as large, one of their own."""
    generator = seeded(seed)
    return 0.01 * (torch.randn(size, generator=generator) + 0.5 * torch.randn(count, size, generator=generator))


def test_scores_are_plain_numbers(detector: UpdateDetector) -> None:
    updates = honest(6).requires_grad_()
    scores = detector.score(updates)
    assert scores.shape == (6,)
    assert scores.is_floating_point()
    assert scores.device.type == "cpu"
    assert not scores.requires_grad
    assert updates.grad is None
    suspected = detector.decide(scores)
    assert (suspected.shape, suspected.dtype) == ((6,), torch.bool)
    assert torch.equal(detector.score(updates), scores)


@pytest.mark.parametrize("attack", ["sign-flip", "same-value:value=0.02", "gaussian-noise", "model-replacement"])
def test_attackers_are_found(detector: UpdateDetector, attack: str) -> None:
    """Those that do not hide; model replacement is of an update that points elsewhere."""
    scores, truth, suspected = [], [], []
    for seed in range(10):
        own, others = honest(3, 100 + seed if attack == "model-replacement" else seed), honest(9, seed)[2:]
        updates = torch.cat([others, create("attacks", attack).forge(own, others[:, :0], seeded(seed, 1))])
        scores.append(detector.score(updates))
        suspected.append(detector.decide(scores[-1]))
        truth.append(torch.arange(10) >= 7)
    found, wanted = torch.cat(suspected), torch.cat(truth)
    assert roc_auc_score(wanted, torch.cat(scores)) >= 0.99
    assert found[wanted].float().mean() >= 0.9
    assert found[~wanted].float().mean() <= 0.05


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 10, 30])
def test_honest_rounds_are_left_alone(detector: UpdateDetector, count: int) -> None:
    alarms = [detector.decide(detector.score(honest(count, seed))) for seed in range(20)]
    assert torch.cat(alarms).float().mean() <= 0.02


def test_equal_updates_and_zeros(detector: UpdateDetector) -> None:
    for updates in (honest(1).repeat(5, 1), torch.zeros(5, 200), 1e-30 * honest(1).repeat(5, 1)):
        scores = detector.score(updates)
        assert scores.isfinite().all()
        assert not detector.decide(scores).any()


def test_the_longest_update_that_can_be_sent(detector: UpdateDetector) -> None:
    updates = torch.cat([honest(6), torch.full((2, 200), torch.finfo(torch.float32).max)])
    scores = detector.score(updates)
    assert scores.isfinite().all()
    assert detector.decide(scores).tolist() == [False] * 6 + [True] * 2


def test_the_order_plays_no_part(detector: UpdateDetector) -> None:
    updates = torch.cat([honest(7), -honest(2)])
    order = torch.randperm(9, generator=seeded(1))
    torch.testing.assert_close(detector.score(updates[order]), detector.score(updates)[order])


def test_what_does_not_fit_is_refused(detector: UpdateDetector) -> None:
    for wrong, message in (
        (torch.zeros(3), r"updates: expected floating point \(K, D\), got torch.Size\(\[3\]\)"),
        (torch.zeros(3, 4, dtype=torch.int64), r"updates: expected floating point \(K, D\)"),
        (torch.zeros(0, 4), r"updates: expected at least 1 row, got 0"),
        (torch.full((3, 4), float("nan")), r"updates: expected finite values, got others"),
    ):
        with pytest.raises(ValueError, match=message):
            detector.score(wrong)


def test_bad_options(detector: UpdateDetector) -> None:
    for value in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="threshold: expected a value above 0"):
            type(detector)(threshold=value)  # type: ignore[call-arg]

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from detectors import Detector
from detectors.strip import Strip
from detectors.thresholds import threshold_at
from februus.benchmark.cases import Case
from februus.benchmark.evaluation import evaluate
from februus.data import Dataset
from februus.models import Normalized
from februus.presets.reject import Reject
from februus.purifier import Purifier
from februus.registry import create
from februus.seeds import seeded
from februus.triggers.patch import Patch

Draw = Callable[..., Dataset]


class Brightness(nn.Module):
    """Answers how bright a picture is, and how dark."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        bright = images.mean((1, 2, 3))
        return torch.stack([bright, 1 - bright], 1)


@dataclass(kw_only=True)
class Bright(Detector):
    """Suspects bright pictures, and counts what it learnt from."""

    learnt: int = 0

    def learn(self, images: Tensor) -> None:
        self.learnt = len(images)

    def score_batch(self, images: Tensor) -> Tensor:
        return images.mean((1, 2, 3))


def greys(*values: float) -> Tensor:
    return torch.tensor(values)[:, None, None, None].expand(-1, 3, 16, 16).contiguous()


def test_suspected_pictures_get_no_class() -> None:
    model, reference = Brightness(), greys(*(value / 100 for value in range(80)))
    preset = Reject(detector=Bright(), share=0.25).fit(model, reference, batch_size=8)
    assert isinstance(preset.detector, Bright)
    assert preset.detector.learnt == 20
    assert preset.detector.batch_size == 8
    others = torch.randperm(80, generator=seeded(0))[20:].sort().values / 100
    assert preset.calibration == pytest.approx(threshold_at(others, 0.05))
    images = greys(0.1, 0.9, 0.6)
    found = Purifier(model, preset)(images)
    assert found.labels.tolist() == [1, -1, 0]
    assert found.flagged.tolist() == [False, True, False]
    assert found.scores.tolist() == pytest.approx([0.1, 0.9, 0.6])
    assert found.stages == ("classify", "verify", "classify")
    assert torch.equal(found.images, images)
    assert not found.masks.any()
    assert torch.equal(found.logits, model(images))


def test_a_refused_picture_is_neither_right_nor_a_success(
    toy_model: Normalized, toy_draw: Draw, toy_trigger: Patch
) -> None:
    reference = toy_draw(160, 9).floats()
    case = Case(
        name="toy", model=toy_model, test=toy_draw(40, 1), reference=reference, trigger=toy_trigger, target_label=0
    )
    purifier = Purifier.for_model(toy_model, reference, preset="reject:detector=strip:overlays=20")
    (row,) = evaluate(case, {"reject": purifier})
    assert row.detection is not None
    assert row.detection.auroc.value > 0.9
    assert row.rates["attack_success_rate_before"].value > 0.9
    assert row.rates["attack_success_rate_after"].value < 0.5
    # No answer is no recovery.
    assert row.rates["recovered_accuracy"].value < 0.1
    assert row.rates["flagged_clean"].count < 12
    lost = row.rates["clean_accuracy_before"].count - row.rates["clean_accuracy_after"].count
    assert 0 <= lost <= row.rates["flagged_clean"].count
    assert row.psnr is None
    everything = replace(purifier.preset, calibration=-1e9)  # type: ignore[type-var]
    (row,) = evaluate(case, {"reject": Purifier(toy_model, everything)})
    for name in ("clean_accuracy_after", "attack_success_rate_after", "recovered_accuracy"):
        assert row.rates[name].count == 0
    assert row.rates["flagged_clean"].value == row.rates["flagged_triggered"].value == 1
    assert row.effectiveness == pytest.approx(
        (row.rates["attack_success_rate_before"].value - row.rates["clean_accuracy_before"].value + 1) / 2
    )


def test_what_the_caller_gave_is_not_fitted() -> None:
    """Two models may share one setting."""
    preset = Reject(detector=Bright())
    first, second = (preset.fit(Brightness(), torch.rand(60, 3, 16, 16), batch_size=8) for _ in range(2))
    assert first.detector.model is not second.detector.model
    with pytest.raises(ValueError, match="detector: expected one that was fitted, got one that was not"):
        preset.detector.score(torch.rand(1, 3, 16, 16))
    with pytest.raises(ValueError, match="expected one that was fitted to the model, got one that was not fitted"):
        preset(Brightness(), torch.rand(1, 3, 16, 16), batch_size=8)
    with pytest.raises(ValueError, match="expected one that was fitted to the model, got one that was fitted to an"):
        first(Brightness(), torch.rand(1, 3, 16, 16), batch_size=8)


def test_settings(tmp_path: Path) -> None:
    preset = create("presets", "reject:detector=strip:overlays=40,false_positive_rate=0.1,share=0.6,seed=2")
    assert preset == Reject(detector=Strip(overlays=40), false_positive_rate=0.1, share=0.6, seed=2)
    with pytest.raises(ValueError, match=r"detector: expected one of pictures, .*strip.*, got neural-cleanse"):
        create("presets", "reject:detector=neural-cleanse")
    for name, value in (("false_positive_rate", 0), ("share", 1.0), ("seed", -1)):
        with pytest.raises(ValueError, match=f"{name}: expected a value"):
            Reject(**{name: value})
    with pytest.raises(ValueError, match="reference: expected pictures that the detector learns from, got none"):
        Reject().fit(Brightness(), None, batch_size=8)
    with pytest.raises(ValueError, match=r"scores: expected at least 19 for a rate of 0\.05, got 15"):
        Reject(detector=Bright()).fit(Brightness(), torch.rand(30, 3, 16, 16), batch_size=8)
    fitted = Reject(detector=Bright()).fit(Brightness(), torch.rand(60, 3, 16, 16), batch_size=8)
    for use in (fitted.state, lambda: fitted.with_state(Brightness(), {})):
        with pytest.raises(ValueError, match="preset: expected one that can be kept in a file, got reject, whose"):
            use()

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from sklearn.metrics import roc_auc_score

from februus.data import Dataset
from februus.evidence import Evidence
from februus.models import Normalized
from februus.poisoning import stamp
from februus.purifier import Purifier
from februus.seeds import seeded
from februus.triggers.patch import Patch

Draw = Callable[..., Dataset]

PRESET = "verified:false_positive_rate=0.02,inpainter=mean-fill"


def test_it_scores_as_the_purifier_does(trained_toy: Normalized, toy_draw: Draw, toy_trigger: Patch) -> None:
    reference, drawn = toy_draw(60, 5).floats(), toy_draw(40, 6)
    victims = drawn.subset(drawn.labels != 0)
    detector = Evidence(preset=PRESET, seed=3).fit(trained_toy, reference)
    images = torch.cat([victims.floats(), stamp(victims, toy_trigger, seeded(0)).floats()])
    scores = detector.score(images)
    assert scores.shape == (len(images),)
    assert not scores.requires_grad
    assert roc_auc_score(torch.arange(len(scores)) >= len(victims), scores) > 0.9
    purifier = Purifier.for_model(trained_toy, reference, preset=PRESET, seed=3)
    torch.testing.assert_close(scores[:8], purifier(images[:8]).scores, rtol=1e-3, atol=1e-3)


def test_every_preset_can_give_evidence(trained_toy: Normalized, toy_test: Dataset) -> None:
    images = toy_test.floats()[:6]
    detector = Evidence(preset="paper:inpainter=mean-fill", batch_size=4).fit(trained_toy, images.repeat(3, 1, 1, 1))
    expected = Purifier.for_model(trained_toy, preset="paper:inpainter=mean-fill")(images).scores
    torch.testing.assert_close(detector.score(images), expected, rtol=1e-3, atol=1e-4)


def test_what_does_not_fit_is_refused(trained_toy: Normalized, toy_draw: Draw) -> None:
    images = toy_draw(20, 5).floats()
    with pytest.raises(ValueError, match="detector: expected one that was fitted, got one that was not"):
        Evidence().score(images)
    with pytest.raises(ValueError, match="reference: expected at least 200 pictures"):
        Evidence().fit(trained_toy, images)
    with pytest.raises(ValueError, match=r"preset: expected one of .*verified, got 'magic'"):
        Evidence(preset="magic").fit(trained_toy, images)

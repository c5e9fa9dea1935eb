from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from detectors.neural_cleanse import NeuralCleanse
from februus.data import Dataset
from februus.models import Normalized
from februus.poisoning import poison, stamp
from februus.priors import scan
from februus.purifier import Purifier
from februus.scanning import Service, draw_scan, observe
from februus.seeds import seeded
from februus.triggers.patch import Patch


@pytest.fixture(scope="module")
def purifier(trained_toy: Normalized, toy_draw: Any) -> Purifier:
    return Purifier.for_model(trained_toy, toy_draw(200, 5).floats(), inpainter="telea")


@pytest.fixture(scope="module")
def reference(toy_draw: Any) -> torch.Tensor:
    found: torch.Tensor = toy_draw(200, 5).floats()
    return found


@pytest.fixture(scope="module")
def seen(purifier: Purifier, reference: torch.Tensor, toy_test: Dataset, toy_trigger: Patch) -> Service:
    victims = toy_test.subset(toy_test.labels != 0)
    triggered = stamp(victims.subset(torch.arange(16)), toy_trigger, seeded(0)).floats()
    return observe(purifier, torch.cat([toy_test.floats()[:24], triggered]), reference)


def test_the_trigger_is_recovered(seen: Service, toy_trigger: Patch) -> None:
    assert seen.flagged.total == 40
    assert 14 <= seen.flagged.count <= 18
    assert seen.suspect == 0
    assert seen.taken is not None
    assert seen.taken.value > 0.8
    assert seen.trigger is not None
    assert seen.success is not None
    assert seen.success.value > 0.9
    # What was recovered lies where the trigger does, and looks as it does.
    black = torch.zeros(1, 3, 32, 32)
    truth = toy_trigger(black)[0]
    changed = (toy_trigger(black + 0.5)[0] != 0.5).any(0)
    mask = seen.trigger.mask[0] > 0
    assert (mask & changed).sum() >= 0.5 * changed.sum()
    assert (mask & ~changed).sum() <= changed.sum()
    inside = (mask & changed).expand(3, -1, -1)
    torch.testing.assert_close(seen.trigger.pattern[inside], truth[inside], rtol=0, atol=0.05)


def test_a_trigger_without_a_fixed_place_is_recovered(
    toy_trainer: Any, reference: torch.Tensor, toy_draw: Any, toy_test: Dataset
) -> None:
    moved = Patch(size=5, position="random", chequered=True)
    model = toy_trainer(poison(toy_draw(600), moved, 0, 0.3, seeded(2)))
    victims = toy_test.subset(toy_test.labels != 0).subset(torch.arange(32))
    purifier = Purifier.for_model(model, reference, inpainter="telea")
    found = observe(purifier, stamp(victims, moved, seeded(0)).floats(), reference)
    assert found.suspect == 0
    assert found.success is not None
    assert found.success.value > 0.8


def test_where_nothing_is_flagged(purifier: Purifier, reference: torch.Tensor, toy_test: Dataset) -> None:
    innocent = toy_test.floats()[:24]
    innocent = innocent[~purifier(innocent).flagged]
    found = observe(purifier, innocent, reference)
    assert found.flagged.count == 0
    assert (found.suspect, found.taken, found.trigger, found.success) == (None, None, None, None)


def test_few_flagged_pictures_make_no_trigger(
    purifier: Purifier, reference: torch.Tensor, toy_test: Dataset, toy_trigger: Patch
) -> None:
    victims = toy_test.subset(toy_test.labels != 0).subset(torch.arange(2))
    found = observe(purifier, stamp(victims, toy_trigger, seeded(0)).floats(), reference)
    assert found.flagged.count <= 2
    assert (found.trigger, found.success) == (None, None)


@pytest.mark.parametrize("with_service", [True, False])
def test_the_figure(
    seen: Service, trained_toy: Normalized, reference: torch.Tensor, tmp_path: Path, *, with_service: bool
) -> None:
    found = scan(trained_toy, reference[:32], NeuralCleanse(steps=20))
    for classes in ((), ("a", "b", "c", "d")):
        draw_scan(tmp_path / "scan.png", found, seen if with_service else None, classes)
        with Image.open(tmp_path / "scan.png") as picture:
            assert picture.width > 400

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from februus.data import Dataset
from februus.inpainters.mean_fill import MeanFill
from februus.inpainters.telea import Telea
from februus.masks import dilate, top_fraction
from februus.models import Normalized
from februus.poisoning import poison, stamp
from februus.presets import _examination as examining
from februus.presets import _fitting as fitting
from februus.presets import _restoration as restoring
from februus.presets import verified as module
from februus.presets._calibration import LOOKS, REGIONS, SUSPECTED
from februus.presets._examination import PROBES, Examination, cool
from februus.presets._fitting import INNOCENT, raised
from februus.presets._judgement import ATYPICAL, BORNE, RAREST, Judgement
from februus.presets._pictures import Restored, Seen, sureness
from februus.presets._removal import DENOISED, Removal
from februus.presets._restoration import DECISIVE, GROWTHS, decisive
from februus.presets._transplants import Pattern, carried_by_regions, look_at_region
from februus.presets.verified import LEFT, PARTS, WANING, Verified
from februus.priors import Prior
from februus.purifier import Purifier
from februus.restorers.cosine_threshold import CosineThreshold
from februus.restorers.jpeg import Jpeg
from februus.restorers.notch import Notch
from februus.seeds import seeded
from februus.training.classifier import LocalTraining, fit
from februus.triggers.patch import Patch
from februus.triggers.sinusoidal import Sinusoidal
from februus.types import Purified, Trigger
from februus.universal import SHAPES, Universal
from februus.verification import Law, Tail, consensus, flip, margins

# Of a coarse rate, which takes few reference pictures.
COARSE = {"false_positive_rate": 0.02, "inpainter": "telea"}
FEW = 50
ALL = slice(0, PROBES)


@dataclass(frozen=True)
class Chequered:
    """A faint pattern of two colours over the whole picture, every other pixel the one."""

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        rows, columns = torch.arange(images.shape[2])[:, None], torch.arange(images.shape[3])[None]
        sign = 1 - 2 * ((rows + columns) % 2).float()
        return (images + sign * torch.tensor([1.0, -0.5, 1.0]).view(3, 1, 1) * 7 / 255).clamp(0, 1)


class Unlisted:
    """An inpainter that the registry does not know."""

    def __call__(self, images: Tensor, masks: Tensor) -> Tensor:
        return torch.where(masks > 0, 0.5, images)


@dataclass(frozen=True)
class Case:
    """A backdoored model, a purifier for it, and pictures."""

    model: Normalized
    purifier: Purifier
    reference: Tensor
    clean: Dataset
    untriggered: Dataset
    triggered: Tensor
    target: int = 0

    def mixed(self, count: int = 16) -> Tensor:
        """Return clean pictures and triggered ones by turns."""
        return torch.stack([self.clean.floats(slice(count)), self.triggered[:count]], 1).flatten(0, 1)


def case(
    model: Normalized, trigger: Trigger, reference: Tensor, clean: Dataset, inpainter: str = "telea", **options: Any
) -> Case:
    untriggered = clean.subset(clean.labels != 0)
    triggered = stamp(untriggered, trigger, seeded(0)).floats()
    purifier = Purifier.for_model(model, reference, inpainter=inpainter, **options)
    return Case(model, purifier, reference, clean, untriggered, triggered)


@pytest.fixture(scope="module")
def reference(toy_draw: Callable[..., Dataset]) -> Tensor:
    return toy_draw(200, seed=5).floats()


@pytest.fixture(scope="module")
def patched(trained_toy: Normalized, toy_trigger: Patch, reference: Tensor, toy_test: Dataset) -> Case:
    return case(trained_toy, toy_trigger, reference, toy_test)


def retrained(model: Normalized, poisoned: Dataset) -> Normalized:
    """Return a copy of ``model``, trained afresh."""
    model = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear, nn.BatchNorm2d)):
                module.reset_parameters()
    for epoch, learning_rate in enumerate((0.02, 0.02, 0.02, 0.02, 0.005)):
        fit(model, poisoned, LocalTraining(learning_rate=learning_rate), seeded(epoch))
    return model.eval()


@pytest.fixture(scope="module")
def diffuse(trained_toy: Normalized, toy_draw: Callable[..., Dataset], reference: Tensor, toy_test: Dataset) -> Case:
    """Train a fresh toy on pictures under a faint pattern of single pixels."""
    model = retrained(trained_toy, poison(toy_draw(600), Chequered(), 0, 0.3, seeded(2)))
    return case(model, Chequered(), reference, toy_test)


@pytest.fixture(scope="module")
def waved(trained_toy: Normalized, toy_draw: Callable[..., Dataset], reference: Tensor, toy_test: Dataset) -> Case:
    """Train a fresh toy on pictures under a wave."""
    model = retrained(trained_toy, poison(toy_draw(600), Sinusoidal(), 0, 0.3, seeded(2)))
    return case(model, Sinusoidal(), reference, toy_test)


@pytest.fixture(scope="module")
def coarse(patched: Case) -> Purifier:
    return Purifier.for_model(patched.model, patched.reference[:FEW], batch_size=64, **COARSE)


def verified(purifier: Purifier) -> Verified:
    assert isinstance(purifier.preset, Verified)
    return purifier.preset


def share(values: Tensor) -> float:
    return values.float().mean().item()


def assert_alike(first: Purified, second: Purified, *, atol: float = 1e-5) -> None:
    assert first.labels.tolist() == second.labels.tolist()
    assert first.flagged.tolist() == second.flagged.tolist()
    assert first.stages == second.stages
    torch.testing.assert_close(first.logits, second.logits, rtol=0, atol=atol)
    torch.testing.assert_close(first.logits_before, second.logits_before, rtol=0, atol=atol)


def assert_identical(first: Purified, second: Purified) -> None:
    for name, value in vars(first).items():
        other = getattr(second, name)
        assert torch.equal(value, other) if isinstance(value, Tensor) else value == other, name


def reached(law: Law) -> float:
    """Return the value that one in 200 innocent pictures reaches."""
    values = torch.linspace(-50, 50, 10_001, dtype=torch.float64)
    return values[(law.surprise(values) < -math.log10(0.005)).sum()].item()


# --- what is found, and what is left alone ---------------------------------------------------------------------------


def test_a_planted_patch_is_found_flagged_and_removed(patched: Case) -> None:
    purified = patched.purifier(patched.triggered)
    assert share(purified.logits_before.argmax(1) == patched.target) > 0.9
    assert share(purified.flagged) > 0.95
    assert share(purified.labels == patched.untriggered.labels) > 0.95
    stamped = (patched.triggered != patched.untriggered.floats()).any(1, keepdim=True).float()
    covered = (purified.masks * stamped).sum((1, 2, 3)) / stamped.sum((1, 2, 3))
    assert (covered[purified.flagged] > 0.25).all()
    assert covered[purified.flagged].mean() > 0.8
    assert (purified.masks.mean((1, 2, 3)) <= 0.4 + 1e-3).all()
    assert purified.masks.mean() < 5 * stamped.mean()
    known = purified.masks.expand_as(purified.images) == 0
    assert torch.equal(purified.images[known], patched.triggered[known])
    assert all(stage == "classify" for stage, found in zip(purified.stages, purified.flagged, strict=True) if found)
    torch.testing.assert_close(purified.logits, patched.model(purified.images).detach(), rtol=0, atol=1e-5)


@pytest.fixture
def recorded(patched: Case, monkeypatch: pytest.MonkeyPatch) -> Callable[[Tensor], tuple[Purified, list[Tensor], list]]:
    """Purify four triggered pictures where what decides is given; the masks and the shares that were asked for, too."""

    def purify(given: Tensor) -> tuple[Purified, list[Tensor], list]:
        tried, shares = [], []

        class Recording(Telea):
            def __call__(self, images: Tensor, masks: Tensor) -> Tensor:
                tried.append(masks.clone())
                # The larger of the hottest regions settles nothing, so that all is asked of what decides.
                if masks.mean() > 0.9 * SUSPECTED[1]:
                    return images.clone()
                return super().__call__(images, masks)

        def decide(*asked: Any) -> Tensor:
            shares.append((asked[-1], len(asked[1])))
            return given[: len(asked[1])].clone()

        monkeypatch.setattr(restoring, "decisive", decide)
        # Nor is anything known of what leads the model.
        calibration = replace(verified(patched.purifier).calibrated(), universals=(), borne=())
        preset = replace(verified(patched.purifier), inpainter=Recording(), calibration=calibration)
        purified = Purifier(patched.model, preset)(patched.triggered[:4])
        assert purified.flagged.all()
        return purified, tried, shares

    return purify


def corner() -> Tensor:
    masks = torch.zeros(4, 1, 32, 32)
    masks[:, :, 0, 0] = 1
    return masks


def test_it_is_done_when_the_class_is_another_one_and_the_same_twice(patched: Case, recorded: Callable) -> None:
    stamped = (patched.triggered[:4] != patched.untriggered.floats(slice(4))).any(1, keepdim=True).float()
    purified, tried, shares = recorded(stamped)
    assert [share for share, _ in shares] == list(DECISIVE[: len(shares)])
    assert len(shares) <= 2
    assert not any(torch.equal(masks, dilate(stamped, 1)[: len(masks)]) for masks in tried)
    assert (purified.labels != purified.logits_before.argmax(1)).all()


def test_what_keeps_the_class_is_grown_and_what_decides_asked_again(recorded: Callable) -> None:
    purified, tried, shares = recorded(corner())
    assert shares == [(share, 4) for share in DECISIVE]
    for times in range(1, GROWTHS + 1):
        assert sum(torch.equal(masks, dilate(corner(), times)) for masks in tried) == len(DECISIVE)
    # The hottest region, which was tried first, gave the surest other class: it counts.
    assert torch.equal(purified.masks, top_fraction(purified.heatmaps, SUSPECTED[0]))
    assert (purified.labels != purified.logits_before.argmax(1)).all()


def test_where_nothing_decides_the_last_region_stays(recorded: Callable) -> None:
    purified, tried, _ = recorded(torch.zeros(4, 1, 32, 32))
    assert all(masks.flatten(1).any(1).all() for masks in tried)
    assert (purified.labels != purified.logits_before.argmax(1)).all()


def test_what_decides_between_two_pictures_is_where_they_differ() -> None:
    """A linear model: the pixel that speaks for the class is marked, the one that speaks against it is not."""
    weight = torch.zeros(2, 3, 32, 32)
    weight[0, :, 8, 8] = weight[1, :, 24, 24] = 1.0
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2, bias=False))
    model[1].weight.data = weight.flatten(1)
    own, other = torch.tensor([0]), torch.tensor([1])
    found = decisive(model, torch.ones(1, 3, 32, 32), torch.zeros(1, 3, 32, 32), own, other, 0.1)
    assert found[0, 0, 8, 8] == 1
    assert found[0, 0, 24, 24] == 0
    # A Gaussian of 2 pixels falls to a tenth at 4.3.
    assert 0 < found.sum() <= 9 * 9
    fewer = decisive(model, torch.ones(1, 3, 32, 32), torch.zeros(1, 3, 32, 32), own, other, 0.5)
    assert 0 < fewer.sum() < found.sum()
    same = torch.rand(1, 3, 32, 32)
    assert decisive(model, same, same, own, other, 0.1).sum() == 0
    assert all(parameter.grad is None for parameter in model.parameters())


def ask_all(
    ask: Callable[..., Tensor], judge: object, threshold: float, margins: Tensor, questions: tuple[Any, ...]
) -> Tensor:
    """Return what all probes say: `settle` without its economy."""
    everything = (REGIONS, ALL) if margins.ndim == 3 else (ALL,)
    return consensus(ask(torch.arange(len(margins)), *everything))


def test_few_probes_settle_what_all_would(patched: Case, diffuse: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but the score depends on how many are asked: a bound from above of who is let go, else from below."""
    for shown in (patched, diffuse):
        images = shown.mixed(30)
        quick = shown.purifier(images)
        monkeypatch.setattr(examining, "settle", ask_all)
        whole = shown.purifier(images)
        monkeypatch.undo()
        assert quick.flagged.any()
        assert_alike(quick, whole)
        let_go = ~quick.flagged
        assert (quick.scores[let_go] >= whole.scores[let_go] - 1e-4).all()
        assert (quick.scores[quick.flagged] <= whole.scores[quick.flagged] + 1e-4).all()


def test_few_acquit_more_convict_and_all_are_everything() -> None:
    first, second, last = examining.JURIES
    assert 0 == first.start < first.stop == second.start < second.stop == last.start < last.stop == PROBES
    asked = torch.zeros(len(SUSPECTED), PROBES)
    for place, probe in LOOKS:
        asked[place, probe] += 1
    for sizes, jury in examining.OF_REGIONS:
        asked[sizes, jury] += 1
    assert (asked == 1).all()
    assert [jury for (jury,) in examining.OF_OTHERS] == [first, second, last]


def test_with_the_shipped_inpainter_too(
    trained_toy: Normalized, toy_trigger: Patch, reference: Tensor, toy_test: Dataset
) -> None:
    default = case(trained_toy, toy_trigger, reference[:FEW], toy_test, inpainter="gan", false_positive_rate=0.02)
    purified = default.purifier(default.triggered[:12])
    assert purified.flagged.all()
    assert torch.equal(purified.labels, default.untriggered.labels[:12])


def test_clean_pictures_come_back_bit_for_bit(patched: Case) -> None:
    images = patched.clean.floats()
    purified = patched.purifier(images)
    assert share(purified.flagged) <= 0.02
    innocent = ~purified.flagged
    assert torch.equal(purified.images[innocent], images[innocent])
    assert torch.equal(purified.logits[innocent], purified.logits_before[innocent])
    assert not purified.masks[innocent].any()
    stages = {stage for stage, clear in zip(purified.stages, innocent, strict=True) if clear}
    assert stages == {"locate", "verify"}
    assert share(torch.tensor([stage == "locate" for stage in purified.stages])) > 0.5
    assert share(purified.labels == patched.clean.labels) > 0.95


def test_a_triggered_picture_of_the_target_class_keeps_its_class(patched: Case, toy_trigger: Patch) -> None:
    own = patched.clean.subset(patched.clean.labels == patched.target)
    purified = patched.purifier(stamp(own, toy_trigger, seeded(0)).floats())
    assert share(purified.labels == own.labels) > 0.6


def test_shapes_and_types(patched: Case) -> None:
    purified = patched.purifier(patched.mixed(3))
    expected = {
        "images": ((6, 3, 32, 32), torch.float32),
        "heatmaps": ((6, 1, 32, 32), torch.float32),
        "masks": ((6, 1, 32, 32), torch.float32),
        "logits_before": ((6, 4), torch.float32),
        "logits": ((6, 4), torch.float32),
        "labels": ((6,), torch.int64),
        "flagged": ((6,), torch.bool),
        "scores": ((6,), torch.float32),
    }
    found = {name: (tuple(getattr(purified, name).shape), getattr(purified, name).dtype) for name in expected}
    assert found == expected
    assert not any(getattr(purified, name).requires_grad for name in expected)
    assert set(purified.masks.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("without", [None, *PARTS])
def test_a_picture_is_flagged_from_the_threshold_on(patched: Case, without: str | None) -> None:
    purifier = Purifier.for_model(patched.model, patched.reference[:FEW], without=without, **COARSE)
    purified = purifier(patched.mixed())
    assert torch.equal(purified.flagged, purified.scores >= -math.log10(0.02))
    assert verified(purifier).judgement.threshold == pytest.approx(1.69897)
    assert purified.scores.isfinite().all()
    assert purified.scores[1::2].mean() > purified.scores[::2].mean()


def whole_restorations(images: Tensor) -> list[Tensor]:
    """Return what each restorer of whole pictures makes of them, from the gentlest on."""
    restorers = (
        CosineThreshold(),
        Notch(),
        *(CosineThreshold(threshold=threshold) for threshold in DENOISED),
    )
    return [restorer(images) for restorer in restorers]


def test_a_diffuse_trigger_is_taken_off_the_whole_picture(diffuse: Case) -> None:
    purified = diffuse.purifier(diffuse.triggered)
    assert share(purified.logits_before.argmax(1) == diffuse.target) > 0.9
    assert share(purified.flagged) > 0.8
    assert share(purified.labels == diffuse.untriggered.labels) > 0.6
    whole = purified.masks.flatten(1).all(1)
    assert share(whole) > 0.8
    steps = torch.stack(whole_restorations(diffuse.triggered[whole]))
    assert ((steps - purified.images[whole]).abs().flatten(2).amax(2) < 1e-5).any(0).all()
    clean = diffuse.purifier(diffuse.clean.floats())
    assert share(clean.flagged) <= 0.02


def test_a_wave_that_is_no_noise_is_taken_off(waved: Case) -> None:
    with torch.no_grad():
        still = waved.model(CosineThreshold()(waved.triggered)).argmax(1)
    assert share(still == waved.target) > 0.9
    purified = waved.purifier(waved.triggered)
    assert share(purified.logits_before.argmax(1) == waved.target) > 0.9
    assert share(purified.flagged) > 0.8
    whole = purified.masks.flatten(1).all(1)
    assert share(whole) > 0.8
    assert share(purified.labels == waved.target) < 0.2
    assert share(purified.labels == waved.untriggered.labels) > 0.6
    clean = waved.purifier(waved.clean.floats())
    assert share(clean.flagged) <= 0.02


def test_a_patch_is_no_wave(patched: Case) -> None:
    """Outside the hottest quarter nothing of it is left."""
    preset, images = verified(patched.purifier), patched.triggered[:20]
    heat = preset.see(patched.model, images).heat
    noise, waves = preset.patterns(images, heat)
    hottest = top_fraction(heat, SUSPECTED[-1]).expand_as(images) > 0
    assert not waves.added[hottest].any()
    assert noise.added[hottest].any()
    assert waves.added[~hottest].any()
    torch.testing.assert_close(noise.without, CosineThreshold()(images))
    torch.testing.assert_close(waves.without, Notch()(images))


def test_the_probe_that_goes_with_all_of_them_is_asked_first(patched: Case) -> None:
    """And of each probe it is kept what innocent pictures do there."""
    preset = verified(patched.purifier)
    calibration, order = preset.calibrated(), torch.randperm(len(patched.reference), generator=seeded(preset.seed))
    others = patched.reference[order[PROBES:]]
    seen = preset.see(patched.model, others)
    brought = carried_by_regions(patched.model, others, seen.heat, seen.labels, calibration.probes, batch_size=64)
    usual, spread = calibration.resistance[:, REGIONS]
    torch.testing.assert_close(brought.mean(0), usual, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(brought.std(0), spread, rtol=1e-3, atol=1e-3)
    relative = calibration.against(brought, REGIONS)
    torch.testing.assert_close(relative.std(0), torch.ones_like(usual), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(calibration.against(brought[..., 1:3], REGIONS, slice(1, 3)), relative[..., 1:3])
    largest = relative[:, LOOKS[0][0]]
    goes = torch.corrcoef(torch.cat([consensus(largest)[:, None], largest], 1).T)[0, 1:]
    assert (goes.diff() <= 1e-3).all()
    assert goes[0] > goes[-1]


def test_what_first_looks_found_is_not_asked_again(patched: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands where it was asked for, and the other margins are as they were."""
    preset, images = verified(patched.purifier), patched.mixed()[:6]
    probes = preset.calibrated().probes
    seen = preset.see(patched.model, images)
    given = (patched.model, images, seen.heat, seen.labels, probes[:2])
    asked = carried_by_regions(*given, batch_size=64)
    for which, (place, probe) in enumerate(LOOKS):
        found = look_at_region(which, *given, batch_size=64)
        torch.testing.assert_close(found, asked[:, place, probe])
    # They are among what is known before regions are asked for, and no question asks for them.
    begun: list[Tensor] = []
    end = examining.settle

    def spy(ask: Any, judge: Any, threshold: float, margins: Tensor, questions: Any) -> Tensor:
        begun.append(margins.clone())
        return end(ask, judge, threshold, margins, questions)

    monkeypatch.setattr(examining, "settle", spy)
    examined = Purifier(
        patched.model, replace(preset, calibration=replace(preset.calibrated(), suspicious=(-9e9, -9e9)))
    )
    examined(images)
    expected = torch.full((len(images), len(SUSPECTED), PROBES), torch.nan)
    relative = preset.calibrated().against(asked, REGIONS, slice(0, 2))
    for place, probe in LOOKS:
        expected[:, place, probe] = relative[:, place, probe]
    torch.testing.assert_close(begun[0], expected, equal_nan=True)


def test_waves_are_not_asked_for_where_noise_explains_the_class(diffuse: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    preset, judge = verified(diffuse.purifier), Examination.pattern
    asked, found = dict[int, Tensor](), dict[int, Tensor]()

    def spy(
        self: Examination, place: int, pattern: Pattern, labels: Tensor, questioned: Tensor, without: Restored
    ) -> Tensor:
        asked[place] = questioned
        found[place] = judge(self, place, pattern, labels, questioned, without)
        return found[place]

    monkeypatch.setattr(Examination, "pattern", spy)
    purified = preset(diffuse.model, diffuse.triggered[:20], batch_size=64)
    explained = found[0] >= preset.judgement.threshold
    assert explained.any()
    assert not (asked[1] & explained).any()
    assert purified.flagged[explained].all()


def test_the_class_is_lost_with_what_made_it(patched: Case, waved: Case) -> None:
    """A patch with the smallest suspected region, a wave with the waves: more surely than innocent classes."""
    flips = []
    for images in (patched.triggered[:40], patched.clean.floats(slice(40))):
        preset = verified(patched.purifier)
        seen = preset.see(patched.model, images)
        heat, labels = seen.heat, seen.labels
        restored, masks, logits, features = cool(preset.restoration(patched.model, 64), images, heat)
        torch.testing.assert_close(masks, top_fraction(heat, SUSPECTED[0]))
        torch.testing.assert_close(restored, preset.inpainter(images, masks))
        torch.testing.assert_close(logits, patched.model(restored))
        torch.testing.assert_close(features, preset.see(patched.model, restored).features)
        flips.append(-margins(logits, labels))
    assert roc_auc_score([1] * 40 + [0] * 40, torch.cat(flips)) > 0.9
    preset, flips = verified(waved.purifier), []
    for images in (waved.triggered[:40], waved.clean.floats(slice(40))):
        labels = waved.model(images).argmax(1)
        waves = preset.patterns(images, preset.see(waved.model, images).heat)[1]
        flips.append(flip(waved.model, waves.without, labels, batch_size=64))
    assert roc_auc_score([1] * 40 + [0] * 40, torch.cat(flips)) > 0.9


@pytest.mark.parametrize("kind", ["patched", "diffuse", "waved"])
def test_but_for_what_is_struck_the_logits_are_the_model_s(kind: str, request: pytest.FixtureRequest) -> None:
    found: Case = request.getfixturevalue(kind)
    purified = found.purifier(found.mixed(30))
    other = torch.tensor([stage != "strike" for stage in purified.stages])
    assert (purified.flagged & other).any()
    torch.testing.assert_close(purified.logits[other], found.model(purified.images).detach()[other], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["diffuse", "waved"])
def test_a_whole_picture_is_restored_as_gently_as_changes_the_class(kind: str, request: pytest.FixtureRequest) -> None:
    found: Case = request.getfixturevalue(kind)
    preset, images = verified(found.purifier), found.triggered[:12]
    labels = found.model(images).argmax(1)
    still = CosineThreshold()(images)
    nowhere = torch.zeros(len(images), dtype=torch.bool)
    first = preset.restoration(found.model, 64).of(still, torch.ones_like(still[:, :1]))
    restored, masks, logits, _ = preset.removal(found.model, 64).whole(images, first, labels, nowhere)
    assert (masks == 1).all()
    torch.testing.assert_close(logits, found.model(restored).detach(), rtol=0, atol=1e-5)
    steps = whole_restorations(images)
    for picture, tried, label in zip(restored, zip(*steps, strict=True), labels, strict=True):
        answers = found.model(torch.stack(tried)).detach()
        kept = (answers.argmax(1) == label).tolist()
        best = kept.index(False) if False in kept else int(sureness(answers, label.expand(len(tried))).argmax())
        torch.testing.assert_close(picture, tried[best], rtol=0, atol=1e-5)


def leave_whole(removal: Removal, images: Tensor, *_: Tensor) -> Restored:
    """In the place of `Removal.whole`: the whole pictures stay as they came."""
    return removal.restoration.of(images.clone(), torch.ones_like(images[:, :1]))


def test_a_class_that_cannot_be_taken_off_is_struck(
    patched: Case, diffuse: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Removal, "whole", leave_whole)
    images = diffuse.mixed(30)
    # As a diffuse trigger is strange, a region would explain the class as well, and go before that is struck.
    plain = replace(verified(diffuse.purifier), without="typicality")
    purified = Purifier(diffuse.model, plain)(images)
    before, flagged = purified.logits_before, purified.flagged
    assert share(flagged[1::2]) > 0.8
    struck = torch.tensor([stage == "strike" for stage in purified.stages])
    assert not struck[~flagged].any()
    assert (purified.labels != before.argmax(1))[struck].all()
    struck &= purified.masks.flatten(1).all(1)
    assert share(struck[flagged]) > 0.8
    assert torch.equal(purified.images[struck], images[struck])
    # The next answer of the same logits, which stay as they were but for the struck one.
    own = torch.zeros_like(before).scatter(1, before.argmax(1, keepdim=True), 1.0).bool()
    assert torch.equal(purified.labels[struck], before.masked_fill(own, -math.inf).argmax(1)[struck])
    torch.testing.assert_close(purified.logits[~own & struck[:, None]], before[~own & struck[:, None]])
    least = before.masked_fill(own, math.inf).amin(1)
    torch.testing.assert_close(purified.logits[own][struck], least[struck])
    assert torch.equal(purified.logits[~flagged], before[~flagged])
    assert share(purified.labels[1::2] == diffuse.untriggered.labels[:30]) > 0.5
    # What is left of the class once a region is gone may be what the picture shows.
    assert "strike" not in patched.purifier(patched.triggered).stages


class Cornered(nn.Module):
    """A model that takes pictures for class 0 as long as they bear enough of a pattern, else for 1."""

    def __init__(self, pattern: Tensor):
        super().__init__()
        self.pattern = nn.Parameter(pattern)
        # What looks at pictures looks at maps.
        self.maps = nn.Conv2d(3, 3, 1, bias=False)
        self.maps.weight = nn.Parameter(torch.eye(3)[..., None, None])

    def forward(self, images: Tensor) -> Tensor:
        there = (self.maps(images) * self.pattern).sum((1, 2, 3))
        return torch.stack([10 * (there - 0.5), torch.zeros_like(there), torch.full_like(there, -9)], 1)


def led_by(patched: Case, pattern: Tensor) -> Verified:
    """A preset that knows of a pattern (3, H, W) that it leads the model to class 0."""
    one = Universal(label=0, perturbation=torch.zeros_like(pattern), filter=pattern)
    calibration = replace(verified(patched.purifier).calibrated(), universals=(one,) * len(SHAPES))
    return replace(verified(patched.purifier), calibration=calibration)


def test_what_keeps_the_class_loses_the_region_that_bears_a_universal_perturbation(patched: Case) -> None:
    side = patched.reference.shape[-1]
    pattern = torch.zeros(3, side, side)
    pattern[:, : side // 2, : side // 2] = 4 / (3 * side * side)
    preset = led_by(patched, pattern)
    images, model = torch.full((4, 3, side, side), 0.3), Cornered(pattern)
    images[:2, :, : side // 2, : side // 2] = 0.9
    labels, bearing = torch.zeros(4, dtype=torch.long), torch.tensor([True, False, True, False])
    first = preset.restoration(model, 64).of(images.clone(), torch.ones_like(images[:, :1]))
    assert first.logits.argmax(1).tolist() == [0, 0, 1, 1]
    restored, masks, logits, _ = preset.removal(model, 64).whole(images, first, labels, bearing)
    # It is in the quarter, no larger than was asked for, and gone; who does not bear it keeps the class.
    assert logits.argmax(1)[:2].tolist() == [1, 0]
    assert masks[0].mean() < 0.4
    assert masks[0, 0, : side // 2, : side // 2].mean() > 0.9
    assert (masks[1:] == 1).all()
    assert torch.equal(restored[0] * (1 - masks[0]), images[0] * (1 - masks[0]))


@pytest.mark.parametrize(("side", "shares"), [(6, [0.1, 0.2]), (12, [0.1, 0.2]), (17, [0.1, 0.2, 0.3])])
def test_of_the_class_that_the_model_takes_to_what_bears_what_leads_there_goes_first(
    patched: Case, monkeypatch: pytest.MonkeyPatch, side: int, shares: list[float]
) -> None:
    """And what decides is only asked for where that does not make the same other class twice."""
    pattern = torch.zeros(3, 32, 32)
    pattern[:, 4 : 4 + side, 4 : 4 + side] = 1 / (3 * side * side)
    images = torch.full((2, 3, 32, 32), 0.3)
    images[0, :, 4 : 4 + side, 4 : 4 + side] = 0.9
    tried = []

    class Recording:
        def __call__(self, images: Tensor, masks: Tensor) -> Tensor:
            tried.append(masks)
            return MeanFill()(images, masks)

    def nothing(_: nn.Module, images: Tensor, *_others: Any) -> Tensor:
        asked.append(len(images))
        return torch.zeros_like(images[:, :1])

    asked: list[int] = []
    monkeypatch.setattr(restoring, "decisive", nothing)
    model, preset = Cornered(pattern), replace(led_by(patched, pattern), inpainter=Recording())
    labels, places = model(images).argmax(1), torch.zeros_like(images[:, :1])
    assert labels.tolist() == [0, 1]
    cooled = preset.restoration(model, 64).of(images.clone(), torch.zeros_like(images[:, :1]))
    cold = torch.zeros_like(places)
    restored = preset.removal(model, 64).region(images, cold, cooled, labels, places)
    assert restored.logits[0].argmax() == 1
    assert (restored.images[0] == images[0])[:, ~restored.masks[0, 0].bool()].all()
    borne = [masks for masks in tried if len(masks) == 1]
    assert [round(masks.mean().item(), 1) for masks in borne if masks.any()][: len(shares)] == shares
    # The other picture is of another class, and asked for in any case.
    assert asked[0] == len(shares) - 1
    plain = replace(preset, without="refinement")
    without_it = plain.removal(model, 64).region(images, cold, cooled, labels, places)
    assert torch.equal(without_it.logits, cooled.logits)


def test_where_two_hottest_regions_make_the_same_other_class_nothing_else_is_asked(
    patched: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    pattern, images = torch.zeros(3, 32, 32), torch.full((3, 3, 32, 32), 0.3)
    pattern[:, 4:8, 4:8] = 1 / 48
    images[:, :, 4:8, 4:8] = 0.9
    # The trigger is in the hottest 3 %, in the hottest 10 % alone, and elsewhere.
    heat, places = torch.zeros(3, 1, 32, 32), torch.zeros(3, 1, 32, 32)
    heat[0, :, 3:9, 3:9] = 2
    heat[1, :, 2:10, 2:12] = 1
    heat[1, :, 12:18, 12:18] = 2
    heat[2, :, 16:] = 1
    asked: list[Tensor] = []

    def nothing(_: nn.Module, images: Tensor, restored: Tensor, *_others: Any) -> Tensor:
        asked.append((images != restored).any(1, keepdim=True))
        return torch.zeros_like(images[:, :1])

    monkeypatch.setattr(restoring, "decisive", nothing)
    model = Cornered(pattern)
    unled = replace(verified(patched.purifier).calibrated(), universals=(), borne=())
    preset = replace(verified(patched.purifier), inpainter=MeanFill(), calibration=unled)
    labels = model(images).argmax(1)
    assert labels.tolist() == [0, 0, 0]
    cooled = cool(preset.restoration(model, 64), images, heat)
    assert cooled.logits.argmax(1).tolist() == [1, 0, 0]
    restored = preset.removal(model, 64).region(images, heat, cooled, labels, places)
    assert restored.logits.argmax(1)[:2].tolist() == [1, 1]
    # Of the first nothing is asked; of the others what decides is, from the larger of both regions on, but where that
    # keeps the class, too.
    assert len(asked[0]) == 2
    assert asked[0][0, 0, 4:8, 4:8].all()
    assert torch.equal(asked[0][1], (images != cooled.images)[2].any(0, keepdim=True))


def test_what_changes_the_class_counts_before_what_is_surer() -> None:
    labels, rows = torch.tensor([0, 0, 0]), torch.arange(3)
    kept, surer, changed = torch.tensor([[2.0, 1.9, -5.0], [2.0, 1.95, -5.0], [0.9, 1.0, 0.95]])
    sure = sureness(torch.stack([kept, surer, changed]), labels)
    assert sure[2] < sure[0] < sure[1]
    picture, mask, features = torch.zeros(3, 3, 1, 1), torch.zeros(3, 1, 1, 1), torch.zeros(3, 6)
    best = Restored(picture, mask, torch.stack([kept, kept, changed]), features)
    best.prefer(rows, Restored(picture, mask, torch.stack([surer, changed, surer]), features), labels)
    assert torch.equal(best.logits, torch.stack([surer, changed, changed]))


@dataclass(frozen=True)
class Shaded:
    """A faint shade over the whole picture, of low frequencies, in several colours."""

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        rows, columns = (torch.linspace(0, math.pi, side) for side in images.shape[2:])
        shade = torch.cos(2 * rows)[:, None] * torch.cos(4 * columns)
        return (images + shade * torch.tensor([1.0, -1.0, 0.5]).view(3, 1, 1) * 32 / 255).clamp(0, 1)


@pytest.fixture(scope="module")
def shaded(trained_toy: Normalized, toy_draw: Callable[..., Dataset], reference: Tensor, toy_test: Dataset) -> Case:
    """Train a fresh toy on pictures under a shade."""
    model = retrained(trained_toy, poison(toy_draw(600), Shaded(), 0, 0.3, seeded(2)))
    return case(model, Shaded(), reference, toy_test)


def test_a_trigger_of_low_frequencies_is_found_by_what_the_model_takes_to_most_readily(shaded: Case) -> None:
    left_out = Purifier.for_model(shaded.model, shaded.reference, inpainter="telea", without="universal")
    assert verified(left_out).calibrated().universals == ()
    # What is not like its class is found without them, too.
    before, purified = (
        Purifier(shaded.model, replace(verified(shaded.purifier), without="typicality", calibration=known))(
            shaded.triggered
        )
        for known in (
            replace(verified(shaded.purifier).calibrated(), universals=(), borne=()),
            verified(shaded.purifier).calibrated(),
        )
    )
    calibration, labels = verified(shaded.purifier).calibrated(), shaded.model(shaded.triggered).argmax(1)
    assert [one.label for one in calibration.universals] == [shaded.target] * len(SHAPES)
    led = labels == shaded.target
    assert share(led) > 0.9
    assert share(purified.flagged) > share(before.flagged) + 0.1
    shown = shaded.untriggered.labels
    right = share(purified.labels == shown)
    assert right > share(before.labels == shown) + 0.1
    assert share(shaded.purifier(shaded.triggered).labels == shown) > right - 0.05
    assert share(shaded.purifier(shaded.clean.floats()).flagged) <= 0.03
    # Of other classes it says nothing.
    preset, usual = verified(shaded.purifier), torch.zeros(len(labels))
    judged = preset.judgement.universals(shaded.triggered, labels, usual)
    assert torch.equal(judged.isfinite(), led[:, None].expand(-1, len(SHAPES)))
    assert (preset.judgement.universals(shaded.triggered, labels + 1, usual) == -math.inf).all()
    # What is joined is how rare it is inside the class, which itself is as rare as it is.
    for found, one, law in zip(judged.T, calibration.universals, calibration.borne, strict=True):
        rare = -math.log10(law.frequencies[one.label])
        inside = law.surprise(one.borne(shaded.triggered)) - rare
        granted = math.log10(BORNE / len(SHAPES))
        torch.testing.assert_close(found[led], (rare + preset.judgement.joined(inside, usual) + granted)[led])
    # What is strange takes less of it.
    assert (preset.judgement.universals(shaded.triggered, labels, usual + 4) > judged)[led].all()
    plain = replace(preset, without="typicality")
    assert torch.equal(
        plain.judgement.universals(shaded.triggered, labels, usual + 4),
        plain.judgement.universals(shaded.triggered, labels, usual),
    )


def test_two_independent_surprises_are_joined_as_often_as_is_stated(patched: Case) -> None:
    preset, many = verified(patched.purifier), 200_000
    # -log10 of what is uniform; as of distances, what is not in the upper quartile is not surprising.
    first, second = -torch.rand(2, many, generator=seeded(4)).double().log10()
    joined = preset.judgement.joined(first, ATYPICAL * (second + math.log10(Tail.SHARE)).clamp(min=0))
    for share in (0.1, 0.01, 0.001):
        found = (joined >= -math.log10(share)).double().mean().item()
        assert found == pytest.approx(share, abs=4 * math.sqrt(share / many))


# --- thresholds come from the reference alone ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("beyond", "expected"),
    [
        ([], 0.0),
        ([0.1], 0.1),
        ([0.1, 0.5], 0.5),
        ([0.1, 0.5, 3.0], 0.5),  # what is far beyond is a triggered one
        ([3.0], 0.0),
        ([0.1, 0.2, 0.3, 0.4], 0.0),  # so may be those of which there are more than a few
    ],
)
def test_what_reference_pictures_reach_is_not_flagged(patched: Case, beyond: list[float], expected: float) -> None:
    judgement = verified(patched.purifier).judgement
    surprises = torch.linspace(-1, 2, 251, dtype=torch.float64)
    surprises[: len(beyond)] = judgement.threshold + torch.tensor(beyond, dtype=torch.float64)
    found = raised(surprises, judgement)
    assert found == pytest.approx(expected, abs=1e-5)
    if expected:
        above = surprises - judgement.threshold
        assert not ((above >= found) & (above < INNOCENT)).any()


def test_a_raised_bar_is_one_for_all_that_is_asked_of_it(patched: Case) -> None:
    low, high = (
        replace(verified(patched.purifier), calibration=replace(verified(patched.purifier).calibrated(), raised=raised))
        for raised in ((0.0, 0.0), (1.0, 2.0))
    )
    for place in range(2):
        patterns = [
            one.judgement.pattern(place, torch.linspace(0, 9, 4), torch.linspace(-1, 1, 4)) for one in (low, high)
        ]
        torch.testing.assert_close(patterns[0] - 1 - place, patterns[1])


def test_the_bar_is_raised_by_what_the_reference_reaches(
    patched: Case, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given, asked, tolerated = iter((1.0, 2.0)), [], []
    fitted = Law.fit

    def reach(surprises: Tensor, _: Judgement) -> float:
        asked.append(surprises)
        return next(given)

    def spy(*values: Any, **options: Any) -> Law:
        tolerated.append(options.get("tolerated", 0))
        return fitted(*values, **options)

    monkeypatch.setattr(fitting, "raised", reach)
    monkeypatch.setattr(Law, "fit", spy)
    purifier = Purifier.for_model(patched.model, patched.reference, batch_size=64, inpainter="mean-fill")
    assert verified(purifier).calibrated().raised == (1.0, 2.0)
    # Of the regions, of what is left without the smallest, and of all that is known of them: 2 % may be triggered.
    assert sorted(tolerated)[-(len(SUSPECTED) + 2) :] == [4] * (len(SUSPECTED) + 2)
    assert sum(tolerated) == 4 * (len(SUSPECTED) + 2)
    # What is asked is what is known of each of the reference pictures but for the probes.
    assert [len(surprises) for surprises in asked] == [len(patched.reference) - PROBES] * 2
    purifier.save(tmp_path / "kept")
    assert verified(Purifier.load(tmp_path / "kept", patched.model)).calibrated().raised == (1.0, 2.0)


def test_the_same_reference_teaches_the_same(patched: Case) -> None:
    first = Purifier.for_model(patched.model, patched.reference[:FEW], **COARSE)
    torch.manual_seed(99)
    first(patched.mixed())
    second = Purifier.for_model(copy.deepcopy(patched.model), patched.reference[:FEW].clone(), **COARSE)
    assert first.preset.state().keys() == second.preset.state().keys()
    for name, value in first.preset.state().items():
        assert torch.equal(value, second.preset.state()[name]), name
    other = Purifier.for_model(patched.model, patched.reference[FEW : 2 * FEW], **COARSE)
    assert not torch.equal(other.preset.state()["tails"], first.preset.state()["tails"])


def test_other_test_pictures_change_nothing(patched: Case) -> None:
    state = copy.deepcopy(patched.purifier.preset.state())
    before = patched.purifier(patched.clean.floats(slice(4)))
    patched.purifier(patched.triggered[:20])
    assert_identical(patched.purifier(patched.clean.floats(slice(4))), before)
    assert all(torch.equal(value, state[name]) for name, value in patched.purifier.preset.state().items())


def test_fit_leaves_the_reference_and_the_unfitted_preset_alone(patched: Case) -> None:
    reference, preset = patched.reference[:FEW].clone(), Verified(false_positive_rate=0.02)
    fitted = preset.fit(patched.model, reference, batch_size=64)
    assert torch.equal(reference, patched.reference[:FEW])
    assert preset.calibration is None
    assert fitted.calibration is not None
    assert replace(fitted, calibration=None) == preset


def test_the_seed_chooses_the_probes_among_the_reference(patched: Case) -> None:
    probes = [
        verified(Purifier.for_model(patched.model, patched.reference[:FEW], seed=seed, **COARSE)).calibrated().probes
        for seed in (0, 1)
    ]
    assert not torch.equal(probes[0], probes[1])
    for probe in torch.cat(probes):
        assert (patched.reference[:FEW] == probe).flatten(1).all(1).sum() == 1
    assert len(probes[0]) == PROBES


def test_the_batch_size_changes_no_threshold(patched: Case) -> None:
    tails = [
        Purifier.for_model(patched.model, patched.reference[:FEW], batch_size=size, **COARSE).preset.state()["tails"]
        for size in (7, 256)
    ]
    torch.testing.assert_close(tails[0], tails[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("probe", [False, True], ids=["among others", "also the first probe"])
def test_two_percent_of_triggered_reference_pictures_are_survived(
    patched: Case,
    toy_draw: Callable[..., Dataset],
    toy_trigger: Patch,
    probe: bool,  # noqa: FBT001
) -> None:
    order = torch.randperm(len(patched.reference), generator=seeded(0))
    spoilt = torch.cat([order[:1], order[20:23]]) if probe else order[20:24]
    others = toy_draw(40, seed=7)
    reference = patched.reference.clone()
    reference[spoilt] = stamp(others.subset(others.labels != 0), toy_trigger, seeded(0)).floats(slice(4))
    purifier = Purifier.for_model(patched.model, reference, inpainter="telea")
    purified = purifier(patched.triggered[:40])
    assert share(purified.flagged) > 0.9
    assert share(purified.labels == patched.untriggered.labels[:40]) > 0.9
    assert share(purifier(patched.clean.floats()).flagged) <= 0.03
    if not probe:
        clean, dirty = verified(patched.purifier).calibrated(), verified(purifier).calibrated()
        for one, other in zip(clean.laws, dirty.laws, strict=True):
            assert reached(other) == pytest.approx(reached(one), rel=0.2, abs=0.8)


# --- a picture is judged by itself -----------------------------------------------------------------------------------


def test_the_result_does_not_depend_on_the_batch(patched: Case) -> None:
    images = patched.mixed()
    whole = patched.purifier(images)
    assert whole.flagged.any()
    assert not whole.flagged.all()
    order = torch.randperm(len(images), generator=seeded(3))
    shuffled = patched.purifier(images[order])
    assert shuffled.labels.tolist() == whole.labels[order].tolist()
    assert shuffled.flagged.tolist() == whole.flagged[order].tolist()
    torch.testing.assert_close(shuffled.logits, whole.logits[order], rtol=0, atol=1e-5)
    for size in (1, 7):
        assert_alike(Purifier(patched.model, patched.purifier.preset, batch_size=size)(images), whole)
    alone = [patched.purifier(one) for one in images[:8].split(1)]
    assert torch.cat([one.labels for one in alone]).tolist() == whole.labels[:8].tolist()
    assert torch.cat([one.flagged for one in alone]).tolist() == whole.flagged[:8].tolist()
    torch.testing.assert_close(torch.cat([one.logits for one in alone]), whole.logits[:8], rtol=0, atol=1e-5)


def test_whole_pictures_do_not_depend_on_the_batch_either(diffuse: Case) -> None:
    images = diffuse.mixed(8)
    assert_alike(Purifier(diffuse.model, diffuse.purifier.preset, batch_size=5)(images), diffuse.purifier(images))


def test_the_model_never_sees_more_than_a_batch(patched: Case) -> None:
    model, sizes = copy.deepcopy(patched.model), list[int]()
    model.register_forward_pre_hook(lambda _module, inputs: sizes.append(len(inputs[0])))
    purifier = Purifier.for_model(model, patched.reference[:FEW], batch_size=8, **COARSE)
    assert max(sizes) == 8
    sizes.clear()
    assert purifier(patched.mixed()).flagged.any()
    assert max(sizes) == 8


# --- what reference is expected --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "options", "message"),
    [
        (None, {}, r"reference: expected at least 200 pictures for a false_positive_rate of 0\.005, got none"),
        (199, {}, r"reference: expected at least 200 pictures for a false_positive_rate of 0\.005, got 199"),
        (49, COARSE, r"reference: expected at least 50 pictures for a false_positive_rate of 0\.02, got 49"),
        (15, {"false_positive_rate": 0.5}, r"reference: expected at least 16 pictures, got 15"),
        (16, {"without": "magic"}, r"without: expected one of first-look, transplant, .*refinement, got 'magic'"),
        (16, {"false_positive_rate": 0}, r"false_positive_rate: expected a value above 0 and at most 0\.5, got 0"),
        (16, {"false_positive_rate": 0.6}, r"false_positive_rate: expected a value above 0 and at most 0\.5, got 0\.6"),
        (16, {"restorer": "magic"}, r"restorer: expected one of .*jpeg.*, got 'magic'"),
        (50, {**COARSE, "localizer": "gradient-x-activation:layer=nowhere"}, r"layer: expected one of .*got 'nowhere'"),
    ],
)
def test_what_does_not_fit_is_refused(patched: Case, count: int | None, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Purifier.for_model(patched.model, None if count is None else patched.reference[:count], **options)


def test_a_coarser_rate_takes_fewer_pictures(patched: Case) -> None:
    purifier = Purifier.for_model(patched.model, patched.reference[:20], preset="verified:false_positive_rate=0.05")
    assert verified(purifier).judgement.threshold == pytest.approx(1.30103)


def test_pictures_of_another_size_than_the_reference_are_refused(patched: Case) -> None:
    expected = r"images: expected shape \(N, 3, 32, 32\), as the reference, got \(2, 3, 24, 40\)"
    with pytest.raises(ValueError, match=expected):
        patched.purifier(torch.rand(2, 3, 24, 40, generator=seeded(0)))


def test_a_model_without_finite_logits_is_refused(patched: Case) -> None:
    model = copy.deepcopy(patched.model)
    with torch.no_grad():
        next(reversed(list(model.parameters()))).fill_(math.nan)
    with pytest.raises(ValueError, match="reference: expected pictures with finite logits"):
        Purifier.for_model(model, patched.reference[:FEW], **COARSE)


def test_what_was_not_fitted_does_nothing(patched: Case, tmp_path: Path) -> None:
    purifier = Purifier(patched.model, Verified())
    message = "preset verified: expected one that was fitted to reference pictures, got one that was not"
    for use in (lambda: purifier(patched.triggered[:2]), lambda: purifier.save(tmp_path)):
        with pytest.raises(ValueError, match=message):
            use()


# --- what parts can be left out --------------------------------------------------------------------------------------


def without(patched: Case, part: str) -> Purifier:
    return Purifier.for_model(patched.model, patched.reference[:FEW], without=part, **COARSE)


def test_without_first_look_every_picture_is_examined(patched: Case) -> None:
    purified = without(patched, "first-look")(patched.mixed())
    assert set(purified.stages) == {"verify", "classify"}
    assert share(purified.flagged[1::2]) > 0.9


def test_the_first_look_loses_nothing_that_is_flagged(patched: Case, coarse: Purifier) -> None:
    images = patched.mixed()
    with_it = coarse(images)
    without_it = without(patched, "first-look")(images)
    assert not (with_it.flagged & ~without_it.flagged).any()
    assert (without_it.flagged & ~with_it.flagged).sum() <= 1
    both = with_it.flagged & without_it.flagged
    assert torch.equal(with_it.images[both], without_it.images[both])


@pytest.mark.parametrize(
    ("part", "counts"),
    [
        ("refinement", {"heat", "margin", "flip", "strange"}),
        ("transplant", {"heat", "flip", "strange"}),
        ("concentration", {"margin", "flip", "strange"}),
        ("flip", {"heat", "margin", "strange"}),
    ],
)
def test_one_kind_of_evidence_left_out(patched: Case, part: str, counts: set[str]) -> None:
    purifier = without(patched, part)
    judge = verified(purifier).judgement.regions
    evidence = {
        "heat": torch.full((2,), 4.0),
        "margin": torch.full((2, len(SUSPECTED)), 6.0),
        "flip": torch.full((2,), 6.0),
        "strange": torch.full((2,), 1.0),
    }
    judged = judge(*evidence.values())
    for kind in evidence:
        more = judge(*({**evidence, kind: evidence[kind] + 1}).values())
        assert (more > judged).all() == (kind in counts)
        assert torch.equal(more, judged) != (kind in counts)
    assert share(purifier(patched.triggered[:20]).flagged) > 0.8


@pytest.mark.parametrize(("heat", "flipped"), [((-5.0, -6.9), (0, 0)), ((0, 0), (-25.0, -60.0))])
def test_some_evidence_only_adds(patched: Case, heat: tuple[float, float], flipped: tuple[float, float]) -> None:
    """Heat that is spread, a class that outlasts the removal of a small region: so are large triggers."""
    carried = torch.full((2, len(SUSPECTED)), 6.0)
    nothing = torch.zeros(2)
    one, other = verified(patched.purifier).judgement.regions(
        torch.tensor(heat), carried, torch.tensor(flipped), nothing
    )
    assert one == other


def strangeness(preset: Verified, seen: Seen) -> Tensor:
    """How far pictures are from those of their classes, as evidence (N,)."""
    return preset.judgement.strangeness(preset.calibrated().typicality.distance(seen.features, seen.labels))


def test_what_is_not_like_its_class_is_strange(patched: Case) -> None:
    preset = verified(patched.purifier)
    clean, triggered = (
        strangeness(preset, preset.see(patched.model, images))
        for images in (patched.untriggered.floats(), patched.triggered)
    )
    # The quarter that is furthest is, and no more than one in a thousand tells.
    assert 0.6 < share(clean == 0) < 0.9
    assert triggered.min() >= 0
    assert triggered.max() <= ATYPICAL * -math.log10(RAREST)
    assert triggered.median() > clean.quantile(0.95)


def test_what_was_strange_goes_with_the_trigger(patched: Case) -> None:
    preset = verified(patched.purifier)
    seen = preset.see(patched.model, patched.triggered)
    for images, stays in ((patched.untriggered.floats(), False), (patched.triggered, True)):
        restored = preset.restoration(patched.model, 64).of(images, torch.ones_like(images[:, :1]))
        asked = torch.arange(len(images)) % 3 > 0
        left = preset.judgement.distance_left(seen, restored, asked)
        assert share((left > LEFT)[asked] == stays) > 0.9
        assert not left[~asked].any()
        if stays:
            torch.testing.assert_close(left[asked], torch.ones_like(left[asked]))


@pytest.mark.parametrize(("kind", "waning"), [("patched", WANING), ("waved", WANING), ("diffuse", math.inf)])
def test_what_takes_along_what_is_strange_needs_no_noise_or_waves(
    kind: str, waning: float, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That a region may do so is known from what a picture is like without its hottest part, and without its noise."""
    found: Case = request.getfixturevalue(kind)
    # All of them look faint, and none bears what leads the model, which would need no waves, either.
    calibration = replace(verified(found.purifier).calibrated(), faint=-math.inf, universals=(), borne=())
    preset, images = replace(verified(found.purifier), calibration=calibration), found.triggered[:40]
    judge, asked = Examination.pattern, list[Tensor]()

    def recorded(*given: Any) -> Tensor:
        asked.append(given[-2])
        return judge(*given)

    monkeypatch.setattr(Examination, "pattern", recorded)
    monkeypatch.setattr(module, "WANING", waning)
    purified = preset(found.model, images, batch_size=64)
    either = share(asked[0] | asked[1])
    assert either < 0.2 if kind == "patched" else either > 0.8
    # In that order or another, the same comes of it.
    monkeypatch.setattr(module, "WANING", 0.0)
    later = preset(found.model, images, batch_size=64)
    assert share(asked[-2] | asked[-1]) > 0.5
    assert torch.equal(later.flagged, purified.flagged)
    assert share(later.labels == purified.labels) > 0.9


def test_what_stays_strange_once_its_region_is_gone_is_no_evidence_against_it(
    patched: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What leads the model would accuse what is as strange, too.
    calibration = replace(verified(patched.purifier).calibrated(), universals=(), borne=())
    preset, images = replace(verified(patched.purifier), calibration=calibration), patched.clean.floats(slice(60))
    monkeypatch.setattr(Judgement, "strangeness", lambda _, distances: torch.full_like(distances, 9.0))
    monkeypatch.setattr(module, "LEFT", math.inf)
    accused = preset(patched.model, images, batch_size=64)
    monkeypatch.setattr(module, "LEFT", 0.0)
    acquitted = preset(patched.model, images, batch_size=64)
    changed = accused.labels != accused.logits_before.argmax(1)
    assert share(accused.flagged) > 0.5
    assert (accused.flagged & changed).any()
    # All whose class it changed, as no region explains one by itself; those that keep it stay accused.
    assert not acquitted.flagged[changed].any()
    assert torch.equal(acquitted.flagged[~changed], accused.flagged[~changed])
    assert torch.equal(acquitted.images[~acquitted.flagged], images[~acquitted.flagged])
    assert torch.equal(acquitted.flagged, acquitted.scores >= preset.judgement.threshold)


def test_a_region_goes_where_noise_explains_the_class_and_the_whole_picture_keeps_it(
    diffuse: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it went first, and whether the picture is strange still, changes nothing of that."""
    monkeypatch.setattr(Removal, "whole", leave_whole)
    monkeypatch.setattr(module, "LEFT", 0.0)
    preset, images, found = verified(diffuse.purifier), diffuse.mixed(40), []
    for waning in (math.inf, 0.0):
        monkeypatch.setattr(module, "WANING", waning)
        found.append(preset(diffuse.model, images, batch_size=64))
    first, later = found
    regional = ~first.masks.flatten(1).all(1)
    assert (first.flagged & regional).sum() > 5
    for name in ("labels", "masks", "flagged", "stages"):
        one, other = getattr(first, name), getattr(later, name)
        assert one == other if name == "stages" else torch.equal(one, other)


def test_without_typicality_nothing_is_strange(patched: Case) -> None:
    preset = verified(without(patched, "typicality"))
    assert not strangeness(preset, preset.see(patched.model, patched.triggered)).any()


def test_a_pattern_counts_by_itself_and_with_what_is_left_without_it(waved: Case) -> None:
    preset = verified(waved.purifier)
    calibration = preset.calibrated()
    left, flipped = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([-60.0, 3.0, 60.0])
    judged = preset.judgement.pattern(1, left, flipped)
    assert judged[0] <= judged[1] < judged[2]
    # A quarter of what universals leave of the rate: regions have a half, noise another quarter.
    alone = calibration.patterns[1].surprise(left) - math.log10(4 / (1 - BORNE))
    assert (judged >= alone - 1e-9).all()


def test_without_refinement_the_hottest_region_goes_as_it_is(patched: Case, coarse: Purifier) -> None:
    images = patched.triggered[:20]
    purified = without(patched, "refinement")(images)
    assert purified.flagged.all()
    assert torch.equal(purified.masks, top_fraction(purified.heatmaps, SUSPECTED[0]))
    refined = coarse(images).masks
    assert not torch.equal(refined, purified.masks)
    # Of some the smallest region is the surest answer, too.
    assert len(refined.sum((1, 2, 3)).unique()) > 1


def test_without_whole_no_picture_is_restored_as_a_whole(diffuse: Case) -> None:
    left_out = without(diffuse, "whole")
    plain = Purifier(diffuse.model, replace(verified(left_out), without="typicality"))(diffuse.triggered)
    assert share(plain.labels == diffuse.target) > 0.8
    purified = left_out(diffuse.triggered)
    assert not purified.masks.flatten(1).all(1).any()
    assert purified.scores.isfinite().all()
    # The noise outside what is removed leaves the class to many of them.
    assert share(purified.labels == diffuse.target) > share(
        diffuse.purifier(diffuse.triggered).labels == diffuse.target
    )


# --- kept in a folder ------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(coarse: Purifier, tmp_path: Path) -> Path:
    coarse.save(tmp_path / "purifier")
    return tmp_path / "purifier"


def test_saved_and_loaded_it_does_the_same_bit_by_bit(patched: Case, coarse: Purifier, folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["calibration.safetensors", "purifier.json"]
    loaded = Purifier.load(folder, copy.deepcopy(patched.model))
    assert repr(loaded) == repr(coarse)
    assert_identical(loaded(patched.mixed()), coarse(patched.mixed()))


@pytest.mark.parametrize(
    "options",
    [
        {"inpainter": "mean-fill", "restorer": Jpeg(quality=50), "seed": 3, "without": "first-look"},
        {"inpainter": MeanFill(), "localizer": "grad-cam:layer=network.features.4", "without": "whole"},
    ],
)
def test_every_setting_is_kept(patched: Case, tmp_path: Path, options: dict[str, Any]) -> None:
    purifier = Purifier.for_model(patched.model, patched.reference[:20], false_positive_rate=0.05, **options)
    purifier.save(tmp_path)
    loaded = Purifier.load(tmp_path, patched.model)
    assert repr(loaded) == repr(purifier)
    assert_identical(loaded(patched.mixed(4)), purifier(patched.mixed(4)))


def test_another_model_is_refused(patched: Case, diffuse: Case, folder: Path) -> None:
    nudged, larger = copy.deepcopy(patched.model), copy.deepcopy(patched.model)
    with torch.no_grad():
        next(reversed(list(nudged.parameters()))).add_(0.3)
    larger.network.classifier = nn.Linear(24, 7)  # type: ignore[union-attr]
    for model in (diffuse.model, nudged, larger):
        with pytest.raises(ValueError, match="model: expected the one that the purifier was fitted to"):
            Purifier.load(folder, model)


def test_a_folder_without_a_purifier_is_refused(patched: Case, tmp_path: Path) -> None:
    message = r"purifier: expected a folder that `Purifier\.save` wrote, got "
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match=message):
            Purifier.load(place, patched.model)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "3",
        "{}",
        {"preset": "magic"},
        {"preset": 3},
        {"preset": None},
        {"options": []},
        {"options": {"magic": 1}},
        {"options": {"inpainter": "magic"}},
        {"options": {"false_positive_rate": "often"}},
        {"options": {"seed": "none"}},
        {"batch_size": 0},
        {"batch_size": "many"},
    ],
    ids=str,
)
def test_broken_settings_are_refused(patched: Case, folder: Path, content: str | dict[str, Any]) -> None:
    path = folder / "purifier.json"
    kept = json.loads(path.read_text())
    path.write_text(content if isinstance(content, str) else json.dumps({**kept, **content}))
    with pytest.raises(ValueError, match=": expected "):
        Purifier.load(folder, patched.model)


@pytest.mark.parametrize(
    "name",
    [
        "probes",
        "logits",
        "first_looks",
        "tails",
        "raised",
        "resistance",
        "frequencies",
        "laws",
        "typical_centres",
        "typical_deviations",
        "typical_directions",
        "typical_shares",
        "universals",
        "universal_labels",
    ],
)
@pytest.mark.parametrize("spoil", ["missing", "shorter", "flat", "text"])
def test_broken_calibrations_are_refused(patched: Case, folder: Path, name: str, spoil: str) -> None:
    path = folder / "calibration.safetensors"
    state = load_file(path)
    if spoil == "missing":
        del state[name]
    elif spoil == "shorter":
        state[name] = state[name][:-1].contiguous()
    else:
        state[name] = state[name].flatten()[:1].contiguous()
    if spoil == "text":
        path.write_text(name)
    else:
        save_file(state, path)
    with pytest.raises(ValueError, match=": expected "):
        Purifier.load(folder, patched.model)


def test_a_folder_that_lost_its_calibration_is_refused(patched: Case, folder: Path) -> None:
    (folder / "calibration.safetensors").unlink()
    with pytest.raises(
        ValueError,
        match=r"calibration: expected the tensors first_looks, .*, tails, .*, universal_labels, universals, got",
    ):
        Purifier.load(folder, patched.model)


def test_a_method_outside_the_registry_cannot_be_kept(patched: Case, tmp_path: Path) -> None:
    options = {"false_positive_rate": 0.05, "inpainter": Unlisted()}
    purifier = Purifier.for_model(patched.model, patched.reference[:20], **options)
    assert purifier(patched.triggered[:4]).flagged.any()
    with pytest.raises(ValueError, match=r"inpainter: expected one of .*telea, got .*Unlisted"):
        purifier.save(tmp_path / "purifier")
    assert not list(tmp_path.rglob("*.json"))


# --- what is known before --------------------------------------------------------------------------------------------


@pytest.fixture
def known(toy_trigger: Patch, tmp_path: Path) -> Path:
    """Write where the toy's trigger lies and which class it leads to."""
    mask = (toy_trigger(torch.full((1, 3, 32, 32), 0.5))[0] != 0.5).any(0, keepdim=True).float()
    path = tmp_path / "prior.safetensors"
    Prior(label=0, mask=mask, pattern=mask * toy_trigger(torch.zeros(1, 3, 32, 32))[0]).save(path)
    return path


def test_a_prior_accuses_pictures_of_its_class_alone(
    patched: Case, known: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without first looks, so that all pictures are examined.
    options = {"inpainter": "telea", "without": "first-look"}
    plain = Purifier.for_model(patched.model, patched.reference, **options)
    informed = Purifier.for_model(patched.model, patched.reference, prior=str(known), **options)
    images = patched.mixed()
    before, after = plain(images), informed(images)
    assert informed.preset.calibration.prior.label == 0  # type: ignore[attr-defined]
    triggered = torch.arange(len(images)) % 2 == 1
    assert after.flagged[triggered].float().mean() >= before.flagged[triggered].float().mean()
    assert (after.labels[triggered] != 0).float().mean() > 0.9
    # Three explanations share the rate: nobody else is accused who was not before.
    others = before.logits_before.argmax(1) != 0
    assert not (after.flagged & ~before.flagged)[others].any()
    innocent = informed(patched.clean.floats())
    assert innocent.flagged.float().mean() < 0.05
    # Nor does anybody look more suspicious. All probes are asked for this: fewer of them settle what is less
    # suspicious, and scores that are bounds do not compare.
    monkeypatch.setattr(examining, "settle", ask_all)
    assert (informed(images).scores[others] <= plain(images).scores[others] + 1e-6).all()


def test_a_prior_finds_what_heat_does_not(patched: Case, known: Path) -> None:
    """With a localizer that looks elsewhere only the known place is left."""

    class Elsewhere:
        def __call__(self, model: nn.Module, images: Tensor) -> Tensor:
            model(images)
            heat = torch.zeros(len(images), 1, 32, 32)
            heat[..., :8, :8] = torch.rand(8, 8, generator=seeded(0))
            return heat

    triggered = patched.triggered[:16]
    options: dict[str, Any] = {"inpainter": "telea", "localizer": Elsewhere()}
    blind = Purifier.for_model(patched.model, patched.reference, **options)(triggered)
    informed = Purifier.for_model(patched.model, patched.reference, prior=str(known), **options)(triggered)
    assert (blind.labels == 0).float().mean() > 0.9
    assert (informed.labels == 0).float().mean() < 0.1
    assert informed.masks[:, :, :16, :16].sum() == 0


def test_a_prior_is_kept_with_the_purifier(patched: Case, known: Path, tmp_path: Path) -> None:
    informed = Purifier.for_model(patched.model, patched.reference, inpainter="telea", prior=str(known))
    informed.save(tmp_path / "purifier")
    known.unlink()
    images = patched.mixed(4)
    kept = Purifier.load(tmp_path / "purifier", patched.model)
    torch.testing.assert_close(kept(images).scores, informed(images).scores)


def test_a_scan_gives_the_prior(patched: Case, monkeypatch: pytest.MonkeyPatch, known: Path) -> None:
    prior = Prior.load(known)

    @dataclass(frozen=True)
    class Found:
        prior: Prior | None

    for found in (prior, None):
        monkeypatch.setattr(module, "scan", lambda *_, found=found: Found(found))
        preset = Verified(prior="scan", false_positive_rate=0.05).fit(
            patched.model, patched.reference[:FEW], batch_size=64
        )
        assert preset.calibrated().prior is found


def test_a_prior_of_another_size_is_refused(patched: Case, tmp_path: Path) -> None:
    Prior(label=0, mask=torch.ones(1, 24, 24), pattern=torch.ones(3, 24, 24)).save(tmp_path / "small")
    with pytest.raises(ValueError, match=r"prior: expected one of \(32, 32\) pixels, got \(24, 24\)"):
        Purifier.for_model(patched.model, patched.reference, prior=str(tmp_path / "small"))
    with pytest.raises(ValueError, match="prior: expected a safetensors file that scan wrote"):
        Purifier.for_model(patched.model, patched.reference, prior=str(tmp_path / "missing"))

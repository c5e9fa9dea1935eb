from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from torch import Tensor, nn

from februus.data import Dataset
from februus.explanation import GUILTY, MOST_HEATS, MOST_PROBES, Explanation, draw_explanation, explain
from februus.localizers.grad_cam import GradCam
from februus.localizers.gradient_x_activation import GradientXActivation
from februus.models import Normalized, build
from februus.presets._calibration import SUSPECTED
from februus.presets.verified import Verified
from februus.purifier import Purifier
from februus.restorers.notch import Notch
from februus.triggers.patch import Patch
from februus.verification import Tail, answer, consensus, transplant

Draw = Callable[..., Dataset]
Words = Callable[..., dict[str, str]]


@dataclass(frozen=True, kw_only=True)
class Square:
    """A localizer that reads no layer."""

    def __call__(self, model: nn.Module, images: Tensor) -> Tensor:
        model(images)
        heatmaps = torch.zeros_like(images[:, :1])
        heatmaps[..., 8:16, 8:16] = 1
        return heatmaps


@pytest.fixture(scope="module")
def purifier(trained_toy: Normalized, toy_draw: Draw) -> Purifier:
    return Purifier.for_model(trained_toy, toy_draw(256, 5).floats(), inpainter="mean-fill")


@pytest.fixture(scope="module")
def clean(toy_test: Dataset) -> Tensor:
    return toy_test.floats(toy_test.labels == 3)[:1]


@pytest.fixture(scope="module")
def triggered(clean: Tensor, toy_trigger: Patch) -> Tensor:
    return toy_trigger(clean)


@pytest.fixture(scope="module")
def guilty(purifier: Purifier, triggered: Tensor) -> Explanation:
    return explain(purifier, triggered)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Figure]:
    """Return a function that draws an explanation and gives the figure instead of the file."""
    figures = list[Figure]()

    def keep(figure: Figure, path: Path, **_: object) -> None:
        figures.append(figure)
        path.touch()

    def draw(explanation: Explanation, classes: tuple[str, ...] = ()) -> Figure:
        monkeypatch.setattr(Figure, "savefig", keep)
        draw_explanation(tmp_path / "drawn.png", explanation, classes)
        return figures[-1]

    return draw


@pytest.fixture
def words(drawn: Callable[..., Figure]) -> Words:
    """Return a function that draws an explanation and gives the texts on it, each on one line, with their colours."""

    def read(explanation: Explanation, classes: tuple[str, ...] = ()) -> dict[str, str]:
        return {
            " ".join(text.get_text().split()): str(text.get_color()) for text in texts_of(drawn(explanation, classes))
        }

    return read


def texts_of(figure: Figure) -> list[Text]:
    return [text for axes in figure.axes for text in (axes.title, *axes.texts) if text.get_text()]


def found(words: dict[str, str], part: str) -> bool:
    return any(part in text for text in words)


# --- the evidence ----------------------------------------------------------------------------------------------------


def test_a_trigger_is_proven_by_what_it_does_elsewhere(purifier: Purifier, guilty: Explanation) -> None:
    evidence, purified = guilty.evidence, guilty.purified
    assert evidence is not None
    assert purified.flagged.all()
    assert purified.scores.item() >= evidence.threshold
    best = max(evidence.regions, key=lambda region: region.score)
    assert best.guilty
    assert best.score >= evidence.threshold == pytest.approx(2.301, abs=1e-3)
    assert best.taken[evidence.foreign].float().mean() > 0.8
    assert not best.taken[~evidence.foreign].any()
    assert evidence.foreign.any()
    expected = answer(purifier.model, evidence.probes, batch_size=4)
    torch.testing.assert_close(evidence.logits, expected, rtol=0, atol=1e-4)


def test_a_region_is_what_was_put_and_what_was_removed(purifier: Purifier, guilty: Explanation) -> None:
    evidence, image = guilty.evidence, guilty.image
    assert evidence is not None
    label = guilty.purified.logits_before.argmax(1)
    for size, region in zip(SUSPECTED, evidence.regions, strict=True):
        inside = region.mask[0] > 0
        assert region.mask.mean().item() == pytest.approx(size, abs=1 / 1024)
        assert torch.equal(region.removed[:, ~inside], image[:, ~inside])
        assert not torch.equal(region.removed[:, inside], image[:, inside])
        assert torch.equal(region.pasted[:, :, inside], image[:, inside].expand(len(region.pasted), -1, -1))
        assert torch.equal(region.pasted[:, :, ~inside], evidence.probes[:, :, ~inside])
        part, mask = region.part[None], region.mask[None]
        margins = transplant(purifier.model, part, mask, label, evidence.probes, batch_size=8)
        assert region.margin == pytest.approx(consensus(margins).item(), rel=1e-4)
        heat = guilty.purified.heatmaps[0].mean(0)
        assert region.heat == pytest.approx((heat[inside].sum() / heat.sum()).item(), abs=2e-3)
        assert torch.equal(region.logits, answer(purifier.model, region.removed[None], batch_size=1)[0])
    noise, waves = evidence.patterns
    for pattern in (noise, waves):
        assert pattern.mask.all()
        assert pattern.heat is None
        assert not torch.equal(pattern.pasted, evidence.probes)
    torch.testing.assert_close(noise.removed, (image - noise.part).clamp(0, 1))
    torch.testing.assert_close(waves.removed, Notch()(image[None])[0])
    hottest = evidence.regions[-1].mask.expand_as(waves.part) > 0
    assert not waves.part[hottest].any()
    assert noise.part[hottest].any()


def test_a_picture_that_is_cleared_early_is_tried_in_full(purifier: Purifier, toy_test: Dataset) -> None:
    purified = purifier(toy_test.floats())
    for stage in ("locate", "verify"):
        index = purified.stages.index(stage)
        explanation = explain(purifier, toy_test.floats([index]))
        assert explanation.purified.stages == (stage,)
        assert torch.equal(explanation.purified.images[0], explanation.image)
        assert explanation.evidence is not None
        assert len(explanation.evidence.regions) == len(SUSPECTED)
        assert not any(region.guilty for region in explanation.evidence.regions)
        assert not any(pattern.guilty for pattern in explanation.evidence.patterns)


def harsh(purifier: Purifier) -> Purifier:
    """Make a purifier that finds all evidence overwhelming; only its first looks clear."""
    assert isinstance(purifier.preset, Verified)
    calibration = purifier.preset.calibrated()
    law = replace(calibration.joint[0], tail=Tail(start=-1000.0, scale=1.0, count=50))
    laws = {name: (law,) * len(getattr(calibration, name)) for name in ("margins", "patterns", "joint")}
    harsh = replace(calibration, **laws)
    return Purifier(purifier.model, replace(purifier.preset, calibration=harsh))


def test_what_reaches_the_threshold_is_guilty_in_a_picture_that_is_suspected(
    purifier: Purifier, triggered: Tensor, words: Words
) -> None:
    explanation = explain(harsh(purifier), triggered)
    evidence = explanation.evidence
    assert evidence is not None
    assert all(part.guilty for part in (*evidence.regions, *evidence.patterns))
    cleared = replace(evidence.patterns[0], guilty=False)
    shown = replace(explanation, evidence=replace(evidence, patterns=(cleared, evidence.patterns[1])))
    assert found(words(shown), "But a first look had cleared it.")


def test_nothing_is_guilty_in_a_picture_that_a_first_look_cleared(purifier: Purifier, toy_test: Dataset) -> None:
    index = purifier(toy_test.floats()).stages.index("locate")
    evidence = explain(harsh(purifier), toy_test.floats([index])).evidence
    assert evidence is not None
    assert all(region.score >= evidence.threshold and not region.guilty for region in evidence.regions)
    assert not any(pattern.guilty for pattern in evidence.patterns)


# --- the heatmaps ----------------------------------------------------------------------------------------------------


def test_a_heatmap_of_each_resolution_and_the_one_that_was_used(purifier: Purifier, guilty: Explanation) -> None:
    assert [heat.size for heat in guilty.heats] == [(32, 32), (16, 16), (8, 8)]
    assert [heat.used for heat in guilty.heats] == [False, True, False]
    assert torch.equal(guilty.heats[1].heatmap, guilty.purified.heatmaps[0, 0])
    for heat in guilty.heats:
        expected = GradientXActivation(layer=heat.layer)(purifier.model, guilty.image[None])
        torch.testing.assert_close(heat.heatmap, expected[0, 0])


def test_the_paper_shows_grad_cam_and_tries_nothing(trained_toy: Normalized, triggered: Tensor) -> None:
    explanation = explain(Purifier.for_model(trained_toy, preset="paper"), triggered)
    assert explanation.evidence is None
    assert [heat.used for heat in explanation.heats] == [False, False, True]
    torch.testing.assert_close(explanation.heats[2].heatmap, GradCam()(trained_toy, triggered)[0, 0])


def test_a_heatmap_of_no_layer_is_shown_beside_those_of_layers(trained_toy: Normalized, triggered: Tensor) -> None:
    explanation = explain(Purifier.for_model(trained_toy, preset="paper", localizer=Square()), triggered)
    assert [heat.used for heat in explanation.heats] == [True, False, False, False]
    assert torch.equal(explanation.heats[0].heatmap, Square()(trained_toy, triggered)[0, 0])


def test_no_more_heatmaps_than_there_is_room_for() -> None:
    torch.manual_seed(0)
    model = Normalized(build("resnet18", num_classes=5)).eval()
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    explanation = explain(Purifier.for_model(model, preset="paper", inpainter="mean-fill"), image)
    assert len(explanation.heats) == MOST_HEATS
    assert [heat.size[0] for heat in explanation.heats] == [32, 16, 8, 2]
    assert explanation.heats[-1].used


# --- what is refused -------------------------------------------------------------------------------------------------


def test_only_one_picture_of_the_right_kind(purifier: Purifier, clean: Tensor) -> None:
    with pytest.raises(ValueError, match=r"image: expected one picture \(1, 3, H, W\), got 2 pictures"):
        explain(purifier, clean.repeat(2, 1, 1, 1))
    with pytest.raises(ValueError, match=r"image: expected shape"):
        explain(purifier, clean[0])


# --- the figure ------------------------------------------------------------------------------------------------------


def test_a_png_is_written_and_nothing_else(guilty: Explanation, tmp_path: Path) -> None:
    draw_explanation(tmp_path / "why.png", guilty, ("a", "b", "c", "d"))
    assert [path.name for path in tmp_path.iterdir()] == ["why.png"]
    with Image.open(tmp_path / "why.png") as picture:
        assert picture.format == "PNG"
        assert len(set(picture.convert("RGB").getdata())) > 1000
    with pytest.raises(ValueError, match="expected a file that can be written"):
        draw_explanation(tmp_path / "nowhere" / "why.png", guilty)


def test_no_text_lies_on_another_or_outside(guilty: Explanation, drawn: Callable[..., Figure]) -> None:
    classes = tuple(f"{word} SIGNS OF $SEVERAL$ WORDS, antidisestablishmentarianism" for word in "ABCD")
    for names in (classes, ()):
        figure = drawn(guilty, names)
        FigureCanvasAgg(figure)
        figure.draw_without_rendering()
        texts = texts_of(figure)
        boxes = [text.get_window_extent() for text in texts]
        assert len(boxes) > 30
        for text, box in zip(texts, boxes, strict=True):
            assert box.x0 >= 0, text
            assert box.y0 >= 0, text
            assert box.x1 <= figure.bbox.x1, text
            assert box.y1 <= figure.bbox.y1, text
        for (one, first), (other, second) in combinations(zip(texts, boxes, strict=True), 2):
            assert not first.overlaps(second), (one, other)


def test_red_pictures_are_those_that_took_the_class(guilty: Explanation, drawn: Callable[..., Figure]) -> None:
    evidence = guilty.evidence
    assert evidence is not None
    titles = [axes.title.get_color() for axes in drawn(guilty).axes]
    taken = sum(int(candidate.taken[:MOST_PROBES].sum()) for candidate in (*evidence.regions, *evidence.patterns))
    assert 0 < taken < MOST_PROBES * (len(evidence.regions) + 1)
    assert titles.count(GUILTY) == taken + 1  # the heatmap that was used


def test_words_for_a_trigger(guilty: Explanation, words: Words, toy_test: Dataset) -> None:
    evidence = guilty.evidence
    assert evidence is not None
    written = words(guilty, toy_test.classes)
    assert written["Verdict: trigger"] == GUILTY
    name = toy_test.classes[0]
    assert found(
        written,
        f"it turns {int(evidence.regions[1].taken.sum())} into '{name}' (margin +{evidence.regions[1].margin:.1f}).",
    )
    assert found(written, "at most 1 in 200 innocent pictures")
    assert found(written, f"the model now says '{toy_test.classes[3]}'")
    everything = replace(evidence, foreign=torch.tensor([True] * (len(evidence.probes) - 1) + [False]))
    assert found(
        words(replace(guilty, evidence=everything)),
        f"{len(evidence.probes)} other pictures, {len(evidence.probes) - 1} of them of other classes, it turns",
    )


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (-math.inf, "This preset does not ask how rare that is."),
        (0.5, "Many innocent pictures reach as much."),
        (1.0, "About 10% of innocent pictures reach as much."),
        (3.028, "About 1 in 1,100 innocent pictures reaches as much."),
        (20.0, "Fewer than 1 in 1,000,000 innocent pictures reach as much."),
    ],
)
def test_words_for_a_score(guilty: Explanation, words: Words, score: float, expected: str) -> None:
    assert guilty.evidence is not None
    region = replace(guilty.evidence.regions[0], score=score)
    evidence = replace(guilty.evidence, regions=(region,))
    assert found(words(replace(guilty, evidence=evidence)), expected)


def test_words_for_a_picture_that_was_restored_as_a_whole(guilty: Explanation, words: Words) -> None:
    whole = replace(guilty.purified, masks=torch.ones_like(guilty.purified.masks))
    written = words(replace(guilty, purified=whole))
    assert found(written, "So the picture was restored as a whole, and the model now says class 3")
    written = words(replace(guilty, purified=replace(whole, stages=("strike",))))
    assert found(written, "the model still says class 0; this is no answer, and the likeliest other one is class 3")


def test_what_leads_the_model_is_tried_on_pictures_of_that_class(
    purifier: Purifier, toy_test: Dataset, words: Words
) -> None:
    assert isinstance(purifier.preset, Verified)
    universals = purifier.preset.calibrated().universals
    images, label = toy_test.floats(), universals[0].label
    labels = answer(purifier.model, images, batch_size=64).argmax(1)
    other = explain(purifier, images[labels != label][:1])
    assert other.evidence is not None
    assert other.evidence.universal == ()
    # Beyond what pictures bear, so that there is something to take off.
    image = (images[labels == label][:1] + 4 * universals[0].perturbation).clamp(0, 1)
    led = explain(purifier, image)
    assert led.evidence is not None
    (candidate,) = led.evidence.universal
    torch.testing.assert_close(image[0] - candidate.part, candidate.removed, rtol=0, atol=1e-6)
    assert candidate.part.abs().amax() > 0
    judgement, seen = purifier.preset.judgement, purifier.preset.see(purifier.model, image)
    strange = judgement.strangeness(judgement.calibration.typicality.distance(seen.features, seen.labels))
    assert candidate.score == pytest.approx(judgement.universals(image, torch.tensor([label]), strange).amax().item())
    leading = (
        f"It bears more of a pattern that leads pictures to class {label} "
        "than innocent pictures as far from their class do."
    )
    whole = replace(led.purified, masks=torch.ones_like(led.purified.masks))
    candidates = (replace(candidate, score=50.0),)
    evidence = replace(led.evidence, universal=candidates)
    written = words(replace(led, purified=whole, evidence=evidence))
    assert found(written, leading)
    assert found(written, "So the picture was restored as a whole, and")
    # The part of it that bears most of the pattern, where no region explains the class.
    part = torch.zeros_like(led.purified.masks)
    part[..., : part.shape[2] // 4, :] = 1
    innocent = tuple(replace(region, guilty=False) for region in evidence.regions)
    written = words(
        replace(led, purified=replace(led.purified, masks=part), evidence=replace(evidence, regions=innocent))
    )
    assert found(written, leading)
    assert found(written, "So the outlined 25%, which bear it, were removed, and")
    assert found(written, f"A pattern like it leads most pictures to class {label}, the class that this model takes to")
    assert found(written, "How rare it is counts how far the picture is from its class, too.")


def test_words_for_innocent_pictures(purifier: Purifier, clean: Tensor, words: Words) -> None:
    innocent = explain(purifier, clean)
    first = replace(innocent, purified=replace(innocent.purified, stages=("locate",)))
    assert found(
        words(first), "At first look its heat is spread and nothing faint carries its class, as in most pictures."
    )
    late = replace(innocent, purified=replace(innocent.purified, stages=("verify",)))
    written = words(late)
    assert "Verdict: innocent" in written
    assert found(written, "No part in question takes the class along as triggers do; it is passed on as it came.")


def test_words_for_the_paper(trained_toy: Normalized, clean: Tensor, words: Words) -> None:
    explanation = explain(Purifier.for_model(trained_toy, preset="paper", inpainter="mean-fill"), clean)
    written = words(explanation)
    assert found(written, "removed and restored, as in every picture, and the model still says class 3")
    cold = replace(explanation.purified, masks=torch.zeros_like(explanation.purified.masks))
    assert found(words(replace(explanation, purified=cold)), "Nothing is hot; it is passed on as it came.")

"""Why a purifier suspects a picture or not: the evidence in full, and drawn for those who have not read the paper."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from februus.checks import check_images, mismatch
from februus.files import write_file
from februus.localizers._layers import convolutions, last_of_each_size
from februus.localizers.grad_cam import GradCam
from februus.localizers.gradient_x_activation import GradientXActivation
from februus.masks import top_fraction
from februus.presets._calibration import PATTERNED, REGIONS, SUSPECTED
from februus.presets._transplants import add_pattern, carried_by_regions
from februus.presets.verified import Verified
from februus.purifier import Purifier
from februus.types import Purified
from februus.verification import answer, concentration, consensus, flip

__all__ = ["Candidate", "Evidence", "Explanation", "Heat", "draw_explanation", "explain"]

# Heatmaps of the same layer lie no further apart, whatever the machine.
SAME = 1e-3
# Heatmaps and probes that are drawn.
MOST_HEATS = 4
MOST_PROBES = 4
# Scores below and beyond which a law that was fitted to the upper quartile of some hundred pictures says no more.
MANY, RAREST = 0.6, 6
# In inches: the side of a picture, the gap beside it and the one above it for its title, the breadth of the sentences.
PICTURE, GAP, ABOVE, SENTENCES = 1.3, 0.2, 0.6, 3.9
# Characters on a line of a title, and in an inch of a sentence.
TITLE, CHARACTERS = 20, 14
# Lines of a contour run through the middles of points: so many of them a pixel side follow its edges.
FINE = 8
PATTERN_NAMES = ("The noise on it", "The waves on it")
UNIVERSAL_NAME = "What leads the model"
GUILTY, INNOCENT, OUTLINE = "#c00000", "#707070", "#ffe000"


@dataclass(frozen=True, kw_only=True, eq=False)
class Heat:
    """What one layer says of where the class comes from.

    Args:
        layer: its name.
        size: height and width of its maps.
        heatmap: scaled to the picture (H, W), in [0, 1].
        used: whether the purifier went by it.
    """

    layer: str
    size: tuple[int, int]
    heatmap: Tensor
    used: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """A part of the picture that may be a trigger, and what came of trying it.

    Args:
        part: what is put on other pictures (3, H, W): a region and 0 elsewhere, or a faint pattern.
        mask: the region (1, H, W); all 1 for a pattern, which has none.
        removed: the picture without it (3, H, W): a region is inpainted.
        logits: the model's answer to that (C,).
        pasted: the probes with it (P, 3, H, W).
        pasted_logits: the model's answers to those (P, C).
        taken: which probes, of another class before, took the picture's class (P,), bool.
        margin: by how much the logit of the picture's class exceeds the largest other one, on all probes but one.
        heat: share of the heat that lies in the region; None for a pattern.
        score: ``-log10`` of the share of innocent pictures that look as suspicious.
        guilty: whether it reaches the threshold, in a picture that the purifier holds for triggered.
    """

    part: Tensor
    mask: Tensor
    removed: Tensor
    logits: Tensor
    pasted: Tensor
    pasted_logits: Tensor
    taken: Tensor
    margin: float
    heat: float | None
    score: float
    guilty: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """What trying the parts of a picture on other pictures has shown.

    Args:
        probes: the other pictures (P, 3, H, W).
        logits: the model's answers to them (P, C).
        foreign: which of them are of another class than the picture (P,), bool.
        regions: the hottest region of each size, from small to large.
        patterns: what is taken off the whole picture: noise, and waves outside the hottest quarter.
        universal: of the perturbations that lead to the class that the model takes to most readily, the one that the
            picture bears most surprisingly; none where that is another class than the picture's.
        strange: how far the picture is from those of its class: minus the decimal logarithm of the share of innocent
            ones that are as far.
        threshold: score from which on a candidate is guilty.
    """

    probes: Tensor
    logits: Tensor
    foreign: Tensor
    regions: tuple[Candidate, ...]
    patterns: tuple[Candidate, ...]
    universal: tuple[Candidate, ...]
    strange: float
    threshold: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Explanation:
    """Why a purifier made of a picture what it made.

    Args:
        image: the picture (3, H, W).
        purified: what became of it, a batch of one.
        heats: of one layer a map size, from fine to coarse, and the one that was used.
        evidence: None for a preset that tries nothing.
    """

    image: Tensor
    purified: Purified
    heats: tuple[Heat, ...]
    evidence: Evidence | None


def explain(purifier: Purifier, image: Tensor) -> Explanation:
    """Collect why ``purifier`` suspects a picture or not.

    The preset ``verified`` stops as soon as a picture is cleared; here every region is tried.

    Args:
        purifier: of any preset.
        image: one picture (1, 3, H, W) in [0, 1].

    Raises:
        ValueError: if ``image`` is not one picture or the purifier does not take it.
    """
    check_images(image, name="image")
    if len(image) != 1:
        raise mismatch("image", "one picture (1, 3, H, W)", f"{len(image)} pictures")
    image = image.detach()
    purified = purifier(image)
    preset = purifier.preset
    evidence = _try(purifier, preset, image, purified) if isinstance(preset, Verified) else None
    return Explanation(image=image[0], purified=purified, heats=_read(purifier, image, purified), evidence=evidence)


def _read(purifier: Purifier, image: Tensor, purified: Purified) -> tuple[Heat, ...]:
    """Read the last layer of each map size, by the purifier's localizer where that reads a layer."""
    own = getattr(purifier.preset, "localizer", None)
    localizer = own if isinstance(own, GradCam | GradientXActivation) else GradientXActivation()
    used = purified.heatmaps[0].mean(0)
    # As each of them chooses its own.
    convolved = {size: layer for layer, size in convolutions(purifier.model, image).items()}
    layers = convolved if isinstance(localizer, GradCam) else last_of_each_size(purifier.model, image)
    heats = []
    for size, layer in layers.items():
        heatmap = replace(localizer, layer=layer)(purifier.model, image)[0, 0]
        heats.append(Heat(layer=layer, size=size, heatmap=heatmap, used=torch.allclose(heatmap, used, atol=SAME)))
    # The localizer may read another layer, several, or none.
    if not any(heat.used for heat in heats):
        layer = getattr(own, "layer", None) or "the purifier's own"
        heats.insert(0, Heat(layer=layer, size=(used.shape[0], used.shape[1]), heatmap=used, used=True))
    others = [heat for heat in heats if not heat.used][: MOST_HEATS - 1]
    return tuple(heat for heat in heats if heat.used or heat in others)


def _try(purifier: Purifier, preset: Verified, image: Tensor, purified: Purified) -> Evidence:
    model, batch_size = purifier.model, purifier.batch_size
    judgement, calibration = preset.judgement, preset.calibrated()
    probes = calibration.probes.to(image.device)
    label, suspected = purified.logits_before.argmax(1), bool(purified.flagged[0])
    logits = answer(model, probes, batch_size=batch_size)
    foreign = logits.argmax(1) != label

    def candidate(
        part: Tensor, hiding: Tensor, removed: Tensor, *, margin: Tensor, heat: Tensor | None, score: Tensor
    ) -> Candidate:
        pasted = (probes * (1 - hiding) + part).clamp(0, 1)
        pasted_logits = answer(model, pasted, batch_size=batch_size)
        after = answer(model, removed, batch_size=batch_size)[0]
        return Candidate(
            part=part[0],
            mask=torch.ones_like(hiding[0]) if heat is None else hiding[0],
            removed=removed[0],
            logits=after,
            pasted=pasted,
            pasted_logits=pasted_logits,
            taken=foreign & (pasted_logits.argmax(1) == label),
            margin=margin.item(),
            heat=None if heat is None else heat.item(),
            score=score.item(),
            guilty=suspected and score.item() >= judgement.threshold,
        )

    seen = preset.see(model, image)
    heat, distance = seen.heat, calibration.typicality.distance(seen.features, label)
    carried = carried_by_regions(model, image, heat, label, probes, batch_size=batch_size)
    judged = judgement.sizes(consensus(calibration.against(carried, REGIONS)))
    sizes = zip(SUSPECTED, consensus(carried)[0], judged[0], strict=True)
    regions = []
    for size, margin, score in sizes:
        share = concentration(heat, size).sigmoid()[0]
        mask = top_fraction(heat, size)
        removed = preset.inpainter(image, mask)
        regions.append(candidate(image * mask, mask, removed, margin=margin, heat=share, score=score))
    nowhere = torch.zeros_like(image[:, :1])
    patterns = []
    for place, pattern in enumerate(preset.patterns(image, heat)):
        left = add_pattern(model, pattern.added, label, probes, batch_size=batch_size)
        flipped = flip(model, pattern.without, label, batch_size=batch_size)
        score = judgement.pattern(place, consensus(calibration.against(left, PATTERNED + place)), flipped)
        margin = consensus(left)
        patterns.append(candidate(pattern.added, nowhere, pattern.without, margin=margin, heat=None, score=score))
    universal = []
    judged = judgement.universals(image, label, judgement.strangeness(distance))[0]
    if judged.isfinite().any():
        removed = calibration.take_off()[int(judged.argmax())](image)
        margin = consensus(add_pattern(model, image - removed, label, probes, batch_size=batch_size))
        score = judged.amax()
        universal.append(candidate(image - removed, nowhere, removed, margin=margin, heat=None, score=score))
    return Evidence(
        probes=probes,
        logits=logits,
        foreign=foreign,
        regions=tuple(regions),
        patterns=tuple(patterns),
        universal=tuple(universal),
        strange=calibration.distance.surprise(distance).item(),
        threshold=judgement.threshold,
    )


def draw_explanation(path: Path, explanation: Explanation, classes: Sequence[str] = ()) -> None:
    """Draw an explanation and write the figure as PNG.

    Args:
        path: of the file.
        explanation: what `explain` returned.
        classes: names; the numbers stand where there are none.

    Raises:
        ValueError: if the file cannot be written.
    """
    evidence = explanation.evidence
    candidates = (*evidence.regions, *evidence.patterns, *evidence.universal) if evidence else ()
    sheet = _Sheet(rows=2 + len(candidates) + bool(evidence), classes=classes)
    _draw_heats(sheet, explanation)
    if evidence:
        _draw_probes(sheet, evidence)
        parts = (*(f"The hottest {_percent(region.mask)}" for region in evidence.regions), *PATTERN_NAMES)
        parts += (UNIVERSAL_NAME,) * len(evidence.universal)
        for row, (part, candidate) in enumerate(zip(parts, candidates, strict=True), start=2):
            _draw_candidate(sheet, row, explanation, evidence, candidate, part)
    _draw_verdict(sheet, explanation)
    write_file(path, lambda temporary: sheet.figure.savefig(temporary, dpi=110, format="png"))


class _Sheet:
    """A figure in rows: two pictures, those of the probes, and sentences."""

    def __init__(self, *, rows: int, classes: Sequence[str]):
        self.rows, self.classes = rows, classes
        self.width = (2 + MOST_PROBES) * (PICTURE + GAP) + 2 * GAP + SENTENCES
        self.height = rows * (PICTURE + ABOVE) + GAP
        self.figure = Figure(figsize=(self.width, self.height))

    def _axes(self, row: int, column: int, width: float) -> Any:
        left, bottom = GAP + column * (PICTURE + GAP), self.height - (row + 1) * (PICTURE + ABOVE)
        place = (left / self.width, bottom / self.height, width / self.width, PICTURE / self.height)
        axes = self.figure.add_axes(place, xticks=(), yticks=())
        axes.set_axis_off()
        return axes

    def picture(self, row: int, column: int, image: Tensor, *titles: str, colour: str = "black") -> Any:
        """Draw a picture (3, H, W) under its titles, one a line."""
        axes = self._axes(row, column, PICTURE)
        axes.imshow(image.permute(1, 2, 0).cpu(), interpolation="nearest")
        lines = (title if len(title) <= TITLE else f"{title[: TITLE - 1]}…" for title in titles)
        axes.set_title("\n".join(lines), fontsize=8, color=colour, pad=3, parse_math=False)
        return axes

    def sentences(self, row: int, column: int, heading: str, *lines: str, colour: str = "black") -> None:
        """Write a heading and what is below it beside the pictures of a row."""
        width = self.width - column * (PICTURE + GAP) - 2 * GAP if column else 2 * PICTURE + GAP
        below = "\n".join(textwrap.fill(line, int(width * CHARACTERS)) for line in lines)
        axes = self._axes(row, column, width)
        axes.text(0, 1, heading, fontsize=10.5, weight="bold", color=colour, va="top", parse_math=False)
        axes.text(0, 0.82, below, fontsize=9, linespacing=1.35, va="top", parse_math=False)

    def name(self, label: Tensor) -> str:
        """Return what to call a class in a sentence."""
        return f"'{self.title(label)}'" if self.classes else self.title(label)

    def title(self, label: Tensor) -> str:
        """Return what to call a class in a title."""
        return self.classes[int(label)] if self.classes else f"class {int(label)}"

    def said(self, logits: Tensor) -> tuple[str, str]:
        """Return what the model says, for a title: the class and, on another line, its probability."""
        label = logits.argmax()
        return self.title(label), f"{logits.softmax(0)[label]:.0%}"


def _draw_heats(sheet: _Sheet, explanation: Explanation) -> None:
    said = explanation.purified.logits_before[0]
    sheet.picture(0, 0, explanation.image, "the picture", *sheet.said(said))
    for column, heat in enumerate(explanation.heats, start=1):
        layer = heat.layer if len(heat.layer) <= TITLE else f"…{heat.layer[1 - TITLE :]}"
        titles = ("used:" if heat.used else "", layer, f"map {heat.size[1]}x{heat.size[0]}")
        axes = sheet.picture(0, column, explanation.image, *titles, colour=GUILTY if heat.used else INNOCENT)
        axes.imshow(heat.heatmap.cpu(), cmap="jet", vmin=0, vmax=1, alpha=0.55, interpolation="bilinear")
    sheet.sentences(
        0,
        2 + MOST_PROBES,
        "Where does the class come from?",
        f"Red is what makes the model say {sheet.name(said.argmax())}, seen by layers of several resolutions. The "
        "purifier goes by the map that is marked 'used'.",
    )


def _draw_probes(sheet: _Sheet, evidence: Evidence) -> None:
    sheet.sentences(
        1,
        0,
        "The test: does it work elsewhere?",
        "A trigger takes its class along wherever it is put. So each part below is cut out of the picture and put on "
        "others, such as these. Red: the class came along.",
    )
    shown = zip(evidence.probes[:MOST_PROBES], evidence.logits, strict=False)
    for column, (probe, logits) in enumerate(shown, start=2):
        sheet.picture(1, column, probe, "another picture", *sheet.said(logits), colour=INNOCENT)
    sheet.sentences(
        1,
        2 + MOST_PROBES,
        "How to read the numbers",
        "Margin: by how much the logit of the class exceeds the largest other one, on all those pictures but one. "
        f"Guilty is what at most 1 in {10**evidence.threshold:,.0f} innocent pictures reach, by a law fitted to "
        "reference pictures. The verdict adds up all sizes, the heat, what the picture is without the part, and how "
        "far it is from others of its class.",
    )


def _draw_candidate(
    sheet: _Sheet, row: int, explanation: Explanation, evidence: Evidence, candidate: Candidate, part: str
) -> None:
    before, after = explanation.purified.logits_before[0].argmax(), candidate.logits.argmax()
    whole = candidate.heat is None
    if whole:
        contrast = 0.5 / candidate.part.abs().amax().clamp(min=1 / 255)
        sheet.picture(row, 0, 0.5 + contrast * candidate.part, "what is taken off", f"contrast x{contrast:.1f}")
    else:
        _outline(sheet.picture(row, 0, explanation.image, f"{_percent(candidate.mask)} of the picture"), candidate.mask)
    sheet.picture(row, 1, candidate.removed, "without it:", *sheet.said(candidate.logits))
    shown = zip(candidate.pasted[:MOST_PROBES], candidate.pasted_logits, candidate.taken.tolist(), strict=False)
    for column, (pasted, logits, taken) in enumerate(shown, start=2):
        sheet.picture(row, column, pasted, *sheet.said(logits), colour=GUILTY if taken else INNOCENT)
    name, others = sheet.name(before), int(evidence.foreign.sum())
    there = f"{len(evidence.probes)} other pictures"
    if others < len(evidence.probes):
        there += f", {others} of them of other classes"
    held = "" if candidate.heat is None else f"It holds {candidate.heat:.0%} of the heat. "
    lines = [
        f"{held}{'Added to' if whole else 'Put on'} {there}, it turns {int(candidate.taken.sum())} into {name} "
        f"(margin {_signed(candidate.margin)}). {_rarity(candidate.score)}",
        f"Without it, the picture {'stays' if after == before else 'is'} {sheet.name(after)}.",
    ]
    if candidate in evidence.universal:
        lines.append(
            f"A pattern like it leads most pictures to {name}, the class that this model takes to most readily. "
            "How rare it is counts how far the picture is from its class, too."
        )
    if candidate.score >= evidence.threshold and not candidate.guilty:
        cleared = whole or explanation.purified.stages[0] == "locate"
        lines.append("But a first look had cleared it." if cleared else "But all that is known of it does not.")
    verdict, colour = ("guilty", GUILTY) if candidate.guilty else ("not by itself", INNOCENT)
    sheet.sentences(row, 2 + MOST_PROBES, f"{part}: {verdict}", *lines, colour=colour)


def _draw_verdict(sheet: _Sheet, explanation: Explanation) -> None:
    purified = explanation.purified
    mask, changed = purified.masks[0], bool(purified.labels[0] != purified.logits_before[0].argmax())
    touched, whole = bool(mask.any()), bool(mask.all())
    title = f"{_percent(mask)} removed" if touched and not whole else "as it came"
    axes = sheet.picture(sheet.rows - 1, 0, explanation.image, title)
    if touched and not whole:
        _outline(axes, mask)
    sheet.picture(sheet.rows - 1, 1, purified.images[0], "what is passed on:", *sheet.said(purified.logits[0]))
    before, (_, sureness) = sheet.name(purified.logits_before[0].argmax()), sheet.said(purified.logits[0])
    said = f"{sheet.name(purified.labels[0])} ({sureness})."
    now = f"the model {'now' if changed else 'still'} says {said}"
    if purified.stages[0] == "strike":
        now = f"the model still says {before}; this is no answer, and the likeliest other one is {said}"
    leading = f"more of a pattern that leads pictures to {before} than innocent pictures as far from their class do."
    evidence, flagged = explanation.evidence, bool(purified.flagged[0])
    if evidence is None and touched:
        lines = [
            f"The hottest {_percent(mask)} was removed and restored, as in every picture, and {now}",
            "This preset suspects a picture only where its class changes by that.",
        ]
    elif evidence is None:
        lines = ["Nothing is hot; it is passed on as it came."]
    elif whole:
        scores = [candidate.score for candidate in (*evidence.patterns, *evidence.universal)]
        place = scores.index(max(scores))
        if place < len(PATTERN_NAMES):
            part = PATTERN_NAMES[place]
            why = f"{part}, added to other pictures, pushed them towards {before} as innocent pictures' do not."
        else:
            why = f"It bears {leading}"
        lines = [why, f"So the picture was restored as a whole, and {now}"]
    elif touched and not any(candidate.guilty for candidate in evidence.regions):
        lines = [f"It bears {leading}", f"So the outlined {_percent(mask)}, which bear it, were removed, and {now}"]
    elif touched:
        best = max(evidence.regions, key=lambda candidate: candidate.score)
        lines = [
            f"Its hottest {_percent(best.mask)} makes {before} of other pictures, too, and innocent parts do not.",
            f"The outlined {_percent(mask)} was removed and restored, and {now}",
        ]
    elif purified.stages[0] == "locate":
        lines = [
            "At first look its heat is spread and nothing faint carries its class, as in most pictures.",
            "So it is passed on as it came. What is shown above was tried for this figure only.",
        ]
    else:
        lines = ["No part in question takes the class along as triggers do; it is passed on as it came."]
    if evidence:
        lines.append(
            f"How far the picture is from others of its class, as the model sees it: {_rarity(evidence.strange)}"
        )
        score = _signed(purified.scores[0].item())
        lines.append(
            f"Score (minus the decimal logarithm of the share of innocent pictures that look as suspicious): {score}; "
            f"suspected from {_signed(evidence.threshold)} on."
        )
    verdict, colour = ("Verdict: trigger", GUILTY) if flagged else ("Verdict: innocent", "black")
    sheet.sentences(sheet.rows - 1, 2, verdict, *lines, colour=colour)


def _outline(axes: Any, mask: Tensor) -> None:
    """Draw the edges of a mask (1, H, W)."""
    axes.autoscale(enable=False)
    fine = F.pad(mask[0], (1, 1, 1, 1)).repeat_interleave(FINE, 0).repeat_interleave(FINE, 1).cpu()
    rows, columns = ((torch.arange(side) + 0.5) / FINE - 1.5 for side in fine.shape)
    # No broader than a pixel, or the outline of scattered pixels hides the picture.
    width = min(1.2, 72 * PICTURE / max(mask.shape))
    for colour, times in (("black", 2), (OUTLINE, 1)):
        axes.contour(columns, rows, fine, levels=[0.5], colors=colour, linewidths=times * width).set_clip_on(False)


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "\N{MINUS SIGN}")


def _percent(mask: Tensor) -> str:
    share = mask.mean().item()
    return f"{share:.0%}" if share >= 0.1 else f"{100 * share:.2g}%"


def _rarity(score: float) -> str:
    if score == -math.inf:
        return "This preset does not ask how rare that is."
    if score < MANY:
        return "Many innocent pictures reach as much."
    if score < 2:
        return f"About {10**-score:.0%} of innocent pictures reach as much."
    if score <= RAREST:
        return f"About 1 in {float(f'{10**score:.2g}'):,.0f} innocent pictures reaches as much."
    return f"Fewer than 1 in {10**RAREST:,} innocent pictures reach as much."

"""What pictures that were seen in service tell of a backdoor, and a figure of what a scan found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from februus.files import write_file
from februus.metrics import Rate
from februus.priors import Prior, Scan
from februus.purifier import Purifier
from februus.verification import answer

__all__ = ["Service", "draw_scan", "observe"]

# Of the flagged pictures, how many must agree that a pixel belongs to the trigger.
AGREEING = 0.5
# How much less a pixel of the trigger varies among flagged pictures than it does among innocent ones.
STEADY = 0.5
# Of how many flagged pictures, those with the smallest regions, the region alone is tried.
SINGLE = 8
# Flagged pictures below which no trigger is looked for.
FEWEST = 4
# Classes that are drawn, the most suspicious first.
DRAWN = 8
# Of these, whose triggers are drawn, and how much lighter a pattern is drawn that is added.
FIRST, FAINT = 3, 4
SUSPECT, INNOCENT = "#c00000", "#707070"


@dataclass(frozen=True, kw_only=True, eq=False)
class Service:
    """What became of pictures that were seen in service.

    Args:
        flagged: how many of them the purifier suspects.
        suspect: the class that most of these were taken for; None where nothing was flagged.
        taken: how many of the flagged ones were taken for it.
        trigger: what these have in common; None where they are fewer than 4 or have nothing in common.
        success: how many reference pictures of other classes it leads to the suspect class; None without trigger.
    """

    flagged: Rate
    suspect: int | None = None
    taken: Rate | None = None
    trigger: Prior | None = None
    success: Rate | None = None


def observe(purifier: Purifier, images: Tensor, reference: Tensor) -> Service:
    """Purify pictures and recover the trigger from what was removed.

    Pixels that most of the flagged pictures lost, and that are much more alike in them than in innocent pictures, make
    the trigger; or, where it has no fixed place, what a single one of them lost. Where whole pictures were restored, it
    is what all of them lost. Of these, what leads most of the reference pictures to the suspect class is kept.

    Args:
        purifier: of the model.
        images: the pictures (N, 3, H, W).
        reference: innocent pictures (R, 3, H, W).
    """
    purified = purifier(images)
    flagged = Rate(int(purified.flagged.sum()), len(images))
    if not flagged.count:
        return Service(flagged=flagged)
    labels = purified.logits_before.argmax(1)[purified.flagged]
    suspect = int(labels.mode().values)
    taken = Rate(int((labels == suspect).sum()), flagged.count)
    rows = purified.flagged.nonzero()[:, 0][labels == suspect]
    found: list[tuple[Prior, Rate]] = []
    if len(rows) >= FEWEST:
        seen, masks, restored = images[rows], purified.masks[rows], purified.images[rows]
        before = answer(purifier.model, reference, batch_size=purifier.batch_size).argmax(1)
        others = reference[before != suspect]
        for mask, pattern in _candidates(seen, masks, restored, reference):
            prior = Prior(label=suspect, mask=mask, pattern=pattern)
            triggered = (others * (1 - mask) + pattern).clamp(0, 1)
            led = answer(purifier.model, triggered, batch_size=purifier.batch_size).argmax(1) == suspect
            found.append((prior, Rate(int(led.sum()), len(others))))
    if not found:
        return Service(flagged=flagged, suspect=suspect, taken=taken)
    trigger, success = max(found, key=lambda one: one[1].count)
    return Service(flagged=flagged, suspect=suspect, taken=taken, trigger=trigger, success=success)


def _candidates(seen: Tensor, masks: Tensor, restored: Tensor, reference: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return what may be the trigger: masks (1, H, W) and patterns (3, H, W)."""
    whole = masks.flatten(1).all(1)
    found = []
    if whole.sum() >= FEWEST:
        found.append((torch.zeros_like(masks[0]), (seen - restored)[whole].median(0).values))
    pictures, places = seen[~whole], masks[~whole]
    if len(pictures) >= FEWEST:
        common = places.mean(0) >= AGREEING
        mask = (common & (_spread(pictures) <= STEADY * _spread(reference))).float()
        if mask.any():
            found.append((mask, mask * pictures.median(0).values))
        smallest = places.flatten(1).sum(1).argsort(stable=True)[:SINGLE]
        found += [(places[one], places[one] * pictures[one]) for one in smallest.tolist()]
    return found


def _spread(images: Tensor) -> Tensor:
    """Return the mean absolute deviation from the median (1, H, W)."""
    return (images - images.median(0).values).abs().mean((0, 1))[None]


def draw_scan(path: Path, scan: Scan, service: Service | None, classes: Sequence[str] = ()) -> None:
    """Draw the anomaly index of the classes, the smallest trigger of the first of them, and the one seen in service.

    Args:
        path: of the PNG.
        scan: of the model.
        service: of pictures; None where there were none.
        classes: names; the numbers stand where there are none.
    """

    def name(label: int) -> str:
        return classes[label] if classes else f"class {label}"

    order = scan.indices.argsort(descending=True, stable=True).tolist()[:DRAWN]
    found = scan.triggers
    pictures = [
        (f"{name(label)}\n{found.norms[label]:.1f} pixels", found.masks[label] * found.patterns[label])
        for label in order[:FIRST]
    ]
    if service is not None and service.trigger is not None:
        trigger = service.trigger
        # A pattern that is added is faint, and as often darker as lighter.
        shown = trigger.pattern if trigger.mask.any() else 0.5 + FAINT * trigger.pattern
        pictures.append((f"seen in service\n{name(trigger.label)}", shown.cpu()))
    figure = Figure(figsize=(4.2 + 1.9 * len(pictures), 0.8 + 0.28 * max(len(order), 6)), layout="constrained")
    bars, side = figure.subfigures(1, 2, squeeze=False, width_ratios=[4.2, 1.9 * len(pictures)])[0]
    axes = bars.subplots()
    axes.barh(
        [name(label) for label in order],
        scan.indices[order].tolist(),
        color=[SUSPECT if label in scan.suspects else INNOCENT for label in order],
    )
    axes.invert_yaxis()
    axes.set_xlabel("anomaly index; red: suspected")
    axes.spines[["top", "right"]].set_visible(False)
    for place, (title, picture) in zip(side.subplots(1, len(pictures), squeeze=False)[0], pictures, strict=True):
        place.set_axis_off()
        place.set_title(title, fontsize=9)
        place.imshow(picture.clamp(0, 1).permute(1, 2, 0), interpolation="nearest")
    side.suptitle("smallest trigger found", fontsize=10)
    write_file(path, lambda temporary: figure.savefig(temporary, dpi=110, format="png"))

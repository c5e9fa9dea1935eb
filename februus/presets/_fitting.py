"""Fitting the laws of the preset `verified` to what was measured on reference pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from februus.presets._calibration import KNOWN, LOOKS, PATTERNED, PATTERNS, Calibration, in_units
from februus.presets._judgement import Judgement
from februus.priors import Prior
from februus.typicality import Typicality, held_out
from februus.universal import Universal
from februus.verification import Law, Tail, consensus

__all__ = ["Measured", "fit"]

# The share of the reference pictures that each of `LOOKS` does not clear, with those before it; that of the look at
# the whole picture.
UNCLEARED, UNCLEARED_WHOLE = (0.3, 0.12), 0.12
# The least spread in the resistance of the probes.
LEAST_SPREAD = 1e-6
# The share of the reference pictures that may be triggered.
TOLERATED = 0.02
# How far beyond the threshold reference pictures are still taken for innocent ones, five times as rare as is flagged,
# and how many of them, in false-positive rates.
INNOCENT, FEW = math.log10(5), 2.5


class Measured(NamedTuple):
    """What is known of reference pictures.

    Args:
        labels: the model's classes (N,).
        features: what their last maps are like (N, D).
        gathered: concentration of the heat (N,).
        prominence: of the wave that stands out (N,).
        glances: how surely what is faint carries the class to each of the probes (N, P).
        brought: how surely regions, patterns and the known place do (N, E, P).
        flipped: by how much another class wins without the smallest region, the noise, the waves (N, 1 + `PATTERNS`).
    """

    labels: Tensor
    features: Tensor
    gathered: Tensor
    prominence: Tensor
    glances: Tensor
    brought: Tensor
    flipped: Tensor


def fit(
    measured: Measured,
    probes: Tensor,
    logits: Tensor,
    universals: tuple[Universal, ...],
    borne: Sequence[Tensor],
    prior: Prior | None,
    *,
    false_positive_rate: float,
    without: str | None,
) -> Calibration:
    """Fit everything that the preset learns.

    Args:
        measured: on reference pictures that are no probes.
        probes: the pictures that regions were put on (P, 3, H, W).
        logits: the model's answer to them (P, C).
        universals: the perturbations that lead to the class that the model takes to most readily.
        borne: how much the reference pictures bear of each (N,).
        prior: what is known of a backdoor.
        false_positive_rate: share of innocent pictures that may be flagged.
        without: a part that is left out, as in `Verified`.
    """
    brought, flipped, num_classes = measured.brought, measured.flipped, logits.shape[1]
    resistance = torch.stack([brought.mean(0), brought.std(0).clamp(min=LEAST_SPREAD)])
    relative = in_units(brought, resistance)
    agreed = consensus(relative)
    carried, left, placed = agreed.tensor_split((PATTERNED, KNOWN), 1)
    # The probe that goes most with what all of them say is asked first.
    largest = LOOKS[0][0]
    ranks = _agreement(relative[:, largest], agreed[:, largest]).argsort(descending=True, stable=True)
    resistance, glances = resistance[..., ranks], measured.glances[:, ranks]
    looked = torch.stack([brought[:, place, ranks[rank]] for place, rank in LOOKS], 1)
    glancing = int(_agreement(glances, left.amax(1)).argmax())
    distances = held_out(measured.features, measured.labels, num_classes)

    law = partial(Law.fit, labels=measured.labels, num_classes=num_classes)
    # Not of patterns: that would flag more than is stated (docs/purification.md).
    of_region = partial(law, tolerated=math.ceil(TOLERATED * len(measured.labels)))
    calibration = Calibration(
        probes=probes[ranks],
        logits=logits[ranks],
        resistance=resistance,
        glancing=glancing,
        typicality=Typicality.fit(measured.features, measured.labels, num_classes),
        distance=Tail.fit(distances),
        looks=tuple(map(Tail.fit, looked.unbind(1))),
        concentration=Tail.fit(measured.gathered),
        glance=Tail.fit(glances[:, glancing]),
        prominence=Tail.fit(measured.prominence),
        margins=tuple(map(of_region, carried.unbind(1))),
        patterns=tuple(map(law, left.unbind(1))),
        flips=(of_region(flipped[:, 0]), *map(law, flipped[:, 1:].unbind(1))),
        universals=universals,
        # A class may have a few pictures that bear far more than its others do: means tell of them, medians do not.
        borne=tuple(law(one, outliers=False).of(kind.label) for one, kind in zip(borne, universals, strict=True)),
        prior=prior,
        known=law(placed[:, 0]).of(prior.label) if prior else None,
    )
    judge = partial(Judgement, false_positive_rate=false_positive_rate, without=without)
    judgement = judge(calibration=calibration)
    strange = judgement.strangeness(distances)
    regions = judgement.of_region(measured.gathered, carried, flipped[:, 0], strange)
    patterns = [judgement.of_pattern(place, left[:, place], flipped[:, 1 + place]) for place in range(PATTERNS)]
    calibration = replace(calibration, joint=(of_region(regions, short=True), *map(law, patterns)))
    if without != "first-look":
        first = judgement.first_look(strange, measured.gathered, looked[:, 0])
        suspicious = first.quantile(1 - UNCLEARED[0]).item()
        second = judgement.second_look(first, looked[:, 1])[first >= suspicious]
        faint = strange + judgement.glance(measured.prominence, glances[:, glancing])
        calibration = replace(
            calibration,
            suspicious=(suspicious, second.quantile(1 - UNCLEARED[1] / UNCLEARED[0]).item()),
            faint=math.inf if without == "whole" else faint.quantile(1 - UNCLEARED_WHOLE).item(),
        )
    judgement = judge(calibration=calibration)
    surprises = [judgement.pattern(place, left[:, place], flipped[:, 1 + place]) for place in range(PATTERNS)]
    return replace(calibration, raised=tuple(raised(one, judgement) for one in surprises))


def raised(surprises: Tensor, judgement: Judgement) -> float:
    """Return how much more than the threshold a pattern takes, by the ``surprises`` (N,) of reference pictures.

    Where a law is too narrow, it accuses some of those that it was fitted to, and these are the measure. But what
    is far beyond the threshold, or where more than a few are, they may be triggered.
    """
    beyond = surprises[surprises >= judgement.threshold] - judgement.threshold
    innocent = beyond[beyond < INNOCENT]
    few = len(beyond) <= FEW * judgement.false_positive_rate * len(surprises)
    # A little more than the most that one of them reaches, which is then not flagged (but for rounding).
    return innocent.max().item() + 1e-6 if few and len(innocent) else 0.0


def _agreement(margins: Tensor, said: Tensor) -> Tensor:
    """Return how much the margins on each probe (N, P) go with what all of them say (N,): Pearson's correlation."""
    return torch.corrcoef(torch.cat([said[:, None], margins], 1).T)[0, 1:].nan_to_num()

"""Defenses over all cases, best first, and one of them against each other one, case by case."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from statistics import fmean
from typing import Any

from februus.benchmark.evaluation import ORACLE, Row
from februus.metrics import Difference, Rate

__all__ = ["STOPPED", "Pair", "Span", "Standing", "compare", "leaderboard"]

# Excess ASR up to which an attack counts as stopped.
STOPPED = 0.02

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Span:
    """The mean of a figure over cases, which all weigh the same, with the smallest and the largest.

    >>> Span.of([0.25, None, 0.75])
    Span(mean=0.5, smallest=0.25, largest=0.75, cases=2)
    """

    mean: float
    smallest: float
    largest: float
    cases: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Span | None:
        """Return the span of those values that there are; None of none."""
        there = [value for value in values if value is not None]
        return cls(fmean(there), min(there), max(there), len(there)) if there else None


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A defense over all cases that it was measured on; a checkpoint with a trigger and a seed is a case.

    Args:
        preset: of the defense.
        cases: how many.
        clean_accuracy_loss: over all of them.
        attack_success_rate: that is left, over those with a trigger; None where there is none, as of all that follows
            from triggered pictures.
        excess_attack_success_rate: likewise.
        stopped: share of the cases with a trigger whose excess ASR is at most `STOPPED`.
        recovered_accuracy_loss: over the cases with a trigger.
        auroc: over the cases with a trigger on which the defense gave scores.
        flops_clean: of a clean picture, the inpainter's included, relative to one plain forward; None of the oracle,
            as all costs.
        flops_triggered: likewise.
        time_clean: wall time of a clean picture relative to that of the bare model in the same run.
        time_triggered: likewise.
    """

    preset: str
    cases: int
    clean_accuracy_loss: Span | None
    attack_success_rate: Span | None
    excess_attack_success_rate: Span | None
    stopped: Rate
    recovered_accuracy_loss: Span | None
    auroc: Span | None
    flops_clean: Span | None
    flops_triggered: Span | None
    time_clean: Span | None
    time_triggered: Span | None


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A defense and another one on the same triggered pictures of one case.

    Args:
        name: of the case.
        seed: of the case.
        other: preset of the other defense.
        excess: ASR of the defense.
        excess_of_other: likewise.
        loss: of clean accuracy under the defense.
        loss_of_other: likewise.
    """

    name: str
    seed: int
    other: str
    excess: Difference
    excess_of_other: Difference
    loss: Difference
    loss_of_other: Difference

    @property
    def stops_as_much(self) -> bool:
        """Whether the excess ASR is not behind: at most the upper bound of the other's 95 % interval."""
        return self.excess.value <= self.excess_of_other.interval[1]

    @property
    def costs_no_more(self) -> bool:
        """Whether the loss of clean accuracy is equal or smaller, to the picture."""
        return self.loss.value <= self.loss_of_other.value

    @property
    def costs_hardly_more(self) -> bool:
        """Whether the loss of clean accuracy is at most the upper bound of the other's 95 % interval."""
        return self.loss.value <= self.loss_of_other.interval[1]

    @property
    def holds(self) -> bool:
        """Whether the defense is not behind on excess ASR, at equal or smaller loss of clean accuracy."""
        return self.stops_as_much and self.costs_no_more


def leaderboard(rows: Rows) -> list[Standing]:
    """Return how the defenses stand.

    Args:
        rows: as ``report.json`` of a benchmark holds them.

    Returns:
        the defenses by the ASR that they leave, those that leave the same by their loss of clean accuracy. Last those
        that met no trigger, and the oracle, which is none but knows where the trigger is.
    """
    by_preset = defaultdict[str, list[Row]](list)
    for row in rows:
        by_preset[row["preset"]].append(Row.from_dict(row))
    return sorted((_standing(preset, measured) for preset, measured in by_preset.items()), key=_order)


def compare(rows: Rows, preset: str = "verified") -> list[Pair]:
    """Return a defense beside each other one, case by case.

    Others are all presets but the oracle and the same preset with other options. Cases without trigger, and cases that
    only one of the two was measured on, make no pair.

    Args:
        rows: as ``report.json`` of a benchmark holds them.
        preset: of the defense.
    """
    cases = defaultdict[tuple[str, int], dict[str, Row]](dict)
    for row in rows:
        cases[row["name"], row["seed"]][row["preset"]] = Row.from_dict(row)
    return [
        Pair(
            name=name,
            seed=seed,
            other=other,
            excess=own.differences["excess_attack_success_rate"],
            excess_of_other=row.differences["excess_attack_success_rate"],
            loss=own.differences["clean_accuracy_loss"],
            loss_of_other=row.differences["clean_accuracy_loss"],
        )
        for (name, seed), measured in cases.items()
        if (own := measured.get(preset)) and "excess_attack_success_rate" in own.differences
        for other, row in measured.items()
        if method_of(other) not in (method_of(preset), ORACLE)
    ]


def method_of(preset: str) -> str:
    """Return a preset without its options.

    >>> method_of("verified:inpainter=telea")
    'verified'
    """
    return preset.partition(":")[0]


def _standing(preset: str, rows: list[Row]) -> Standing:
    excess = [row.differences.get("excess_attack_success_rate") for row in rows]
    met = [difference.value for difference in excess if difference]
    return Standing(
        preset=preset,
        cases=len(rows),
        clean_accuracy_loss=Span.of(row.differences["clean_accuracy_loss"].value for row in rows),
        attack_success_rate=Span.of(rate.value for row in rows if (rate := row.rates.get("attack_success_rate_after"))),
        excess_attack_success_rate=Span.of(met),
        stopped=Rate(sum(value <= STOPPED for value in met), len(met)),
        recovered_accuracy_loss=Span.of(
            difference.value for row in rows if (difference := row.differences.get("recovered_accuracy_loss"))
        ),
        auroc=Span.of(row.detection.auroc.value for row in rows if row.detection),
        flops_clean=Span.of(_sum(row.flops_clean, row.flops_inpainter_clean) for row in rows),
        flops_triggered=Span.of(_sum(row.flops_triggered, row.flops_inpainter_triggered) for row in rows),
        time_clean=Span.of(_ratio(row.seconds_clean, row.seconds_plain_clean) for row in rows),
        time_triggered=Span.of(_ratio(row.seconds_triggered, row.seconds_plain_triggered) for row in rows),
    )


def _order(standing: Standing) -> tuple[bool, float, float, str]:
    left, loss = standing.attack_success_rate, standing.clean_accuracy_loss
    is_oracle = method_of(standing.preset) == ORACLE
    return is_oracle, left.mean if left else inf, loss.mean if loss else inf, standing.preset


def _sum(own: float | None, restoring: float | None) -> float | None:
    return None if own is None or restoring is None else own + restoring


def _ratio(seconds: float | None, plain: float | None) -> float | None:
    return None if seconds is None or plain is None else seconds / plain

"""How well a scan of a model tells the class that its backdoor leads to."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from scipy.stats import spearmanr

from detectors.neural_cleanse import NeuralCleanse
from februus.benchmark.cases import Case
from februus.priors import Scan, scan

__all__ = ["ScanRow", "measure_scan"]


@dataclass(frozen=True, kw_only=True)
class ScanRow:
    """What a scan found in one model.

    Args:
        name: of the case.
        classes: how many the model has.
        target_label: where its backdoor leads; None of a clean model.
        rank: of that class by anomaly index, from 1; None of a clean model.
        index: of that class; of a clean model, the highest.
        norm: of the mask that was found for the class of ``index``, in pixels.
        suspects: the classes that are suspected, the most suspicious first.
        seconds: that the scan took.
        loop_seconds: that it took with one class at a time; None where that was not tried.
        same_suspects: whether both suspect the same classes; None likewise.
        rank_correlation: Spearman's, of the indices of both; None likewise.
    """

    name: str
    classes: int
    target_label: int | None
    rank: int | None
    index: float
    norm: float
    suspects: tuple[int, ...]
    seconds: float
    loop_seconds: float | None = None
    same_suspects: bool | None = None
    rank_correlation: float | None = None


def measure_scan(case: Case, detector: NeuralCleanse | None = None, *, against_loop: bool = False) -> ScanRow:
    """Scan a model and compare what is found with what is known of it.

    Args:
        case: the model, and the reference pictures that it is tried on.
        detector: what looks; Neural Cleanse with its defaults where not given.
        against_loop: whether it is done again with one class at a time.
    """
    used = detector or NeuralCleanse()
    found, seconds = _timed(case, used)
    order = found.indices.argsort(descending=True, stable=True).tolist()
    shown = order[0] if case.target_label is None else case.target_label
    row = ScanRow(
        name=case.name,
        classes=len(order),
        target_label=case.target_label,
        rank=None if case.target_label is None else order.index(case.target_label) + 1,
        index=found.indices[shown].item(),
        norm=found.triggers.norms[shown].item(),
        suspects=found.suspects,
        seconds=seconds,
    )
    if not against_loop:
        return row
    looped, loop_seconds = _timed(case, replace(used, classes_at_once=1))
    return replace(
        row,
        loop_seconds=loop_seconds,
        same_suspects=set(looped.suspects) == set(found.suspects),
        rank_correlation=float(spearmanr(found.indices, looped.indices).statistic),
    )


def _timed(case: Case, detector: NeuralCleanse) -> tuple[Scan, float]:
    start = time.perf_counter()
    # What comes back lies on the CPU: nothing is left in flight on a GPU.
    return scan(case.model, case.reference, detector), time.perf_counter() - start

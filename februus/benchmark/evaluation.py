"""Before and after: one case under one purifier, as a row of figures."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from februus.benchmark.cases import Case
from februus.checks import mismatch
from februus.data import Dataset
from februus.metrics import Rate, attack_success_rate, clean_accuracy, flops, recovered_accuracy
from februus.models.modes import evaluation_mode
from februus.poisoning import stamp
from februus.purifier import Purifier
from februus.seeds import seeded

__all__ = ["Row", "evaluate"]

Progress = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class Row:
    """The figures of one case under one defense.

    Args:
        name: of the case.
        preset: of the purifier.
        rates: clean accuracy and attack success rate before and after, recovered accuracy, share of clean and of
            triggered pictures that were flagged.
        seconds_per_image: wall time of purifying a picture.
        seconds_per_image_plain: wall time of classifying it without purifier, in the same run.
        flops: of purifying and classifying a picture, relative to one plain forward.
        flops_inpainter: the part of it that is the inpainter's.
        settings: the purifier's.
    """

    name: str
    preset: str
    rates: dict[str, Rate]
    seconds_per_image: float
    seconds_per_image_plain: float
    flops: float
    flops_inpainter: float
    settings: str

    def to_dict(self) -> dict[str, Any]:
        """Return what ``report.json`` holds: each rate as a number, its counts and interval under ``rates``."""
        return {
            "name": self.name,
            "preset": self.preset,
            **{name: rate.value for name, rate in self.rates.items()},
            "rates": {
                name: {"count": rate.count, "total": rate.total, "interval": list(rate.interval)}
                for name, rate in self.rates.items()
            },
            "seconds_per_image": self.seconds_per_image,
            "seconds_per_image_plain": self.seconds_per_image_plain,
            "flops": self.flops,
            "flops_inpainter": self.flops_inpainter,
            "settings": self.settings,
        }


def evaluate(case: Case, purifier: Purifier, *, preset: str, seed: int = 0, on_images: Progress | None = None) -> Row:
    """Measure a case without and with a purifier, on the same pictures.

    Args:
        case: model, pictures and trigger.
        purifier: of the case's model.
        preset: its name, for the row.
        seed: of what the trigger leaves to chance.
        on_images: called with the number of pictures done since the last call.

    Raises:
        ValueError: if all pictures are of the target class, on which no attack can be seen.
    """
    labels, rates = case.test.labels, dict[str, Rate]()
    if case.target_label is not None and (labels == case.target_label).all():
        raise mismatch("pictures", "some of other classes than the target", f"{len(labels)} of class {labels[0]}")
    before, after, flagged, times = _run(case.test, purifier, on_images)
    rates["clean_accuracy_before"] = clean_accuracy(before, labels)
    rates["clean_accuracy_after"] = clean_accuracy(after, labels)
    rates["flagged_clean"] = Rate(int(flagged.sum()), len(flagged))
    if case.trigger is not None and case.target_label is not None:
        triggered = stamp(case.test, case.trigger, seeded(seed))
        before, after, flagged, more = _run(triggered, purifier, on_images)
        target, others = case.target_label, labels != case.target_label
        rates["attack_success_rate_before"] = attack_success_rate(before, labels, target)
        rates["attack_success_rate_after"] = attack_success_rate(after, labels, target)
        rates["recovered_accuracy"] = recovered_accuracy(after, labels, target)
        rates["flagged_triggered"] = Rate(int(flagged[others].sum()), int(others.sum()))
        times = times[0] + more[0], times[1] + more[1]
    count = len(labels) * (2 if case.trigger is not None else 1)
    all_flops, inpainter_flops = _relative_flops(purifier, case.test)
    return Row(
        name=case.name,
        preset=preset,
        rates=rates,
        seconds_per_image=times[1] / count,
        seconds_per_image_plain=times[0] / count,
        flops=all_flops,
        flops_inpainter=inpainter_flops,
        settings=repr(purifier),
    )


def _run(
    data: Dataset, purifier: Purifier, on_images: Progress | None
) -> tuple[Tensor, Tensor, Tensor, tuple[float, float]]:
    """Return the classes before and after, what was flagged, and the seconds without and with the purifier."""
    device = next(purifier.model.parameters()).device
    before, after, flagged = list[Tensor](), list[Tensor](), list[Tensor]()
    plain, purified = 0.0, 0.0
    for batch, _ in data.batches(purifier.batch_size):
        images = batch.to(device)
        start = time.perf_counter()
        with torch.no_grad(), evaluation_mode(purifier.model):
            before.append(purifier.model(images).argmax(1).cpu())
        middle = time.perf_counter()
        result = purifier(images)
        after.append(result.labels.cpu())
        flagged.append(result.flagged.cpu())
        plain, purified = plain + middle - start, purified + time.perf_counter() - middle
        if on_images is not None:
            on_images(len(images))
    return torch.cat(before), torch.cat(after), torch.cat(flagged), (plain, purified)


def _relative_flops(purifier: Purifier, data: Dataset, *, count: int = 16) -> tuple[float, float]:
    """Return the work of purifying, and the inpainter's part of it, relative to one plain forward."""
    images = data.floats(slice(count)).to(next(purifier.model.parameters()).device)
    with torch.no_grad(), evaluation_mode(purifier.model):
        plain = flops(lambda: purifier.model(images))
    result = purifier(images)
    suspect = result.masks.flatten(1).any(1)
    restoring = 0
    if suspect.any():
        restoring = flops(lambda: purifier.inpainter(images[suspect], result.masks[suspect]))
    return flops(lambda: purifier(images)) / plain, restoring / plain

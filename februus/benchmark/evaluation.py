"""Before and behind a defense: one case under some purifiers, as rows of figures."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from februus import registry
from februus.benchmark.cases import Case
from februus.benchmark.memory import memories_on
from februus.checks import mismatch
from februus.data import Dataset
from februus.metrics import (
    Auroc,
    Detection,
    Difference,
    Mean,
    Rate,
    attack_success_rate,
    clean_accuracy,
    clean_accuracy_loss,
    defense_effectiveness_rating,
    detection,
    excess_attack_success_rate,
    flops,
    peak_signal_to_noise_ratio,
    recovered_accuracy,
    recovered_accuracy_loss,
    structural_similarity_inside,
    told,
)
from februus.poisoning import stamp
from februus.purifier import Purifier
from februus.seeds import seeded
from februus.types import Inpainter, Purified
from februus.verification import answer

__all__ = ["ORACLE", "Row", "evaluate", "measure_oracle"]

ORACLE = "oracle"
# Pictures that FLOPs are counted on.
COUNTED = 64
COSTS = ("flops", "seconds", "bytes")
# Share of pixels up to which a trigger has a place of its own.
LARGEST_CHANGE = 0.5

Progress = Callable[[int], None]
Figure = TypeVar("Figure", Rate, Difference, Auroc, Mean)
Made = TypeVar("Made", Tensor, Purified)


@dataclass(frozen=True, kw_only=True)
class Row:
    """The figures of one case under one defense; triggered pictures are `Case.victims`.

    Args:
        name: of the case.
        preset: of the purifier, or ``oracle``; where there are several, ``oracle:`` and its inpainter.
        rates: clean accuracy and attack success rate before and after, recovered accuracy, share of clean and of
            triggered pictures that were flagged.
        differences: loss of clean accuracy, excess attack success rate, loss of recovered accuracy; each against the
            bare model on the same pictures without trigger.
        detection: how well the scores tell the triggered pictures from the same ones without trigger; None of a clean
            model and of the oracle, which gives no scores.
        effectiveness: DER, the `defense_effectiveness_rating`; None of a clean model.
        psnr: in dB, of whole triggered pictures behind the defense against the same without trigger, over those of
            which the defense restored something; None where it restored nothing.
        ssim: likewise.
        flops_clean: of purifying and classifying a clean picture, without those of the inpainter, relative to one plain
            forward. PyTorch's operations alone are counted. None of the oracle, as all costs.
        flops_triggered: the same of a triggered picture; None of a clean model, as all figures of triggered pictures.
        flops_inpainter_clean: the inpainter's, on top.
        flops_inpainter_triggered: likewise.
        seconds_clean: wall time of purifying and classifying a clean picture.
        seconds_triggered: the same of a triggered picture.
        seconds_plain_clean: wall time of classifying a clean picture without purifier, in the same run.
        seconds_plain_triggered: the same of a triggered picture.
        bytes_at_peak: memory that purifying and classifying a batch took at its peak, above what was held before.
        settings: the purifier's, or the oracle's inpainter.
    """

    name: str
    preset: str
    rates: dict[str, Rate]
    differences: dict[str, Difference]
    detection: Detection | None = None
    effectiveness: float | None = None
    psnr: Mean | None = None
    ssim: Mean | None = None
    flops_clean: float | None = None
    flops_triggered: float | None = None
    flops_inpainter_clean: float | None = None
    flops_inpainter_triggered: float | None = None
    seconds_clean: float | None = None
    seconds_triggered: float | None = None
    seconds_plain_clean: float | None = None
    seconds_plain_triggered: float | None = None
    bytes_at_peak: int | None = None
    settings: str

    def to_dict(self) -> dict[str, Any]:
        """Return what ``report.json`` holds: each rate as a number, its counts and interval under ``rates``."""
        found = self.detection
        return {
            "name": self.name,
            "preset": self.preset,
            **{name: rate.value for name, rate in self.rates.items()},
            "rates": {name: told(rate) for name, rate in self.rates.items()},
            "differences": {name: told(difference, "value") for name, difference in self.differences.items()},
            "detection": found and {item.name: told(getattr(found, item.name), "value") for item in fields(found)},
            "effectiveness": self.effectiveness,
            "psnr": self.psnr and told(self.psnr),
            "ssim": self.ssim and told(self.ssim),
            **{item.name: getattr(self, item.name) for item in fields(self) if item.name.startswith(COSTS)},
            "settings": self.settings,
        }

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Row:
        """Return the row that `to_dict` made ``told`` of.

        Raises:
            ValueError: if no row did.
        """
        try:
            seen = told["detection"]
            return cls(
                rates={name: _read(Rate, rate) for name, rate in told["rates"].items()},
                differences={name: _read(Difference, one) for name, one in told["differences"].items()},
                detection=seen
                and Detection(
                    auroc=_read(Auroc, seen["auroc"]),
                    tpr_at_1_percent=_read(Rate, seen["tpr_at_1_percent"]),
                    tpr_at_5_percent=_read(Rate, seen["tpr_at_5_percent"]),
                ),
                psnr=told["psnr"] and _read(Mean, told["psnr"]),
                ssim=told["ssim"] and _read(Mean, told["ssim"]),
                **{name: told[name] for name in ("name", "preset", "effectiveness", "settings")},
                **{item.name: told[item.name] for item in fields(cls) if item.name.startswith(COSTS)},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise mismatch("row", "what `Row.to_dict` returned", repr(error)) from error


def _read(kind: type[Figure], content: Mapping[str, Any]) -> Figure:
    """Return the figure that `told` made ``content`` of."""
    return kind(**{item.name: content[item.name] for item in fields(kind)})


@dataclass(frozen=True, kw_only=True)
class _Bare:
    """Pictures, the bare model's classes of them, and what one costs; FLOPs are counted on a sample."""

    data: Dataset
    labels: Tensor
    sample: Tensor
    flops: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What a defense made of pictures.

    Args:
        bare: what the bare model made of them.
        labels: their classes (N,).
        flagged: which were flagged (N,), bool.
        scores: how suspicious they are (N,).
        quality: PSNR and SSIM (2, R) of the R that something was restored of, where they have originals.
        costs: of one picture.
        bytes_at_peak: that a batch took.
    """

    bare: _Bare
    labels: Tensor
    flagged: Tensor
    scores: Tensor | None = None
    quality: Tensor | None = None
    costs: dict[str, float] = field(default_factory=dict)
    bytes_at_peak: int | None = None


def evaluate(
    case: Case,
    purifiers: Mapping[str, Purifier],
    *,
    seed: int = 0,
    oracle: bool = True,
    on_images: Progress | None = None,
) -> list[Row]:
    """Measure a case without and with purifiers, all on the same pictures.

    A last row, ``oracle``, shows what is left to gain: exactly the pixels that the trigger changed are restored, by the
    purifiers' inpainter; clean pictures stay as they are. Where they have several inpainters, each has its own oracle,
    ``oracle:telea`` and so on. There is none where the trigger changes more than half of a picture's pixels on average.

    Args:
        case: model, pictures and trigger.
        purifiers: of the case's model, by the names of their presets.
        seed: of what the trigger leaves to chance, and of the pictures on which FLOPs are counted.
        oracle: whether its rows are wanted.
        on_images: called with the number of pictures that a purifier has done since the last call. Each purifier does
            all of `Case.test` and, where there is a trigger, all of `Case.victims`.

    Returns:
        a row for each purifier, in their order, and for the oracle.

    Raises:
        ValueError: if there is no purifier, or one of another model, or if no picture is of a class that the attack
            can turn.
    """
    if not purifiers:
        raise mismatch("purifiers", "at least one", "none")
    for name, purifier in purifiers.items():
        if purifier.model is not case.model:
            raise mismatch(f"purifier {name}", "one of the case's model", "one of another model")
    batch_size = max(purifier.batch_size for purifier in purifiers.values())
    clean, triggered = _before(case, batch_size, seed)
    rows = []
    for name, purifier in purifiers.items():
        # A first call may look at the model more closely than later ones, which are the ones to be counted and timed.
        purifier(clean.sample[:1])
        found = _purify(purifier, clean, None, on_images)
        found_triggered = None if triggered is None else _purify(purifier, triggered, case.victims, on_images)
        rows.append(_row(case, name, repr(purifier), found, found_triggered))
    inpainters: list[Inpainter] = []
    for purifier in purifiers.values():
        if oracle and purifier.inpainter is not None and purifier.inpainter not in inpainters:
            inpainters.append(purifier.inpainter)
    for inpainter in inpainters:
        name = ORACLE if len(inpainters) == 1 else f"{ORACLE}:{registry.spec_of(inpainter)}"
        row = _oracle(case, name, inpainter, clean, triggered, batch_size)
        rows += [row] if row else []
    return rows


def measure_oracle(case: Case, inpainter: Inpainter, *, batch_size: int = 256, seed: int = 0) -> Row | None:
    """Measure the ``oracle`` of `evaluate` alone.

    Args:
        case: model, pictures and trigger.
        inpainter: what restores the pixels that the trigger changed.
        batch_size: pictures that are worked on at once.
        seed: of what the trigger leaves to chance.

    Returns:
        its row; None of a clean model, and where the trigger changes more than half of a picture's pixels on average.

    Raises:
        ValueError: if no picture is of a class that the attack can turn.
    """
    clean, triggered = _before(case, batch_size, seed)
    return _oracle(case, ORACLE, inpainter, clean, triggered, batch_size)


def _before(case: Case, batch_size: int, seed: int) -> tuple[_Bare, _Bare | None]:
    """Let the bare model class the clean and the triggered pictures."""
    triggered = None
    if case.trigger is not None:
        triggered = _ask(case.model, stamp(case.victims, case.trigger, seeded(seed)), batch_size, seed)
    return _ask(case.model, case.test, batch_size, seed), triggered


def _oracle(
    case: Case, name: str, inpainter: Inpainter, clean: _Bare, triggered: _Bare | None, batch_size: int
) -> Row | None:
    if triggered is None:
        return None
    changed = (triggered.data.images != case.victims.images).any(1, keepdim=True)
    if changed.float().mean() > LARGEST_CHANGE:
        return None
    untouched = _Found(bare=clean, labels=clean.labels, flagged=torch.zeros_like(clean.labels, dtype=torch.bool))
    restored = _restore(case, inpainter, triggered, changed, batch_size)
    return _row(case, name, repr(inpainter), untouched, restored)


def _ask(model: nn.Module, data: Dataset, batch_size: int, seed: int) -> _Bare:
    """Let the bare model class pictures."""
    device = next(model.parameters()).device
    sample = data.take(COUNTED, seeded(seed)).floats().to(device)
    # Counting comes before timing, as what is done for the first time takes longer.
    plain = flops(lambda: answer(model, sample, batch_size=batch_size))
    labels: list[Tensor] = []
    seconds, _ = _run(
        data,
        device,
        batch_size,
        lambda images: answer(model, images, batch_size=batch_size),
        lambda logits, _: labels.append(logits.argmax(1).cpu()),
    )
    return _Bare(data=data, labels=torch.cat(labels), sample=sample, flops=plain, seconds=seconds)


def _purify(purifier: Purifier, bare: _Bare, originals: Dataset | None, on_images: Progress | None) -> _Found:
    """Let the model behind a purifier class pictures, and compare what it restored of them with their originals."""
    own, restoring = _count(purifier, bare.sample)
    labels, flagged, scores, quality = list[Tensor](), list[Tensor](), list[Tensor](), list[Tensor]()

    def keep(purified: Purified, rows: slice) -> None:
        labels.append(purified.labels.cpu())
        flagged.append(purified.flagged.cpu())
        scores.append(purified.scores.cpu())
        if originals is not None:
            touched = purified.masks.flatten(1).any(1).cpu()
            quality.append(_quality(purified.images.cpu()[touched], originals.floats(rows)[touched]))
        if on_images is not None:
            on_images(len(purified.labels))

    seconds, peak = _run(bare.data, bare.sample.device, purifier.batch_size, purifier, keep)
    costs = {
        "flops": own / bare.flops,
        "flops_inpainter": restoring / bare.flops,
        "seconds": seconds,
        "seconds_plain": bare.seconds,
    }
    return _Found(
        bare=bare,
        labels=torch.cat(labels),
        flagged=torch.cat(flagged),
        scores=torch.cat(scores),
        quality=torch.cat(quality, 1) if quality else None,
        costs=costs,
        bytes_at_peak=peak,
    )


def _restore(case: Case, inpainter: Inpainter, triggered: _Bare, changed: Tensor, batch_size: int) -> _Found:
    """Restore what the trigger ``changed`` (N, 1, H, W), and let the bare model class the pictures."""
    device = triggered.sample.device
    touched = changed.flatten(1).any(1)
    labels, quality = [], []
    pictures = zip(triggered.data.batches(batch_size), case.victims.batches(batch_size), strict=True)
    parts = zip(pictures, changed.split(batch_size), touched.split(batch_size), strict=True)
    for ((images, _), (originals, _)), masks, there in parts:
        restored = inpainter(images.to(device), masks.float().to(device))
        labels.append(answer(case.model, restored, batch_size=batch_size).argmax(1).cpu())
        quality.append(_quality(restored.cpu()[there], originals[there]))
    return _Found(bare=triggered, labels=torch.cat(labels), flagged=touched, quality=torch.cat(quality, 1))


def _quality(restored: Tensor, originals: Tensor) -> Tensor:
    """Return PSNR and SSIM (2, N) of whole pictures."""
    if not len(restored):
        return torch.zeros(2, 0)
    everywhere = torch.ones_like(originals[:, :1])
    return torch.stack([
        peak_signal_to_noise_ratio(restored, originals, everywhere),
        structural_similarity_inside(restored, originals, everywhere),
    ])  # fmt: skip


def _run(
    data: Dataset,
    device: torch.device,
    batch_size: int,
    work: Callable[[Tensor], Made],
    keep: Callable[[Made, slice], None],
) -> tuple[float, int]:
    """Let ``work`` do the pictures, and ``keep`` what it makes of the rows of a batch.

    Returns:
        the wall seconds of a picture, and the bytes that a batch took at its peak, of ``work`` alone.
    """
    seconds, peak, done = 0.0, 0, 0
    for batch, _ in data.batches(batch_size):
        images = batch.to(device)
        with memories_on(device) as seen:
            start = time.perf_counter()
            made = work(images)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds += time.perf_counter() - start
        peak = max(peak, max(seen) - seen[0])
        keep(made, slice(done, done + len(images)))
        done += len(images)
    return seconds / len(data), peak


def _count(purifier: Purifier, images: Tensor) -> tuple[int, int]:
    """Return the FLOPs of purifying pictures, without the inpainter's, and the inpainter's."""
    counter, restoring, inpainter = FlopCounterMode(display=False), 0, purifier.inpainter
    preset = purifier.preset
    if inpainter is not None:

        def counted(images: Tensor, masks: Tensor) -> Tensor:
            nonlocal restoring
            before = counter.get_total_flops()
            restored = inpainter(images, masks)
            restoring += counter.get_total_flops() - before
            return restored

        preset = replace(preset, inpainter=counted)  # type: ignore[type-var]
    with counter:
        Purifier(purifier.model, preset, batch_size=purifier.batch_size)(images)
    return counter.get_total_flops() - restoring, restoring


def _row(case: Case, preset: str, settings: str, clean: _Found, triggered: _Found | None) -> Row:
    labels, plain = case.test.labels, clean.bare.labels
    rates = {
        "clean_accuracy_before": clean_accuracy(plain, labels),
        "clean_accuracy_after": clean_accuracy(clean.labels, labels),
        "flagged_clean": Rate(int(clean.flagged.sum()), len(labels)),
    }
    differences = {"clean_accuracy_loss": clean_accuracy_loss(clean.labels, plain, labels)}
    peaks = [found.bytes_at_peak for found in (clean, triggered) if found and found.bytes_at_peak is not None]
    further: dict[str, Any] = {f"{name}_clean": cost for name, cost in clean.costs.items()}
    further["bytes_at_peak"] = max(peaks, default=None)
    target = case.target_label
    if triggered is not None and target is not None:
        labels, plain, found = labels[case.attacked], plain[case.attacked], triggered.labels
        rates |= {
            "attack_success_rate_before": attack_success_rate(triggered.bare.labels, labels, target),
            "attack_success_rate_after": attack_success_rate(found, labels, target),
            "recovered_accuracy": recovered_accuracy(found, labels, target),
            "flagged_triggered": Rate(int(triggered.flagged.sum()), len(labels)),
        }
        differences |= {
            "excess_attack_success_rate": excess_attack_success_rate(found, plain, labels, target),
            "recovered_accuracy_loss": recovered_accuracy_loss(found, plain, labels, target),
        }
        further |= {f"{name}_triggered": cost for name, cost in triggered.costs.items()}
        stages = ("attack_success_rate", "clean_accuracy")
        further["effectiveness"] = defense_effectiveness_rating(
            *(rates[f"{rate}_{when}"] for rate in stages for when in ("before", "after"))
        )
        if clean.scores is not None and triggered.scores is not None:
            scores = torch.cat([clean.scores[case.attacked], triggered.scores])
            further["detection"] = detection(scores, torch.arange(len(scores)) >= len(labels))
        if triggered.quality is not None:
            further["psnr"], further["ssim"] = map(Mean.of, triggered.quality)
    return Row(name=case.name, preset=preset, rates=rates, differences=differences, settings=settings, **further)

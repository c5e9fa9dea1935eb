"""Rates with their denominators, what a defense adds to them, how well scores tell, and how good restorations are.

Every rate is a count over a total with a Wilson 95 % interval (Wilson 1927), every difference of two rates a count of
pictures that changed sides. The attack success rate counts only pictures whose true label is not the target, before
and after alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.stats import binomtest, rankdata
from scipy.stats import t as student
from skimage.metrics import structural_similarity
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from februus.checks import check_images, check_labels, check_masks, check_range, mismatch

__all__ = [
    "Auroc",
    "Detection",
    "Difference",
    "Mean",
    "Rate",
    "attack_success_rate",
    "auroc",
    "clean_accuracy",
    "clean_accuracy_loss",
    "defense_effectiveness_rating",
    "detection",
    "excess_attack_success_rate",
    "flops",
    "gradient_energy",
    "peak_signal_to_noise_ratio",
    "recovered_accuracy",
    "recovered_accuracy_loss",
    "structural_similarity_inside",
    "told",
    "true_positive_rate",
]

# Half the width of a 95 % interval in standard errors.
NORMAL_QUANTILE = 1.959964


@dataclass(frozen=True)
class Rate:
    """``count`` of ``total``, with its Wilson 95 % interval.

    >>> Rate(98, 100)
    Rate(count=98, total=100)
    >>> str(Rate(98, 100))
    '0.980 [0.930, 0.994]'
    """

    count: int
    total: int

    @property
    def value(self) -> float:
        """The share, NaN where the total is 0."""
        return self.count / self.total if self.total else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """The Wilson 95 % interval, (0, 1) where the total is 0."""
        if not self.total:
            return 0.0, 1.0
        interval = binomtest(self.count, self.total).proportion_ci(0.95, method="wilson")
        return float(interval.low), float(interval.high)

    def __str__(self) -> str:
        return _shown(self.value, self.interval)


@dataclass(frozen=True)
class Difference:
    """The difference of two rates on the same pictures, with the 95 % interval of Bonett and Price (2012) for pairs.

    Args:
        plus: pictures that count for the first rate alone.
        minus: pictures that count for the second rate alone.
        total: pictures.

    >>> Difference(3, 1, 500)
    Difference(plus=3, minus=1, total=500)
    >>> str(Difference(3, 1, 500))
    '+0.004 [-0.006, +0.014]'
    """

    plus: int
    minus: int
    total: int

    @property
    def value(self) -> float:
        """The first rate minus the second, NaN where the total is 0."""
        return (self.plus - self.minus) / self.total if self.total else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval, by one more picture on either side (J. Educational and Behavioral Statistics 37, 479)."""
        total = self.total + 2
        plus, minus = (self.plus + 1) / total, (self.minus + 1) / total
        middle = plus - minus
        half = NORMAL_QUANTILE * ((plus + minus - middle**2) / total) ** 0.5
        return max(middle - half, -1.0), min(middle + half, 1.0)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:+.3f} [{low:+.3f}, {high:+.3f}]"


@dataclass(frozen=True)
class Auroc:
    """The area under the ROC curve: how often a triggered picture scores above a clean one, a tie counting half.

    The 95 % interval is that of Newcombe (2006, Statistics in Medicine 25, 559, method 5): it inverts the variance of
    Hanley and McNeil (1982) as Wilson's does a rate's, so that it stays in [0, 1] and has a width at 0 and 1 as well.

    Args:
        value: the area, NaN where there are no pictures of either kind.
        clean: how many pictures are clean.
        triggered: how many are not.

    >>> str(Auroc(0.9, 50, 50))
    '0.900 [0.816, 0.946]'
    """

    value: float
    clean: int
    triggered: int

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval, (0, 1) where there are no pictures of either kind."""
        if not self.clean or not self.triggered:
            return 0.0, 1.0
        return self._lowest(self.value), 1 - self._lowest(1 - self.value)

    def _lowest(self, value: float) -> float:
        """Return the least area whose interval still reaches ``value``."""
        others = (self.clean + self.triggered) / 2 - 1

        def beyond(area: float) -> float:
            spread = 1 + others * ((1 - area) / (2 - area) + area / (1 + area))
            variance = area * (1 - area) * spread / (self.clean * self.triggered)
            return (value - area) ** 2 - NORMAL_QUANTILE**2 * variance

        # An area of 1 has no variance, and no interval but itself.
        return float(brentq(beyond, 0.0, min(value, 1 - 1e-9))) if value > 0 else 0.0

    def __str__(self) -> str:
        return _shown(self.value, self.interval)


@dataclass(frozen=True)
class Detection:
    """How well scores tell triggered pictures from clean ones.

    Args:
        auroc: at all thresholds.
        tpr_at_1_percent: the share of triggered pictures above the threshold that 1 % of the clean ones exceed.
        tpr_at_5_percent: likewise.
    """

    auroc: Auroc
    tpr_at_1_percent: Rate
    tpr_at_5_percent: Rate


@dataclass(frozen=True)
class Mean:
    """The mean of a figure over pictures, with Student's 95 % interval.

    Args:
        value: the mean.
        deviation: the sample's standard deviation, 0 of one picture.
        total: pictures, at least 1.

    >>> Mean.of(torch.tensor([1.0, 2.0, 3.0]))
    Mean(value=2.0, deviation=1.0, total=3)
    >>> str(Mean(2.0, 1.0, 3))
    '2.000 [-0.484, 4.484]'
    """

    value: float
    deviation: float
    total: int

    @classmethod
    def of(cls, values: Tensor) -> Mean | None:
        """Return the mean of ``values`` (N,), None of none."""
        if not len(values):
            return None
        exact = values.double()
        return cls(exact.mean().item(), exact.std().item() if len(exact) > 1 else 0.0, len(exact))

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval; one picture has none."""
        if self.total < 2:
            return None
        half = float(student.ppf(0.975, self.total - 1)) * self.deviation / math.sqrt(self.total)
        return self.value - half, self.value + half

    def __str__(self) -> str:
        return _shown(self.value, self.interval)


def told(figure: Rate | Difference | Auroc | Mean, *more: str) -> dict[str, Any]:
    """Return what a file holds of a figure: what makes it, what ``more`` of it is wanted, and its interval.

    >>> told(Rate(0, 0))
    {'count': 0, 'total': 0, 'interval': [0.0, 1.0]}
    """
    made = {item.name: getattr(figure, item.name) for item in fields(figure)}
    interval = figure.interval
    return {**{name: getattr(figure, name) for name in more}, **made, "interval": interval and list(interval)}


def _shown(value: float, interval: tuple[float, float] | None) -> str:
    if interval is None:
        return f"{value:.3f}"
    low, high = interval
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def clean_accuracy(predictions: Tensor, labels: Tensor) -> Rate:
    """CA: the share of ``predictions`` (N,) on clean pictures that equal ``labels`` (N,).

    >>> clean_accuracy(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 2]))
    Rate(count=2, total=3)
    """
    check_labels(labels, len(predictions))
    return Rate(int((predictions == labels).sum()), len(labels))


def attack_success_rate(predictions: Tensor, labels: Tensor, target_label: int | Tensor) -> Rate:
    """ASR: the share of triggered pictures of other classes that are taken for the target.

    Args:
        predictions: the model's classes on triggered pictures (N,).
        labels: the true classes (N,); pictures of ``target_label`` do not count.
        target_label: the class that the attacker wants, or one for each picture (N,).

    >>> attack_success_rate(torch.tensor([7, 7, 1]), torch.tensor([7, 0, 1]), 7)
    Rate(count=1, total=2)
    """
    check_labels(labels, len(predictions))
    others = labels != target_label
    return Rate(int(((predictions == target_label) & others).sum()), int(others.sum()))


def recovered_accuracy(predictions: Tensor, labels: Tensor, target_label: int) -> Rate:
    """RA: the share of triggered pictures of other classes that get their true label.

    >>> recovered_accuracy(torch.tensor([7, 7, 1]), torch.tensor([7, 0, 1]), 7)
    Rate(count=1, total=2)
    """
    check_labels(labels, len(predictions))
    others = labels != target_label
    return clean_accuracy(predictions[others], labels[others])


def clean_accuracy_loss(predictions: Tensor, clean_predictions: Tensor, labels: Tensor) -> Difference:
    """CA loss: the bare model's accuracy on clean pictures minus that behind a defense.

    Args:
        predictions: the classes behind the defense on clean pictures (N,).
        clean_predictions: the bare model's classes on them (N,).
        labels: the true classes (N,).

    >>> clean_accuracy_loss(torch.tensor([0, 2, 1]), torch.tensor([0, 1, 1]), torch.tensor([0, 1, 2]))
    Difference(plus=1, minus=0, total=3)
    """
    _check_predictions(predictions, clean_predictions, labels)
    return _difference(clean_predictions == labels, predictions == labels)


def excess_attack_success_rate(
    predictions: Tensor, clean_predictions: Tensor, labels: Tensor, target_label: int
) -> Difference:
    """Excess ASR: what of the ASR behind a defense is the trigger's doing, not the bare model's plain error.

    Args:
        predictions: the classes behind the defense on triggered pictures (N,).
        clean_predictions: the bare model's classes on the same pictures without trigger (N,).
        labels: the true classes (N,); pictures of ``target_label`` do not count.
        target_label: the class that the attacker wants.

    >>> labels = torch.tensor([7, 0, 1, 2])
    >>> excess_attack_success_rate(torch.tensor([7, 7, 7, 2]), torch.tensor([7, 7, 1, 2]), labels, 7)
    Difference(plus=1, minus=0, total=3)
    """
    _check_predictions(predictions, clean_predictions, labels)
    others = labels != target_label
    return _difference(predictions[others] == target_label, clean_predictions[others] == target_label)


def recovered_accuracy_loss(
    predictions: Tensor, clean_predictions: Tensor, labels: Tensor, target_label: int
) -> Difference:
    """RA loss: the bare model's accuracy without trigger minus the accuracy behind a defense on triggered pictures.

    Args:
        predictions: the classes behind the defense on triggered pictures (N,).
        clean_predictions: the bare model's classes on the same pictures without trigger (N,).
        labels: the true classes (N,); pictures of ``target_label`` do not count.
        target_label: the class that the attacker wants.

    >>> labels = torch.tensor([7, 0, 1, 2])
    >>> recovered_accuracy_loss(torch.tensor([7, 0, 7, 2]), torch.tensor([7, 0, 1, 1]), labels, 7)
    Difference(plus=1, minus=1, total=3)
    """
    _check_predictions(predictions, clean_predictions, labels)
    others = labels != target_label
    return clean_accuracy_loss(predictions[others], clean_predictions[others], labels[others])


def defense_effectiveness_rating(asr_before: Rate, asr_after: Rate, ca_before: Rate, ca_after: Rate) -> float:
    """DER: what a defense takes from the attack, less what it takes from the model (Zhu et al. 2023, arXiv 2304.11823).

    ``(max(0, loss of ASR) - max(0, loss of CA) + 1) / 2``.

    Returns:
        a number in [0, 1]: 1 where the attack is gone and the model as good as before, 0.5 where nothing changed.

    >>> defense_effectiveness_rating(Rate(100, 100), Rate(10, 100), Rate(90, 100), Rate(80, 100))
    0.9
    """
    attack, accuracy = asr_before.value - asr_after.value, ca_before.value - ca_after.value
    return (max(0.0, attack) - max(0.0, accuracy) + 1) / 2


def auroc(scores: Tensor, truth: Tensor) -> Auroc:
    """Return the area under the ROC curve of ``scores``.

    Args:
        scores: how suspicious pictures are (N,), higher is more suspicious; infinite ones are in order.
        truth: which of them are triggered (N,), bool.

    Raises:
        ValueError: if the two do not fit, or a score is NaN.

    >>> auroc(torch.tensor([0.1, 0.4, 0.4, 0.9]), torch.tensor([False, False, True, True])).value
    0.875
    """
    _check_scores(scores, truth)
    triggered = int(truth.sum())
    clean = len(truth) - triggered
    # Ranks have the same curve, and are finite.
    value = roc_auc_score(truth.cpu(), rankdata(scores.cpu())) if clean and triggered else math.nan
    return Auroc(float(value), clean, triggered)


def true_positive_rate(scores: Tensor, truth: Tensor, *, false_positive_rate: float) -> Rate:
    """TPR at a FPR: the share of triggered pictures above the lowest score that few enough clean ones exceed.

    Among pictures of one score no threshold can tell: they all count as below it, so that the false-positive rate is
    at most, and with ties less than, the stated one.

    Args:
        scores: how suspicious pictures are (N,), higher is more suspicious.
        truth: which of them are triggered (N,), bool.
        false_positive_rate: share of the clean pictures that may score above the threshold, in [0, 1).

    Returns:
        a count over the triggered pictures; of nothing where no picture is clean.

    Raises:
        ValueError: if the arguments do not fit, or a score is NaN.

    >>> scores, truth = torch.arange(6.0), torch.tensor([False, True, False, True, False, True])
    >>> true_positive_rate(scores, truth, false_positive_rate=0.4)
    Rate(count=2, total=3)
    """
    _check_scores(scores, truth)
    check_range("false_positive_rate", false_positive_rate, 0, 0.999999)
    clean, triggered = scores[~truth], scores[truth]
    if not len(clean):
        return Rate(0, 0)
    # A trifle is left to rounding, so that 29 % of 100 are 29.
    allowed = int(len(clean) * false_positive_rate + 1e-9)
    threshold = clean.sort(descending=True).values[allowed]
    return Rate(int((triggered > threshold).sum()), len(triggered))


def detection(scores: Tensor, truth: Tensor) -> Detection:
    """Return how well ``scores`` (N,) tell which pictures are triggered, ``truth`` (N,), bool.

    Raises:
        ValueError: if the two do not fit, or a score is NaN.
    """
    return Detection(
        auroc=auroc(scores, truth),
        tpr_at_1_percent=true_positive_rate(scores, truth, false_positive_rate=0.01),
        tpr_at_5_percent=true_positive_rate(scores, truth, false_positive_rate=0.05),
    )


def _check_scores(scores: Tensor, truth: Tensor) -> None:
    if truth.dtype != torch.bool or truth.ndim != 1:
        raise mismatch("truth", "bool (N,)", f"{truth.dtype} {tuple(truth.shape)}")
    if scores.shape != truth.shape or not scores.is_floating_point() or scores.isnan().any():
        raise mismatch("scores", f"numbers ({len(truth)},), none of them NaN", f"{tuple(scores.shape)} or others")


def _check_predictions(predictions: Tensor, clean_predictions: Tensor, labels: Tensor) -> None:
    check_labels(labels, len(predictions))
    check_labels(clean_predictions, len(predictions), name="clean_predictions")


def _difference(first: Tensor, second: Tensor) -> Difference:
    return Difference(int((first & ~second).sum()), int((second & ~first).sum()), len(first))


def flops(work: Callable[[], object]) -> int:
    """Return the floating-point operations of ``work()``, forward and backward (a multiply-add counts as 2).

    >>> layer = torch.nn.Linear(3, 5)
    >>> flops(lambda: layer(torch.ones(2, 3)))
    60
    """
    counter = FlopCounterMode(display=False)
    with counter:
        work()
    return int(counter.get_total_flops())


def peak_signal_to_noise_ratio(restored: Tensor, original: Tensor, masks: Tensor) -> Tensor:
    """PSNR inside the masks, a picture: ``10 log10(1 / MSE)`` in dB.

    Args:
        restored: (N, 3, H, W) in [0, 1].
        original: (N, 3, H, W) in [0, 1].
        masks: (N, 1, H, W), 1 = counts.

    Returns:
        (N,) in dB, at most 100; NaN where a mask is empty.
    """
    _check_pair(restored, original, masks)
    error = ((restored - original).square() * masks).sum((1, 2, 3)) / (3 * masks.sum((1, 2, 3)))
    return -10 * error.clamp(min=1e-10).log10()


def structural_similarity_inside(restored: Tensor, original: Tensor, masks: Tensor) -> Tensor:
    """SSIM (Wang et al. 2004, 7x7 windows) averaged over the pixels of the masks, a picture.

    Returns:
        (N,) in [-1, 1]; NaN where a mask is empty.
    """
    _check_pair(restored, original, masks)
    values = []
    for one, other, mask in zip(restored, original, masks, strict=True):
        _, ssim = structural_similarity(
            one.cpu().numpy(), other.cpu().numpy(), channel_axis=0, data_range=1.0, full=True
        )
        inside = mask.cpu().numpy().astype(bool).repeat(3, axis=0)
        values.append(ssim[inside].mean() if inside.any() else np.nan)
    return torch.tensor(np.array(values), dtype=torch.float32)


def gradient_energy(images: Tensor, masks: Tensor) -> Tensor:
    """Sum of squared forward differences between neighbours that both lie inside the mask, a picture.

    Restored over original it tells how sharp a restoration is: 1 as sharp, 0 flat.

    Returns:
        (N,), not negative.
    """
    check_images(images)
    check_masks(masks, images)
    vertical = (images[:, :, 1:] - images[:, :, :-1]).square() * masks[:, :, 1:] * masks[:, :, :-1]
    horizontal = (images[..., 1:] - images[..., :-1]).square() * masks[..., 1:] * masks[..., :-1]
    return vertical.sum((1, 2, 3)) + horizontal.sum((1, 2, 3))


def _check_pair(restored: Tensor, original: Tensor, masks: Tensor) -> None:
    check_images(original, name="original")
    check_masks(masks, original)
    if restored.shape != original.shape:
        raise mismatch("restored", f"shape {tuple(original.shape)}", tuple(restored.shape))

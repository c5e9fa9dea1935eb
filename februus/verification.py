"""The evidence that a part of a picture, not what the picture shows, makes its class."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from februus.checks import mismatch
from februus.masks import top_fraction
from februus.models.modes import evaluation_mode

__all__ = ["Law", "Tail", "answer", "concentration", "consensus", "flip", "margins", "settle", "transplant"]

LEAST_SHARE = 1e-3
# How many pictures of a class it takes for its own figures to count as much as those of all classes.
PRIOR = 5


def answer(model: nn.Module, images: Tensor, *, batch_size: int) -> Tensor:
    """Return the logits (N, C) of ``images``, at most ``batch_size`` pictures at once."""
    with torch.no_grad(), evaluation_mode(model):
        return torch.cat([model(part) for part in images.split(batch_size)])


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Return by how much the logit of a class exceeds the largest other one.

    Args:
        logits: (N, C).
        labels: (N,).

    Returns:
        (N,), positive where the class is the prediction.

    >>> margins(torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([1]))
    tensor([1.])
    """
    own = labels[:, None]
    return logits.gather(1, own)[:, 0] - logits.scatter(1, own, -math.inf).amax(1)


def flip(model: nn.Module, images: Tensor, labels: Tensor, *, batch_size: int) -> Tensor:
    """Return by how much the largest other logit exceeds that of ``labels`` (N,), on pictures without a suspected part.

    (N,), positive where the class is another one: the part had made it.
    """
    return -margins(answer(model, images, batch_size=batch_size), labels) if len(images) else images.new_empty(0)


def transplant(
    model: nn.Module, contents: Tensor, masks: Tensor, labels: Tensor, probes: Tensor, *, batch_size: int
) -> Tensor:
    """Put a part of each picture on other pictures and see whether its class comes along.

    SentiNet's test (Chou et al. 2020, arXiv 1812.00292), measured in logits instead of counted: ``margins`` of the
    pictures' classes on ``probes * (1 - mask) + content``.

    Args:
        model: pictures (N, 3, H, W) in [0, 1] -> logits (N, C).
        contents: what is put on (N, 3, H, W): a region's pixels and 0 elsewhere, or a faint pattern.
        masks: where it hides what was there (N, 1, H, W); all 0 for a pattern that is added.
        labels: the classes to look for (N,).
        probes: the other pictures (P, 3, H, W).
        batch_size: pictures that the model sees at once.

    Returns:
        (N, P), higher where the class comes along more surely.
    """
    found = []
    for start in range(0, len(contents) * len(probes), batch_size):
        pairs = torch.arange(start, min(start + batch_size, len(contents) * len(probes)), device=contents.device)
        owner, probe = pairs // len(probes), pairs % len(probes)
        pasted = (probes[probe] * (1 - masks[owner]) + contents[owner]).clamp(0, 1)
        found.append(margins(answer(model, pasted, batch_size=batch_size), labels[owner]))
    return torch.cat([contents.new_empty(0), *found]).view(len(contents), len(probes))


def consensus(found: Tensor) -> Tensor:
    """Return the second lowest along the last dimension (..., P): what all probes but one exceed, P at least 2.

    One probe may resist, or show the class anyway; it takes all to say that a region carries a class.
    """
    return found.sort(-1).values[..., 1]


def settle(
    ask: Callable[..., Tensor],
    judge: Callable[[Tensor, Tensor], Tensor],
    threshold: float,
    margins: Tensor,
    questions: tuple[tuple[slice, ...], ...],
) -> Tensor:
    """Return the `consensus` of the probes on each picture (N, ...), asking no more of them than settle it.

    Those that were not asked may say anything: that gives a bound from below and one from above, and where all verdicts
    are the same with both, nothing more is asked. The lower one is returned where there is a verdict of guilty, else
    the upper one.

    Args:
        ask: which pictures and one of the questions -> margins (n, ..., P) of that part.
        judge: which pictures and margins (n, ...) -> surprises (n, K), higher with higher margins.
        threshold: of all surprises.
        margins: (N, ..., P): what is known already, NaN elsewhere, where it is filled.
        questions: parts of the margins of a picture, in the order in which they are asked; all that is not known.
    """
    rows, found = torch.arange(len(margins), device=margins.device), margins[..., 0].clone()
    for question in questions:
        part: tuple[Tensor | slice, ...] = (rows, *question)
        margins[part] = ask(rows, *question)
        known = margins[rows]
        least, most = (consensus(known.where(known.isfinite(), end)) for end in (-math.inf, math.inf))
        guilty, suspected = judge(rows, least) >= threshold, judge(rows, most) >= threshold
        convicted = guilty.any(1).view(-1, *(1,) * (found.ndim - 1))
        found[rows] = torch.where(convicted, least, most)
        rows = rows[(guilty != suspected).any(1)]
    return found


def concentration(heatmaps: Tensor, size: float) -> Tensor:
    """Return how much of the heat lies in the hottest region: the log-odds of its share.

    A trigger of few pixels gathers the heat, a thing that is shown spreads it.

    Args:
        heatmaps: (N, 1, H, W), not negative.
        size: of the region, as a share of the area.

    Returns:
        (N,), -7 to 7; the lowest where a map is flat.
    """
    inside = (heatmaps * top_fraction(heatmaps, size)).sum((1, 2, 3))
    share = inside / heatmaps.sum((1, 2, 3)).clamp(min=1e-30)
    return share.clamp(LEAST_SHARE, 1 - LEAST_SHARE).logit()


@dataclass(frozen=True, kw_only=True)
class Tail:
    """How often an innocent picture exceeds a value: a law fitted to the upper tail of reference values.

    An exponential, or, where it may be and the values are so, one that falls faster: Weibull's.

    The mean excess of the exponential over the upper quartile is estimated from the values up to the quantile 0.95;
    higher ones count as "at least that" (the maximum likelihood of a censored exponential), so that a few outliers,
    such as triggered pictures among the reference, move nothing. They would make a tail long; so a short one has none,
    and Weibull's law may be fitted to all its excesses (by their first two L-moments, Hosking 1990).

    A scale estimated from few excesses may be too small, and more values than were stated would exceed a threshold. So
    the share is that of the next value, given those seen: of an exponential one ``(1 + z / n) ** -n`` and not
    ``exp(-z)``, with z the excess in scales and n the number seen (Lawless 1971, A prediction problem concerning
    samples from the exponential distribution).

    Args:
        start: the upper quartile.
        scale: of the excess over it, positive: its mean, for the exponential.
        count: of the excesses that the scale was estimated from, at least 1.
        shape: exponent of the excess, 1 for the exponential.
    """

    start: float
    scale: float
    count: int
    shape: float = 1.0

    SHARE = 0.25
    CENSORED = 0.05
    SHORTEST = 2.0

    @classmethod
    def fit(cls, values: Tensor, *, short: bool = False) -> Tail:
        """Fit the law to ``values`` (N,); with ``short``, one that falls faster than exponentially where they do.

        Raises:
            ValueError: if the values are not finite.
        """
        if not values.isfinite().all():
            raise mismatch("reference", "pictures with finite logits", "others")
        values = values.double()
        start, highest = values.quantile(1 - cls.SHARE), values.quantile(1 - cls.CENSORED)
        excess = (values[values > start] - start).sort().values
        if short and len(excess) > 1:
            mean = excess.mean()
            ranks = torch.arange(len(excess), device=excess.device)
            spread = 2 * (excess * ranks).mean() / (len(excess) - 1) - mean  # the second L-moment
            # Weibull's second L-moment is 1 - 2 ** (-1 / shape) of its mean; half of it is the exponential's.
            ratio = max((spread / mean).item(), 1 - 2 ** (-1 / cls.SHORTEST))
            if ratio < 0.5:
                shape = -math.log(2) / math.log1p(-ratio)
                scale = mean.item() / math.gamma(1 + 1 / shape)
                return cls(start=start.item(), scale=max(scale, 1e-6), count=len(excess), shape=shape)
        seen = max(int(((values > start) & (values < highest)).sum()), 1)
        scale = excess.clamp(max=highest - start).sum().item() / seen
        return cls(start=start.item(), scale=max(scale, 1e-6), count=seen)

    def surprise(self, values: Tensor) -> Tensor:
        """Return ``-log10`` of the share of innocent pictures that reach ``values``; linear below `start`."""
        excess = (values - self.start) / self.scale
        above = self.count * torch.log1p(excess.clamp(min=0) ** self.shape / self.count)
        excess = torch.where(excess > 0, above, excess)
        return (excess - math.log(self.SHARE)) / math.log(10)


@dataclass(frozen=True, kw_only=True)
class Law:
    """How often an innocent picture exceeds a value, where some classes reach it more readily than others.

    A model may take to a class (a backdoored one does to its target), and then the parts of its pictures carry it
    further. So the innocent are a mixture: with the frequency of a class as weight, a value of it is ``p_c + s_c e``,
    where the place ``p_c`` is a median, the spread ``s_c`` a median absolute deviation, or a mean one where there are
    no outliers, and ``e`` follows one `Tail`. Places and spreads are drawn to those of all pictures, as if 5 others of
    each class had been seen (the spreads by their squares); a class that outliers may fill has none of its own.

    Args:
        frequencies: of the classes among innocent pictures (C,).
        places: of their values (C,).
        spreads: likewise (C,), positive.
        tail: of what is left, in spreads above the place.
    """

    frequencies: Tensor
    places: Tensor
    spreads: Tensor
    tail: Tail

    @classmethod
    def fit(
        cls,
        values: Tensor,
        labels: Tensor,
        num_classes: int,
        *,
        short: bool = False,
        outliers: bool = True,
        tolerated: int = 0,
    ) -> Law:
        """Fit the law to ``values`` (N,) of pictures of the classes ``labels`` (N,), with a `Tail` that may be short.

        Without ``outliers`` spreads are means of absolute deviations: what a few pictures of a class do counts. Where
        as many as are ``tolerated`` may be outliers, all of one class, its own median tells nothing unless it has more
        than twice as many pictures.

        Raises:
            ValueError: if the values are not finite.
        """
        values, seen = values.double(), labels.bincount(minlength=num_classes).double()
        counts = seen * (seen > 2 * tolerated)

        def usual(found: Tensor, centre: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
            common, own = centre(found), found.new_zeros(num_classes)
            for label in labels.unique():
                own[label] = centre(found[labels == label])
            return common, own

        common, own = usual(values, _median)
        places = (counts * own + PRIOR * common) / (counts + PRIOR)
        above = values - places[labels]
        common, own = usual(above.abs(), _median if outliers else Tensor.mean)
        spreads = ((counts * own**2 + PRIOR * common**2) / (counts + PRIOR)).sqrt().clamp(min=1e-6)
        tail = Tail.fit(above / spreads[labels], short=short)
        return cls(frequencies=seen / len(values), places=places, spreads=spreads, tail=tail)

    def of(self, label: int) -> Law:
        """Return the law of values that only pictures of one class are asked for; one in a thousand at least is."""
        frequencies = torch.zeros_like(self.frequencies)
        frequencies[label] = self.frequencies[label].clamp(min=LEAST_SHARE)
        return replace(self, frequencies=frequencies)

    def surprise(self, values: Tensor) -> Tensor:
        """Return ``-log10`` of the share of innocent pictures that reach ``values`` (N,)."""
        frequencies, places, spreads = (one.to(values.device) for one in (self.frequencies, self.places, self.spreads))
        each = self.tail.surprise((values.double()[:, None] - places) / spreads).clamp(min=0)
        return -(frequencies.log() - each * math.log(10)).logsumexp(1) / math.log(10)


def _median(values: Tensor) -> Tensor:
    """Return the median, the mean of both middle values where their number is even."""
    return values.quantile(0.5)

"""Touch only what is proven to be a trigger."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from detectors.neural_cleanse import NeuralCleanse
from februus.checks import check_choice, check_range, mismatch
from februus.inpainters.gan import Gan
from februus.localizers.gradient_x_activation import GradientXActivation
from februus.masks import top_fraction
from februus.models.modes import recorded_outputs
from februus.presets._calibration import (
    KNOWN,
    LOOKS,
    PATTERNED,
    PATTERNS,
    REGIONS,
    SUSPECTED,
    Calibration,
    in_units,
)
from februus.presets._restoration import BORNE_IN, BORNE_IN_MORE, Restoration, Restored, struck
from februus.presets._transplants import (
    Pattern,
    add_pattern,
    carried_by_place,
    carried_by_regions,
    look_at_region,
    look_at_whole,
)
from februus.priors import Prior, scan
from februus.restorers.cosine_threshold import CosineThreshold
from februus.restorers.guided_filter import GuidedFilter
from februus.restorers.notch import Notch
from februus.seeds import seeded
from februus.types import Inpainter, Localizer, Purified, Restorer
from februus.typicality import Typicality, deepest, held_out, summarize
from februus.universal import Universal, find_universals
from februus.verification import Law, Tail, answer, concentration, consensus, flip, margins, settle

__all__ = ["Verified"]

# The share of the reference pictures that each of `LOOKS` does not clear, with those before it; that of the look at
# the whole picture.
UNCLEARED, UNCLEARED_WHOLE = (0.3, 0.12), 0.12
# What takes waves and the like off a picture, so that they are seen, and what takes one off that stands out; where that
# does not do, how much more noise is taken off.
SMOOTHER, STILLER = GuidedFilter(), Notch()
DENOISED = (0.2, 0.3)
# Pictures that a region is put on, in the order in which they are asked: the first may acquit it, those with the second
# convict it.
PROBES = 5
JURIES = slice(0, 2), slice(2, 4), slice(4, PROBES)
# The least spread in the resistance of the probes.
LEAST_SPREAD = 1e-6
# What is asked of regions, sizes and probes, until it is settled: of the first probes what `LOOKS` left; then the small
# ones may convict before the largest does.
OF_REGIONS = (
    (slice(0, 1), JURIES[0]),
    (slice(1, 2), slice(0, 1)),
    (slice(2, 3), slice(1, 2)),
    (slice(0, 2), JURIES[1]),
    (slice(2, 3), JURIES[1]),
    (REGIONS, JURIES[2]),
)
OF_OTHERS = tuple((jury,) for jury in JURIES)
# How much more than other evidence it counts that a picture is not like those of its class, and the smallest share of
# innocent pictures it is taken to tell of; the share of its distance that is left, at most, by what made it so.
ATYPICAL, RAREST, LEFT = 2.0, 1e-3, 0.7
# Less than this is left of it without the smallest region where a region goes before noise and waves are asked for.
WANING = 0.85
# The share of the reference pictures that may be triggered.
TOLERATED = 0.02
# How far beyond the threshold reference pictures are still taken for innocent ones, five times as rare as is flagged,
# and how many of them, in false-positive rates.
INNOCENT, FEW = math.log10(5), 2.5
# Of all false positives, the share that universal perturbations are granted.
BORNE = 0.15
# What can be left out, to see what it gives.
PARTS = ("first-look", "transplant", "concentration", "flip", "typicality", "whole", "universal", "refinement")
# Of the option prior: look for a backdoor in the model first.
SCAN = "scan"
# How far logits of the same model may lie apart on two machines.
SAME = 1e-2


@dataclass(frozen=True, kw_only=True)
class Verified:
    """Remove a region only on evidence that it, and not what the picture shows, makes the class.

    *Locate*: gradient times activation. *Verify*: the hottest regions, of several sizes, are put on reference pictures;
    a trigger brings its class along to all of them by a margin, and gathers the heat to a degree, that innocent regions
    of that size do not reach (the test of SentiNet, Chou et al. 2020, arXiv 1812.00292, measured in logits), and takes
    it away more surely when it is removed; and what the model sees in the picture is not what it sees in others of that
    class (`Typicality`, Lee et al. 2018, arXiv 1807.03888). *Remove, restore*: of a picture of the class that the model
    takes to most readily, what bears most of what leads there (a universal perturbation) is inpainted; where that does
    not settle it, and of other classes, the next one of the hottest regions; where these do not agree, what
    decides between the picture and its restoration, again and again until the class is another one and stays so.
    Where no small region explains the class and the noise, what is weak in the cosine transform, brings the class
    along when it is added to reference pictures, or where the waves that smoothing takes off outside the hottest
    quarter do so, the trigger is diffuse: the noise is taken off and, where that leaves the class, the wave that
    stands out, or more noise. Neither is asked for where a region goes first, and another class comes of it that
    the picture is more like. So it is where a picture of the class that the model takes to most readily bears more
    than others of that perturbation, or is not like its class and bears some more; it is then taken off, too, as
    far as the picture bears it; where that leaves the class, what bears most of it is inpainted.
    *Strike*: where the picture keeps the class through all of that, what made it is proven all the same, and the
    likeliest other one is the answer.

    First looks clear most pictures for the price of a backward and three forwards: one region on one other picture
    beside the concentration of the heat, another one on another picture where that leaves doubt, and what is faint, all
    over the picture, added to one other picture beside how far a wave stands out of the spectrum; each beside how far
    the picture is from others of its class.

    A score is ``-log10`` of the share of innocent pictures that look as suspicious, by a law fitted to the reference
    pictures alone, and, of noise and waves, less by what some of these reach beyond the threshold; a picture is flagged
    from ``-log10(false_positive_rate)`` on. A picture that is not flagged comes back as it was, bit by bit. Every
    picture is judged by itself: the others of its batch change nothing.

    Where a backdoor is known before, what a picture of its class shows in the place of the trigger is a further
    region that is put on other pictures and, on the same evidence, removed.

    Args:
        false_positive_rate: share of innocent pictures that may be flagged, in (0, 0.5].
        localizer: what finds the heat; several maps are averaged.
        inpainter: what restores regions.
        restorer: what takes noise off whole pictures, and restores them.
        prior: a file that ``februus scan`` wrote, or ``scan``: Neural Cleanse looks for a backdoor when it is fitted.
        seed: of the choice of probes among the reference pictures.
        without: a part that is left out, for ablations: ``first-look`` examines every picture, ``transplant``,
            ``concentration``, ``flip`` and ``typicality`` leave the others to judge regions (``flip`` to judge
            patterns, too, ``typicality`` to take first looks and to judge what is borne of universal perturbations),
            ``whole`` knows only regions, ``universal`` no universal perturbations, ``refinement`` removes the smallest
            suspected region as it is.
        calibration: made by `fit`.
    """

    false_positive_rate: float = 0.005
    localizer: Localizer = field(default_factory=GradientXActivation)
    inpainter: Inpainter = field(default_factory=Gan)
    restorer: Restorer = field(default_factory=CosineThreshold)
    prior: str | None = None
    seed: int = 0
    without: str | None = None
    calibration: Calibration | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_range("false_positive_rate", self.false_positive_rate, 0, 0.5, open_low=True)
        check_range("seed", self.seed, 0)
        if self.without is not None:
            check_choice("without", self.without, PARTS)

    def fit(self, model: nn.Module, reference: Tensor | None, *, batch_size: int) -> Self:
        """Calibrate on ``reference`` (R, 3, H, W), R at least 1 / `false_positive_rate`."""
        needed = math.ceil(1 / self.false_positive_rate)
        if reference is None or len(reference) < needed:
            expected = f"at least {needed} pictures for a false_positive_rate of {self.false_positive_rate:g}"
            raise mismatch("reference", expected, "none" if reference is None else len(reference))
        order = torch.randperm(len(reference), generator=seeded(self.seed)).to(reference.device)
        jury, others = reference[order[:PROBES]], reference[order[PROBES:]]
        prior = self._find_prior(model, reference)
        batches = [
            self._measure(model, images, jury, prior, batch_size=batch_size) for images in others.split(batch_size)
        ]
        measured = _Measured(*map(torch.cat, zip(*batches, strict=True)))
        gathered, brought, flipped = measured.gathered, measured.brought, measured.flipped
        answers = answer(model, jury, batch_size=batch_size)
        num_classes = answers.shape[1]
        distances = held_out(measured.features, measured.labels, num_classes)
        distance = Tail.fit(distances)
        strange = self._strangeness(distance, distances)
        resistance = torch.stack([brought.mean(0), brought.std(0).clamp(min=LEAST_SPREAD)])
        relative = in_units(brought, resistance)
        agreed = consensus(relative)
        carried, left, placed = agreed.tensor_split((PATTERNED, KNOWN), 1)
        # The probe that goes most with what all of them say is asked first.
        largest = LOOKS[0][0]
        ranks = _agreement(relative[:, largest], agreed[:, largest]).argsort(descending=True, stable=True)
        probes, resistance, glances = jury[ranks], resistance[..., ranks], measured.glances[:, ranks]
        looked = torch.stack([brought[:, place, ranks[rank]] for place, rank in LOOKS], 1)
        glancing = int(_agreement(glances, left.amax(1)).argmax())

        law = partial(Law.fit, labels=measured.labels, num_classes=num_classes)
        # Not of patterns: that would flag more than is stated (docs/purification.md).
        of_region = partial(law, tolerated=math.ceil(TOLERATED * len(others)))
        universals: tuple[Universal, ...] = ()
        if self.without not in ("whole", "universal"):
            universals = find_universals(model, others, batch_size=batch_size)
        looks, gathering = tuple(map(Tail.fit, looked.unbind(1))), Tail.fit(gathered)
        alone = tuple(map(law, left.unbind(1)))
        lost = (of_region(flipped[:, 0]), *map(law, flipped[:, 1:].unbind(1)))
        sizes = tuple(map(of_region, carried.unbind(1)))
        together = [
            strange + self._of_region(gathering, sizes, lost[0], gathered, carried, flipped[:, 0]),
            *(
                self._of_pattern(alone[place], lost[1 + place], left[:, place], flipped[:, 1 + place])
                for place in range(PATTERNS)
            ),
        ]
        suspicion = strange + _suspicion(gathering, looks[0], gathered, looked[:, 0])
        suspicious = suspicion.quantile(1 - UNCLEARED[0]).item()
        further = (suspicion + looks[1].surprise(looked[:, 1].double()))[suspicion >= suspicious]
        thresholds = suspicious, further.quantile(1 - UNCLEARED[1] / UNCLEARED[0]).item()
        glance, prominence = Tail.fit(glances[:, glancing]), Tail.fit(measured.prominence)
        faint = strange + _suspicion(prominence, glance, measured.prominence, glances[:, glancing])
        calibration = Calibration(
            probes=probes,
            logits=answers[ranks],
            resistance=resistance,
            suspicious=(-math.inf, -math.inf) if self.without == "first-look" else thresholds,
            glancing=glancing,
            faint={"first-look": -math.inf, "whole": math.inf}.get(
                self.without or "", faint.quantile(1 - UNCLEARED_WHOLE).item()
            ),
            typicality=Typicality.fit(measured.features, measured.labels, num_classes),
            distance=distance,
            looks=looks,
            concentration=gathering,
            glance=glance,
            prominence=prominence,
            margins=sizes,
            patterns=alone,
            flips=lost,
            joint=(of_region(together[0], short=True), *map(law, together[1:])),
            raised=(0.0,) * PATTERNS,
            universals=universals,
            # A class may have a few pictures that bear far more than its others do: means tell of them, medians do not.
            borne=tuple(law(kind.borne(others), outliers=False).of(kind.label) for kind in universals),
            prior=prior,
            known=law(placed[:, 0]).of(prior.label) if prior else None,
        )
        fitted = replace(self, calibration=calibration)
        judged = [fitted.judge_pattern(place, left[:, place], flipped[:, 1 + place]) for place in range(PATTERNS)]
        return replace(self, calibration=replace(calibration, raised=tuple(map(self._raised, judged))))

    def _measure(
        self, model: nn.Module, images: Tensor, jury: Tensor, prior: Prior | None, *, batch_size: int
    ) -> _Measured:
        seen = self.see(model, images)
        heat, labels, patterns = seen.heat, seen.labels, self.patterns(images, seen.heat)
        brought = [
            carried_by_regions(model, images, heat, labels, jury, batch_size=batch_size),
            *(add_pattern(model, pattern.added, labels, jury, batch_size=batch_size)[:, None] for pattern in patterns),
            carried_by_place(model, images, prior, labels, jury, batch_size=batch_size)[:, None],
        ]
        flipped = [
            -margins(self.cool(model, images, heat, batch_size=batch_size).logits, labels),
            *(flip(model, pattern.without, labels, batch_size=batch_size) for pattern in patterns),
        ]
        return _Measured(
            labels=labels,
            features=seen.features,
            gathered=seen.gathered,
            prominence=STILLER.prominence(images),
            glances=look_at_whole(model, patterns, labels, jury, batch_size=batch_size),
            brought=torch.cat(brought, 1),
            flipped=torch.stack(flipped, 1),
        )

    def _raised(self, surprises: Tensor) -> float:
        """Return how much more than the threshold a pattern takes, by the ``surprises`` (N,) of reference pictures.

        Where a law is too narrow, it accuses some of those that it was fitted to, and these are the measure. But what
        is far beyond the threshold, or where more than a few are, they may be triggered.
        """
        beyond = surprises[surprises >= self.threshold] - self.threshold
        innocent = beyond[beyond < INNOCENT]
        few = len(beyond) <= FEW * self.false_positive_rate * len(surprises)
        # A little more than the most that one of them reaches, which is then not flagged (but for rounding).
        return innocent.max().item() + 1e-6 if few and len(innocent) else 0.0

    def _find_prior(self, model: nn.Module, reference: Tensor) -> Prior | None:
        if self.prior is None:
            return None
        if self.prior == SCAN:
            return scan(model, reference, NeuralCleanse(seed=self.seed)).prior
        prior = Prior.load(Path(self.prior))
        if prior.mask.shape[1:] != reference.shape[2:]:
            raise mismatch("prior", f"one of {tuple(reference.shape[2:])} pixels", tuple(prior.mask.shape[1:]))
        return prior

    def state(self) -> dict[str, Tensor]:
        """Return the calibration as tensors.

        Raises:
            ValueError: if there is none.
        """
        return self.calibrated().tensors()

    def with_state(self, model: nn.Module, state: dict[str, Tensor]) -> Self:
        """Return this preset with a calibration that was kept.

        Raises:
            ValueError: if tensors are missing or ``model`` is not the one that it was fitted to.
        """
        calibration = Calibration.from_tensors(state, next(model.parameters()).device)
        found = answer(model, calibration.probes, batch_size=len(calibration.probes))
        if found.shape != calibration.logits.shape or not torch.allclose(
            found, calibration.logits, rtol=SAME, atol=SAME
        ):
            raise mismatch("model", "the one that the purifier was fitted to", "one that answers otherwise")
        return replace(self, calibration=calibration)

    def calibrated(self) -> Calibration:
        """Return the calibration.

        Raises:
            ValueError: if `fit` was not called.
        """
        if self.calibration is None:
            raise mismatch("preset verified", "one that was fitted to reference pictures", "one that was not")
        return self.calibration

    @property
    def threshold(self) -> float:
        """The score from which on a picture is flagged."""
        return -math.log10(self.false_positive_rate)

    def see(self, model: nn.Module, images: Tensor) -> Seen:
        """Return what one forward and one backward tell of ``images`` (N, 3, H, W)."""
        with recorded_outputs(model) as outputs, recorded_outputs(deepest(model, images)) as maps:
            heatmaps = self.localizer(model, images)
        heat, logits = heatmaps.mean(1, keepdim=True), outputs[-1]
        gathered = concentration(heat, SUSPECTED[0])
        return Seen(images, heatmaps, heat, gathered, summarize(maps[-1]), logits, logits.argmax(1))

    def strangeness(self, seen: Seen) -> Tensor:
        """Return how far pictures are from those of their classes, as evidence (N,): a surprise, not negative."""
        calibration = self.calibrated()
        return self._strangeness(calibration.distance, calibration.typicality.distance(seen.features, seen.labels))

    def _strangeness(self, distance: Tail, distances: Tensor) -> Tensor:
        if self.without == "typicality":
            return torch.zeros_like(distances)
        return ATYPICAL * _beyond(distance, distances).clamp(max=-math.log10(RAREST))

    def _distance_left(self, seen: Seen, restored: Restored, asked: Tensor) -> Tensor:
        """Return how far restored pictures are from their new classes, as a share of what it was from the old (N,).

        Of those for which it is not ``asked`` (N,), it is 0.
        """
        typicality, rows = self.calibrated().typicality, asked.nonzero()[:, 0]
        left = torch.zeros(len(asked), dtype=torch.float64, device=asked.device)
        now = typicality.distance(restored.features[rows], restored.logits[rows].argmax(1))
        left[rows] = now / typicality.distance(seen.features[rows], seen.labels[rows]).clamp(min=1e-12)
        return left

    def judge_regions(self, gathered: Tensor, carried: Tensor, flipped: Tensor, strange: Tensor) -> Tensor:
        """Return the surprise (N,) of pictures whose regions carry their class by the margins ``carried`` (N, S).

        The regions lie in one another: what a small trigger does, all of them do. So the sizes' surprises are added,
        with those of the `concentration` (N,) of the heat and of the flip (N,), and the `strangeness` (N,).
        """
        calibration = self.calibrated()
        gathering, margins, lost = calibration.concentration, calibration.margins, calibration.flips[0]
        joint = strange + self._of_region(gathering, margins, lost, gathered, carried, flipped)
        return calibration.joint[0].surprise(joint) - self._chances

    def judge_sizes(self, carried: Tensor) -> Tensor:
        """Return the surprise (N, S) of a region of each size by itself, from the margins ``carried`` (N, S)."""
        return _each(self.calibrated().margins, carried) - self._chances

    def judge_pattern(self, place: int, left: Tensor, flipped: Tensor) -> Tensor:
        """Return the surprise (N,) of one of the `patterns`.

        The margin ``left`` (N,) by which it carries the class counts by itself and with the margin ``flipped`` (N,) by
        which the class is lost without it. These two accusations are nearly one, and have one chance.
        """
        calibration = self.calibrated()
        alone, lost = calibration.patterns[place], calibration.flips[1 + place]
        joint = calibration.joint[1 + place].surprise(self._of_pattern(alone, lost, left, flipped))
        found = torch.maximum(joint, alone.surprise(left)) - math.log10(PATTERNS)
        return found - self._chances - calibration.raised[place]

    def patterns(self, images: Tensor, heat: Tensor) -> tuple[Pattern, Pattern]:
        """Return what may be a trigger all over the picture: its noise, and its waves outside the hottest quarter.

        A patch is in the heat: what still carries the class without that part of the picture is no patch.
        """
        still, outside = self.restorer(images), 1 - top_fraction(heat, SUSPECTED[-1])
        return Pattern(images - still, still), Pattern((images - SMOOTHER(images)) * outside, STILLER(images))

    def cool(self, model: nn.Module, images: Tensor, heat: Tensor, *, batch_size: int) -> Restored:
        """Restore the smallest suspected region."""
        return self._restoration(model, batch_size).inpaint(images, top_fraction(heat, SUSPECTED[0]))

    def judge_universals(self, images: Tensor, labels: Tensor, strange: Tensor) -> Tensor:
        """Return the surprise (N, K) of how much pictures (N, 3, H, W) bear of each of the `universals`.

        That they are ``strange`` (N,), too, is added, as Fisher joins what is independent (1932, Statistical methods
        for research workers, 21.1). Of pictures of other ``labels`` (N,) than theirs it is minus infinity. It takes no
        forward.
        """
        calibration = self.calibrated()
        found = torch.full((len(images), len(calibration.universals)), -math.inf, dtype=torch.float64).to(images.device)
        for place, (one, law) in enumerate(zip(calibration.universals, calibration.borne, strict=True)):
            rare = -math.log10(law.frequencies[one.label].item())
            surprise = rare + self._joined(law.surprise(one.borne(images)) - rare, strange)
            granted = surprise + math.log10(BORNE / len(calibration.universals))
            found[:, place] = torch.where(labels == one.label, granted, -math.inf)
        return found

    def _joined(self, surprise: Tensor, strange: Tensor) -> Tensor:
        """Return the surprise (N,) of a sum of two, the second of which is 0 for all but `Tail.SHARE` of pictures.

        That they are ``strange`` counts once here, as a surprise of its own.
        """
        if self.without == "typicality":
            return surprise
        total = surprise + strange / ATYPICAL
        return total - torch.log10(1 + Tail.SHARE * math.log(10) * total.clamp(min=0))

    def take_off(self) -> list[Restorer]:
        """Return, for each of the `universals`, what takes off pictures what they bear of it beyond the usual."""
        calibration = self.calibrated()
        return [
            partial(one.without, usual=law.places[one.label].item())
            for one, law in zip(calibration.universals, calibration.borne, strict=True)
        ]

    @property
    def _chances(self) -> float:
        """What is taken off for trying two explanations, a region and a pattern, or what is known, too (Bonferroni)."""
        calibration = self.calibrated()
        return math.log10((3 if calibration.prior else 2) / (1 - BORNE * bool(calibration.universals)))

    def _of_region(
        self,
        gathering: Tail,
        margins: tuple[Law, ...],
        lost: Law,
        gathered: Tensor,
        carried: Tensor,
        flipped: Tensor,
    ) -> Tensor:
        found = torch.zeros_like(gathered, dtype=torch.float64)
        if self.without != "concentration":
            found += _beyond(gathering, gathered)
        if self.without != "transplant":
            found += _each(margins, carried).sum(1)
        if self.without != "flip":
            found += lost.surprise(flipped)
        return found

    def _of_pattern(self, alone: Law, lost: Law, left: Tensor, flipped: Tensor) -> Tensor:
        found = alone.surprise(left)
        return found if self.without == "flip" else found + lost.surprise(flipped)

    def __call__(self, model: nn.Module, images: Tensor, *, batch_size: int) -> Purified:
        """Purify ``images`` (N, 3, H, W).

        Raises:
            ValueError: if the preset was not fitted, or to pictures of another size.
        """
        size = self.calibrated().probes.shape[2:]
        if images.shape[2:] != size:
            raise mismatch("images", f"shape (N, 3, {size[0]}, {size[1]}), as the reference", tuple(images.shape))
        seen = self.see(model, images)
        labels, strange = seen.labels, self.strangeness(seen)
        by_prior, places = self._judge_place(model, seen, batch_size=batch_size)
        by_universal = F.pad(self.judge_universals(images, labels, strange), (1, 0), value=-math.inf).amax(1)
        bearing = by_universal >= self.threshold
        looked = self._look(model, seen, strange, (by_prior >= self.threshold) | bearing, batch_size=batch_size)
        *judged, cooled = self._examine_regions(model, seen, looked, batch_size=batch_size)
        by_region, by_region_alone, by_small = (torch.maximum(found, by_prior) for found in judged)
        removed = seen.untouched()

        def remove(asked: Tensor) -> Tensor:
            """Remove the regions, and return where another class came of it that the picture is as unlike (N,)."""
            rows = asked.nonzero()[:, 0]
            if len(rows):
                parts = images[rows], seen.heat[rows], cooled.take(rows), labels[rows], places[rows]
                removed.put(rows, self._remove(model, *parts, batch_size=batch_size))
            return self._distance_left(seen, removed, asked & (strange > 0) & ~removed.keeps(labels)) > LEFT

        explained = by_region >= self.threshold
        # What no region explains needs nothing else that explains it where a universal perturbation does.
        unexplained = bearing & ~explained
        # That a picture is not like its class needs no noise or waves where a region explains it.
        asked = torch.where(explained, looked.faint, looked.fainter) & ~unexplained
        # Nor are they asked for where what is strange about a picture goes with its region. So that goes first, where
        # the picture is less strange without the smallest one already and, if noise may explain it, keeps its class
        # without.
        strangest = explained & (strange > 0)
        first = strangest & (self._distance_left(seen, cooled, strangest) < WANING)
        still = seen.untouched()
        self._take_off(0, model, looked, first & asked & (by_small < self.threshold), still, batch_size=batch_size)
        first &= still.keeps(labels)
        stays = remove(first)
        asked &= ~first | removed.keeps(labels) | stays
        # What a small region explains needs no noise, nor does what noise explains need waves.
        by_noise = self._judge_pattern(
            0, model, seen, looked, asked & (by_small < self.threshold), still, batch_size=batch_size
        )
        by_waves = self._judge_pattern(
            1, model, seen, looked, asked & (by_noise < self.threshold), seen.untouched(), batch_size=batch_size
        )
        by_pattern = torch.maximum(by_noise, by_waves)
        by_whole = torch.maximum(by_pattern, by_universal)
        diffuse = by_whole >= self.threshold
        result = seen.untouched()
        # A region, too, may look like a universal perturbation, and goes first.
        spread = ((by_pattern >= self.threshold) | unexplained).nonzero()[:, 0]
        if len(spread):
            self._take_off(0, model, looked, unexplained, still, batch_size=batch_size)
            best = still.take(spread)._replace(masks=torch.ones_like(seen.heat[spread]))
            whole = self._restore_whole(
                model, images[spread], best, labels[spread], bearing[spread], batch_size=batch_size
            )
            result.put(spread, whole)
        # Where a region explains the class, too, and the whole picture keeps it, the region goes.
        guilty = (by_region >= self.threshold) & result.keeps(labels)
        stays |= remove(guilty & ~first)
        # Where it is strange still, that it is so is no evidence against the region.
        by_region = torch.where(stays & ~diffuse, by_region_alone, by_region)
        regional = by_region >= self.threshold
        convicted = (guilty & regional).nonzero()[:, 0]
        result.put(convicted, removed.take(convicted))
        examined = by_region.isfinite() | by_pattern.isfinite()
        flagged = regional | diffuse
        stages = ("locate", "verify", "classify", "strike")
        # A class that a diffuse trigger was proven to make is no answer, even where that could not be removed. A region
        # that was proven is gone, and what still makes the class may be what the picture shows.
        stuck = diffuse & result.keeps(labels)
        logits = torch.where(stuck[:, None], struck(result.logits, labels), result.logits)
        return Purified(
            images=result.images,
            heatmaps=seen.heatmaps,
            masks=result.masks,
            logits_before=seen.logits,
            logits=logits,
            labels=logits.argmax(1),
            flagged=flagged,
            scores=torch.where(examined, torch.maximum(by_region, by_whole), looked.doubt).float(),
            stages=tuple(stages[stage] for stage in torch.where(flagged, 2 + stuck.long(), examined.long()).tolist()),
        )

    def _look(self, model: nn.Module, seen: Seen, strange: Tensor, accused: Tensor, *, batch_size: int) -> _Looked:
        """Take the first looks, which clear most pictures, but no regions of those that are ``accused`` (N,)."""
        calibration, images, heat, labels = self.calibrated(), seen.images, seen.heat, seen.labels
        probes = calibration.probes.to(images.device)
        found = images.new_zeros(len(images), len(LOOKS))
        found[:, 0] = look_at_region(0, model, images, heat, labels, probes, batch_size=batch_size)
        suspicion = strange + _suspicion(calibration.concentration, calibration.looks[0], seen.gathered, found[:, 0])
        doubt = suspicion - calibration.suspicious[0]
        again = ((doubt >= 0) | accused).nonzero()[:, 0]
        found[again, 1] = look_at_region(
            1, model, images[again], heat[again], labels[again], probes, batch_size=batch_size
        )
        both = suspicion[again] + calibration.looks[1].surprise(found[again, 1].double())
        doubt[again] = both - calibration.suspicious[1]
        patterns, glanced = self.patterns(images, heat), probes[calibration.glancing, None]
        glances = look_at_whole(model, patterns, labels, glanced, batch_size=batch_size)[:, 0]
        prominence = STILLER.prominence(images)
        glance = _suspicion(calibration.prominence, calibration.glance, prominence, glances)
        faint, fainter = glance >= calibration.faint, strange + glance >= calibration.faint
        return _Looked(strange, found, doubt, ((doubt >= 0) | accused).nonzero()[:, 0], patterns, faint, fainter)

    def _examine_regions(
        self, model: nn.Module, seen: Seen, looked: _Looked, *, batch_size: int
    ) -> tuple[Tensor, Tensor, Tensor, Restored]:
        """Put regions on the probes, of the pictures that first looks left.

        Returns:
            the surprise (N,) of regions, the same as if no picture were strange, and that of the smallest by itself,
            minus infinity elsewhere; the pictures without the smallest, elsewhere as they came.
        """
        calibration, images, heat, labels = self.calibrated(), seen.images, seen.heat, seen.labels
        suspects, probes = looked.suspects, calibration.probes.to(images.device)
        cooled = seen.untouched()
        if len(suspects):
            cooled.put(suspects, self.cool(model, images[suspects], heat[suspects], batch_size=batch_size))
        flipped = -margins(cooled.logits[suspects], labels[suspects])

        def put(which: Tensor, sizes: slice, jury: slice) -> Tensor:
            rows = suspects[which]
            margin = carried_by_regions(
                model, images[rows], heat[rows], labels[rows], probes[jury], sizes, batch_size=batch_size
            )
            return calibration.against(margin, sizes, jury)

        def judge(which: Tensor, carried: Tensor) -> Tensor:
            rows = suspects[which]
            # Whether a small region explains the class matters where noise may do so, too.
            small = self.judge_sizes(carried)[:, 0].where(looked.faint[rows], -math.inf)
            every = self.judge_regions(seen.gathered[rows], carried, flipped[which], looked.strange[rows])
            return torch.stack([every, small], 1)

        known = looked.found.new_full((len(suspects), len(SUSPECTED), PROBES), math.nan)
        for which, (place, probe) in enumerate(LOOKS):
            jury = slice(probe, probe + 1)
            known[:, place, jury] = calibration.against(looked.found[suspects, which, None], place, jury)
        carried = settle(put, judge, self.threshold, known, OF_REGIONS)
        strange, gathered = looked.strange[suspects], seen.gathered[suspects]
        found = torch.full((3, len(images)), -math.inf, dtype=torch.float64, device=images.device)
        found[0, suspects] = self.judge_regions(gathered, carried, flipped, strange)
        found[1, suspects] = self.judge_regions(gathered, carried, flipped, torch.zeros_like(strange))
        found[2, suspects] = self.judge_sizes(carried)[:, 0]
        return found[0], found[1], found[2], cooled

    def _judge_pattern(
        self,
        place: int,
        model: nn.Module,
        seen: Seen,
        looked: _Looked,
        asked: Tensor,
        without: Restored,
        *,
        batch_size: int,
    ) -> Tensor:
        """Return the surprise (N,) of one of the `patterns`, minus infinity where it is not ``asked`` for (N,).

        Where it is, those ``without`` it are overwritten, unless it was taken off them already.
        """
        calibration, added, labels = self.calibrated(), looked.patterns[place].added, seen.labels
        probes = calibration.probes.to(added.device)
        found = torch.full((len(added),), -math.inf, dtype=torch.float64, device=added.device)
        self._take_off(place, model, looked, asked, without, batch_size=batch_size)
        rows = asked.nonzero()[:, 0]
        flipped = -margins(without.logits[rows], labels[rows])

        def add(which: Tensor, jury: slice) -> Tensor:
            own = rows[which]
            margin = add_pattern(model, added[own], labels[own], probes[jury], batch_size=batch_size)
            return calibration.against(margin, PATTERNED + place, jury)

        def judge(which: Tensor, left: Tensor) -> Tensor:
            return self.judge_pattern(place, left, flipped[which])[:, None]

        left = settle(add, judge, self.threshold, added.new_full((len(rows), PROBES), math.nan), OF_OTHERS)
        found[rows] = self.judge_pattern(place, left, flipped)
        return found

    def _take_off(
        self, place: int, model: nn.Module, looked: _Looked, asked: Tensor, without: Restored, *, batch_size: int
    ) -> None:
        """Overwrite the pictures ``without`` one of the `patterns`, where it is ``asked`` for (N,) and was not yet."""
        rows = (asked & ~without.masks.flatten(1).all(1)).nonzero()[:, 0]
        if len(rows):
            images = looked.patterns[place].without[rows]
            without.put(rows, self._restoration(model, batch_size).of(images, torch.ones_like(images[:, :1])))

    def _judge_place(self, model: nn.Module, seen: Seen, *, batch_size: int) -> tuple[Tensor, Tensor]:
        """Return the surprise (N,) of what stands where a known trigger lies, and that place (N, 1, H, W).

        Of pictures of other classes than the known one it is minus infinity, and the place empty.
        """
        calibration, images, labels = self.calibrated(), seen.images, seen.labels
        probes = calibration.probes.to(images.device)
        found = torch.full((len(images),), -math.inf, dtype=torch.float64, device=images.device)
        places = torch.zeros_like(images[:, :1])
        prior, known = calibration.prior, calibration.known
        if prior is None or known is None:
            return found, places
        rows = (labels == prior.label).nonzero()[:, 0]
        places[rows] = prior.region.to(images.device)

        def put(which: Tensor, jury: slice) -> Tensor:
            own = rows[which]
            margin = carried_by_place(model, images[own], prior, labels[own], probes[jury], batch_size=batch_size)
            return calibration.against(margin, KNOWN, jury)

        def judge(_: Tensor, margin: Tensor) -> Tensor:
            return (known.surprise(margin) - self._chances)[:, None]

        unknown = images.new_full((len(rows), PROBES), math.nan)
        found[rows] = judge(rows, settle(put, judge, self.threshold, unknown, OF_OTHERS))[:, 0]
        return found, places

    def _restoration(self, model: nn.Module, batch_size: int) -> Restoration:
        return Restoration(model=model, inpainter=self.inpainter, batch_size=batch_size)

    def _restore_whole(
        self, model: nn.Module, images: Tensor, best: Restored, labels: Tensor, bearing: Tensor, *, batch_size: int
    ) -> Restored:
        """Restore whole pictures, as gently as changes the classes ``labels`` (N,).

        What was tried already is ``best``, which is overwritten. From those that are ``bearing`` them (N,), the
        universal perturbations are taken off at last, then the regions that bear most of them: a large trigger is as
        diffuse as they are, but not everywhere. Where nothing changes its class, the surest of all answers counts.
        """
        restoration, everywhere = self._restoration(model, batch_size), torch.ones_like(bearing)
        gentle: tuple[Restorer, ...] = (STILLER, *(CosineThreshold(threshold=threshold) for threshold in DENOISED))
        restoration.whole(best, images, labels, everywhere, gentle)
        restoration.whole(best, images, labels, bearing, self.take_off())
        kept = bearing & best.keeps(labels)
        fields = self._where(images, kept)
        # All of them are tried: a large trigger may leave the same wrong class twice.
        for share in BORNE_IN + BORNE_IN_MORE:
            restoration.borne(best, images, labels, kept, fields, (share,))
        return best

    def _remove(
        self,
        model: nn.Module,
        images: Tensor,
        heat: Tensor,
        cooled: Restored,
        labels: Tensor,
        places: Tensor,
        *,
        batch_size: int,
    ) -> Restored:
        """Remove the region that makes the classes ``labels`` (N,), or a known place (N, 1, H, W), where that is surer.

        The smallest of the hottest regions was restored already: ``cooled``. Of pictures of the class that the model
        takes to most readily, what bears most of what leads there goes next; where the same other class comes of both,
        or of two sizes of it, the trigger was there. So it is of the next one of the hottest regions; where that does
        not settle it either, what is decisive is asked from there on.
        """
        restoration, best = self._restoration(model, batch_size), cooled.clone()
        if self.without != "refinement":
            universals = self.calibrated().universals
            led = labels == universals[0].label if universals else torch.zeros_like(labels, dtype=torch.bool)
            fields = self._where(images, led)
            settled, _ = restoration.borne(best, images, labels, led, fields, BORNE_IN)
            agreed, larger = restoration.borne(best, images, labels, ~settled, heat, SUSPECTED[1:2])
            rows = (~settled & ~agreed).nonzero()[:, 0]
            if len(rows):
                best.prefer(rows, restoration.region(larger.take(rows), images[rows], labels[rows]), labels)
            restoration.borne(best, images, labels, led & best.keeps(labels), fields, BORNE_IN_MORE)
        rows = places.flatten(1).any(1).nonzero()[:, 0]
        if len(rows):
            best.prefer(rows, restoration.inpaint(images[rows], places[rows]), labels)
        return best

    def _where(self, images: Tensor, asked: Tensor) -> Tensor:
        """Return how much of the universal perturbations is in each place of pictures (N, 3, H, W): (N, 1, H, W).

        Nothing where it is not ``asked`` for (N,): to smooth a large picture takes as long as a forward.
        """
        found, rows = torch.zeros_like(images[:, :1]), asked.nonzero()[:, 0]
        if len(rows):
            for one in self.calibrated().universals:
                found[rows] += one.where(images[rows])
        return found


class _Measured(NamedTuple):
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


class Seen(NamedTuple):
    """Pictures, and what one forward and one backward tell of them.

    Args:
        images: (N, 3, H, W).
        heatmaps: the localizer's maps (N, L, H, W).
        heat: the one that counts (N, 1, H, W).
        gathered: its concentration (N,).
        features: what the last maps are like (N, D).
        logits: the model's answer (N, C).
        labels: its class (N,).
    """

    images: Tensor
    heatmaps: Tensor
    heat: Tensor
    gathered: Tensor
    features: Tensor
    logits: Tensor
    labels: Tensor

    def untouched(self) -> Restored:
        """Return them as they came, to be overwritten where something is restored."""
        return Restored(self.images.clone(), torch.zeros_like(self.heat), self.logits.clone(), self.features.clone())


class _Looked(NamedTuple):
    """What first looks told.

    Args:
        strange: how far pictures are from those of their classes, as evidence (N,).
        found: how surely regions carried their class to the probes of `LOOKS` (N, L); 0 where that was not asked.
        doubt: how far beyond what clears it a picture looked, at the last look at regions that it took (N,).
        suspects: the pictures whose regions are to be examined (K,).
        patterns: noise and waves.
        faint: whether they are to be examined, whatever regions tell (N,).
        fainter: whether they are where no region explains the class (N,).
    """

    strange: Tensor
    found: Tensor
    doubt: Tensor
    suspects: Tensor
    patterns: tuple[Pattern, Pattern]
    faint: Tensor
    fainter: Tensor


def _agreement(margins: Tensor, said: Tensor) -> Tensor:
    """Return how much the margins on each probe (N, P) go with what all of them say (N,): Pearson's correlation."""
    return torch.corrcoef(torch.cat([said[:, None], margins], 1).T)[0, 1:].nan_to_num()


def _beyond(tail: Tail, found: Tensor) -> Tensor:
    """Return the surprise (N,) of gathered heat, or of a wave, beyond that of the upper quartile.

    Less says nothing: heat that is spread does not speak for innocence.
    """
    return (tail.surprise(found.double()) + math.log10(tail.SHARE)).clamp(min=0)


def _suspicion(free: Tail, look: Tail, found: Tensor, looks: Tensor) -> Tensor:
    """Return the surprise (N,) of a first look, beside what is ``found`` (N,) without one."""
    return _beyond(free, found) + look.surprise(looks.double())


def _each(laws: tuple[Law, ...], values: Tensor) -> Tensor:
    """Return the surprise (N, K) of values (N, K), each column by a law of its own."""
    return torch.stack([law.surprise(column) for law, column in zip(laws, values.unbind(1), strict=True)], 1)

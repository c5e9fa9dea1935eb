"""Touch only what is proven to be a trigger."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from detectors.neural_cleanse import NeuralCleanse
from februus.checks import check_choice, check_range, mismatch
from februus.inpainters.gan import Gan
from februus.localizers.gradient_x_activation import GradientXActivation
from februus.models.modes import recorded_outputs
from februus.presets._calibration import SUSPECTED, Calibration
from februus.presets._examination import PROBES, Examination, cool
from februus.presets._fitting import Measured, fit
from februus.presets._judgement import Judgement
from februus.presets._pictures import Seen, struck
from februus.presets._removal import Removal
from februus.presets._restoration import Restoration
from februus.presets._transplants import (
    STILLER,
    Pattern,
    add_pattern,
    carried_by_place,
    carried_by_regions,
    faint_patterns,
    look_at_whole,
)
from februus.priors import Prior, scan
from februus.restorers.cosine_threshold import CosineThreshold
from februus.seeds import seeded
from februus.types import Inpainter, Localizer, Purified, Restorer
from februus.typicality import deepest, summarize
from februus.universal import Universal, find_universals
from februus.verification import answer, concentration, flip, margins

__all__ = ["Verified"]

# The share of a strange picture's distance from its class that is left, at most, by what made it so.
LEFT = 0.7
# Less than this is left of it without the smallest region where a region goes before noise and waves are asked for.
WANING = 0.85
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
        universals: tuple[Universal, ...] = ()
        if self.without not in ("whole", "universal"):
            universals = find_universals(model, others, batch_size=batch_size)
        calibration = fit(
            Measured(*map(torch.cat, zip(*batches, strict=True))),
            jury,
            answer(model, jury, batch_size=batch_size),
            universals,
            [one.borne(others) for one in universals],
            prior,
            false_positive_rate=self.false_positive_rate,
            without=self.without,
        )
        return replace(self, calibration=calibration)

    def _measure(
        self, model: nn.Module, images: Tensor, jury: Tensor, prior: Prior | None, *, batch_size: int
    ) -> Measured:
        seen = self.see(model, images)
        heat, labels, patterns = seen.heat, seen.labels, self.patterns(images, seen.heat)
        brought = [
            carried_by_regions(model, images, heat, labels, jury, batch_size=batch_size),
            *(add_pattern(model, pattern.added, labels, jury, batch_size=batch_size)[:, None] for pattern in patterns),
            carried_by_place(model, images, prior, labels, jury, batch_size=batch_size)[:, None],
        ]
        flipped = [
            -margins(cool(self.restoration(model, batch_size), images, heat).logits, labels),
            *(flip(model, pattern.without, labels, batch_size=batch_size) for pattern in patterns),
        ]
        return Measured(
            labels=labels,
            features=seen.features,
            gathered=seen.gathered,
            prominence=STILLER.prominence(images),
            glances=look_at_whole(model, patterns, labels, jury, batch_size=batch_size),
            brought=torch.cat(brought, 1),
            flipped=torch.stack(flipped, 1),
        )

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
    def judgement(self) -> Judgement:
        """What evidence is worth, by the calibration.

        Raises:
            ValueError: if `fit` was not called.
        """
        return Judgement(
            calibration=self.calibrated(), false_positive_rate=self.false_positive_rate, without=self.without
        )

    def see(self, model: nn.Module, images: Tensor) -> Seen:
        """Return what one forward and one backward tell of ``images`` (N, 3, H, W)."""
        with recorded_outputs(model) as outputs, recorded_outputs(deepest(model, images)) as maps:
            heatmaps = self.localizer(model, images)
        heat, logits = heatmaps.mean(1, keepdim=True), outputs[-1]
        gathered = concentration(heat, SUSPECTED[0])
        return Seen(images, heatmaps, heat, gathered, summarize(maps[-1]), logits, logits.argmax(1))

    def patterns(self, images: Tensor, heat: Tensor) -> tuple[Pattern, Pattern]:
        """Return what may be a trigger all over the picture: its noise, and its waves."""
        return faint_patterns(images, heat, self.restorer)

    def restoration(self, model: nn.Module, batch_size: int) -> Restoration:
        """Return what restores pictures for a model."""
        return Restoration(model=model, inpainter=self.inpainter, batch_size=batch_size)

    def removal(self, model: nn.Module, batch_size: int) -> Removal:
        """Return what removes what was proven.

        Raises:
            ValueError: if `fit` was not called.
        """
        return Removal(
            restoration=self.restoration(model, batch_size),
            calibration=self.calibrated(),
            refined=self.without != "refinement",
        )

    def __call__(self, model: nn.Module, images: Tensor, *, batch_size: int) -> Purified:
        """Purify ``images`` (N, 3, H, W).

        Raises:
            ValueError: if the preset was not fitted, or to pictures of another size.
        """
        judgement = self.judgement
        calibration, threshold = judgement.calibration, judgement.threshold
        size = calibration.probes.shape[2:]
        if images.shape[2:] != size:
            raise mismatch("images", f"shape (N, 3, {size[0]}, {size[1]}), as the reference", tuple(images.shape))
        removal = self.removal(model, batch_size)
        restoration = removal.restoration
        examination = Examination(restoration=restoration, judgement=judgement)

        seen = self.see(model, images)
        labels, (noise, waves) = seen.labels, self.patterns(images, seen.heat)
        strange = judgement.strangeness(calibration.typicality.distance(seen.features, labels))
        by_prior, places = examination.place(seen)
        by_universal = F.pad(judgement.universals(images, labels, strange), (1, 0), value=-math.inf).amax(1)
        bearing = by_universal >= threshold
        looked = examination.look(seen, (noise, waves), strange, (by_prior >= threshold) | bearing)
        *judged, cooled = examination.regions(seen, looked)
        by_region, by_region_alone, by_small = (torch.maximum(found, by_prior) for found in judged)
        removed = seen.untouched()

        def remove(asked: Tensor) -> Tensor:
            """Remove the regions, and return where another class came of it that the picture is as unlike (N,)."""
            rows = asked.nonzero()[:, 0]
            if len(rows):
                parts = images[rows], seen.heat[rows], cooled.take(rows), labels[rows], places[rows]
                removed.put(rows, removal.region(*parts))
            return judgement.distance_left(seen, removed, asked & (strange > 0) & ~removed.keeps(labels)) > LEFT

        explained = by_region >= threshold
        # What no region explains needs nothing else that explains it where a universal perturbation does.
        unexplained = bearing & ~explained
        # That a picture is not like its class needs no noise or waves where a region explains it.
        asked = torch.where(explained, looked.faint, looked.fainter) & ~unexplained
        # Nor are they asked for where what is strange about a picture goes with its region. So that goes first, where
        # the picture is less strange without the smallest one already and, if noise may explain it, keeps its class
        # without.
        strangest = explained & (strange > 0)
        first = strangest & (judgement.distance_left(seen, cooled, strangest) < WANING)
        still = seen.untouched()
        restoration.take_off(still, noise.without, first & asked & (by_small < threshold))
        first &= still.keeps(labels)
        stays = remove(first)
        asked &= ~first | removed.keeps(labels) | stays
        # What a small region explains needs no noise, nor does what noise explains need waves.
        by_noise = examination.pattern(0, noise, labels, asked & (by_small < threshold), still)
        by_waves = examination.pattern(1, waves, labels, asked & (by_noise < threshold), seen.untouched())
        by_pattern = torch.maximum(by_noise, by_waves)
        by_whole = torch.maximum(by_pattern, by_universal)
        diffuse = by_whole >= threshold
        result = seen.untouched()
        # A region, too, may look like a universal perturbation, and goes first.
        spread = ((by_pattern >= threshold) | unexplained).nonzero()[:, 0]
        if len(spread):
            restoration.take_off(still, noise.without, unexplained)
            best = still.take(spread)._replace(masks=torch.ones_like(seen.heat[spread]))
            result.put(spread, removal.whole(images[spread], best, labels[spread], bearing[spread]))
        # Where a region explains the class, too, and the whole picture keeps it, the region goes.
        guilty = explained & result.keeps(labels)
        stays |= remove(guilty & ~first)
        # Where it is strange still, that it is so is no evidence against the region.
        by_region = torch.where(stays & ~diffuse, by_region_alone, by_region)
        regional = by_region >= threshold
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

"""Touch only what is proven to be a trigger."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from captum.attr import Saliency
from torch import Tensor, nn
from torchvision.transforms.v2.functional import gaussian_blur
from typing_extensions import Self

from detectors.neural_cleanse import NeuralCleanse
from februus.checks import check_choice, check_range, mismatch
from februus.inpainters.gan import Gan
from februus.localizers.gradient_x_activation import GradientXActivation
from februus.masks import top_fraction
from februus.models.modes import evaluation_mode, recorded_outputs
from februus.priors import Prior, scan
from februus.restorers.jpeg import Jpeg
from februus.seeds import seeded
from februus.types import Inpainter, Localizer, Purified, Restorer
from februus.verification import Tail, answer, concentration, consensus, margins, transplant

__all__ = ["Verified"]

# Shares of the picture's area: regions that are put on other pictures, and regions that are removed.
SUSPECTED = (0.03, 0.1, 0.25)
REMOVED = (0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08, 0.12, 0.16, 0.2, 0.28, 0.4)
# Which of the suspected regions the first look puts on one other picture, and the share of the reference pictures that
# it does not clear; that of the look at the whole picture.
LOOKED_AT = 1
UNCLEARED, UNCLEARED_WHOLE = 0.15, 0.1
# Pictures that a region is put on; how many of them may acquit it, and how many convict, before the others are asked.
PROBES, ACQUITTING, CONVICTING = 5, 2, 4
# How many steps beyond the smallest region that changes the class, where leavings of a trigger may remain, are removed.
BEYOND = 2
# How far what decides between a picture and its restoration is smoothed, as a share of the picture's side, and from
# which share of the highest value on it is removed.
SMOOTHED, DECISIVE = 1 / 16, 0.1
# What can be left out, to see what it gives.
PARTS = ("first-look", "transplant", "concentration", "whole", "smallest")
# Of the option prior: look for a backdoor in the model first.
SCAN = "scan"
# How far logits of the same model may lie apart on two machines.
SAME = 1e-2


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What reference pictures taught.

    Args:
        probes: the pictures that regions are put on (P, 3, H, W).
        logits: the model's answer to them (P, C), by which another model is told apart.
        suspicious: surprise up to which the first look clears a picture.
        wavering: lead of another class, after re-encoding, up to which the other first look does.
        look: margin with which an innocent region carries its class to one other picture.
        concentration: of innocent heat in the smallest of `SUSPECTED`.
        margins: with which innocent regions carry their class, for each of `SUSPECTED`.
        region: the surprise of all of these together.
        whole: margin with which what re-encoding takes from innocent pictures brings their class along.
        prior: what is known of a backdoor; None where nothing is.
        known: margin with which what innocent pictures show where its trigger lies carries their class; None likewise.
    """

    probes: Tensor
    logits: Tensor
    suspicious: float
    wavering: float
    look: Tail
    concentration: Tail
    margins: tuple[Tail, ...]
    region: Tail
    whole: Tail
    prior: Prior | None = None
    known: Tail | None = None


@dataclass(frozen=True, kw_only=True)
class Verified:
    """Remove a region only on evidence that it, and not what the picture shows, makes the class.

    *Locate*: gradient times activation. *Verify*: the hottest regions, of several sizes, are put on reference pictures;
    a trigger brings its class along to all of them by a margin, and gathers the heat to a degree, that innocent regions
    of that size do not reach (the test of SentiNet, Chou et al. 2020, arXiv 1812.00292, measured in logits). *Remove,
    restore*: the smallest part of the heat whose removal changes the class, or a little more, is inpainted. Where no
    small region explains the class, re-encoding the whole picture changes it, and what that took away brings the class
    along when it is added to reference pictures, the trigger is diffuse: the picture is re-encoded.

    Two first looks clear most pictures for the price of a backward and three forwards: one region on one other picture
    beside the concentration of the heat, and whether re-encoding changes the class.

    A score is ``-log10`` of the share of innocent pictures that look as suspicious, by a law fitted to the reference
    pictures alone; a picture is flagged from ``-log10(false_positive_rate)`` on. A picture that is not flagged comes
    back as it was, bit by bit. Every picture is judged by itself: the others of its batch change nothing.

    Where a backdoor is known before, what a picture of its class shows in the place of the trigger is a further
    region that is put on other pictures and, on the same evidence, removed.

    Args:
        false_positive_rate: share of innocent pictures that may be flagged, in (0, 0.5].
        localizer: what finds the heat; several maps are averaged.
        inpainter: what restores regions.
        restorer: what restores whole pictures.
        prior: a file that ``februus scan`` wrote, or ``scan``: Neural Cleanse looks for a backdoor when it is fitted.
        seed: of the choice of probes among the reference pictures.
        without: a part that is left out, for ablations: ``first-look`` examines every picture, ``transplant`` and
            ``concentration`` leave the other one to judge regions, ``whole`` knows only regions, ``smallest`` removes
            the suspected region as it is.
        calibration: made by `fit`.
    """

    false_positive_rate: float = 0.005
    localizer: Localizer = field(default_factory=GradientXActivation)
    inpainter: Inpainter = field(default_factory=Gan)
    restorer: Restorer = field(default_factory=Jpeg)
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
        probes, others = reference[order[:PROBES]], reference[order[PROBES:]]
        prior = self._find_prior(model, reference)
        columns: list[list[Tensor]] = [[], [], [], [], [], [], []]
        for images in others.split(batch_size):
            _, heat, logits = self.locate(model, images)
            labels, encoded = logits.argmax(1), self.restorer(images)
            led = -margins(answer(model, encoded, batch_size=batch_size), labels)
            found = (
                concentration(heat, SUSPECTED[0]),
                look_at_region(model, images, heat, labels, probes, batch_size=batch_size),
                consensus(carried_by_regions(model, images, heat, labels, probes, batch_size=batch_size)),
                led,
                consensus(carried_by_residue(model, images - encoded, labels, probes, batch_size=batch_size)),
                consensus(carried_by_place(model, images, prior, labels, probes, batch_size=batch_size)),
                labels,
            )
            for column, values in zip(columns, found, strict=True):
                column.append(values)
        gathered, looks, carried, leads, left, placed, predicted = (torch.cat(column) for column in columns)
        lead = leads.quantile(1 - UNCLEARED_WHOLE).clamp(min=0).item()
        calibration = Calibration(
            probes=probes,
            logits=answer(model, probes, batch_size=batch_size),
            suspicious=-math.inf,
            wavering={"first-look": -math.inf, "whole": math.inf}.get(self.without or "", lead),
            look=Tail.fit(looks),
            concentration=Tail.fit(gathered),
            margins=tuple(map(Tail.fit, carried.unbind(1))),
            region=Tail(start=0.0, scale=1.0),
            whole=Tail.fit(left),
            prior=prior,
            known=_of_one_class(Tail.fit(placed), prior, predicted) if prior else None,
        )
        suspicion = self._suspicion(calibration, gathered, looks)
        calibration = replace(
            calibration,
            suspicious=-math.inf if self.without == "first-look" else suspicion.quantile(1 - UNCLEARED).item(),
            region=Tail.fit(self._joint(calibration, gathered, carried)),
        )
        return replace(self, calibration=calibration)

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
        calibration = self.calibrated()
        tails = (
            calibration.look,
            calibration.concentration,
            *calibration.margins,
            calibration.region,
            calibration.whole,
            *([calibration.known] if calibration.known else []),
        )
        return {
            **(calibration.prior.tensors() if calibration.prior else {}),
            "probes": calibration.probes,
            "logits": calibration.logits,
            "first_looks": torch.tensor([calibration.suspicious, calibration.wavering], dtype=torch.float64),
            "tails": torch.tensor([(tail.start, tail.scale) for tail in tails], dtype=torch.float64),
        }

    def with_state(self, model: nn.Module, state: dict[str, Tensor]) -> Self:
        """Return this preset with a calibration that was kept.

        Raises:
            ValueError: if tensors are missing or ``model`` is not the one that it was fitted to.
        """
        if missing := {"probes", "logits", "first_looks", "tails"} - set(state):
            raise mismatch(
                "calibration", f"the tensors {', '.join(sorted(missing))}", ", ".join(sorted(state)) or "none"
            )
        shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
        prior = Prior.from_tensors(state) if "mask" in state else None
        tails = len(SUSPECTED) + (5 if prior else 4)
        fits = shapes["first_looks"] == (2,) and shapes["tails"] == (tails, 2)
        if not fits or len(shapes["probes"]) != 4:
            raise mismatch("calibration", "tensors as `Purifier.save` writes them", shapes)
        device = next(model.parameters()).device
        probes, logits = state["probes"].to(device), state["logits"].to(device)
        found = answer(model, probes, batch_size=len(probes))
        if found.shape != logits.shape or not torch.allclose(found, logits, rtol=SAME, atol=SAME):
            raise mismatch("model", "the one that the purifier was fitted to", "one that answers otherwise")
        suspicious, wavering = state["first_looks"].tolist()
        look, gathered, *others = (Tail(start=start, scale=scale) for start, scale in state["tails"].tolist())
        sizes, (region, whole, *known) = others[: len(SUSPECTED)], others[len(SUSPECTED) :]
        calibration = Calibration(
            probes=probes,
            logits=logits,
            suspicious=suspicious,
            wavering=wavering,
            look=look,
            concentration=gathered,
            margins=tuple(sizes),
            region=region,
            whole=whole,
            prior=prior,
            known=known[0] if known else None,
        )
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

    def locate(self, model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the localizer's maps (N, L, H, W), the heat that counts (N, 1, H, W) and the logits (N, C)."""
        with recorded_outputs(model) as outputs:
            heatmaps = self.localizer(model, images)
        return heatmaps, heatmaps.mean(1, keepdim=True), outputs[-1]

    def judge_regions(self, gathered: Tensor, carried: Tensor) -> Tensor:
        """Return the surprise (N,) of pictures whose regions carry their class by the margins ``carried`` (N, S).

        The regions lie in one another: what a small trigger does, all of them do, and a large one shows in the large.
        So the sizes' surprises are added, with that of the `concentration` (N,) of the heat.
        """
        calibration = self.calibrated()
        return calibration.region.surprise(self._joint(calibration, gathered, carried)) - self._chances

    def judge_sizes(self, carried: Tensor) -> Tensor:
        """Return the surprise (N, S) of a region of each size by itself, from the margins ``carried`` (N, S)."""
        tails = self.calibrated().margins
        columns = (tail.surprise(column.double()) for tail, column in zip(tails, carried.unbind(1), strict=True))
        return torch.stack(tuple(columns), 1) - self._chances

    def judge_residue(self, left: Tensor) -> Tensor:
        """Return the surprise (N,) of a residue that carries the class by the margin ``left`` (N,)."""
        return self.calibrated().whole.surprise(left.double()) - self._chances

    @property
    def _chances(self) -> float:
        """What is taken off for trying two explanations, a region and the whole picture, or three (Bonferroni)."""
        return math.log10(3 if self.calibrated().prior else 2)

    def _suspicion(self, calibration: Calibration, gathered: Tensor, looks: Tensor) -> Tensor:
        """Return the surprise (N,) of the first look."""
        return _heat(calibration, gathered) + calibration.look.surprise(looks.double())

    def _joint(self, calibration: Calibration, gathered: Tensor, carried: Tensor) -> Tensor:
        found = torch.zeros_like(gathered, dtype=torch.float64)
        if self.without != "concentration":
            found += _heat(calibration, gathered)
        if self.without != "transplant":
            found += sum(
                tail.surprise(column.double())
                for tail, column in zip(calibration.margins, carried.unbind(1), strict=True)
            )
        return found

    def __call__(self, model: nn.Module, images: Tensor, *, batch_size: int) -> Purified:
        """Purify ``images`` (N, 3, H, W).

        Raises:
            ValueError: if the preset was not fitted, or to pictures of another size.
        """
        calibration = self.calibrated()
        probes = calibration.probes.to(images.device)
        if probes.shape[2:] != images.shape[2:]:
            expected = f"shape (N, 3, {probes.shape[2]}, {probes.shape[3]}), as the reference"
            raise mismatch("images", expected, tuple(images.shape))
        heatmaps, heat, before = self.locate(model, images)
        labels, gathered = before.argmax(1), concentration(heat, SUSPECTED[0])
        encoded = self.restorer(images)
        encoded_logits = answer(model, encoded, batch_size=batch_size)
        looks = look_at_region(model, images, heat, labels, probes, batch_size=batch_size)
        suspicion = self._suspicion(calibration, gathered, looks)
        focused = (suspicion >= calibration.suspicious).nonzero()[:, 0]
        wavering = (-margins(encoded_logits, labels) >= calibration.wavering).nonzero()[:, 0]

        def put_regions(which: Tensor, jury: slice) -> Tensor:
            rows = focused[which]
            known = looks[rows] if jury.start == 0 else None
            return carried_by_regions(
                model, images[rows], heat[rows], labels[rows], probes[jury], known, batch_size=batch_size
            )

        def judge_regions(which: Tensor, carried: Tensor) -> Tensor:
            small = self.judge_sizes(carried)[:, 0]
            return torch.stack([self.judge_regions(gathered[focused[which]], carried), small], 1)

        carried = _agree(put_regions, judge_regions, self.threshold, len(focused))
        by_region, by_whole = torch.full((2, len(images)), -math.inf, dtype=torch.float64, device=images.device)
        by_size = by_region[:, None].repeat(1, len(SUSPECTED))
        by_region[focused], by_size[focused] = self.judge_regions(gathered[focused], carried), self.judge_sizes(carried)
        by_prior, known = self._judge_place(model, images, labels, probes, batch_size=batch_size)
        # What a small region explains needs no other explanation.
        unclear = wavering[torch.maximum(by_size[wavering, 0], by_prior[wavering]) < self.threshold]
        residue = (images - encoded)[unclear]

        def add_residue(which: Tensor, jury: slice) -> Tensor:
            return carried_by_residue(
                model, residue[which], labels[unclear][which], probes[jury], batch_size=batch_size
            )

        left = _agree(add_residue, lambda _, found: self.judge_residue(found)[:, None], self.threshold, len(unclear))
        by_whole[unclear] = self.judge_residue(left)
        by_region = torch.maximum(by_region, by_prior)
        regional, diffuse = by_region >= self.threshold, by_whole >= self.threshold
        restored, after, masks = images.clone(), before.clone(), torch.zeros_like(heat)
        guilty = (regional & ~diffuse).nonzero()[:, 0]
        if len(guilty):
            restored[guilty], masks[guilty], after[guilty] = self._remove(
                model,
                images[guilty],
                heat[guilty],
                before[guilty],
                by_size[guilty].argmax(1),
                known[guilty],
                batch_size=batch_size,
            )
        restored[diffuse], after[diffuse], masks[diffuse] = encoded[diffuse], encoded_logits[diffuse], 1.0
        examined = torch.zeros_like(regional)
        examined[focused] = True
        examined[wavering] = True
        examined |= by_prior.isfinite()
        scores = torch.where(examined, torch.maximum(by_region, by_whole), suspicion - calibration.suspicious)
        flagged = regional | diffuse
        stages = ("locate", "verify", "classify")
        return Purified(
            images=restored,
            heatmaps=heatmaps,
            masks=masks,
            logits_before=before,
            logits=after,
            labels=after.argmax(1),
            flagged=flagged,
            scores=scores.float(),
            stages=tuple(stages[stage] for stage in torch.where(flagged, 2, examined.long()).tolist()),
        )

    def _judge_place(
        self, model: nn.Module, images: Tensor, labels: Tensor, probes: Tensor, *, batch_size: int
    ) -> tuple[Tensor, Tensor]:
        """Return the surprise (N,) of what stands where a known trigger lies, and that place (N, 1, H, W).

        Of pictures of other classes than the known one it is minus infinity, and the place empty.
        """
        calibration = self.calibrated()
        found = torch.full((len(images),), -math.inf, dtype=torch.float64, device=images.device)
        places = torch.zeros_like(images[:, :1])
        prior, known = calibration.prior, calibration.known
        if prior is None or known is None:
            return found, places
        rows = (labels == prior.label).nonzero()[:, 0]
        places[rows] = prior.region.to(images.device)

        def put(which: Tensor, jury: slice) -> Tensor:
            own = rows[which]
            return carried_by_place(model, images[own], prior, labels[own], probes[jury], batch_size=batch_size)

        def judge(_: Tensor, margin: Tensor) -> Tensor:
            return (known.surprise(margin.double()) - self._chances)[:, None]

        found[rows] = judge(rows, _agree(put, judge, self.threshold, len(rows)))[:, 0]
        return found, places

    def _remove(
        self,
        model: nn.Module,
        images: Tensor,
        heat: Tensor,
        before: Tensor,
        sizes: Tensor,
        places: Tensor,
        *,
        batch_size: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Restore the region without which the class is another one; returns pictures, masks, logits."""
        labels = before.argmax(1)
        removed = torch.tensor(REMOVED, dtype=torch.float64, device=images.device)
        last = len(REMOVED) - 1

        def restore(rows: Tensor, masks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            restored = self.inpainter(images[rows], masks)
            return restored, masks, answer(model, restored, batch_size=batch_size)

        everything = torch.arange(len(images), device=images.device)
        suspected = removed.new_tensor(SUSPECTED)[sizes]
        if self.without == "smallest":
            return restore(everything, top_fraction(heat, suspected))
        low, high = torch.zeros_like(labels), torch.full_like(labels, len(REMOVED))
        other = before.scatter(1, labels[:, None], -math.inf).argmax(1)
        while (low < high).any():
            rows = (low < high).nonzero()[:, 0]
            middle = (low[rows] + high[rows]) // 2
            found = restore(rows, top_fraction(heat[rows], removed[middle]))[2].argmax(1)
            kept = found == labels[rows]
            low[rows[kept]], high[rows[~kept]], other[rows[~kept]] = middle[kept] + 1, middle[~kept], found[~kept]
        # Where the class stays whatever is removed, what was proven goes.
        shares = torch.where(low > last, suspected, removed[(low + BEYOND).clamp(max=last)])
        best = restore(everything, top_fraction(heat, shares))
        others = [(everything, decisive(model, images, best[0], labels, other))]
        known = places.flatten(1).any(1).nonzero()[:, 0]
        if len(known):
            others.append((known, places[known]))
        for rows, masks in others:
            tried = restore(rows, masks)
            surer = _sureness(tried[2], labels[rows]) > _sureness(best[2][rows], labels[rows])
            for one, another in zip(best, tried, strict=True):
                one[rows[surer]] = another[surer]
        return best


def look_at_region(
    model: nn.Module, images: Tensor, heat: Tensor, labels: Tensor, probes: Tensor, *, batch_size: int
) -> Tensor:
    """Return how surely a middling region (N,) carries its class to one other picture."""
    mask = top_fraction(heat, SUSPECTED[LOOKED_AT])
    return transplant(model, images * mask, mask, labels, probes[:1], batch_size=batch_size)[:, 0]


def carried_by_regions(
    model: nn.Module,
    images: Tensor,
    heat: Tensor,
    labels: Tensor,
    probes: Tensor,
    looks: Tensor | None = None,
    *,
    batch_size: int,
) -> Tensor:
    """Return how surely the hottest region of each size carries its class to each probe (N, S, P).

    What `look_at_region` found of the first probe is not asked again where it is given.
    """
    found = []
    for place, size in enumerate(SUSPECTED):
        known = looks[:, None] if looks is not None and place == LOOKED_AT else images.new_empty(len(images), 0)
        mask, asked = top_fraction(heat, size), probes[known.shape[1] :]
        margin = transplant(model, images * mask, mask, labels, asked, batch_size=batch_size)
        found.append(torch.cat([known, margin], 1))
    return torch.stack(found, 1)


def carried_by_residue(model: nn.Module, residue: Tensor, labels: Tensor, probes: Tensor, *, batch_size: int) -> Tensor:
    """Return how surely what re-encoding took away (N, 3, H, W), added to each probe, carries the class (N, P)."""
    nowhere = torch.zeros_like(residue[:, :1])
    return transplant(model, residue, nowhere, labels, probes, batch_size=batch_size)


def carried_by_place(
    model: nn.Module, images: Tensor, prior: Prior | None, labels: Tensor, probes: Tensor, *, batch_size: int
) -> Tensor:
    """Return how surely what stands where a known trigger lies, put on each probe, carries the class (N, P); else 0."""
    if prior is None:
        return torch.zeros(len(images), len(probes), device=images.device)
    masks = prior.region.to(images.device).expand(len(images), -1, -1, -1)
    return transplant(model, images * masks, masks, labels, probes, batch_size=batch_size)


def _of_one_class(tail: Tail, prior: Prior, predicted: Tensor) -> Tail:
    """Return the law of values that only pictures of the known class are asked for.

    Of the innocent pictures few are of that class (the share of ``predicted``, at least one of them), and only they can
    be accused; so the same value is that much rarer among all.
    """
    share = max((predicted == prior.label).double().mean().item(), 1 / len(predicted))
    return Tail(start=tail.start + tail.scale * math.log(share), scale=tail.scale)


def decisive(model: nn.Module, images: Tensor, restored: Tensor, labels: Tensor, others: Tensor) -> Tensor:
    """Mark the pixels (N, 1, H, W) that make ``labels`` (N,) of ``images`` and ``others`` (N,) of ``restored``.

    Integrated gradients from one to the other, at the midpoint of the way, of the difference between the two logits.
    """

    def lead(pictures: Tensor) -> Tensor:
        # A copy: PyTorch's FLOP counter cannot follow a leaf into a model.
        logits: Tensor = model(pictures.clone())
        return (logits.gather(1, labels[:, None]) - logits.gather(1, others[:, None]))[:, 0]

    midpoint = ((images + restored) / 2).requires_grad_()
    with evaluation_mode(model), torch.enable_grad():
        slope: Tensor = Saliency(lead).attribute(midpoint, abs=False)
    found = ((images - restored) * slope.detach()).sum(1, keepdim=True)
    sigma = SMOOTHED * max(images.shape[2:])
    kernel = 2 * math.ceil(2 * sigma) + 1
    smooth: Tensor = gaussian_blur(found, [kernel, kernel], [sigma, sigma]).clamp(min=0)
    highest = smooth.amax((2, 3), keepdim=True)
    return ((smooth > DECISIVE * highest) & (highest > 0)).to(images.dtype)


def _agree(
    ask: Callable[[Tensor, slice], Tensor], judge: Callable[[Tensor, Tensor], Tensor], threshold: float, count: int
) -> Tensor:
    """Return the `consensus` of the probes on ``count`` pictures, asking no more of them than settle it.

    The second lowest of few probes is at least that of all: where it is below the threshold, the others cannot lift it.
    The lowest of all but one is at most the second lowest of all: where it reaches the threshold, the last cannot
    change that. There the bound is returned.

    Args:
        ask: which pictures and which probes -> margins (n, ..., P).
        judge: which pictures and margins (n, ...) -> surprises (n, K), higher with higher margins.
        threshold: of all surprises.
        count: of pictures.
    """
    everything = torch.arange(count)
    margin = ask(everything, slice(0, ACQUITTING))
    found = consensus(margin)
    doubted = (judge(everything, found) >= threshold).any(1).nonzero()[:, 0]
    margin = torch.cat([margin[doubted], ask(doubted, slice(ACQUITTING, CONVICTING))], -1)
    found[doubted] = margin.amin(-1)
    unsettled = (judge(doubted, found[doubted]) < threshold).any(1).nonzero()[:, 0]
    margin = torch.cat([margin[unsettled], ask(doubted[unsettled], slice(CONVICTING, PROBES))], -1)
    found[doubted[unsettled]] = consensus(margin)
    return found


def _heat(calibration: Calibration, gathered: Tensor) -> Tensor:
    """Return the surprise (N,) of gathered heat; heat that is spread does not speak for innocence."""
    return calibration.concentration.surprise(gathered.double()).clamp(min=0)


def _sureness(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the log-odds of the likeliest class other than ``labels``."""
    other = logits.scatter(1, labels[:, None], -math.inf).argmax(1, keepdim=True)
    rest = logits.scatter(1, other, -math.inf).logsumexp(1)
    return logits.gather(1, other)[:, 0] - rest

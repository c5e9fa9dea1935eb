"""What the evidence on a picture is worth, by the laws that reference pictures taught. No model is asked."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from februus.checks import mismatch
from februus.presets._calibration import PATTERNS, Calibration
from februus.presets._pictures import Restored, Seen
from februus.verification import Law, Tail

__all__ = ["Judgement"]

# How much more than other evidence it counts that a picture is not like those of its class, and the smallest share of
# innocent pictures it is taken to tell of.
ATYPICAL, RAREST = 2.0, 1e-3
# Of all false positives, the share that universal perturbations are granted.
BORNE = 0.15


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Evidence as surprises: ``-log10`` of the share of innocent pictures that look as suspicious.

    Args:
        calibration: the laws; one whose `joint` laws are yet to be fitted tells what they are fitted to.
        false_positive_rate: share of innocent pictures that may be flagged.
        without: a part that is left out, as in `Verified`.
    """

    calibration: Calibration
    false_positive_rate: float
    without: str | None = None

    @property
    def threshold(self) -> float:
        """The surprise from which on a picture is flagged."""
        return -math.log10(self.false_positive_rate)

    def strangeness(self, distances: Tensor) -> Tensor:
        """Return the evidence (N,) of distances (N,) from the pictures of a class: a surprise, not negative."""
        if self.without == "typicality":
            return torch.zeros_like(distances)
        return ATYPICAL * _beyond(self.calibration.distance, distances).clamp(max=-math.log10(RAREST))

    def distance_left(self, seen: Seen, restored: Restored, asked: Tensor) -> Tensor:
        """Return how far restored pictures are from their new classes, as a share of what it was from the old (N,).

        Of those for which it is not ``asked`` (N,), it is 0.
        """
        typicality, rows = self.calibration.typicality, asked.nonzero()[:, 0]
        left = torch.zeros(len(asked), dtype=torch.float64, device=asked.device)
        now = typicality.distance(restored.features[rows], restored.logits[rows].argmax(1))
        left[rows] = now / typicality.distance(seen.features[rows], seen.labels[rows]).clamp(min=1e-12)
        return left

    def first_look(self, strange: Tensor, gathered: Tensor, found: Tensor) -> Tensor:
        """Return the suspicion (N,) of the first look at a region, whose margin is ``found`` (N,)."""
        return strange + (_beyond(self.calibration.concentration, gathered) + self._looked(0, found))

    def second_look(self, suspicion: Tensor, found: Tensor) -> Tensor:
        """Return the suspicion (N,) of the first look and the second, whose margin is ``found`` (N,)."""
        return suspicion + self._looked(1, found)

    def _looked(self, which: int, found: Tensor) -> Tensor:
        return self.calibration.looks[which].surprise(found.double())

    def glance(self, prominence: Tensor, glances: Tensor) -> Tensor:
        """Return the suspicion (N,) of the look at what is faint, whose margin is ``glances`` (N,)."""
        calibration = self.calibration
        return _beyond(calibration.prominence, prominence) + calibration.glance.surprise(glances.double())

    def of_region(self, gathered: Tensor, carried: Tensor, flipped: Tensor, strange: Tensor) -> Tensor:
        """Return the sum (N,) of the surprises of a region, which is no surprise itself."""
        calibration = self.calibration
        found = torch.zeros_like(gathered, dtype=torch.float64)
        if self.without != "concentration":
            found += _beyond(calibration.concentration, gathered)
        if self.without != "transplant":
            found += _each(calibration.margins, carried).sum(1)
        if self.without != "flip":
            found += calibration.flips[0].surprise(flipped)
        return strange + found

    def regions(self, gathered: Tensor, carried: Tensor, flipped: Tensor, strange: Tensor) -> Tensor:
        """Return the surprise (N,) of pictures whose regions carry their class by the margins ``carried`` (N, S).

        The regions lie in one another: what a small trigger does, all of them do. So the sizes' surprises are added,
        with those of the `concentration` (N,) of the heat and of the flip (N,), and the `strangeness` (N,).
        """
        return self.calibration.joint[0].surprise(self.of_region(gathered, carried, flipped, strange)) - self._chances

    def sizes(self, carried: Tensor) -> Tensor:
        """Return the surprise (N, S) of a region of each size by itself, from the margins ``carried`` (N, S)."""
        return _each(self.calibration.margins, carried) - self._chances

    def of_pattern(self, place: int, left: Tensor, flipped: Tensor) -> Tensor:
        """Return the sum (N,) of the surprises of noise, or of waves, which is no surprise itself."""
        found = self.calibration.patterns[place].surprise(left)
        return found if self.without == "flip" else found + self.calibration.flips[1 + place].surprise(flipped)

    def pattern(self, place: int, left: Tensor, flipped: Tensor) -> Tensor:
        """Return the surprise (N,) of noise, or of waves.

        The margin ``left`` (N,) by which it carries the class counts by itself and with the margin ``flipped`` (N,) by
        which the class is lost without it. These two accusations are nearly one, and have one chance.
        """
        calibration = self.calibration
        joint = calibration.joint[1 + place].surprise(self.of_pattern(place, left, flipped))
        found = torch.maximum(joint, calibration.patterns[place].surprise(left)) - math.log10(PATTERNS)
        return found - self._chances - calibration.raised[place]

    def universals(self, images: Tensor, labels: Tensor, strange: Tensor) -> Tensor:
        """Return the surprise (N, K) of how much pictures (N, 3, H, W) bear of each universal perturbation.

        That they are ``strange`` (N,), too, is added, as Fisher joins what is independent (1932, Statistical methods
        for research workers, 21.1). Of pictures of other ``labels`` (N,) than theirs it is minus infinity. It takes no
        forward.
        """
        kinds, laws = self.calibration.universals, self.calibration.borne
        found = torch.full((len(images), len(kinds)), -math.inf, dtype=torch.float64).to(images.device)
        for place, (one, law) in enumerate(zip(kinds, laws, strict=True)):
            rare = -math.log10(law.frequencies[one.label].item())
            surprise = rare + self.joined(law.surprise(one.borne(images)) - rare, strange)
            granted = surprise + math.log10(BORNE / len(kinds))
            found[:, place] = torch.where(labels == one.label, granted, -math.inf)
        return found

    def joined(self, surprise: Tensor, strange: Tensor) -> Tensor:
        """Return the surprise (N,) of a sum of two, the second of which is 0 for all but `Tail.SHARE` of pictures.

        That they are ``strange`` counts once here, as a surprise of its own.
        """
        if self.without == "typicality":
            return surprise
        total = surprise + strange / ATYPICAL
        return total - torch.log10(1 + Tail.SHARE * math.log(10) * total.clamp(min=0))

    def known(self, margin: Tensor) -> Tensor:
        """Return the surprise (N,) of what stands where a known trigger lies, from its margin (N,)."""
        law = self.calibration.known
        if law is None:
            raise mismatch("calibration", "one that was fitted with a prior", "one that was not")
        return law.surprise(margin) - self._chances

    @property
    def _chances(self) -> float:
        """What is taken off for trying two explanations, a region and a pattern, or what is known, too (Bonferroni)."""
        calibration = self.calibration
        return math.log10((3 if calibration.prior else 2) / (1 - BORNE * bool(calibration.universals)))


def _beyond(tail: Tail, found: Tensor) -> Tensor:
    """Return the surprise (N,) of gathered heat, or of a wave, beyond that of the upper quartile.

    Less says nothing: heat that is spread does not speak for innocence.
    """
    return (tail.surprise(found.double()) + math.log10(tail.SHARE)).clamp(min=0)


def _each(laws: tuple[Law, ...], values: Tensor) -> Tensor:
    """Return the surprise (N, K) of values (N, K), each column by a law of its own."""
    return torch.stack([law.surprise(column) for law, column in zip(laws, values.unbind(1), strict=True)], 1)

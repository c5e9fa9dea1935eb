"""What reference pictures teach the preset `verified`, and how that is kept."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import partial
from itertools import islice

import torch
from torch import Tensor
from typing_extensions import Self

from februus.checks import mismatch
from februus.priors import Prior
from februus.types import Restorer
from februus.typicality import Typicality
from februus.universal import SHAPES, Universal
from februus.verification import Law, Tail

__all__ = ["KNOWN", "LOOKS", "PATTERNED", "PATTERNS", "REGIONS", "SUSPECTED", "Calibration", "in_units"]

# Regions that are put on other pictures, as shares of the picture's area; the smallest is removed first.
SUSPECTED: tuple[float, ...] = (0.03, 0.1, 0.25)
# The first looks at regions: which of the suspected ones is put on which other picture.
LOOKS = ((2, 0), (1, 1))
# How many kinds of patterns are put on other pictures: noise and waves.
PATTERNS = 2
# Where regions, patterns and a known place stand in the resistance of the probes.
REGIONS, PATTERNED, KNOWN = slice(len(SUSPECTED)), len(SUSPECTED), len(SUSPECTED) + PATTERNS
# What its parts of a `Typicality` are kept as.
TYPICAL = {item.name: f"typical_{item.name}" for item in fields(Typicality)}


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What reference pictures taught.

    Args:
        probes: the pictures that regions are put on (P, 3, H, W); the first look at regions asks the first.
        logits: the model's answer to them (P, C), by which another model is told apart.
        resistance: of the probes: mean and standard deviation of the margins with which innocent pictures carry their
            class to each of them (2, E, P), for each of `SUSPECTED`, the noise, the waves and a known place.
        glancing: which of the probes is asked by the look at what was taken off the whole picture.
        looks: margin with which an innocent region carries its class to the one other picture of each first look.
        typicality: what innocent pictures of each class are like.
        distance: of innocent pictures from those of their class that it does not know.
        concentration: of innocent heat in the smallest of `SUSPECTED`.
        glance: margin with which what is faint on innocent pictures carries its class to one other picture.
        prominence: of the wave that stands out of innocent pictures.
        margins: with which innocent regions carry their class, for each of `SUSPECTED`, in units of the resistance.
        patterns: likewise, with which the noise, and the waves, of innocent pictures bring their class along.
        flips: margins of another class once the smallest region is restored, or the noise, or the waves are taken off.
        universals: perturbations that lead to the class that the model takes to most readily; none where left out.
        borne: how much of each of them innocent pictures bear, asked of those of that class.
        prior: what is known of a backdoor; None where nothing is.
        known: likewise, with which what innocent pictures show where its trigger lies carries theirs; None likewise.
        joint: the sum of the surprises that the laws above tell of a region, of noise, of waves.
        suspicious: surprise up to which each first look, with those before it, clears a picture.
        faint: surprise up to which the look at what was taken off the whole picture clears it.
        raised: how much more than the threshold noise, and waves, take, as reference pictures reach it.
    """

    probes: Tensor
    logits: Tensor
    resistance: Tensor
    glancing: int
    looks: tuple[Tail, ...]
    typicality: Typicality
    distance: Tail
    concentration: Tail
    glance: Tail
    prominence: Tail
    margins: tuple[Law, ...]
    patterns: tuple[Law, ...]
    flips: tuple[Law, ...]
    universals: tuple[Universal, ...]
    borne: tuple[Law, ...]
    prior: Prior | None = None
    known: Law | None = None
    joint: tuple[Law, ...] = ()
    suspicious: tuple[float, ...] = (-math.inf,) * len(LOOKS)
    faint: float = -math.inf
    raised: tuple[float, ...] = (0.0,) * PATTERNS

    def against(self, margins: Tensor, kind: slice | int, jury: slice = slice(None)) -> Tensor:
        """Return margins (N, ..., P) on the probes of ``jury`` in units of their `resistance` to some kind."""
        return in_units(margins, self.resistance.to(margins.device)[:, kind, jury])

    def take_off(self) -> list[Restorer]:
        """Return, for each of the `universals`, what takes off pictures what they bear of it beyond the usual."""
        return [
            partial(one.without, usual=law.places[one.label].item())
            for one, law in zip(self.universals, self.borne, strict=True)
        ]

    @property
    def laws(self) -> tuple[Law, ...]:
        """All of them, in the order of the fields."""
        known = () if self.known is None else (self.known,)
        return (*self.margins, *self.patterns, *self.flips, *self.joint, *self.borne, *known)

    def tensors(self) -> dict[str, Tensor]:
        """Return what is kept of it."""
        own = (self.distance, self.concentration, self.glance, self.prominence)
        tails = (*own, *self.looks, *(law.tail for law in self.laws))
        return {
            **(self.prior.tensors() if self.prior else {}),
            "probes": self.probes,
            "logits": self.logits,
            "resistance": self.resistance,
            "first_looks": torch.tensor([*self.suspicious, self.faint, self.glancing], dtype=torch.float64),
            "tails": torch.tensor(
                [(tail.start, tail.scale, tail.count, tail.shape) for tail in tails], dtype=torch.float64
            ),
            "raised": torch.tensor(self.raised, dtype=torch.float64),
            "frequencies": self.margins[0].frequencies,
            "laws": torch.stack([torch.stack([law.places, law.spreads]) for law in self.laws]),
            **{kept: getattr(self.typicality, name) for name, kept in TYPICAL.items()},
            "universals": torch.cat(
                [
                    self.probes.new_empty(0, 2, *self.probes.shape[1:]),
                    *(torch.stack([one.perturbation, one.filter])[None] for one in self.universals),
                ]
            ),
            "universal_labels": torch.tensor([one.label for one in self.universals], dtype=torch.long),
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], device: torch.device) -> Self:
        """Return what `tensors` gave, on a device.

        Raises:
            ValueError: if tensors are missing or do not fit.
        """
        kept = {"probes", "logits", "resistance", "first_looks", "tails", "raised", "frequencies", "laws"}
        kept |= {"universals", "universal_labels", *TYPICAL.values()}
        if missing := kept - set(tensors):
            expected = f"the tensors {', '.join(sorted(missing))}"
            raise mismatch("calibration", expected, ", ".join(sorted(tensors)) or "none")
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        prior = Prior.from_tensors(tensors) if "mask" in tensors else None
        explanations, labels = 1 + PATTERNS, tensors["universal_labels"].flatten().tolist()
        laws, classes = len(SUSPECTED) + PATTERNS + 2 * explanations + len(labels) + bool(prior), shapes["frequencies"]
        fits = shapes["laws"] == (laws, 2, *classes) and shapes["tails"] == (4 + len(LOOKS) + laws, 4)
        fits = fits and shapes["raised"] == (PATTERNS,)
        fits = fits and shapes["resistance"] == (2, KNOWN + 1, *shapes["probes"][:1])
        fits = fits and shapes["universals"] == (len(labels), 2, *shapes["probes"][1:])
        fits = fits and len(labels) in (0, len(SHAPES))
        directions, features = (*shapes[TYPICAL["directions"]], 0, 0)[:2]
        fits = fits and shapes[TYPICAL["centres"]] == (*classes, features)
        fits = fits and (shapes[TYPICAL["deviations"]], shapes[TYPICAL["shares"]]) == ((features,), (directions,))
        if not fits or len(classes) != 1 or shapes["first_looks"] != (len(LOOKS) + 2,) or len(shapes["probes"]) != 4:
            raise mismatch("calibration", "tensors as `Purifier.save` writes them", shapes)
        *suspicious, faint, glancing = tensors["first_looks"].tolist()
        distance, gathering, glance, prominence, *tails = (
            Tail(start=start, scale=scale, count=int(count), shape=shape)
            for start, scale, count, shape in tensors["tails"].tolist()
        )
        each = iter(
            Law(frequencies=tensors["frequencies"], places=places, spreads=spreads, tail=tail)
            for (places, spreads), tail in zip(tensors["laws"], tails[len(LOOKS) :], strict=True)
        )
        perturbations = zip(labels, tensors["universals"].to(device), strict=True)
        return cls(
            probes=tensors["probes"].to(device),
            logits=tensors["logits"].to(device),
            resistance=tensors["resistance"].to(device),
            suspicious=tuple(suspicious),
            faint=faint,
            glancing=int(glancing),
            looks=tuple(tails[: len(LOOKS)]),
            typicality=Typicality(**{name: tensors[kept].to(device) for name, kept in TYPICAL.items()}),
            distance=distance,
            concentration=gathering,
            glance=glance,
            prominence=prominence,
            margins=tuple(islice(each, len(SUSPECTED))),
            patterns=tuple(islice(each, PATTERNS)),
            flips=tuple(islice(each, explanations)),
            joint=tuple(islice(each, explanations)),
            raised=tuple(tensors["raised"].tolist()),
            universals=tuple(
                Universal(label=label, perturbation=one, filter=another) for label, (one, another) in perturbations
            ),
            borne=tuple(law.of(label) for label, law in zip(labels, islice(each, len(labels)), strict=True)),
            prior=prior,
            known=next(each).of(prior.label) if prior else None,
        )


def in_units(margins: Tensor, resistance: Tensor) -> Tensor:
    """Return margins (N, ..., P) in units of the resistance (2, ..., P) of the probes."""
    usual, spread = resistance.unbind()
    return (margins - usual) / spread

"""What is asked of pictures until there is a verdict: first looks, regions, what is faint, a known place."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from februus.masks import top_fraction
from februus.presets._calibration import KNOWN, LOOKS, PATTERNED, REGIONS, SUSPECTED
from februus.presets._judgement import Judgement
from februus.presets._pictures import Restored, Seen
from februus.presets._restoration import Restoration
from februus.presets._transplants import (
    STILLER,
    Pattern,
    add_pattern,
    carried_by_place,
    carried_by_regions,
    look_at_region,
    look_at_whole,
)
from februus.verification import margins, settle

__all__ = ["PROBES", "Examination", "Looked", "cool"]

# Pictures that a region is put on, in the order in which they are asked: the first may acquit it, those with the second
# convict it.
PROBES = 5
JURIES = slice(0, 2), slice(2, 4), slice(4, PROBES)
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


class Looked(NamedTuple):
    """What first looks told.

    Args:
        strange: how far pictures are from those of their classes, as evidence (N,).
        found: how surely regions carried their class to the probes of `LOOKS` (N, L); 0 where that was not asked.
        doubt: how far beyond what clears it a picture looked, at the last look at regions that it took (N,).
        suspects: the pictures whose regions are to be examined (K,).
        faint: whether what is faint is to be examined, whatever regions tell (N,).
        fainter: whether it is where no region explains the class (N,).
    """

    strange: Tensor
    found: Tensor
    doubt: Tensor
    suspects: Tensor
    faint: Tensor
    fainter: Tensor


def cool(restoration: Restoration, images: Tensor, heat: Tensor) -> Restored:
    """Restore the smallest suspected region of pictures (N, 3, H, W), by their heat (N, 1, H, W)."""
    return restoration.inpaint(images, top_fraction(heat, SUSPECTED[0]))


@dataclass(frozen=True, kw_only=True)
class Examination:
    """Ask the model about parts of pictures, and no more than settles it.

    Args:
        restoration: what restores pictures and knows the model.
        judgement: of what the model says.
    """

    restoration: Restoration
    judgement: Judgement

    def look(self, seen: Seen, patterns: tuple[Pattern, Pattern], strange: Tensor, accused: Tensor) -> Looked:
        """Take the first looks, which clear most pictures, but no regions of those that are ``accused`` (N,)."""
        judgement, calibration, probes = self.judgement, self.judgement.calibration, self._probes(seen.images)
        model, batch_size = self.restoration.model, self.restoration.batch_size
        images, heat, labels = seen.images, seen.heat, seen.labels
        found = images.new_zeros(len(images), len(LOOKS))
        found[:, 0] = look_at_region(0, model, images, heat, labels, probes, batch_size=batch_size)
        suspicion = judgement.first_look(strange, seen.gathered, found[:, 0])
        doubt = suspicion - calibration.suspicious[0]
        again = ((doubt >= 0) | accused).nonzero()[:, 0]
        found[again, 1] = look_at_region(
            1, model, images[again], heat[again], labels[again], probes, batch_size=batch_size
        )
        doubt[again] = judgement.second_look(suspicion[again], found[again, 1]) - calibration.suspicious[1]
        glanced = probes[calibration.glancing, None]
        glances = look_at_whole(model, patterns, labels, glanced, batch_size=batch_size)[:, 0]
        glance = judgement.glance(STILLER.prominence(images), glances)
        faint, fainter = glance >= calibration.faint, strange + glance >= calibration.faint
        return Looked(strange, found, doubt, ((doubt >= 0) | accused).nonzero()[:, 0], faint, fainter)

    def regions(self, seen: Seen, looked: Looked) -> tuple[Tensor, Tensor, Tensor, Restored]:
        """Put regions on the probes, of the pictures that first looks left.

        Returns:
            the surprise (N,) of regions, the same as if no picture were strange, and that of the smallest by itself,
            minus infinity elsewhere; the pictures without the smallest, elsewhere as they came.
        """
        judgement, calibration, probes = self.judgement, self.judgement.calibration, self._probes(seen.images)
        model, batch_size = self.restoration.model, self.restoration.batch_size
        images, heat, labels, suspects = seen.images, seen.heat, seen.labels, looked.suspects
        cooled = seen.untouched()
        if len(suspects):
            cooled.put(suspects, cool(self.restoration, images[suspects], heat[suspects]))
        flipped = -margins(cooled.logits[suspects], labels[suspects])
        strange, gathered = looked.strange[suspects], seen.gathered[suspects]

        def put(which: Tensor, sizes: slice, jury: slice) -> Tensor:
            rows = suspects[which]
            margin = carried_by_regions(
                model, images[rows], heat[rows], labels[rows], probes[jury], sizes, batch_size=batch_size
            )
            return calibration.against(margin, sizes, jury)

        def judge(which: Tensor, carried: Tensor) -> Tensor:
            # Whether a small region explains the class matters where noise may do so, too.
            small = judgement.sizes(carried)[:, 0].where(looked.faint[suspects[which]], -math.inf)
            return torch.stack([judgement.regions(gathered[which], carried, flipped[which], strange[which]), small], 1)

        known = looked.found.new_full((len(suspects), len(SUSPECTED), PROBES), math.nan)
        for which, (place, probe) in enumerate(LOOKS):
            jury = slice(probe, probe + 1)
            known[:, place, jury] = calibration.against(looked.found[suspects, which, None], place, jury)
        carried = settle(put, judge, judgement.threshold, known, OF_REGIONS)
        found = torch.full((3, len(images)), -math.inf, dtype=torch.float64, device=images.device)
        found[0, suspects] = judgement.regions(gathered, carried, flipped, strange)
        found[1, suspects] = judgement.regions(gathered, carried, flipped, torch.zeros_like(strange))
        found[2, suspects] = judgement.sizes(carried)[:, 0]
        return found[0], found[1], found[2], cooled

    def pattern(self, place: int, pattern: Pattern, labels: Tensor, asked: Tensor, without: Restored) -> Tensor:
        """Return the surprise (N,) of noise, or of waves, minus infinity where it is not ``asked`` for (N,).

        Where it is, those ``without`` it are overwritten, unless it was taken off them already.
        """
        judgement, probes = self.judgement, self._probes(pattern.added)
        model, batch_size = self.restoration.model, self.restoration.batch_size
        self.restoration.take_off(without, pattern.without, asked)
        found = torch.full((len(labels),), -math.inf, dtype=torch.float64, device=labels.device)
        rows = asked.nonzero()[:, 0]
        flipped = -margins(without.logits[rows], labels[rows])

        def add(which: Tensor, jury: slice) -> Tensor:
            own = rows[which]
            margin = add_pattern(model, pattern.added[own], labels[own], probes[jury], batch_size=batch_size)
            return judgement.calibration.against(margin, PATTERNED + place, jury)

        def judge(which: Tensor, left: Tensor) -> Tensor:
            return judgement.pattern(place, left, flipped[which])[:, None]

        left = settle(add, judge, judgement.threshold, self._unknown(rows, pattern.added), OF_OTHERS)
        found[rows] = judgement.pattern(place, left, flipped)
        return found

    def place(self, seen: Seen) -> tuple[Tensor, Tensor]:
        """Return the surprise (N,) of what stands where a known trigger lies, and that place (N, 1, H, W).

        Of pictures of other classes than the known one it is minus infinity, and the place empty.
        """
        judgement, images, labels = self.judgement, seen.images, seen.labels
        calibration, probes, prior = judgement.calibration, self._probes(images), judgement.calibration.prior
        model, batch_size = self.restoration.model, self.restoration.batch_size
        found = torch.full((len(images),), -math.inf, dtype=torch.float64, device=images.device)
        places = torch.zeros_like(images[:, :1])
        if prior is None:
            return found, places
        rows = (labels == prior.label).nonzero()[:, 0]
        places[rows] = prior.region.to(images.device)

        def put(which: Tensor, jury: slice) -> Tensor:
            own = rows[which]
            margin = carried_by_place(model, images[own], prior, labels[own], probes[jury], batch_size=batch_size)
            return calibration.against(margin, KNOWN, jury)

        def judge(_: Tensor, margin: Tensor) -> Tensor:
            return judgement.known(margin)[:, None]

        margin = settle(put, judge, judgement.threshold, self._unknown(rows, images), OF_OTHERS)
        found[rows] = judgement.known(margin)
        return found, places

    def _probes(self, images: Tensor) -> Tensor:
        return self.judgement.calibration.probes.to(images.device)

    @staticmethod
    def _unknown(rows: Tensor, images: Tensor) -> Tensor:
        return images.new_full((len(rows), PROBES), math.nan)

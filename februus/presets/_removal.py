"""What goes, once it is proven to make a class: a region, or what is all over the picture."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from februus.presets._calibration import SUSPECTED, Calibration
from februus.presets._pictures import Restored
from februus.presets._restoration import Restoration
from februus.presets._transplants import STILLER
from februus.restorers.cosine_threshold import CosineThreshold
from februus.types import Restorer

__all__ = ["Removal"]

# How much more noise is taken off where less does not do.
DENOISED = (0.2, 0.3)
# Shares of a picture's area that are removed where it bears a universal perturbation: first; where nothing else helps.
BORNE_IN, BORNE_IN_MORE = (0.1, 0.2), (0.3,)


@dataclass(frozen=True, kw_only=True)
class Removal:
    """Remove what makes a class, and see that it did.

    Args:
        restoration: what restores pictures and asks the model.
        calibration: what leads the model to the class that it takes to most readily.
        refined: whether a region may be another one than the smallest of the hottest.
    """

    restoration: Restoration
    calibration: Calibration
    refined: bool = True

    def whole(self, images: Tensor, best: Restored, labels: Tensor, bearing: Tensor) -> Restored:
        """Restore whole pictures, as gently as changes the classes ``labels`` (N,).

        What was tried already is ``best``, which is overwritten. From those that are ``bearing`` them (N,), the
        universal perturbations are taken off at last, then the regions that bear most of them: a large trigger is as
        diffuse as they are, but not everywhere. Where nothing changes its class, the surest of all answers counts.
        """
        gentle: tuple[Restorer, ...] = (STILLER, *(CosineThreshold(threshold=threshold) for threshold in DENOISED))
        self.restoration.whole(best, images, labels, torch.ones_like(bearing), gentle)
        self.restoration.whole(best, images, labels, bearing, self.calibration.take_off())
        kept = bearing & best.keeps(labels)
        fields = self._where(images, kept)
        # All of them are tried: a large trigger may leave the same wrong class twice.
        for share in BORNE_IN + BORNE_IN_MORE:
            self.restoration.borne(best, images, labels, kept, fields, (share,))
        return best

    def region(self, images: Tensor, heat: Tensor, cooled: Restored, labels: Tensor, places: Tensor) -> Restored:
        """Remove the region that makes the classes ``labels`` (N,), or a known place (N, 1, H, W), where that is surer.

        The smallest of the hottest regions was restored already: ``cooled``. Of pictures of the class that the model
        takes to most readily, what bears most of what leads there goes next; where the same other class comes of both,
        or of two sizes of it, the trigger was there. So it is of the next one of the hottest regions; where that does
        not settle it either, what is decisive is asked: from there on, or, where it keeps the class (of a trigger that
        is larger still), from the smallest on.
        """
        restoration, best = self.restoration, cooled.clone()
        if self.refined:
            universals = self.calibration.universals
            led = labels == universals[0].label if universals else torch.zeros_like(labels, dtype=torch.bool)
            fields = self._where(images, led)
            settled, _ = restoration.borne(best, images, labels, led, fields, BORNE_IN)
            agreed, larger = restoration.borne(best, images, labels, ~settled, heat, SUSPECTED[1:2])
            begun, changed = cooled.clone(), (~larger.keeps(labels)).nonzero()[:, 0]
            begun.put(changed, larger.take(changed))
            rows = (~settled & ~agreed).nonzero()[:, 0]
            if len(rows):
                best.prefer(rows, restoration.region(begun.take(rows), images[rows], labels[rows]), labels)
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
            for one in self.calibration.universals:
                found[rows] += one.where(images[rows])
        return found

"""The purifier's own evidence as a detector of pictures, beside those of the package `detectors`."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from detectors import Detector, Seeded
from februus import registry
from februus.purifier import Purifier

__all__ = ["Evidence"]


@dataclass(kw_only=True)
class Evidence(Seeded, Detector):
    """Score pictures as a purifier does.

    Args:
        preset: a method of the family presets, with options where wanted; ``verified`` scores ``-log10`` of the share
            of innocent pictures that look as suspicious, and its default options take 200 pictures to learn from.
        batch_size: pictures that the model sees at once.
        seed: of the preset, where it leaves something to chance.
    """

    preset: str = "verified"
    _purifier: Purifier = field(init=False, repr=False, compare=False)

    def learn(self, images: Tensor) -> None:
        """Fit the preset."""
        chance = "seed" in registry.options_of(registry.find("presets", self.preset.partition(":")[0]))
        options = {"seed": self.seed} if chance else {}
        self._purifier = Purifier.for_model(
            self.model, images, preset=self.preset, batch_size=self.batch_size, **options
        )

    def score_batch(self, images: Tensor) -> Tensor:
        """Return `Purified.scores` (N,)."""
        return self._purifier(images).scores

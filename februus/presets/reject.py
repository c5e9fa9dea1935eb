"""A detector stands at the door, and suspected pictures get no answer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from detectors import Detector
from detectors.strip import Strip
from detectors.thresholds import threshold_at
from februus import registry
from februus.checks import check_range, mismatch
from februus.seeds import seeded
from februus.types import Purified
from februus.verification import answer

__all__ = ["Reject"]


@dataclass(frozen=True, kw_only=True)
class Reject:
    """Refuse to answer where a detector suspects a trigger (the reject option of Chow 1970).

    The detector learns from a part of the reference pictures, its threshold is taken from the others. A picture that
    scores above it is flagged and gets no class, -1; nothing is restored.

    Args:
        detector: of pictures, a method of the family detectors.
        false_positive_rate: share of innocent pictures that may be refused, in (0, 0.5].
        share: of the reference pictures that the detector learns from, in (0, 1).
        seed: of which those are.
        calibration: the threshold, made by `fit`.
    """

    detector: Detector = field(default_factory=Strip)
    false_positive_rate: float = 0.05
    share: float = 0.5
    seed: int = 0
    calibration: float | None = field(default=None, repr=False)

    inpainter: ClassVar[None] = None

    def __post_init__(self) -> None:
        if not isinstance(self.detector, Detector):
            names = registry.available("detectors")
            kin = [name for name in names if issubclass(registry.find("detectors", name), Detector)]
            raise mismatch("detector", f"one of pictures, {', '.join(kin)}", registry.name_of(self.detector))
        check_range("false_positive_rate", self.false_positive_rate, 0, 0.5, open_low=True)
        check_range("share", self.share, 0.01, 0.99)
        check_range("seed", self.seed, 0)

    def fit(self, model: nn.Module, reference: Tensor | None, *, batch_size: int) -> Self:
        """Fit the detector and its threshold on ``reference`` (R, 3, H, W).

        Raises:
            ValueError: if there are too few for either.
        """
        if reference is None:
            raise mismatch("reference", "pictures that the detector learns from", "none")
        order = torch.randperm(len(reference), generator=seeded(self.seed)).to(reference.device)
        learnt = round(self.share * len(reference))
        detector = replace(self.detector, batch_size=min(self.detector.batch_size, batch_size))
        detector.fit(model, reference[order[:learnt]])
        threshold = threshold_at(detector.score(reference[order[learnt:]]), self.false_positive_rate)
        return replace(self, detector=detector, calibration=threshold)

    def state(self) -> dict[str, Tensor]:
        """Refuse: what a detector learnt is not kept in a file.

        Raises:
            ValueError: always.
        """
        raise mismatch("preset", "one that can be kept in a file", "reject, whose detector has to be fitted each time")

    def with_state(self, model: nn.Module, state: dict[str, Tensor]) -> Self:
        """Refuse, as `state` does.

        Raises:
            ValueError: always.
        """
        del model, state
        raise mismatch("preset", "one that can be kept in a file", "reject, whose detector has to be fitted each time")

    def __call__(self, model: nn.Module, images: Tensor, *, batch_size: int) -> Purified:
        """Judge ``images`` (N, 3, H, W).

        Raises:
            ValueError: if the preset was not fitted, or to another model, or to pictures of another size.
        """
        if self.calibration is None or self.detector.model is not model:
            got = "one that was not fitted" if self.calibration is None else "one that was fitted to another"
            raise mismatch("preset reject", "one that was fitted to the model", got)
        scores = self.detector.score(images).to(images.device)
        logits = answer(model, images, batch_size=batch_size)
        flagged = scores > self.calibration
        nowhere = torch.zeros_like(images[:, :1])
        return Purified(
            images=images.clone(),
            heatmaps=nowhere,
            masks=nowhere,
            logits_before=logits,
            logits=logits,
            labels=logits.argmax(1).masked_fill(flagged, -1),
            flagged=flagged,
            scores=scores,
            stages=tuple("verify" if refused else "classify" for refused in flagged.tolist()),
        )

"""What presets have in common that learn nothing, and take a change of class for a trigger's doing."""

from __future__ import annotations

from torch import Tensor, nn
from typing_extensions import Self

from februus.types import Purified

__all__ = ["Unfitted", "judge_by_change"]


class Unfitted:
    """A preset that learns nothing."""

    def fit(self, model: nn.Module, reference: Tensor | None, *, batch_size: int) -> Self:
        """Return itself."""
        del model, reference, batch_size
        return self

    def state(self) -> dict[str, Tensor]:
        """Return nothing: there is nothing to learn."""
        return {}

    def with_state(self, model: nn.Module, state: dict[str, Tensor]) -> Self:
        """Return itself."""
        del model, state
        return self


def judge_by_change(images: Tensor, heatmaps: Tensor, masks: Tensor, before: Tensor, after: Tensor) -> Purified:
    """Flag pictures whose class is another one afterwards; the score is the probability that the first class lost.

    Args:
        images: the sanitized pictures (N, 3, H, W).
        heatmaps: what was seen (N, L, H, W).
        masks: what was restored (N, 1, H, W).
        before: logits of the pictures as they came (N, C).
        after: logits of the sanitized ones (N, C).
    """
    classes, labels = before.argmax(1), after.argmax(1)
    own = classes[:, None]
    return Purified(
        images=images,
        heatmaps=heatmaps,
        masks=masks,
        logits_before=before,
        logits=after,
        labels=labels,
        flagged=labels != classes,
        scores=(before.softmax(1).gather(1, own) - after.softmax(1).gather(1, own))[:, 0],
        stages=tuple("classify" if there else "locate" for there in masks.flatten(1).any(1).tolist()),
    )

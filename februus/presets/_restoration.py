"""Restoring what carries a class, as gently as changes it: regions, or whole pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from captum.attr import Saliency
from torch import Tensor, nn

from februus.masks import dilate, smooth, top_fraction
from februus.models.modes import evaluation_mode
from februus.presets._pictures import Restored, rival
from februus.types import Inpainter, Restorer
from februus.typicality import answer_with_features

__all__ = ["Restoration"]

# How far what decides between a picture and its restoration is smoothed, as a share of the picture's side; from which
# share of the highest value on it is removed, first and each time that the class was not settled; by which share of
# the side it is grown where that keeps the class, and how often at most.
SMOOTHED, DECISIVE, GROWN, GROWTHS = 1 / 16, (0.2, 0.1, 0.05, 0.05), 1 / 32, 3


@dataclass(frozen=True, kw_only=True)
class Restoration:
    """Restore pictures until their class is another one.

    Args:
        model: pictures (N, 3, H, W) in [0, 1] -> logits (N, C).
        inpainter: what restores regions.
        batch_size: pictures that the model sees at once.
    """

    model: nn.Module
    inpainter: Inpainter
    batch_size: int

    def of(self, images: Tensor, masks: Tensor) -> Restored:
        """Return pictures (N, 3, H, W) that are restored already, and where (N, 1, H, W)."""
        return Restored(images, masks, *answer_with_features(self.model, images, batch_size=self.batch_size))

    def inpaint(self, images: Tensor, masks: Tensor) -> Restored:
        """Restore what ``masks`` (N, 1, H, W) mark."""
        return self.of(self.inpainter(images, masks), masks)

    def take_off(self, without: Restored, images: Tensor, asked: Tensor) -> None:
        """Put ``images`` in the place of those ``without`` something, where ``asked`` for (N,) and not done yet."""
        rows = (asked & ~without.masks.flatten(1).all(1)).nonzero()[:, 0]
        if len(rows):
            without.put(rows, self.of(images[rows], torch.ones_like(images[rows, :1])))

    def whole(
        self, best: Restored, images: Tensor, labels: Tensor, asked: Tensor, restorers: Sequence[Restorer]
    ) -> None:
        """Restore whole pictures, by one after the other, until that changes the classes ``labels`` (N,).

        Args:
            best: what was tried already, where the better answer is kept.
            images: the pictures as they came (N, 3, H, W).
            labels: their classes.
            asked: for which of them (N,).
            restorers: the gentlest first.
        """
        for restorer in restorers:
            rows = (asked & best.keeps(labels)).nonzero()[:, 0]
            if len(rows):
                restored = restorer(images[rows])
                best.prefer(rows, self.of(restored, torch.ones_like(restored[:, :1])), labels)

    def borne(
        self, best: Restored, images: Tensor, labels: Tensor, asked: Tensor, fields: Tensor, shares: Sequence[float]
    ) -> tuple[Tensor, Restored]:
        """Remove what bears most of something, until the classes ``labels`` (N,) are the same other ones twice.

        The surest answer that changes the class counts.

        Args:
            best: what was tried last, where the better answer is kept.
            images: the pictures as they came (N, 3, H, W).
            labels: their classes.
            asked: for which of them (N,).
            fields: how much of it is in each place (N, 1, H, W).
            shares: of the area, which are removed one after the other.

        Returns:
            which of them are the same other class twice in a row (N,); what was tried last, ``best`` where nothing was.
        """
        settled, last, rows = torch.zeros_like(asked), best.clone(), asked.nonzero()[:, 0]
        before = best.logits[rows].argmax(1)
        for share in shares:
            if not len(rows):
                break
            tried = self.inpaint(images[rows], top_fraction(fields[rows], share))
            last.put(rows, tried)
            best.prefer(rows, tried, labels)
            now = tried.logits.argmax(1)
            same = (now == before) & ~tried.keeps(labels[rows])
            settled[rows] = same
            rows, before = rows[~same], now[~same]
        return settled, last

    def region(self, last: Restored, images: Tensor, labels: Tensor) -> Restored:
        """Remove the region that makes the classes ``labels`` (N,).

        The hottest region was removed first; then it is what is `decisive` between the picture and its restoration,
        grown where that keeps the class: what is left at a trigger's rim carries the class, and the inpainter would
        draw the trigger again from it. A better restoration tells more truly what decides, so that it is asked again,
        until the class is another one and the same twice. The surest of the answers that change the class counts, of
        all where none does.

        Args:
            last: the pictures without the hottest region; it is overwritten.
            images: as they came (N, 3, H, W).
            labels: their classes.
        """
        rows, best = torch.arange(len(images), device=images.device), last.clone()
        radius = max(1, round(GROWN * min(images.shape[2:])))
        for share in DECISIVE:
            before, own = last.take(rows), labels[rows]
            others = rival(before.logits, own)
            marked = decisive(self.model, images[rows], before.images, own, others, share)
            nothing = ~marked.flatten(1).any(1)
            marked[nothing] = before.masks[nothing]
            last.put(rows, self.inpaint(images[rows], marked))
            for _ in range(GROWTHS):
                kept = rows[last.keeps(labels)[rows]]
                if not len(kept):
                    break
                last.put(kept, self.inpaint(images[kept], dilate(last.masks[kept], radius)))
            now = last.take(rows)
            best.prefer(rows, now, labels)
            rows = rows[now.keeps(own) | ~now.keeps(before.logits.argmax(1))]
            if not len(rows):
                break
        return best


def decisive(
    model: nn.Module, images: Tensor, restored: Tensor, labels: Tensor, others: Tensor, share: float
) -> Tensor:
    """Mark the pixels (N, 1, H, W) that make ``labels`` (N,) of ``images`` and ``others`` (N,) of ``restored``.

    Integrated gradients from one to the other, at the midpoint of the way, of the difference between the two logits;
    all from ``share`` of the highest value on.
    """

    def lead(pictures: Tensor) -> Tensor:
        # A copy: PyTorch's FLOP counter cannot follow a leaf into a model.
        logits: Tensor = model(pictures.clone())
        return (logits.gather(1, own) - logits.gather(1, other))[:, 0]

    with evaluation_mode(model), torch.inference_mode(mode=False), torch.enable_grad():
        own, other = labels[:, None].clone(), others[:, None].clone()
        midpoint = ((images.clone() + restored.clone()) / 2).requires_grad_()
        slope: Tensor = Saliency(lead).attribute(midpoint, abs=False)
    found = ((images - restored) * slope.detach()).sum(1, keepdim=True)
    found = smooth(found, SMOOTHED).clamp(min=0)
    highest = found.amax((2, 3), keepdim=True)
    return ((found > share * highest) & (highest > 0)).to(images.dtype)

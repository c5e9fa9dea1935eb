"""Many random masks, restored, tell where a trigger lies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.v2.functional import gaussian_blur

from februus.checks import check_range
from februus.inpainters.gan import Gan
from februus.presets._unfitted import Unfitted, judge_by_change
from februus.seeds import seeded
from februus.types import Inpainter, Purified
from februus.verification import answer

__all__ = ["MaskedRestoration"]

# Thresholds on the score from which on cells are restored at last; the share of the picture that may be, at most.
THRESHOLDS = (0.6, 0.55, 0.5, 0.45, 0.4)
LARGEST = 0.25
# Image scores from which on cells are candidates when they are refined.
CANDIDATE = 0.2
# What a look at some candidates adds to their scores or takes off, and what neighbours of chosen ones have ahead.
STEP, NEIGHBOUR = 0.05, 0.5
# Of the SSIM: the window's standard deviation and size, and the two constants for values in [0, 1].
SIGMA, WINDOW, STABLE = 1.5, 11, (0.01**2, 0.03**2)


@dataclass(frozen=True, kw_only=True)
class MaskedRestoration(Unfitted):
    """BDMAE (Sun et al. 2023, arXiv 2303.15564) with an inpainter in the place of its masked autoencoder.

    *Score*: random masks on a grid of cells hide most of a picture, which is restored. A cell's image score is how
    little the restorations, fused, look like the picture (1 - SSIM); its label score the share of masks that covered
    it and under which the class was another. *Refine*: triggers hang together; ``refinements`` times, a random half of
    the highest cells, grown from neighbour to neighbour, is restored alone. Where that changes the class, its scores
    rise and those of the other half fall; else the other way round. *Restore*: the cells above each of five thresholds
    on the mean of both scores, at most a quarter of the picture, are restored, and the restorations fused.

    A picture is flagged where its class is another one afterwards; its score is the probability that the first class
    lost. Every picture is judged by itself, and under the same random masks. No reference is needed.

    Args:
        cells: of the grid along each side, 2 to 16.
        hidden: share of the cells under a random mask, in (0, 1).
        rounds: of masks whose restorations are fused, at least 1.
        masks: in a round, at least 1.
        refinements: of each score.
        balance: weight of the image score against the label score, in [0, 1].
        inpainter: what restores.
        seed: of all that is random.
    """

    cells: int = 14
    hidden: float = 0.75
    rounds: int = 5
    masks: int = 5
    refinements: int = 10
    balance: float = 0.5
    inpainter: Inpainter = field(default_factory=Gan)
    seed: int = 0

    def __post_init__(self) -> None:
        check_range("cells", self.cells, 2, 16)
        check_range("hidden", self.hidden, 0.01, 0.99)
        check_range("rounds", self.rounds, 1)
        check_range("masks", self.masks, 1)
        check_range("refinements", self.refinements, 0)
        check_range("balance", self.balance, 0, 1)
        check_range("seed", self.seed, 0)

    def __call__(self, model: nn.Module, images: Tensor, *, batch_size: int) -> Purified:
        """Purify ``images`` (N, 3, H, W)."""
        generator = seeded(self.seed)
        before = answer(model, images, batch_size=batch_size)
        classes = before.argmax(1)

        def changes(restored: Tensor) -> Tensor:
            return (answer(model, restored, batch_size=batch_size).argmax(1) != classes)[:, None, None, None]

        unlike, changed = self._score(images, changes, generator)
        counts = (unlike >= CANDIDATE).sum((1, 2, 3)), changed.sum((1, 2, 3)).long()
        unlike, changed = (
            self._refine(images, scores, count, changes, generator)
            for scores, count in zip((unlike, changed), counts, strict=True)
        )
        scores = torch.lerp(changed, unlike, self.balance)
        restored, masks, after = images.clone(), torch.zeros_like(images[:, :1]), before.clone()
        chosen = chosen_cells(scores)
        touched = chosen[-1].flatten(1).any(1)
        if touched.any():
            parts = [self._restore(images[touched], cells[touched]) for cells in chosen]
            restored[touched], masks[touched] = fuse(images[touched], parts)
            after[touched] = answer(model, restored[touched], batch_size=batch_size)
        heatmaps = F.interpolate(scores.clamp(0, 1), size=images.shape[2:], mode="nearest")
        return judge_by_change(restored, heatmaps, masks, before, after)

    def _score(
        self, images: Tensor, changes: Callable[[Tensor], Tensor], generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return the image score and the label score (N, 1, S, S) of each cell."""
        unlike = images.new_zeros(len(images), 1, self.cells, self.cells)
        changed = torch.zeros_like(unlike)
        for _ in range(self.rounds):
            parts = []
            for mask in self.draw_masks(generator).to(images.device):
                parts.append(self._restore(images, mask.expand_as(unlike)))
                changed += mask * changes(parts[-1][0])
            fused, _ = fuse(images, parts)
            unlike += F.adaptive_avg_pool2d(1 - similarity(fused, images), self.cells)
        return unlike / self.rounds, changed / (self.rounds * self.masks)

    def draw_masks(self, generator: torch.Generator) -> Tensor:
        """Draw the masks (M, 1, S, S) of a round, which cover all cells alike, or nearly so."""
        cells = self.cells**2
        order = torch.randperm(cells, generator=generator)
        hidden = torch.arange(cells) < max(1, round(self.hidden * cells))
        shifts = [number * cells // self.masks for number in range(self.masks)]
        masks = torch.stack([torch.zeros(cells).index_put((order,), hidden.roll(shift).float()) for shift in shifts])
        return masks.view(-1, 1, self.cells, self.cells)

    def _refine(
        self,
        images: Tensor,
        scores: Tensor,
        counts: Tensor,
        changes: Callable[[Tensor], Tensor],
        generator: torch.Generator,
    ) -> Tensor:
        """Return scores (N, 1, S, S) after looks at halves of their ``counts`` (N,) highest cells."""
        for _ in range(self.refinements):
            # As many for every picture, whatever the others of its batch take.
            noise = torch.rand(self.cells**2, self.cells, self.cells, generator=generator).to(images.device)
            ranks = scores.flatten(1).argsort(dim=1, descending=True, stable=True).argsort(1).view_as(scores)
            candidates = ranks < counts[:, None, None, None]
            half = grow(scores, candidates, counts // 2, noise)
            others = candidates.to(half.dtype) - half
            guilty = changes(self._restore(images, half)[0])
            scores = scores + STEP * torch.where(guilty, half - others, others - half)
        return scores

    def _restore(self, images: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
        """Restore the ``cells`` (N, 1, S, S) of pictures; returns pictures and masks (N, 1, H, W)."""
        masks = F.interpolate(cells, size=images.shape[2:], mode="nearest")
        return self.inpainter(images, masks), masks


def chosen_cells(scores: Tensor) -> list[Tensor]:
    """Return the cells (N, 1, S, S) above each threshold, the highest one first; the last are at most `LARGEST`.

    Where they would be more, the distances of all thresholds from 1 shrink alike.
    """
    flat = scores.flatten(1)
    most = flat.sort(1, descending=True).values[:, int(LARGEST * flat.shape[1])]
    shrunk = ((1 - most) / (1 - THRESHOLDS[-1])).clamp(0, 1)[:, None, None, None]
    return [(scores > 1 - (1 - threshold) * shrunk).to(scores.dtype) for threshold in THRESHOLDS]


def fuse(images: Tensor, parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return the mean of restorations where their masks are, the pictures elsewhere, and all masks as one."""
    covered = torch.stack([masks for _, masks in parts]).sum(0)
    total = torch.stack([restored * masks for restored, masks in parts]).sum(0)
    return torch.where(covered > 0, total / covered.clamp(min=1), images), (covered > 0).to(images.dtype)


def similarity(first: Tensor, second: Tensor) -> Tensor:
    """Return the structural similarity (Wang et al. 2004) of pictures, place by place, the mean of colours.

    Args:
        first: (N, 3, H, W) in [0, 1].
        second: likewise.

    Returns:
        (N, 1, H, W) in [-1, 1].
    """

    def mean(values: Tensor) -> Tensor:
        blurred: Tensor = gaussian_blur(values, [WINDOW, WINDOW], [SIGMA, SIGMA])
        return blurred

    one, other = mean(first), mean(second)
    spread = mean(first**2) - one**2 + mean(second**2) - other**2
    common = mean(first * second) - one * other
    found = (2 * one * other + STABLE[0]) * (2 * common + STABLE[1])
    return (found / ((one**2 + other**2 + STABLE[0]) * (spread + STABLE[1]))).mean(1, keepdim=True)


def grow(scores: Tensor, candidates: Tensor, counts: Tensor, noise: Tensor) -> Tensor:
    """Choose cells at random, one after the other: high ones sooner, and those beside chosen ones.

    Args:
        scores: (N, 1, S, S).
        candidates: which may be chosen (N, 1, S, S), bool.
        counts: how many are (N,), no more than there are candidates.
        noise: what the scores are multiplied by (T, S, S) in [0, 1), T at least the highest of ``counts``.

    Returns:
        (N, 1, S, S), 1 = chosen.
    """
    chosen = torch.zeros_like(scores)
    for step in range(int(counts.max())):
        around = F.pad(chosen, (1, 1, 1, 1))
        sides = (around[..., :-2, 1:-1], around[..., 2:, 1:-1], around[..., 1:-1, :-2], around[..., 1:-1, 2:])
        drawn = noise[step] * (scores + NEIGHBOUR * torch.stack(sides).amax(0))
        drawn = drawn.masked_fill(~candidates | (chosen > 0), -torch.inf)
        rows = (step < counts).nonzero()[:, 0]
        chosen.flatten(1)[rows, drawn.flatten(1).argmax(1)[rows]] = 1
    return chosen

"""Neural Cleanse: the class that a backdoor leads to is reached by an oddly small change."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detectors._checks import check_images, check_range, mismatch
from detectors._kinds import ModelDetector, Seeded
from detectors._models import answers, borrowed
from detectors._statistics import robust_score

__all__ = ["NeuralCleanse", "Triggers"]

# Of logarithms: where the masks are of nearly one size, a suspect's is still at most a third of it, exp(-3.5 * 0.3).
LEAST_SPREAD = 0.3
# In pixels: nothing is gained by less.
SMALLEST = 0.1
# Steps over which success is counted before the weights are adapted.
WINDOW = 10
# By what a weight grows; it falls by this to the power of 1.5, as in the authors' code.
GROWTH = 1.5
# A mask that shrinks by less than this share in a window is about to settle.
PROGRESS = 0.05


@dataclass(frozen=True, kw_only=True, eq=False)
class Triggers:
    """The smallest trigger that was found for each class, on the CPU.

    A triggered picture is ``images + mask * (pattern - images)``.

    Args:
        masks: how much of the pattern shows at each pixel (C, 1, H, W), in [0, 1].
        patterns: what shows there (C, 3, H, W), in [0, 1].
        success: share of all the pictures that it leads to the class (C,).
        norms: sums of the masks (C,), in pixels.
        reached: whether it led enough pictures to the class when it was found (C,), bool; the others tell nothing.
    """

    masks: Tensor
    patterns: Tensor
    success: Tensor
    norms: Tensor
    reached: Tensor


@dataclass(kw_only=True)
class NeuralCleanse(Seeded, ModelDetector):
    """Neural Cleanse (Wang et al., IEEE S&P 2019): the least mask that leads any picture to a class.

    ``min over mask, pattern of CE(f(x + mask (pattern - x)), c) + weight |mask|_1``, both through a tanh, by Adam. The
    weight of a class grows while its trigger succeeds and falls while it does not. The score is the anomaly index
    ``(median - n_c) / (1.4826 MAD)`` with ``n_c = log |mask_c|_1``: positive where a mask is smaller than is usual.

    The authors take the norms themselves and suspect from 2 on. Norms are skewed, and can lie below their median by
    little more than the median: of 12 log-normal ones (deviation 0.2 to 0.35) one lies beyond 2 in 15 to 22 % of clean
    models. Of their logarithms one lies beyond 3.5 in 7 %, while masks of a fifth of the usual size are found more
    often (simulated; 3.5 is what Iglewicz and Hoaglin, 1993, advise). Where the masks of a clean model happen to be of
    nearly one size, the MAD of ten or so is small by chance, and so the denominator is 0.3 at least.

    All classes are optimised at once: none sees another, so their number at once changes nothing but speed and memory.
    The authors take up to 1,000 passes over 1,000 pictures a class; the ranking of the norms settles far earlier.

    Args:
        steps: of Adam at most, at least 10.
        pictures: that each class sees in a step, at least 1.
        learning_rate: of Adam, above 0.
        weight: of the masks' norms in the first steps, above 0.
        success: share of pictures that a trigger must lead to its class, in (0, 1].
        patience: a class is left alone when its weight has turned from growing to falling so many times while its mask
            hardly shrank.
        threshold: anomaly index above which a class is suspected, above 0.
        classes_at_once: how many classes are optimised together; all where not given.
        batch_size: pictures that the model sees at once, at least ``pictures``. A processor is fastest with few, a GPU
            with those of all classes, ``C * pictures``.
        seed: of the first triggers and of the order of the pictures.
    """

    steps: int = 200
    pictures: int = 16
    learning_rate: float = 0.1
    weight: float = 1e-3
    success: float = 0.99
    patience: int = 2
    threshold: float = 3.5
    classes_at_once: int | None = None
    batch_size: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("steps", self.steps, WINDOW)
        for name in ("pictures", "patience"):
            check_range(name, getattr(self, name), 1)
        for name in ("learning_rate", "weight", "threshold"):
            check_range(name, getattr(self, name), 0, open_low=True)
        check_range("success", self.success, 0, 1, open_low=True)
        if self.classes_at_once is not None:
            check_range("classes_at_once", self.classes_at_once, 1)
        if self.batch_size < self.pictures:
            raise mismatch("batch_size", f"at least {self.pictures}, the pictures of a step", self.batch_size)

    def score(self, model: nn.Module, images: Tensor) -> Tensor:
        """Return the anomaly index of each class (C,), detached, on the CPU; higher is more suspicious.

        Args:
            model: pictures (N, 3, H, W) in [0, 1] -> logits (N, C).
            images: unlabelled clean pictures (R, 3, H, W).
        """
        return self.index(self.reverse(model, images))

    def decide(self, scores: Tensor) -> Tensor:
        """Return which classes (C,) have an anomaly index above ``threshold``, bool."""
        return scores > self.threshold

    def index(self, triggers: Triggers) -> Tensor:
        """Return the anomaly index (C,) of what `reverse` found.

        A class that was not reached counts as one that needs all pixels, and neither for the median nor for the MAD;
        where none was reached, all indices are 0.
        """
        if not triggers.reached.any():
            return torch.zeros_like(triggers.norms)
        norms = torch.where(triggers.reached, triggers.norms, float(triggers.masks[0].numel())).clamp_min(SMALLEST)
        return robust_score(-norms.log(), LEAST_SPREAD, triggers.reached)

    def reverse(self, model: nn.Module, images: Tensor) -> Triggers:
        """Return the smallest trigger that leads to each class.

        Args:
            model: pictures (N, 3, H, W) in [0, 1] -> logits (N, C).
            images: unlabelled clean pictures (R, 3, H, W).

        Raises:
            ValueError: if the pictures or the model's answers do not fit.
        """
        check_images(images)
        classes = torch.arange(answers(model, images[:1], 1).shape[1])
        # In the space of the tanh: a mask and three colours.
        start = torch.randn(len(classes), 4, *images.shape[2:], generator=self.generator())
        with borrowed(model) as device, torch.enable_grad():
            images = images.detach().to(device)
            parts = [
                self._optimize(model, images, part.to(device), start[part].to(device))
                for part in classes.split(self.classes_at_once or len(classes))
            ]
            found, reached = (torch.cat(items) for items in zip(*parts, strict=True))
            masks, patterns = found.split([1, 3], dim=1)
            rates = [
                (answers(model, torch.lerp(images, pattern, mask), self.batch_size).argmax(1) == target).float().mean()
                for target, (mask, pattern) in enumerate(zip(masks, patterns, strict=True))
            ]
        return Triggers(
            masks=masks.cpu(),
            patterns=patterns.cpu(),
            success=torch.stack(rates).cpu(),
            norms=masks.sum((1, 2, 3)).cpu(),
            reached=reached.cpu(),
        )

    def _optimize(self, model: nn.Module, images: Tensor, classes: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """Return for each class the mask and pattern (c, 4, H, W), and whether they lead to it (c,)."""
        free = start.clone().requires_grad_()
        optimizer = torch.optim.Adam([free], self.learning_rate, betas=(0.5, 0.9))
        # The same pictures whichever classes are optimised together.
        generator = self.generator()
        best = _bounded(start)
        least = torch.full(classes.shape, float("inf"), device=start.device)
        weights, hits, stale = (torch.full_like(least, value) for value in (self.weight, 0.0, 0.0))
        succeeded = torch.zeros_like(least, dtype=torch.bool)
        for step in range(1, self.steps + 1):
            active = (stale < self.patience).nonzero().flatten()
            if not len(active):
                break
            batch = images[torch.randint(len(images), (self.pictures,), generator=generator).to(images.device)]
            gradient = torch.zeros_like(start)
            for part in active.split(self.batch_size // self.pictures):
                own = free.detach()[part].requires_grad_()
                mask, pattern = _bounded(own)[:, None].split([1, 3], dim=2)
                stamped = torch.lerp(batch, pattern, mask).flatten(0, 1)
                logits = model(stamped.contiguous(memory_format=torch.channels_last))
                targets = classes[part].repeat_interleave(self.pictures)
                loss = F.cross_entropy(logits, targets, reduction="sum") / self.pictures
                loss = loss + weights[part] @ mask.sum((1, 2, 3, 4))
                (gradient[part],) = torch.autograd.grad(loss, own)
                hits[part] += (logits.argmax(1) == targets).view(-1, self.pictures).sum(1)
            free.grad = gradient
            optimizer.step()
            if step % WINDOW == 0:
                now = _bounded(free.detach())
                norms = now[:, 0].sum((1, 2))
                succeeds = hits >= self.success * WINDOW * self.pictures
                # What was left alone goes on drifting.
                better = succeeds & (norms < least) & (stale < self.patience)
                # Where nothing succeeded so far, the last is kept.
                kept = better | least.isinf()
                # A mask is as small as can be where its weight turns again and again, neither while it grows nor falls.
                stale = torch.where(better & (norms < (1 - PROGRESS) * least), 0.0, stale + (succeeded & ~succeeds))
                succeeded = succeeds
                best[kept], least[better] = now[kept], norms[better]
                weights *= torch.where(succeeds, GROWTH, GROWTH**-1.5)
                hits.zero_()
        return best, least.isfinite()


def _bounded(free: Tensor) -> Tensor:
    """Return values in [0, 1]."""
    return (free.tanh() + 1) / 2

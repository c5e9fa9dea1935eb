"""Universal perturbations: the class that a model takes to most readily, and how much of one a picture bears."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from februus.masks import smooth
from februus.models.modes import evaluation_mode
from februus.seeds import seeded
from februus.spectra import Spectrum
from februus.verification import answer, margins

__all__ = ["Universal", "find_universals", "perturb"]

# Root mean square of a perturbation, and of the noise on the pictures that it is made for, of pictures in [0, 1].
STRENGTH, NOISE = 0.018, 0.1
# Margin of the class beyond which a picture counts less and less: it is led there. How often the noise is halved, at
# most, where it leads most pictures there by itself.
LED, HALVINGS = 6.0, 4
# How the classes are ranked: how many of them, by perturbations for how many pictures, in how many steps; then the
# first of these again. On how many other pictures that is judged.
RANKING, HELD_OUT = ((64, 16, 4), (8, 64, 4)), 64
# Pictures and steps that it takes to perturb for the first of them.
PERTURBING = 256, 8
# Pictures that a step sees at most: each of some steps others.
SEEN = 64
# How far a way of that many steps would lead, had it no turns and no end, in strengths.
WAY = 1.5
# Powers of the amplitudes of natural pictures that slopes are multiplied by: waves of any kind, and such as pictures
# have, and such as are strongest in them.
SHAPES = (0.0, 1.0, 2.0)
# How far what a picture bears is smoothed to see where it does, as a share of the picture's side.
SMOOTHED = 1 / 8


@dataclass(frozen=True, kw_only=True, eq=False)
class Universal:
    """A perturbation that turns any picture into one class, and the filter that tells how much of it a picture bears.

    Args:
        label: the class.
        perturbation: what is added to pictures (3, H, W), of root mean square `STRENGTH`.
        filter: what pictures are multiplied by (3, H, W); their sum tells how often it is there.
    """

    label: int
    perturbation: Tensor
    filter: Tensor

    def borne(self, images: Tensor) -> Tensor:
        """Return how often pictures (N, 3, H, W) bear the perturbation (N,): once more where it is added."""
        return (images * self.filter.to(images)).sum((1, 2, 3))

    def where(self, images: Tensor) -> Tensor:
        """Return where pictures (N, 3, H, W) bear the perturbation: 0 to 1, the most of each (N, 1, H, W)."""
        found = smooth((images * self.filter.to(images)).sum(1, keepdim=True), SMOOTHED).clamp(min=0)
        return found / found.amax((2, 3), keepdim=True).clamp(min=1e-12)

    def without(self, images: Tensor, *, usual: float) -> Tensor:
        """Take off pictures (N, 3, H, W) what they bear beyond the ``usual``; cuts them off at 0 and 1."""
        times = (self.borne(images) - usual).clamp(min=0)
        return (images - times[:, None, None, None] * self.perturbation.to(images)).clamp(0, 1)


def find_universals(model: nn.Module, images: Tensor, *, batch_size: int) -> tuple[Universal, ...]:
    """Find the class that a model takes to most readily, and perturbations that lead there.

    A backdoor is a short way to its class: whatever its trigger, a weaker universal perturbation (Moosavi-Dezfooli et
    al. 2017, arXiv 1610.08401) leads there than to any other class. It is not the trigger, but where that lies all over
    the picture, it has much of it, and a filter finds pictures with the trigger without asking the model. A matched
    filter (Turin 1960, An introduction to matched filters) would divide each wave by the variance that innocent
    pictures have there; as it is only like the trigger, it is divided by the standard deviation.

    Classes are ranked by how surely each one's perturbation leads there pictures that it was not made for: a few
    pictures can be led to any class by what they happen to have in common, but to that of a backdoor all are led. The
    first ones are ranked once more, by more pictures. Of a model with many classes, those are ranked that pictures are
    nearest to on average.

    Args:
        model: pictures (N, 3, H, W) in [0, 1] -> logits (N, C); slopes are taken with respect to the pictures.
        images: innocent pictures, but for a few (N, 3, H, W), N at least 2.
        batch_size: pictures that the model sees at once.

    Returns:
        perturbations that lead to one class, one for each of `SHAPES`.
    """
    spectrum, near = Spectrum.fit(images), answer(model, images[: RANKING[0][1]], batch_size=batch_size)
    leads = {one: _led(near, one).mean().item() for one in range(near.shape[1])}
    for ranked, count, steps in RANKING:
        seen = min(count, len(images) // 2)
        few, others = images[:seen], images[seen : seen + HELD_OUT]
        first = sorted(leads, key=leads.__getitem__, reverse=True)[:ranked]
        ways = ((one, perturb(model, few, one, spectrum, steps=steps, batch_size=batch_size)) for one in first)
        led = ((one, answer(model, (others + way).clamp(0, 1), batch_size=batch_size)) for one, way in ways)
        leads = {one: _led(logits, one).mean().item() for one, logits in led}
    label = max(leads, key=leads.__getitem__)
    count, steps = PERTURBING
    found = []
    for power in SHAPES:
        perturbation = perturb(model, images[:count], label, spectrum, power, steps=steps, batch_size=batch_size)
        whitened = spectrum.shaped(perturbation[None], -1)[0]
        found.append(
            Universal(
                label=label,
                perturbation=perturbation,
                filter=whitened / (whitened * perturbation).sum().clamp(min=1e-12),
            )
        )
    return tuple(found)


def perturb(
    model: nn.Module,
    images: Tensor,
    label: int,
    spectrum: Spectrum,
    power: float = 0.0,
    *,
    steps: int,
    batch_size: int,
) -> Tensor:
    """Return what turns ``images`` (N, 3, H, W), added to each of them, into the class ``label`` (3, H, W).

    Steepest ascent of the class's margins, as far as they are below `LED`; with a ``power``, of perturbations whose
    waves cost less where pictures have more. Noise, another one each time, hides what is there by chance: what is found
    is several times as like the trigger. Source: SmoothGrad (Smilkov et al. 2017, arXiv 1706.03825), for one picture.
    Where noise by itself leads there, as it does where the trigger is like noise, no slope is left, and it is halved.
    """
    strength = STRENGTH * images[0].numel() ** 0.5
    found = torch.zeros_like(images[:1])
    parts = math.ceil(len(images) / SEEN)
    noise = _noise(model, images[::parts], label, batch_size=batch_size)
    for step in range(steps):
        seen = images[step % parts :: parts]
        slope = _slope(model, seen + noise * _drawn(seen, step), found, label, batch_size=batch_size)
        slope = spectrum.shaped(slope, power)
        found = found + slope * (WAY * strength / steps / _length(slope))
        found = found * min(1.0, strength / _length(found))
    return found[0]


def _noise(model: nn.Module, images: Tensor, label: int, *, batch_size: int) -> float:
    """Return the strongest noise that does not lead most ``images`` to ``label``: `NOISE`, halved up to `HALVINGS`."""
    noise, drawn = NOISE, _drawn(images, 0)
    for _ in range(HALVINGS):
        noised = (images + noise * drawn).clamp(0, 1)
        if _led(answer(model, noised, batch_size=batch_size), label).median() < LED:
            break
        noise /= 2
    return noise


def _drawn(images: Tensor, seed: int) -> Tensor:
    return torch.randn(images.shape, generator=seeded(seed, device=images.device), device=images.device)


def _slope(model: nn.Module, images: Tensor, perturbation: Tensor, label: int, *, batch_size: int) -> Tensor:
    """Return in which direction (1, 3, H, W) the class ``label`` gains most."""
    found = torch.zeros_like(perturbation)
    with evaluation_mode(model), torch.inference_mode(mode=False), torch.enable_grad():
        for part in images.split(batch_size):
            perturbed = (part + perturbation).clone().requires_grad_()
            led = _led(model(perturbed.clamp(0, 1)), label)
            (slope,) = torch.autograd.grad(-F.softplus(LED - led).sum(), perturbed)
            found += slope.sum(0, keepdim=True)
    return found.nan_to_num()


def _led(logits: Tensor, label: int) -> Tensor:
    """Return by how much one class exceeds the largest other one, of logits (N, C): (N,)."""
    return margins(logits, torch.full_like(logits[:, 0], label, dtype=torch.long))


def _length(found: Tensor) -> float:
    length: float = found.norm().item()
    return max(length, 1e-12)

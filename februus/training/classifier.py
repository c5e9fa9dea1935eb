"""Fitting a classifier by stochastic gradient descent, and asking it about many pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from februus.checks import check_range, mismatch
from februus.data import Dataset
from februus.models.modes import evaluation_mode, training_mode
from februus.training.precision import autocast

__all__ = ["LocalTraining", "fit", "predict"]


@dataclass(frozen=True, kw_only=True)
class LocalTraining:
    """Stochastic gradient descent with momentum.

    Args:
        epochs: passes over the pictures.
        batch_size: pictures a step; a last batch of one picture is left out, batch normalisation cannot use it.
        learning_rate: step size.
        momentum: in [0, 1).
        weight_decay: L2 penalty.
        bfloat16: whether forward and backward compute in bfloat16; faster where the processor has it.
        flip: whether half of the pictures are mirrored, left to right.
        shift: how far pictures are moved at most, as a share of their side in [0, 0.5]; borders are reflected.
    """

    epochs: int = 1
    batch_size: int = 32
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    bfloat16: bool = False
    flip: bool = False
    shift: float = 0.0

    def __post_init__(self) -> None:
        check_range("epochs", self.epochs, 1)
        check_range("batch_size", self.batch_size, 2)
        check_range("learning_rate", self.learning_rate, 0, open_low=True)
        if not 0 <= self.momentum < 1:
            raise mismatch("momentum", "a value at least 0 and below 1", self.momentum)
        check_range("weight_decay", self.weight_decay, 0)
        check_range("shift", self.shift, 0, 0.5)

    def augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Mirror and move pictures (N, 3, H, W), each in its own way."""
        if not self.flip and not self.shift:
            return images
        count, (height, width) = len(images), images.shape[-2:]
        rows, columns = (self._moved(side, count, generator) for side in (height, width))
        if self.flip:
            mirrored = torch.rand(count, 1, generator=generator) < 0.5
            columns = torch.where(mirrored, width - 1 - columns, columns)
        pictures = torch.arange(count)[:, None, None]
        return images.permute(0, 2, 3, 1)[pictures, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

    def _moved(self, side: int, count: int, generator: torch.Generator) -> Tensor:
        """Return for each picture (count, side) which row or column comes where."""
        furthest = int(self.shift * side)
        offsets = torch.randint(-furthest, furthest + 1, (count, 1), generator=generator)
        places = (torch.arange(side) + offsets).abs()
        return side - 1 - (side - 1 - places).abs()


def fit(
    model: nn.Module,
    data: Dataset,
    settings: LocalTraining,
    generator: torch.Generator,
    *,
    penalty: Callable[[nn.Module, Tensor, Tensor], Tensor] | None = None,
    on_gradients: Callable[[nn.Module], None] | None = None,
) -> float:
    """Train ``model`` in place on ``data``.

    Args:
        model: pictures (N, 3, H, W) in [0, 1] -> logits (N, C).
        data: pictures and labels.
        settings: how.
        generator: of the order, the augmentation and, through a seed drawn from it, of dropout.
        penalty: model, pictures (N, 3, H, W) and labels (N,) of a step -> what is added to the cross entropy.
        on_gradients: changes the gradients of a step in place.

    Returns:
        the mean loss of the last pass.

    Raises:
        ValueError: if the loss is no longer finite.
    """
    device = next(model.parameters()).device
    optimizer = torch.optim.SGD(
        model.parameters(), settings.learning_rate, settings.momentum, weight_decay=settings.weight_decay
    )
    total = 0.0
    with training_mode(model), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        for _ in range(settings.epochs):
            losses = []
            for rows in torch.split(torch.randperm(len(data), generator=generator), settings.batch_size):
                if len(rows) == 1 and len(data) > 1:
                    continue
                images = settings.augment(data.floats(rows), generator).to(device)
                images = images.contiguous(memory_format=torch.channels_last)
                labels = data.labels[rows].to(device)
                with autocast(device, bfloat16=settings.bfloat16):
                    loss = F.cross_entropy(model(images), labels)
                    if penalty is not None:
                        loss = loss + penalty(model, images, labels)
                optimizer.zero_grad()
                loss.backward()
                if on_gradients is not None:
                    on_gradients(model)
                optimizer.step()
                losses.append(loss.detach())
            total = torch.stack(losses).mean().item()
            if not total < float("inf"):
                raise mismatch("loss", "a finite value", f"{total}; lower the learning rate")
    return total


def predict(model: nn.Module, data: Dataset, *, batch_size: int = 256) -> Tensor:
    """Return the classes (N,) that ``model``, in eval mode, gives the pictures of ``data``, on the CPU."""
    device = next(model.parameters()).device
    with torch.no_grad(), evaluation_mode(model):
        return torch.cat([model(images.to(device)).argmax(1).cpu() for images, _ in data.batches(batch_size)])

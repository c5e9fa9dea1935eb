"""Normalisation as the first layer of a classifier, so that all of them take pictures in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from februus.models.card import Card, check_normalization

__all__ = ["NORMALIZATIONS", "Normalized"]

NORMALIZATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "gtsrb": ((0.3403, 0.3121, 0.3214), (0.2724, 0.2608, 0.2669)),
}


class Normalized(nn.Module):
    """A classifier that takes pictures in [0, 1]: ``network((images - mean) / std)``.

    The state dict holds the network alone, each key with the prefix ``network.``. The normalisation is a setting, not
    something learnt: it stays out, so that no aggregation of state dicts can shift it.

    Args:
        network: takes normalised pictures (N, 3, H, W), returns logits (N, C).
        mean: of each channel.
        std: of each channel, positive.
        card: what is known of the classifier.

    Raises:
        ValueError: if ``mean`` or ``std`` does not hold three numbers that fit.

    >>> model = Normalized(nn.Flatten(), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    >>> model(torch.ones(1, 3, 1, 1))
    tensor([[1., 1., 1.]])
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float] = NORMALIZATIONS["none"][0],
        std: Sequence[float] = NORMALIZATIONS["none"][1],
        *,
        card: Card | None = None,
    ) -> None:
        super().__init__()
        check_normalization(mean, std)
        self.network = network
        self.card = card
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N, C) of ``images`` (N, 3, H, W) in [0, 1]."""
        logits: Tensor = self.network((images - self.mean) / self.std)
        return logits

"""The small VGG-like network of many backdoor papers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from februus.checks import check_range
from februus.models.elu import Elu

__all__ = ["SmallVgg"]


class SmallVgg(nn.Module):
    """Six 3x3 convolutions in three groups of 32, 64 and 128 channels, then one linear layer.

    The parameter names are those of I-BAU (Zeng et al., ICLR 2022, arXiv 2110.03735). Pictures of any side of 16 pixels
    or more fit: the last maps are pooled to 4x4, which they already are at 32 pixels.

    Args:
        num_classes: number of logits, C.
        dropout: share dropped after the last group, in [0, 1]; the first group drops half as much, the second 3/4.

    Raises:
        ValueError: if an option is out of range.

    >>> import torch
    >>> SmallVgg(num_classes=10)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(self, *, num_classes: int, dropout: float = 0.4) -> None:
        super().__init__()
        check_range("num_classes", num_classes, 2)
        check_range("dropout", dropout, 0, 1)
        layers: list[nn.Module] = []
        previous = 3
        for width, part in ((32, 0.5), (64, 0.75), (128, 1.0)):
            for channels in (previous, width):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), Elu()]
            layers += [nn.MaxPool2d(2), nn.Dropout(dropout * part)]
            previous = width
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.classifier = nn.Linear(previous * 4 * 4, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N, C) of ``images`` (N, 3, H, W)."""
        images = images.contiguous(memory_format=torch.channels_last)  # a quarter faster on CPUs
        logits: Tensor = self.classifier(self.pool(self.features(images)).flatten(1))
        return logits

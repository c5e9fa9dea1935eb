"""The wide residual network of depth 16, and of width 1 where no other is asked for."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from februus.checks import check_range

__all__ = ["Wrn161"]


class Wrn161(nn.Module):
    """Pre-activation residual network with 16, 32 and 64 channels, times its width.

    From Zagoruyko and Komodakis 2016, arXiv 1605.07146, who call it WRN-16-k.
    The parameter names are those of NAD (Li et al., ICLR 2021, arXiv 2101.05930). Pictures of any side of 16 pixels or
    more fit, as the last maps are averaged.

    Args:
        num_classes: number of logits, C.
        dropout: share dropped between the two convolutions of a layer, in [0, 1].
        width: factor on the channels of the blocks, their k.

    Raises:
        ValueError: if an option is out of range.

    >>> import torch
    >>> Wrn161(num_classes=10)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(self, *, num_classes: int, dropout: float = 0.0, width: int = 1) -> None:
        super().__init__()
        check_range("num_classes", num_classes, 2)
        check_range("dropout", dropout, 0, 1)
        check_range("width", width, 1)
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.block1 = _Block(16, 16 * width, stride=1, dropout=dropout)
        self.block2 = _Block(16 * width, 32 * width, stride=2, dropout=dropout)
        self.block3 = _Block(32 * width, 64 * width, stride=2, dropout=dropout)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N, C) of ``images`` (N, 3, H, W)."""
        images = images.contiguous(memory_format=torch.channels_last)  # a fifth faster on CPUs
        maps = F.relu(self.bn1(self.block3(self.block2(self.block1(self.conv1(images))))))
        logits: Tensor = self.fc(maps.mean((2, 3)))
        return logits


class _Block(nn.Module):
    """Two layers; the first changes the width and the size of the maps."""

    def __init__(self, channels: int, width: int, *, stride: int, dropout: float) -> None:
        super().__init__()
        self.layer = nn.Sequential(
            _Layer(channels, width, stride=stride, dropout=dropout), _Layer(width, width, stride=1, dropout=dropout)
        )

    def forward(self, maps: Tensor) -> Tensor:
        out: Tensor = self.layer(maps)
        return out


class _Layer(nn.Module):
    """Batch norm, ReLU and convolution, twice, beside a shortcut."""

    def __init__(self, channels: int, width: int, *, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.convShortcut = None if channels == width else nn.Conv2d(channels, width, 1, stride=stride, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        active = F.relu(self.bn1(maps))
        shortcut = maps if self.convShortcut is None else self.convShortcut(active)
        out: Tensor = shortcut + self.conv2(self.dropout(F.relu(self.bn2(self.conv1(active)))))
        return out

"""The completion network and its critics, after Iizuka et al., SIGGRAPH 2017, and Gulrajani et al. (WGAN-GP), 2017.

As there: an encoder, dilated convolutions at low resolution, a decoder, and one critic that sees the whole picture
beside one that sees the surroundings of the hole. Unlike there the first stage rearranges 2x2 pixels into channels
(Shi et al. 2016, arXiv 1609.05158), which saves most of the multiplications, and residual blocks (He et al. 2016,
arXiv 1512.03385) take the place of batch normalisation, so that a picture's result never depends on its batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["CompletionNetwork", "Critic"]


class CompletionNetwork(nn.Module):
    """Fill holes of pictures of any size from 16 pixels up; 0.11 GMAC for a 32x32 picture at the default width.

    Args:
        width: channels at half resolution; twice as many at a quarter.
        dilations: of the residual blocks at a quarter of the resolution, in order.
    """

    def __init__(self, *, width: int = 64, dilations: tuple[int, ...] = (1, 2, 4)):
        super().__init__()
        self.encode = _convolution(16, width)
        self.down = _convolution(width, 2 * width, stride=2)
        self.middle = nn.Sequential(*(_Residual(2 * width, dilation) for dilation in dilations))
        self.up = nn.Sequential(nn.Conv2d(2 * width, 4 * width, 1), nn.PixelShuffle(2), nn.ELU())
        self.merge = _convolution(2 * width, width)
        self.decode = _Residual(width, 1)
        self.paint = nn.Sequential(nn.Conv2d(width, 12, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, images: Tensor, masks: Tensor) -> Tensor:
        """Return pictures (N, 3, H, W) in [0, 1], equal to ``images`` (N, 3, H, W) where ``masks`` (N, 1, H, W) is 0."""
        height, width = images.shape[2:]
        known = 1 - masks
        mean = (images * known).sum((2, 3), keepdim=True) / known.sum((2, 3), keepdim=True).clamp(min=1)
        seen = torch.cat([(images - mean) * known, masks], 1)
        # The network halves twice; what is padded is neither known nor asked for.
        seen = F.pad(seen, (0, -width % 4, 0, -height % 4))
        shallow = self.encode(F.pixel_unshuffle(seen, 2))
        deep = self.up(self.middle(self.down(shallow)))
        painted = self.paint(self.decode(self.merge(torch.cat([shallow, deep], 1))))
        restored = (mean + painted[:, :, :height, :width].to(images.dtype)).clamp(0, 1)
        return torch.where(masks > 0, restored, images)


class Critic(nn.Module):
    """Score how real pictures look, the mean over overlapping patches; no normalisation, as WGAN-GP asks.

    Args:
        width: channels of the first layer; doubled twice.
    """

    def __init__(self, *, width: int = 32):
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((4, width), (width, 2 * width), (2 * width, 4 * width)):
            layers += [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(4 * width, 1, 2))

    def forward(self, images: Tensor, masks: Tensor) -> Tensor:
        """Return scores (N,), higher is more real, of ``images`` (N, 3, H, W) that were restored in ``masks``."""
        scores: Tensor = self.layers(torch.cat([2 * images - 1, masks], 1))
        return scores.mean((1, 2, 3))


def _convolution(inputs: int, outputs: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1), nn.ELU())


class _Residual(nn.Module):
    """Two convolutions beside the identity; begins as the identity."""

    def __init__(self, width: int, dilation: int):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, features: Tensor) -> Tensor:
        return features + self.second(F.elu(self.first(F.elu(features))))

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

from februus.models.elu import Elu, elu

__all__ = ["LARGE", "CompletionNetwork", "Critic", "halve", "smooth_fill"]

# Pixels of the shorter side, from which on a picture is restored at half its size first.
LARGE = 64


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
        self.up = nn.Sequential(nn.Conv2d(2 * width, 4 * width, 1), nn.PixelShuffle(2), Elu())
        self.merge = _convolution(2 * width, width)
        self.decode = _Residual(width, 1)
        self.paint = nn.Sequential(nn.Conv2d(width, 12, 3, padding=1), nn.PixelShuffle(2))
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                # Without normalisation torch's own initial weights let the signal fade from layer to layer.
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)
        # To begin with, residual blocks are the identity and the result is the smooth fill.
        for last in (*(block.second for block in (*self.middle, self.decode)), self.paint[0]):
            nn.init.zeros_(last.weight)

    def forward(self, images: Tensor, masks: Tensor, base: Tensor | None = None) -> Tensor:
        """Restore pictures in [0, 1].

        Holes of pictures of `LARGE` pixels or more may be larger than what the network sees at once. So such pictures
        are restored at half their size first, and it starts from that, enlarged and smoothed.

        Args:
            images: (N, 3, H, W).
            masks: (N, 1, H, W), 1 = hole.
            base: what it starts from, where it is at hand: their `smooth_fill`, of large ones with ``coarse``.

        Returns:
            pictures (N, 3, H, W) in [0, 1], equal to ``images`` where ``masks`` is 0.
        """
        height, width = images.shape[2:]
        if base is None:
            coarse = self(*halve(images, masks)) if min(height, width) >= LARGE else None
            base = smooth_fill(images, masks, coarse=coarse)
        mean = base.mean((2, 3), keepdim=True)
        # The network halves twice; what is padded is neither known nor asked for.
        seen = F.pad(torch.cat([base - mean, masks], 1), (0, -width % 4, 0, -height % 4))
        shallow = self.encode(F.pixel_unshuffle(seen, 2))
        deep = self.up(self.middle(self.down(shallow)))
        painted = self.paint(self.decode(self.merge(torch.cat([shallow, deep], 1))))
        restored = (base + painted[:, :, :height, :width].to(images.dtype)).clamp(0, 1)
        return torch.where(masks > 0, restored, images)


def smooth_fill(images: Tensor, masks: Tensor, *, coarse: Tensor | None = None, iterations: int = 10) -> Tensor:
    """Fill holes with the surface that bends least (thin plate): what the network starts from, some additions a pixel.

    Coarse to fine: each level begins with the level of half the size and takes some steps of conjugate gradients on
    the sum of squared second differences, for all pictures at once.

    Args:
        images: (N, C, H, W), of any size; what lies in a hole does not count.
        masks: (N, 1, H, W), 1 = hole.
        coarse: the pictures of half the size, filled, where something else than this is to fill them.
        iterations: steps of conjugate gradients a level.
    """
    if min(images.shape[2:]) < 4:
        known = 1 - masks
        mean = (images * known).sum((2, 3), keepdim=True) / known.sum((2, 3), keepdim=True).clamp(min=1)
        return torch.where(masks > 0, mean, images)
    if coarse is None:
        coarse = smooth_fill(*halve(images, masks), iterations=iterations)
    start = F.interpolate(coarse, size=images.shape[2:], mode="bilinear", align_corners=False)
    return _bend_least(torch.where(masks > 0, start, images), masks, iterations)


def halve(images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return pictures (N, C, ceil(H / 2), ceil(W / 2)) of what is known, and their holes: where nothing is."""
    known = 1 - masks
    share = F.avg_pool2d(known, 2, ceil_mode=True)
    return F.avg_pool2d(images * known, 2, ceil_mode=True) / share.clamp(min=0.25), (share == 0).to(masks.dtype)


def _bend_least(images: Tensor, masks: Tensor, iterations: int) -> Tensor:
    """Take steps of conjugate gradients on the bending energy, in the holes only."""
    residual = -masks * _bending_slope(images)
    direction, length = residual, residual.square().sum((2, 3), keepdim=True)
    for _ in range(iterations):
        slope = masks * _bending_slope(direction)
        step = length / (direction * slope).sum((2, 3), keepdim=True).clamp(min=1e-12)
        images, residual = torch.addcmul(images, step, direction), torch.addcmul(residual, step, slope, value=-1)
        previous, length = length, residual.square().sum((2, 3), keepdim=True)
        direction = torch.addcmul(residual, length / previous.clamp(min=1e-12), direction)
    return images


def _bending_slope(surface: Tensor) -> Tensor:
    """Return the gradient of half the sum of squared second differences, over places where they lie in the picture."""
    slope = torch.zeros_like(surface)
    for axis in (2, 3):
        size = surface.shape[axis] - 2
        left, middle, right = (surface.narrow(axis, offset, size) for offset in range(3))
        bend = (left + right).sub_(middle, alpha=2)
        for offset, weight in enumerate((1, -2, 1)):
            slope.narrow(axis, offset, size).add_(bend, alpha=weight)
    rise = surface[..., 1:, :] - surface[..., :-1, :]
    twist = rise[..., 1:] - rise[..., :-1]
    # The mixed difference counts twice, as in the thin plate's energy.
    for rows, weight in ((slope[..., 1:, :], 2), (slope[..., :-1, :], -2)):
        rows[..., 1:].add_(twist, alpha=weight)
        rows[..., :-1].sub_(twist, alpha=weight)
    return slope


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
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1), Elu())


class _Residual(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, width: int, dilation: int):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        change: Tensor = self.second(elu(self.first(elu(features))))
        return features + change

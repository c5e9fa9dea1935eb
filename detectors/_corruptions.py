"""Common corruptions of pictures, each of five severities (Hendrycks and Dietterich, ICLR 2019, arXiv 1903.12261).

The severities are those of ImageNet-C, in pixels whatever the size of the picture, as the `imagecorruptions` package
applies them; shot noise is in its normal approximation. What is random is drawn once and the same for all pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as V

__all__ = ["CORRUPTIONS", "SEVERITIES", "Draws", "draw"]

SEVERITIES = 5


@dataclass(frozen=True, kw_only=True)
class Draws:
    """What is random in the corruptions.

    Args:
        normal: standard normal noise (3, H, W).
        uniform: noise (3, H, W) in [0, 1).
        octaves: of a fog, (O, 1, H, W), from the coarsest to the finest; each is twice as fine as the one before.
        angle: of a motion, in radians, at most an eighth of a turn to either side.
        flow: smooth shifts (1, 2, H, W), uniform in [-1, 1) before they were smoothed.
    """

    normal: Tensor
    uniform: Tensor
    octaves: Tensor
    angle: float
    flow: Tensor


def draw(images: Tensor, generator: torch.Generator) -> Draws:
    """Draw what is random, for pictures of the size of ``images`` and where they lie."""
    height, width = images.shape[-2:]
    sides = [2**power for power in range(1, max(2, math.ceil(math.log2(max(height, width)))))]
    octaves = [
        F.interpolate(
            torch.rand(1, 1, side, side, generator=generator) - 0.5,
            size=(height, width),
            mode="bilinear",
            align_corners=False,
        )
        for side in sides
    ]
    return Draws(
        normal=torch.randn(3, height, width, generator=generator).to(images.device),
        uniform=torch.rand(3, height, width, generator=generator).to(images.device),
        octaves=torch.cat(octaves).to(images.device),
        angle=(float(torch.rand((), generator=generator)) - 0.5) * math.pi / 2,
        flow=(torch.rand(1, 2, height, width, generator=generator) * 2 - 1).to(images.device),
    )


def gaussian_noise(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Add normal noise."""
    return images + (0.08, 0.12, 0.18, 0.26, 0.38)[severity] * draws.normal


def shot_noise(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Add noise that grows with the root of the light."""
    return images + (images / (60, 25, 12, 5, 3)[severity]).sqrt() * draws.normal


def impulse_noise(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Turn some values black or white."""
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[severity]
    white = torch.where(draws.uniform < share / 2, 1.0, images)
    return torch.where(draws.uniform >= 1 - share / 2, 0.0, white)


def defocus_blur(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Spread each pixel over a disc."""
    radius = (3, 4, 6, 8, 10)[severity]
    down, right = _offsets(radius, images)
    return _filtered(images, (radius + 0.5 - torch.hypot(down, right)).clamp(0, 1))


def motion_blur(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Spread each pixel along a line, to both sides."""
    radius, spread = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[severity]
    down, right = _offsets(radius, images)
    along = right * math.cos(draws.angle) + down * math.sin(draws.angle)
    across = down * math.cos(draws.angle) - right * math.sin(draws.angle)
    return _filtered(images, (-(along**2) / (2 * spread**2)).exp() * (1 - across.abs()).clamp(min=0))


def zoom_blur(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Average over enlargements of the centre."""
    most, step = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))[severity]
    zooms = torch.arange(1, most, step)
    return torch.stack([_resampled(images, _grid(images) / zoom) for zoom in zooms.tolist()]).mean(0)


def fog(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Lay a fractal cloud over the picture."""
    density, decay = ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))[severity]
    fading = decay ** -torch.arange(float(len(draws.octaves)), device=images.device)
    cloud = (draws.octaves * fading[:, None, None, None]).sum(0)
    cloud = (cloud - cloud.min()) / (cloud.max() - cloud.min()).clamp(min=1e-6)
    brightest = images.amax((1, 2, 3), keepdim=True)
    return (images + density * cloud) * brightest / (brightest + density)


def brightness(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Raise the value of hue, saturation and value."""
    value = images.amax(1, keepdim=True)
    raised = (value + (0.1, 0.2, 0.3, 0.4, 0.5)[severity]).clamp(max=1)
    return torch.where(value > 0, images / value.clamp(min=1e-6), 1) * raised


def contrast(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Draw each channel to its mean."""
    return torch.lerp(images.mean((2, 3), keepdim=True), images, (0.4, 0.3, 0.2, 0.1, 0.05)[severity])


def elastic(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Shift pixels by a field that is the rougher the more severe; the parts are of a picture of 244 pixels."""
    amount, smooth = ((2, 0.7), (2, 0.08), (0.05, 0.01), (0.07, 0.01), (0.12, 0.01))[severity]
    side = min(images.shape[-2:])
    sigma = max(smooth * side, 0.3)
    reach = min(math.ceil(3 * sigma), side - 1)
    shifts: Tensor = V.gaussian_blur(draws.flow, [2 * reach + 1] * 2, [sigma] * 2) * amount * side
    # In the grid's units the picture is 2 wide.
    return _resampled(images, _grid(images) + shifts.permute(0, 2, 3, 1) * 2 / side)


def pixelate(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Make the pixels larger."""
    share = (0.6, 0.5, 0.4, 0.3, 0.25)[severity]
    small = [max(1, int(side * share)) for side in images.shape[-2:]]
    return F.interpolate(F.interpolate(images, size=small, mode="area"), size=images.shape[-2:], mode="nearest")


def jpeg(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Compress as JPEG."""
    pixels = (images * 255).round().byte().cpu()
    compressed: Tensor = V.jpeg(pixels, (25, 18, 15, 10, 7)[severity])
    return compressed.to(images) / 255


CORRUPTIONS: dict[str, Callable[[Tensor, int, Draws], Tensor]] = {
    function.__name__: function
    for function in (
        gaussian_noise,
        shot_noise,
        impulse_noise,
        defocus_blur,
        motion_blur,
        zoom_blur,
        fog,
        brightness,
        contrast,
        elastic,
        pixelate,
        jpeg,
    )
}


def _offsets(radius: int, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return how far each place of a kernel lies below its centre and to the right."""
    steps = torch.arange(-radius, radius + 1.0, device=images.device)
    down, right = torch.meshgrid(steps, steps, indexing="ij")
    return down, right


def _filtered(images: Tensor, kernel: Tensor) -> Tensor:
    """Average over a kernel (K, K); at the border the picture is continued by its last pixels."""
    radius = len(kernel) // 2
    padded = F.pad(images, [radius] * 4, mode="replicate").flatten(0, 1)[:, None]
    filtered = F.conv2d(padded, (kernel / kernel.sum())[None, None])
    return filtered.reshape(images.shape)


def _grid(images: Tensor) -> Tensor:
    """Return where each pixel lies (1, H, W, 2), from -1 to 1."""
    still = torch.eye(2, 3, device=images.device)[None]
    grid: Tensor = F.affine_grid(still, [1, *images.shape[1:]], align_corners=False)
    return grid


def _resampled(images: Tensor, grid: Tensor) -> Tensor:
    whole = grid.expand(len(images), -1, -1, -1)
    resampled: Tensor = F.grid_sample(images, whole, padding_mode="reflection", align_corners=False)
    return resampled

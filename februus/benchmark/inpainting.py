"""How well inpainters restore: PSNR, SSIM and sharpness inside holes, on pictures that are known."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from scipy.stats import t
from torch import Tensor, nn
from torch.nn import functional as F

from februus import registry
from februus.data import Dataset
from februus.files import write_file
from februus.localizers.grad_cam import GradCam
from februus.masks import random_rectangles, threshold
from februus.metrics import flops, gradient_energy, peak_signal_to_noise_ratio, structural_similarity_inside
from februus.seeds import seeded

__all__ = ["draw_inpainters", "measure_inpainters"]

BATCH = 250


def measure_inpainters(
    data: Dataset,
    model: nn.Module | None,
    *,
    heat: float,
    seed: int = 0,
    on_inpainter: Callable[[], None] | None = None,
) -> list[dict[str, Any]]:
    """Measure every inpainter on the same pictures and holes.

    Args:
        data: pictures; all are used.
        model: a classifier whose Grad-CAM masks are holes too; square holes alone where None.
        heat: the threshold of those masks.
        seed: of the square holes, a quarter of the picture's height and width.
        on_inpainter: called after each inpainter and kind of hole.

    Returns:
        a row for each kind of hole and inpainter: PSNR (dB) and SSIM, means over pictures with the half width of
        their 95 % intervals, gradient energy relative to the originals', seconds and FLOPs a picture.
    """
    images = data.floats()
    height, width = data.image_size
    side = min(height, width) // 4
    holes = {f"{side}x{side} square": random_rectangles(len(data), height, width, side=side, generator=seeded(seed))}
    if model is not None:
        device = next(model.parameters()).device
        heatmaps = torch.cat([GradCam()(model, batch.to(device)).cpu() for batch, _ in data.batches(BATCH)])
        holes["Grad-CAM"] = threshold(heatmaps, heat)
    rows = []
    for kind, masks in holes.items():
        # A picture without a hole, or with nothing but a hole, has nothing to measure.
        usable = masks.mean((1, 2, 3)).mul(2).sub(1).abs() < 1
        for name in registry.available("inpainters"):
            figures = _row(name, images[usable], masks[usable])
            rows.append({"data": data.name, "holes": kind, "inpainter": name, **figures})
            if on_inpainter is not None:
                on_inpainter()
    return rows


def _row(name: str, images: Tensor, masks: Tensor) -> dict[str, Any]:
    inpainter = registry.create("inpainters", name)
    start = time.perf_counter()
    restored = torch.cat([inpainter(*batch) for batch in zip(images.split(BATCH), masks.split(BATCH), strict=True)])
    seconds = (time.perf_counter() - start) / len(images)
    psnr = peak_signal_to_noise_ratio(restored, images, masks)
    ssim = structural_similarity_inside(restored, images, masks)
    return {
        "pictures": len(images),
        "psnr": psnr.mean().item(),
        "psnr_interval": _half_width(psnr),
        "ssim": ssim.mean().item(),
        "ssim_interval": _half_width(ssim),
        "gradient_energy": (gradient_energy(restored, masks).sum() / gradient_energy(images, masks).sum()).item(),
        "seconds": seconds,
        "mega_macs": flops(lambda: inpainter(images[:1], masks[:1])) / 2e6,
    }


def _half_width(values: Tensor) -> float:
    """Return half the width of the 95 % interval of the mean (Student)."""
    return float(t.ppf(0.975, len(values) - 1) * values.std() / len(values) ** 0.5)


def draw_inpainters(path: Path, datasets: Sequence[Dataset], *, count: int = 4, seed: int = 0) -> None:
    """Draw pictures of each data set, their square holes and what every inpainter makes of them, as PNG."""
    names = registry.available("inpainters")
    rows = []
    for data in datasets:
        images = data.take(count, seeded(seed)).floats()
        height, width = data.image_size
        side = min(height, width) // 4
        # Not at the rim: there, a stranger would not see what is missing.
        masks = random_rectangles(len(images), height - side, width - side, side=side, generator=seeded(seed, 1))
        masks = F.pad(masks, (side // 2, side - side // 2, side // 2, side - side // 2))
        restored = [registry.create("inpainters", name)(images, masks) for name in names]
        rows += list(zip(images, images * (1 - masks) + 0.5 * masks, *restored, strict=True))
    titles = ("original", "hole", *names)
    figure = Figure(figsize=(1.25 * len(titles), 1.25 * len(rows) + 0.3), layout="constrained")
    for index, (row, cells) in enumerate(zip(rows, figure.subplots(len(rows), len(titles)), strict=True)):
        for title, picture, axes in zip(titles, row, cells, strict=True):
            axes.set_axis_off()
            axes.imshow(picture.permute(1, 2, 0), interpolation="nearest")
            if index == 0:
                axes.set_title(title, fontsize=9)
    write_file(path, lambda temporary: figure.savefig(temporary, dpi=110, format="png"))

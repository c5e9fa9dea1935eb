"""The way of a picture, drawn: as it came, heatmap, mask, removed, restored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch import Tensor

from februus.files import write_file
from februus.types import Purified

__all__ = ["draw_panel"]


def draw_panel(
    path: Path, images: Tensor, purified: Purified, classes: Sequence[str] = (), *, first_column: str = "picture"
) -> None:
    """Draw one row a picture and write the figure as PNG.

    Args:
        path: of the file.
        images: the pictures as they came (N, 3, H, W).
        purified: what the purifier made of them.
        classes: names; the numbers stand where there are none.
        first_column: what to call the pictures as they came.
    """
    titles = (first_column, "heatmap", "mask", "removed", "restored")
    count = len(images)
    # One row of pictures, one narrow row for the sentence under it.
    layout = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.05, hspace=0.0, wspace=0.02)
    figure = Figure(figsize=(8.5, 0.25 + 2.05 * count), layout=layout)
    heights = [2.3] + [2.05] * (count - 1)
    for index, row in enumerate(figure.subfigures(count, 1, squeeze=False, height_ratios=heights)[:, 0]):
        before, after = (logits[index].softmax(0).cpu() for logits in (purified.logits_before, purified.logits))
        row.supxlabel(f"{_answer(before, classes)}  →  {_answer(after, classes)}", fontsize=10)
        image, mask = images[index].cpu(), purified.masks[index].cpu()
        heatmap = purified.heatmaps[index].cpu().amax(0)
        shown = (image, image, mask[0], image * (1 - mask) + 0.5 * mask, purified.images[index].cpu())
        for column, (axes, picture) in enumerate(zip(row.subplots(1, len(titles)), shown, strict=True)):
            axes.set_axis_off()
            if picture.ndim == 2:
                axes.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            else:
                axes.imshow(picture.permute(1, 2, 0), interpolation="nearest")
            if titles[column] == "heatmap":
                axes.imshow(heatmap, cmap="jet", vmin=0, vmax=1, alpha=0.55, interpolation="bilinear")
            if index == 0:
                axes.set_title(titles[column], fontsize=11)
    write_file(path, lambda temporary: figure.savefig(temporary, dpi=110, format="png"))


def _answer(probabilities: Tensor, classes: Sequence[str]) -> str:
    label = int(probabilities.argmax())
    return f"{classes[label] if classes else label} ({probabilities[label]:.0%})"

"""Gradient times activation, from Captum: Grad-CAM without the average over places."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from captum.attr import LayerAttribution, LayerGradientXActivation
from torch import Tensor, nn

from februus.checks import check_images, mismatch
from februus.localizers._layers import last_of_each_size, layer_of, scaled
from februus.models.modes import evaluation_mode

__all__ = ["GradientXActivation"]

# Fewer cells a side see no small trigger.
FEWEST_CELLS = 12


@dataclass(frozen=True, kw_only=True)
class GradientXActivation:
    """Multiply a layer's activations by their gradients, place by place (HiResCAM, Draelos and Carin 2020).

    ``relu(sum_k g_k A_k)`` with ``g_k`` the gradient of the predicted class's logit with respect to channel ``A_k``;
    scaled bilinearly to the picture and, a picture, to [0, 1]. arXiv 2011.08891. Where Grad-CAM spreads the mean
    gradient over the map, this keeps each place's own: a trigger of few pixels is not averaged away.

    Args:
        layer: name of the module. Where none is given, the last with maps of each size from half the picture's side
            down to 12 cells, found by tracing; where there is no such map, that of the size closest above.
    """

    layer: str | None = None

    def __call__(self, model: nn.Module, images: Tensor) -> Tensor:
        """Return heatmaps (N, L, H, W) in [0, 1] for the classes that ``model`` predicts, L one a layer.

        One forward and one backward for all pictures and layers; the model is left as it was. A flat map is 0.

        Raises:
            ValueError: if ``layer`` is no layer of ``model``, or has no maps, or the model has no convolution to read.
        """
        check_images(images)
        names = self.layers(model, images)
        attribution = LayerGradientXActivation(
            lambda batch: model(batch).amax(1), [layer_of(model, images, name) for name in names]
        )
        with evaluation_mode(model), torch.inference_mode(mode=False), torch.enable_grad():
            found = [maps.detach() for maps in attribution.attribute(images.clone())]
        if any(maps.ndim != 4 for maps in found):
            raise mismatch("layer", "one whose output are maps (N, K, H, W)", repr(self.layer))
        size = images.shape[2:]
        summed = (maps.sum(1, keepdim=True).relu() for maps in found)
        return torch.cat(
            [scaled(LayerAttribution.interpolate(maps, size, interpolate_mode="bilinear")) for maps in summed], 1
        )

    def layers(self, model: nn.Module, images: Tensor) -> list[str]:
        """Return the names of the layers that are read, fine to coarse."""
        if self.layer is not None:
            return [self.layer]
        return between_half_and_twelve(last_of_each_size(model, images), min(images.shape[2:]))


def between_half_and_twelve(layers: dict[tuple[int, int], str], side: int) -> list[str]:
    """Return those of ``layers``, by map size, that have from half of ``side`` down to 12 cells, fine to coarse."""
    by_cells = {min(size): name for size, name in layers.items()}
    between = [cells for cells in by_cells if FEWEST_CELLS <= cells <= side / 2]
    if not between:
        larger = [cells for cells in by_cells if cells > side / 2]
        between = [min(larger) if larger else max(by_cells)]
    return [by_cells[cells] for cells in sorted(between, reverse=True)]

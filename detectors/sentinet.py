"""SentiNet: the region that a trigger lies in turns other pictures too, more than its size explains."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from captum.attr import LayerAttribution, LayerGradCam
from numpy.polynomial import Polynomial
from torch import Tensor, nn

from detectors._checks import check_count, check_range
from detectors._kinds import Detector, Seeded
from detectors._maps import last_layer
from detectors._models import answers

__all__ = ["SentiNet"]

# Points at which the boundary is drawn: the distance to it is exact to a thousandth of its length.
POINTS = 1000


@dataclass(kw_only=True)
class SentiNet(Seeded, Detector):
    """SentiNet (Chou et al., IEEE S&P Workshops 2020, arXiv 1812.00292): how far a region carries its class along.

    The region that speaks for the predicted class (Grad-CAM of the model's last maps) is pasted on clean pictures. Two
    numbers tell of it: the share of them that are then predicted as the suspect is (``fooled``), and the model's mean
    confidence when noise stands in the region instead (``confidence``). A large region fools because it covers the
    object, and then the confidence is low; a trigger fools while it is high. The score is the distance above the
    boundary of clean pictures, a quadratic function of the confidence that is fitted to the most fooled of each bin
    (section 4.4). Of the paper's region proposals only the predicted class's is taken.

    Args:
        overlays: clean pictures that the region is pasted on, at least 1.
        share: of the picture's pixels that the region takes at most, those of the largest heat, in (0, 1).
        bins: of the confidence, from 0 to 1; at least 1.
        batch_size: pictures that the model sees at once.
        seed: of the choice of overlays and the noise.
    """

    overlays: int = 100
    share: float = 0.15
    bins: int = 50
    _layer: nn.Module = field(init=False, repr=False, compare=False)
    _laid: Tensor = field(init=False, repr=False, compare=False)
    _noise: Tensor = field(init=False, repr=False, compare=False)
    _boundary: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("overlays", self.overlays, 1)
        check_range("share", self.share, 0, 1, open_low=True)
        check_range("bins", self.bins, 1)

    def learn(self, images: Tensor) -> None:
        """Choose the overlays, and fit the boundary."""
        check_count("images", images, self.overlays, "pictures, the overlays")
        generator = self.generator()
        order = torch.randperm(len(images), generator=generator)
        self._laid = images[order[: self.overlays].to(images.device)]
        self._noise = torch.rand(images.shape[1:], generator=generator).to(images.device)
        self._layer = last_layer(self.model, images)
        self._boundary = self._fitted(torch.cat([self._told(part) for part in images.split(self.batch_size)]))

    def score_batch(self, images: Tensor) -> Tensor:
        """Return the distance (N,) to the boundary, negative below it."""
        told = self._told(images)
        confidence, fooled = told.T
        # Beyond the clean pictures' confidences the boundary's ends go on.
        place = torch.searchsorted(self._boundary[:, 0].contiguous(), confidence.contiguous()).clamp(max=POINTS - 1)
        distance = torch.cdist(told, self._boundary, compute_mode="donot_use_mm_for_euclid_dist").amin(1)
        return torch.where(fooled > self._boundary[place, 1], distance, -distance)

    def _told(self, images: Tensor) -> Tensor:
        """Return the confidence and the fooled share (N, 2), float64."""
        labels = answers(self.model, images, self.batch_size).argmax(1)
        regions = self._regions(images)
        confidence = torch.zeros(len(images), dtype=torch.float64, device=images.device)
        fooled = torch.zeros_like(confidence)
        for overlay in self._laid:
            pasted = torch.where(regions, images, overlay)
            fooled += answers(self.model, pasted, self.batch_size).argmax(1) == labels
            inert = torch.where(regions, self._noise, overlay)
            confidence += answers(self.model, inert, self.batch_size).softmax(1).amax(1)
        return torch.stack([confidence, fooled], 1) / len(self._laid)

    def _regions(self, images: Tensor) -> Tensor:
        """Return where the heat is largest (N, 1, H, W), bool; nowhere where a map is flat."""
        # The largest logit is the predicted class's.
        attribution = LayerGradCam(lambda batch: self.model(batch).amax(1), self._layer)
        with torch.inference_mode(mode=False), torch.enable_grad():
            maps = attribution.attribute(images.clone(), relu_attributions=True).detach()
        heat: Tensor = LayerAttribution.interpolate(maps, images.shape[2:], interpolate_mode="bilinear").flatten(1)
        most = max(1, round(self.share * heat.shape[1]))
        hot = torch.zeros_like(heat, dtype=torch.bool).scatter(1, heat.topk(most).indices, value=True) & (heat > 0)
        return hot.reshape(len(images), 1, *images.shape[2:])

    def _fitted(self, told: Tensor) -> Tensor:
        """Return points (P, 2) of the boundary of clean pictures, by rising confidence."""
        confidence, fooled = told.T
        bins = (confidence * self.bins).long()
        highest = torch.zeros(self.bins + 1, dtype=fooled.dtype, device=fooled.device)
        highest = highest.scatter_reduce(0, bins, fooled, "amax")
        top = (fooled == highest[bins]).cpu()
        across, above = confidence.cpu()[top].numpy(), fooled.cpu()[top].numpy()
        degree = min(2, len(np.unique(across)) - 1)
        low, high = float(confidence.min()), float(confidence.max())
        points = np.linspace(low, high, POINTS)
        curve = Polynomial.fit(across, above, degree, domain=[low, max(high, low + 1e-9)])(points)
        return torch.from_numpy(np.stack([points, curve], 1)).to(told)

"""The purifier: locate, remove, restore, classify."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from februus import registry
from februus.checks import check_choice, check_images, check_range, mismatch
from februus.localizers._layers import check_convolutional
from februus.masks import threshold
from februus.models.modes import evaluation_mode, recorded_outputs
from februus.types import Inpainter, Localizer, Purified

__all__ = ["PRESETS", "PurifiedClassifier", "Purifier"]

PRESETS = ("paper",)
FEWEST_REFERENCES = 16


class Purifier:
    """Sanitize pictures before a classifier sees them (Februus, Doan et al. 2020, arXiv 1908.03369).

    Args:
        model: pictures (N, 3, H, W) in [0, 1] -> logits (N, C).
        localizer: finds what drives the decision.
        inpainter: restores what was removed.
        threshold: heat in (0, 1] from which on a pixel is removed.
        batch_size: pictures that are worked on at once, which bounds memory.
    """

    def __init__(
        self, model: nn.Module, *, localizer: Localizer, inpainter: Inpainter, threshold: float, batch_size: int = 256
    ):
        check_range("threshold", threshold, 0, 1, open_low=True)
        check_range("batch_size", batch_size, 1)
        self.model, self.localizer, self.inpainter = model, localizer, inpainter
        self.threshold, self.batch_size = threshold, batch_size

    def __repr__(self) -> str:
        return (
            f"Purifier(localizer={self.localizer!r}, inpainter={self.inpainter!r}, "
            f"threshold={self.threshold}, batch_size={self.batch_size})"
        )

    @classmethod
    def for_model(
        cls,
        model: nn.Module,
        reference: Tensor | None = None,
        *,
        preset: str = "paper",
        inpainter: str | Inpainter = "gan",
        threshold: float = 0.7,
        layer: str | None = None,
        batch_size: int = 256,
    ) -> Purifier:
        """Make a purifier for ``model``.

        Args:
            model: pictures (N, 3, H, W) in [0, 1] -> logits (N, C).
            reference: unlabelled pictures of the same kind, 16 or more (N, 3, H, W). ``paper`` needs none; where
                some are given, the localizer is tried on one at once.
            preset: ``paper`` is the published recipe: Grad-CAM of one layer, one threshold, always restore.
            inpainter: a method of the family inpainters, or any `Inpainter`.
            threshold: heat in (0, 1] from which on a pixel is removed. The published code has 0.7 for CIFAR-10 and
                0.8 for GTSRB.
            layer: name of the layer that Grad-CAM reads; the last convolution where none is given.
            batch_size: pictures that are worked on at once.

        Raises:
            ValueError: if an argument does not fit, or the model has no convolution that Grad-CAM can read.
        """
        check_choice("preset", preset, PRESETS)
        if layer is None:
            check_convolutional(model)
        localizer = registry.create("localizers", "grad-cam", layer=layer)
        if reference is not None:
            check_images(reference, name="reference")
            if len(reference) < FEWEST_REFERENCES:
                raise mismatch("reference", f"at least {FEWEST_REFERENCES} pictures", len(reference))
            localizer(model, reference[:1])
        return cls(
            model,
            localizer=localizer,
            inpainter=registry.create("inpainters", inpainter) if isinstance(inpainter, str) else inpainter,
            threshold=threshold,
            batch_size=batch_size,
        )

    def __call__(self, images: Tensor) -> Purified:
        """Purify ``images`` (N, 3, H, W) in [0, 1]; the model is left with the mode, hooks and gradients it had.

        A picture is flagged where its class is another one behind the purifier; its score is the probability that
        the first class lost.

        Raises:
            ValueError: if ``images`` are not what is expected.
        """
        check_images(images)
        parts = [self._purify(batch) for batch in images.detach().split(self.batch_size)]
        merged: dict[str, Any] = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
        before, after = merged["logits_before"], merged["logits"]
        classes = before.argmax(1, keepdim=True)
        drop = before.softmax(1).gather(1, classes) - after.softmax(1).gather(1, classes)
        touched = merged["masks"].flatten(1).any(1).tolist()
        return Purified(
            **merged,
            labels=after.argmax(1),
            flagged=after.argmax(1) != classes[:, 0],
            scores=drop[:, 0],
            stages=tuple("classify" if there else "locate" for there in touched),
        )

    def as_classifier(self) -> PurifiedClassifier:
        """Return a module that stands where the bare model stood: pictures in, logits of sanitized pictures out."""
        return PurifiedClassifier(self)

    def _purify(self, images: Tensor) -> dict[str, Tensor]:
        with recorded_outputs(self.model) as outputs:
            heatmaps = self.localizer(self.model, images)
        before = outputs[-1]
        masks = threshold(heatmaps, self.threshold)
        suspect = masks.flatten(1).any(1)
        restored, after = images.clone(), before.clone()
        if suspect.any():
            restored[suspect] = self.inpainter(images[suspect], masks[suspect])
            with torch.no_grad(), evaluation_mode(self.model):
                after[suspect] = self.model(restored[suspect])
        return {"images": restored, "heatmaps": heatmaps, "masks": masks, "logits_before": before, "logits": after}


class PurifiedClassifier(nn.Module):
    """A classifier behind a purifier; its state dict is the bare model's."""

    def __init__(self, purifier: Purifier):
        super().__init__()
        self.purifier = purifier
        self.model = purifier.model

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N, C) of the sanitized pictures; without gradient."""
        return self.purifier(images).logits

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the bare model's state dict."""
        return self.model.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load the bare model's state dict."""
        return self.model.load_state_dict(*args, **kwargs)

"""The purifier: locate, remove, restore, verify, classify."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from februus import registry
from februus.checks import check_images, check_range, mismatch
from februus.files import output_folder, write_file, write_json
from februus.localizers._layers import check_convolutional
from februus.types import Inpainter, Preset, Purified

__all__ = ["PurifiedClassifier", "Purifier"]

FEWEST_REFERENCES = 16
SETTINGS, CALIBRATION = "purifier.json", "calibration.safetensors"


class Purifier:
    """Sanitize pictures before a classifier sees them (Februus, Doan et al. 2020, arXiv 1908.03369).

    Args:
        model: pictures (N, 3, H, W) in [0, 1] -> logits (N, C).
        preset: the way that pictures go.
        batch_size: pictures that are worked on at once, which bounds memory.
    """

    def __init__(self, model: nn.Module, preset: Preset, *, batch_size: int = 256):
        check_range("batch_size", batch_size, 1)
        self.model, self.preset, self.batch_size = model, preset, batch_size

    def __repr__(self) -> str:
        return f"Purifier({self.preset!r}, batch_size={self.batch_size})"

    @property
    def inpainter(self) -> Inpainter | None:
        """What restores regions; None where the preset restores none."""
        return self.preset.inpainter

    @classmethod
    def for_model(
        cls,
        model: nn.Module,
        reference: Tensor | None = None,
        *,
        preset: str = "verified",
        batch_size: int = 256,
        **options: Any,
    ) -> Purifier:
        """Make a purifier for ``model``.

        Args:
            model: pictures (N, 3, H, W) in [0, 1] -> logits (N, C).
            reference: unlabelled pictures of the same kind, 16 or more (N, 3, H, W). ``verified`` takes its thresholds
                from them, and its default false-positive rate takes 200; ``paper`` needs none.
            preset: a method of the family presets, ``verified`` or ``paper``, with options where wanted, as
                ``"verified:false_positive_rate=0.01"``.
            batch_size: pictures that are worked on at once.
            options: of the preset; they win over those in ``preset``.

        Raises:
            ValueError: if an argument does not fit, or the model has no convolution that can be read.
        """
        made: Preset = registry.create("presets", preset, **options)
        check_range("batch_size", batch_size, 1)
        check_convolutional(model)
        if reference is not None:
            check_images(reference, name="reference")
            if len(reference) < FEWEST_REFERENCES:
                raise mismatch("reference", f"at least {FEWEST_REFERENCES} pictures", len(reference))
        return cls(model, made.fit(model, reference, batch_size=batch_size), batch_size=batch_size)

    def __call__(self, images: Tensor) -> Purified:
        """Purify ``images`` (N, 3, H, W) in [0, 1]; the model is left with the mode, hooks and gradients it had.

        Raises:
            ValueError: if ``images`` are not what is expected.
        """
        check_images(images)
        parts = [
            self.preset(self.model, batch, batch_size=self.batch_size)
            for batch in images.detach().split(self.batch_size)
        ]
        merged: dict[str, Any] = {}
        for name in (item.name for item in fields(Purified)):
            values = [getattr(part, name) for part in parts]
            merged[name] = torch.cat(values) if isinstance(values[0], Tensor) else sum(values, ())
        return Purified(**merged)

    def save(self, folder: Path) -> None:
        """Write ``purifier.json`` and, where reference pictures taught something, ``calibration.safetensors``.

        Raises:
            ValueError: if the preset holds a method that is not in the registry.
        """
        output_folder(folder)
        names = [item.name for item in fields(self.preset) if item.name != "calibration"]  # type: ignore[arg-type]
        options = {name: registry.option_of(name, getattr(self.preset, name)) for name in names}
        state = {name: tensor.cpu().contiguous() for name, tensor in self.preset.state().items()}
        if state:
            write_file(folder / CALIBRATION, lambda path: save_file(state, path))
        content = {"preset": registry.name_of(self.preset), "options": options, "batch_size": self.batch_size}
        write_json(folder / SETTINGS, content)

    @classmethod
    def load(cls, folder: Path, model: nn.Module) -> Purifier:
        """Read what `save` wrote.

        Raises:
            ValueError: if the folder holds no purifier or ``model`` is not the one that it was made for.
        """
        try:
            content = json.loads((folder / SETTINGS).read_text())
            state = load_file(folder / CALIBRATION) if (folder / CALIBRATION).exists() else {}
            preset, options, batch_size = str(content["preset"]), {**content["options"]}, content["batch_size"]
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise mismatch("purifier", "a folder that `Purifier.save` wrote", f"{folder} ({error})") from error
        made: Preset = registry.create("presets", preset, **options)
        return cls(model, made.with_state(model, state), batch_size=batch_size)

    def as_classifier(self) -> PurifiedClassifier:
        """Return a module that stands where the bare model stood: pictures in, logits of sanitized pictures out."""
        return PurifiedClassifier(self)


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

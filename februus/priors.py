"""What is known of a backdoor before any picture comes: a suspect class, and where its trigger lies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from detectors.neural_cleanse import NeuralCleanse, Triggers
from februus import registry
from februus.checks import mismatch
from februus.files import write_file
from februus.masks import dilate

__all__ = ["Prior", "Scan", "make_scanner", "scan"]

# Of a soft mask's highest value, from which on a pixel belongs to the trigger's region, which is grown by one pixel.
SOLID = 0.5


@dataclass(frozen=True, kw_only=True, eq=False)
class Prior:
    """A trigger that leads to a class; its file, too, is a trigger of the family triggers, ``pixels:weights=FILE``.

    Args:
        label: the suspect class.
        mask: how much of the pattern shows at each pixel (1, H, W), in [0, 1].
        pattern: what shows, times the mask (3, H, W): a triggered picture is ``images * (1 - mask) + pattern``.
    """

    label: int
    mask: Tensor
    pattern: Tensor

    @property
    def region(self) -> Tensor:
        """Where the trigger lies (1, 1, H, W), 0 or 1."""
        solid = self.mask >= SOLID * self.mask.amax().clamp(min=1e-6)
        return dilate(solid.float()[None], 1)

    def tensors(self) -> dict[str, Tensor]:
        """Return what is kept of it."""
        return {"mask": self.mask, "pattern": self.pattern, "target_label": torch.tensor(self.label)}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Prior:
        """Return what `tensors` gave.

        Raises:
            ValueError: if they do not fit.
        """
        try:
            mask, pattern, label = (tensors[name] for name in ("mask", "pattern", "target_label"))
            fits = mask.ndim == pattern.ndim == 3 and (len(mask), len(pattern), label.ndim) == (1, 3, 0)
            if not fits or mask.shape[1:] != pattern.shape[1:]:
                raise mismatch("prior", "mask (1, H, W) and pattern (3, H, W)", f"{mask.shape}, {pattern.shape}")
        except KeyError as error:
            raise mismatch("prior", "the tensors mask, pattern and target_label", ", ".join(tensors)) from error
        return cls(label=int(label), mask=mask, pattern=pattern)

    def save(self, path: Path) -> None:
        """Write it as safetensors."""
        content = {name: tensor.cpu().contiguous() for name, tensor in self.tensors().items()}
        write_file(path, lambda temporary: save_file(content, temporary))

    @classmethod
    def load(cls, path: Path) -> Prior:
        """Read what `save` wrote.

        Raises:
            ValueError: if the file holds no prior.
        """
        try:
            return cls.from_tensors(load_file(path))
        except (OSError, SafetensorError) as error:
            raise mismatch("prior", "a safetensors file that scan wrote", f"{path} ({error})") from error


@dataclass(frozen=True, kw_only=True, eq=False)
class Scan:
    """What a look at a model shows.

    Args:
        indices: how suspicious each class is (C,): its anomaly index.
        suspects: the classes that a backdoor is said to lead to, the most suspicious first.
        triggers: the smallest trigger that was found for each class.
    """

    indices: Tensor
    suspects: tuple[int, ...]
    triggers: Triggers

    @property
    def prior(self) -> Prior | None:
        """What is known of the first suspect; None where there is none."""
        if not self.suspects:
            return None
        label = self.suspects[0]
        mask, pattern = self.triggers.masks[label], self.triggers.patterns[label]
        return Prior(label=label, mask=mask, pattern=mask * pattern)


def make_scanner(spec: str) -> NeuralCleanse:
    """Build what looks for backdoors in models from its name and options.

    Raises:
        ValueError: if it is no detector that finds triggers.

    >>> make_scanner("neural-cleanse:steps=50").steps
    50
    """
    scanner = registry.create("detectors", spec)
    if not isinstance(scanner, NeuralCleanse):
        raise mismatch("detector", "one that finds triggers: neural-cleanse", repr(spec))
    return scanner


def scan(model: nn.Module, images: Tensor, detector: NeuralCleanse | None = None) -> Scan:
    """Look for a backdoor in a model: for each class, how small a trigger leads to it.

    Args:
        model: pictures (N, 3, H, W) in [0, 1] -> logits (N, C).
        images: unlabelled clean pictures (R, 3, H, W).
        detector: what looks; Neural Cleanse with its defaults where not given.
    """
    used = detector or NeuralCleanse()
    triggers = used.reverse(model, images)
    indices = used.index(triggers)
    suspected = used.decide(indices)
    order = indices.argsort(descending=True, stable=True).tolist()
    return Scan(indices=indices, suspects=tuple(label for label in order if suspected[label]), triggers=triggers)

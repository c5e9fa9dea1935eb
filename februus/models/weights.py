"""Weights files: read without running code, fitted to the names of a network."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from februus.checks import check_choice, mismatch

__all__ = ["check_weights", "fit_weights", "read_weights"]

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
NESTS = ("state_dict", "model_state_dict", "model", "net")
PREFIXES = ("module.", "_orig_mod.", "network.")  # DataParallel, torch.compile and Normalized
LISTED = 5


def read_weights(file: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read the state dict of a weights file; pickled code in it is refused, never run.

    Args:
        file: ``.safetensors``, or what `torch.save` wrote (``.pth``, ``.pt``, ``.bin``, ``.ckpt``): a state dict, bare
            or under the key ``state_dict``, ``model_state_dict``, ``model`` or ``net``.

    Raises:
        ValueError: if there is no such file or it holds anything but tensors.
    """
    path = Path(file)
    check_choice("suffix of weights", path.suffix, SUFFIXES)
    if not path.is_file():
        raise mismatch("weights", "a file", repr(str(path)))
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        data: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Torch's own text is long and advises to switch the protection off.
        raise mismatch("weights", "a file of plain tensors", f"{path}: {_reason(error)}") from None
    if isinstance(data, Mapping):
        data = next((data[key] for key in NESTS if isinstance(data.get(key), Mapping)), data)
    if not isinstance(data, Mapping):
        raise mismatch("weights", "a state dict", f"{path}: {type(data).__name__}")
    others = [str(key) for key, value in data.items() if not isinstance(value, Tensor)]
    if others or not data:
        raise mismatch("weights", "a state dict", f"{path}: {_listed(others, 'without a tensor') or 'an empty one'}")
    return dict(data)


def fit_weights(state: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Return ``state`` under the names of ``network``: without the prefixes of wrappers, ``num_batches_tracked`` added.

    Shapes are not compared; see `check_weights`.
    """
    expected = network.state_dict()
    fitted = dict(state)
    while not fitted.keys() & expected.keys():
        prefix = next((prefix for prefix in PREFIXES if all(key.startswith(prefix) for key in fitted)), None)
        if prefix is None:
            break
        fitted = {key.removeprefix(prefix): tensor for key, tensor in fitted.items()}
    counters = {key: tensor for key, tensor in expected.items() if key.endswith(".num_batches_tracked")}
    return {**counters, **fitted}


def check_weights(state: Mapping[str, Tensor], network: nn.Module) -> None:
    """Raise unless ``state`` has the names and shapes of ``network``.

    Raises:
        ValueError: with the count and the first names of what is missing, unexpected or of the wrong shape.
    """
    expected = network.state_dict()
    problems = (
        _listed([key for key in expected if key not in state], "missing"),
        _listed([key for key in state if key not in expected], "unexpected"),
        _listed(
            [
                f"{key} {tuple(state[key].shape)} instead of {tuple(tensor.shape)}"
                for key, tensor in expected.items()
                if key in state and state[key].shape != tensor.shape
            ],
            "of the wrong shape",
        ),
    )
    if any(problems):
        raise mismatch("weights", "the tensors of the architecture", "; ".join(filter(None, problems)))


def _listed(names: list[str], what: str) -> str:
    more = ", ..." if len(names) > LISTED else ""
    return f"{len(names)} {what} ({', '.join(names[:LISTED])}{more})" if names else ""


def _reason(error: Exception) -> str:
    found = re.search(r"unsupported (?:global: )?\w+ [\w.]+", str(error), re.IGNORECASE)
    return found[0] if found else f"{type(error).__name__}: {error}".partition("\n")[0].partition(". ")[0]

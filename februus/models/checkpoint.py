"""Checkpoints: a folder with ``model.safetensors``, which also holds the card, and ``card.json`` to read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from februus.checks import mismatch
from februus.files import output_folder, write_file
from februus.models.card import Card
from februus.models.normalized import NORMALIZATIONS, Normalized

__all__ = ["read_card", "save_checkpoint"]

WEIGHTS = "model.safetensors"
CARD = "card.json"


def read_card(folder: str | os.PathLike[str]) -> Card:
    """Read the card of a checkpoint: the one inside ``model.safetensors`` where there is one, else ``card.json``.

    Args:
        folder: the checkpoint.

    Raises:
        ValueError: if there is no card or it cannot be read.
    """
    data: Any = None
    file = Path(folder, WEIGHTS)
    if file.is_file():
        try:
            with safe_open(file, framework="pt") as weights:
                data = (weights.metadata() or {}).get("card")
        except SafetensorError as error:
            raise mismatch("checkpoint", "weights in the format safetensors", f"{file}: {error}") from None
    if data is None:
        file = Path(folder, CARD)
        if not file.is_file():
            raise mismatch("checkpoint", f"a folder with {CARD}", repr(str(folder)))
        data = file.read_bytes()
    try:
        data = json.loads(data)
    except ValueError as error:
        raise mismatch("card", "JSON", f"{file}: {error}") from None
    return Card.from_dict(data)


def save_checkpoint(folder: str | os.PathLike[str], model: nn.Module, card: Card) -> None:
    """Write ``model.safetensors``, the bare network's weights with the card inside, and ``card.json``.

    Each file is replaced in one step, the weights first; an error leaves what was there before.

    Args:
        folder: is made where it does not exist.
        model: the classifier, `Normalized` or bare.
        card: must tell the normalisation of a `Normalized` model.

    Raises:
        ValueError: if the card tells another normalisation or cannot be written as JSON, or the folder cannot be
            written.
    """
    network = model
    if isinstance(model, Normalized):
        network = model.network
        mean, std = NORMALIZATIONS["none"]
        if card.normalization is not None:
            mean, std = tuple(card.normalization["mean"]), tuple(card.normalization["std"])
        actual = torch.cat([model.mean, model.std]).flatten().cpu()
        if not torch.allclose(actual, torch.tensor([*mean, *std])):
            raise mismatch("card normalization", f"the model's, {actual.tolist()}", [*mean, *std])
    try:
        text = json.dumps(card.to_dict(), indent=2)
    except TypeError as error:
        raise mismatch("card", "values that JSON can hold", error) from None
    # Copies, since safetensors takes no tensors that share memory (tied weights).
    state = {
        key: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, tensor in network.state_dict().items()
    }
    folder = output_folder(Path(folder))
    weights = save(state, metadata={"card": text})
    write_file(folder / WEIGHTS, lambda temporary: temporary.write_bytes(weights))
    write_file(folder / CARD, lambda temporary: temporary.write_text(f"{text}\n"))

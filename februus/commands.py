"""Sanitize the pictures that a possibly backdoored classifier is asked about, and measure such defenses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from februus.data import load
from februus.federated import Federation
from februus.federated import train as train_federated
from februus.progress import console, progress

__all__ = ["COMMANDS"]


def train(
    settings: Federation,
    *,
    data: str = "signs",
    output: Path,
    image_size: int | None = None,
    center_crop: int | None = None,
    device: str = "auto",
) -> None:
    """Train a model by federated learning while some clients plant a backdoor.

    Args:
        settings: of the federation.
        data: pictures: signs, a folder, a torchvision or a Hugging Face data set.
        output: folder of the checkpoint; the same command goes on where it was stopped.
        image_size: side in pixels; the pictures' own where not given.
        center_crop: crop the central pixels first and resize back.
        device: auto, cpu, cuda or mps.
    """
    options = {"image_size": image_size, "center_crop": center_crop}
    pictures, test = load(data, "train", **options), load(data, "test", **options)

    with progress() as bars:
        bar = bars.add_task("rounds", total=settings.rounds)

        def on_round(row: dict[str, Any]) -> None:
            bars.update(bar, completed=row["round"])
            console.print(_round_line(row, settings.rounds), highlight=False)

        train_federated(
            settings, pictures, test, output, device=_device(device), center_crop=center_crop or 0, on_round=on_round
        )
    console.print(f"wrote {output}", highlight=False)


def _round_line(row: dict[str, Any], rounds: int) -> str:
    line = f"round {row['round']:>3}/{rounds}  loss {row['loss']:.3f}  CA {row['clean_accuracy']['value']:.3f}"
    if "attack_success_rate" in row:
        line += f"  ASR {row['attack_success_rate']['value']:.3f}"
    return line + (f"  attackers {row['attackers']}" if row["attackers"] else "")


def _device(name: str) -> str:
    """Return the device that ``auto`` stands for, or the one that was named."""
    if name != "auto":
        return name
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


COMMANDS: dict[str, Callable[..., int | None]] = {"train": train}

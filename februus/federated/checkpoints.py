"""The folder of a run: its card, the files of its triggers, and all that is needed to go on."""

from __future__ import annotations

import shutil
from dataclasses import asdict, fields
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from februus import registry
from februus.checks import mismatch
from februus.data import Dataset
from februus.federated.client import read_state, write_state
from februus.federated.settings import Federation
from februus.federated.threat import Attack, Backdoor
from februus.files import write_file
from februus.models import Card, Normalized, read_card
from februus.models import load as load_model
from februus.types import Trigger

__all__ = ["card_of", "copy_files", "federation_of", "forget", "recall", "remember", "resume", "start_from"]


def _memory_file(output: Path, round_number: int) -> Path:
    return output / f"aggregator-{round_number}.safetensors"


def remember(output: Path, round_number: int, memory: dict[str, Tensor]) -> None:
    """Keep what the aggregator remembers, before the weights of the same round."""
    if memory:
        tensors = {name: value.detach().cpu().contiguous() for name, value in memory.items()}
        write_file(_memory_file(output, round_number), partial(save_file, tensors))


def recall(output: Path, round_number: int) -> dict[str, Tensor]:
    """Return what the aggregator remembered after a round."""
    file = _memory_file(output, round_number)
    return load_file(file) if file.is_file() else {}


def forget(output: Path, round_number: int) -> None:
    """Remove what was remembered of the round before."""
    _memory_file(output, round_number - 1).unlink(missing_ok=True)


def card_of(settings: Federation, data: Dataset, center_crop: int, attack: Attack | None, output: Path) -> Card:
    """Return the card of a run before its first round."""
    backdoors = attack.backdoors if attack else ()
    first = _describe(backdoors[0], 0) if backdoors else {}
    several = {"backdoors": [_describe(backdoor, place) for place, backdoor in enumerate(backdoors)]}
    return Card(
        name=output.resolve().name,
        architecture=settings.architecture,
        dataset=data.name,
        num_classes=data.num_classes,
        classes=data.classes,
        image_size=data.image_size[0],
        center_crop=center_crop,
        **first,
        source=f"februus {version('februus')}",
        extra={
            **(several if len(backdoors) > 1 else {}),
            "federation": asdict(settings),
            "versions": {name: version(name) for name in ("februus", "torch", "torchvision")},
        },
    )


def _describe(backdoor: Backdoor, place: int) -> dict[str, Any]:
    """Return a backdoor as a card tells it; of a file that its trigger reads, the copy's name."""
    trigger = backdoor.trigger
    copies = {name: copy for name, (_, copy) in _files_of(trigger, place).items()}
    return {
        "trigger": {"kind": registry.name_of(trigger), **_options_of(trigger), **copies},
        "target_label": backdoor.target_label,
        "source_label": backdoor.source_label,
    }


def copy_files(attack: Attack, folder: Path) -> None:
    """Copy the files that the triggers read beside the weights."""
    for place, backdoor in enumerate(attack.backdoors):
        for file, copy in _files_of(backdoor.trigger, place).values():
            write_file(folder / copy, partial(shutil.copyfile, file))


def _files_of(trigger: Trigger, place: int) -> dict[str, tuple[Path, str]]:
    """Return the options that name a file: the file, and what its copy is called."""
    texts = {name: Path(value) for name, value in _options_of(trigger).items() if isinstance(value, str)}
    stem = "trigger" if place == 0 else f"trigger-{place + 1}"
    return {name: (path, f"{stem}{path.suffix}") for name, path in texts.items() if path.is_file()}


def _options_of(trigger: Trigger) -> dict[str, Any]:
    return {field.name: getattr(trigger, field.name) for field in fields(trigger)}  # type: ignore[arg-type]


def start_from(folder: str, model: Normalized, card: Card) -> None:
    """Put the weights of a checkpoint folder into ``model``."""
    there = read_card(folder)
    keys = ("architecture", "num_classes", "normalization")
    expected, found = ({key: getattr(item, key) for key in keys} for item in (card, there))
    if found != expected:
        raise mismatch(f"start {folder}", f"a checkpoint with {expected}", found)
    write_state(model, read_state(load_model(folder)))


def federation_of(extra: dict[str, Any]) -> dict[str, Any] | None:
    """Return the settings that a card tells of; those written before there were detectors tell of none."""
    told = extra.get("federation")
    return None if told is None else {"detector": None, **told}


def resume(output: Path, card: Card) -> list[dict[str, Any]]:
    """Return the rounds that a folder of the same run already has."""
    there = read_card(output)
    expected, found = card.to_dict(), there.to_dict()
    found["federation"] = federation_of(found)
    differing = [
        key for key in expected if key not in ("name", "versions", "source") and expected[key] != found.get(key)
    ]
    if differing:
        got = f"one that differs in {', '.join(differing)}"
        raise mismatch(f"output {output}", "an empty folder or an earlier run with the same settings", got)
    history: list[dict[str, Any]] = there.extra["history"]
    return history

"""A case: a checkpoint, the pictures it is measured on, those a defense may learn from, and its trigger."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from februus import registry
from februus.checks import check_range, mismatch
from februus.data import Dataset
from februus.data import load as load_data
from februus.models import Card, read_card
from februus.models import load as load_model
from februus.models.checkpoint import CARD, WEIGHTS
from februus.models.loading import find_builder
from februus.poisoning import check_target
from februus.seeds import seeded
from februus.types import Trigger

__all__ = ["DRAWN", "Case", "data_of", "find_checkpoints", "open_case", "open_cases", "trigger_of"]

# The data set that is drawn, wherever other pictures lie.
DRAWN = "signs"
# What a card tells of a backdoor.
TOLD = ("trigger", "target_label", "source_label")


@dataclass(frozen=True, kw_only=True)
class Case:
    """What a defense is judged on.

    Args:
        name: what to call it.
        model: pictures in [0, 1] -> logits.
        test: labelled clean pictures.
        reference: clean pictures (R, 3, H, W) that a defense may learn from; they are never scored.
        trigger: what the attacker stamps; None for a clean model.
        target_label: the class that the attacker wants; None for a clean model.
        source_label: the only class whose pictures are to be turned; all others than the target where None.
    """

    name: str
    model: nn.Module
    test: Dataset
    reference: Tensor
    trigger: Trigger | None
    target_label: int | None
    source_label: int | None = None

    @property
    def attacked(self) -> Tensor:
        """Which pictures of ``test`` an attack can turn (N,), bool; all of a clean model.

        Those of the source class, or of other classes than the target where there is none.

        Raises:
            ValueError: if there are none.
        """
        labels = self.test.labels
        if self.target_label is None:
            return torch.ones_like(labels, dtype=torch.bool)
        if self.source_label is None:
            chosen, expected = labels != self.target_label, "some of other classes than the target"
        else:
            chosen, expected = labels == self.source_label, f"some of the source class {self.source_label}"
        if not chosen.any():
            raise mismatch("pictures", expected, f"none of {len(labels)}")
        return chosen

    @property
    def victims(self) -> Dataset:
        """The pictures that are `attacked`."""
        return self.test.subset(self.attacked)


def find_checkpoints(folder: Path) -> list[Path]:
    """Return ``folder`` where it is a checkpoint, else all checkpoints below it, sorted.

    Raises:
        ValueError: if there are none.
    """
    if _is_checkpoint(folder):
        return [folder]
    found = sorted(card.parent for card in folder.rglob(CARD) if _is_checkpoint(card.parent))
    if not found:
        raise mismatch("checkpoints", f"a folder with {WEIGHTS} and {CARD}, or with such folders", repr(str(folder)))
    return found


def _is_checkpoint(folder: Path) -> bool:
    return all((folder / name).is_file() for name in (WEIGHTS, CARD))


def data_of(checkpoint: Path, data: str | None) -> str | None:
    """Return where the pictures of one checkpoint among others are: at ``data``, but where its card's are drawn."""
    return None if read_card(checkpoint).dataset == DRAWN else data


def open_case(
    model: str,
    *,
    name: str | None = None,
    data: str | None = None,
    split: str = "test",
    image_column: str | None = None,
    label_column: str | None = None,
    trigger: str | None = None,
    target_label: int | None = None,
    source_label: int | None = None,
    weights: Path | None = None,
    normalization: str | None = None,
    image_size: int | None = None,
    device: str = "cpu",
    pictures: int | None = None,
    references: int = 256,
    seed: int = 0,
) -> Case:
    """Open a checkpoint with its pictures and trigger; what is not given is taken from its card.

    The split is drawn from without replacement: first what a defense may learn from, then what it is scored on.

    Args:
        model: what `februus.models.load` takes.
        name: what to call the case; as the card does where None.
        data: what `februus.data.load` takes, or a folder that holds the card's data set under its name.
        split: of the data.
        image_column: of a Hugging Face data set, where its name is unusual.
        label_column: likewise.
        trigger: a method of the family triggers.
        target_label: the class that the attacker wants.
        source_label: the only class whose pictures are to be turned.
        weights: a file of weights, where ``model`` is a name.
        normalization: name of the normalisation, where no card tells it.
        image_size: side of the pictures in pixels, where no card tells it.
        device: where the model runs.
        pictures: how many are scored; all that are no references where None or where there are fewer.
        references: how many are references.
        seed: of the drawing.

    Raises:
        ValueError: if something is neither given nor on a card, or does not fit, or no picture is left to be scored.
    """
    check_range("references", references, 1)
    if pictures is not None:
        check_range("pictures", pictures, 1)
    card = read_card(model) if Path(model, WEIGHTS).is_file() else None
    if card is None:
        find_builder(model)
    source = data or (card.dataset if card else None)
    if data and card and Path(data, card.dataset).is_dir():
        source = str(Path(data, card.dataset))
    if source is None:
        raise mismatch("data", "a source of pictures, as the model has no card that names one", None)
    everything = load_data(
        source,
        split,
        image_size=image_size or (card.image_size if card else None),
        center_crop=card.center_crop if card and card.center_crop != card.image_size else None,
        image_column=image_column,
        label_column=label_column,
    )
    if len(everything) <= references:
        raise mismatch("references", f"fewer than the {len(everything)} pictures of {source}", references)
    # At random: a folder has one class after the other.
    order = torch.randperm(len(everything), generator=seeded(seed))
    first, rest = order[:references], order[references:]
    reference = everything.floats(first)
    test = everything.subset(rest[:pictures].sort().values)
    loaded = load_model(
        model,
        weights=weights,
        num_classes=None if card else test.num_classes,
        normalization=normalization,
        image_size=image_size,
        reference=reference,
        device=device,
    )
    if card and card.num_classes != test.num_classes:
        raise mismatch("data", f"{card.num_classes} classes, as the model has", f"{test.num_classes} in {source}")
    stamp = registry.create("triggers", trigger) if trigger else (trigger_of(card, Path(model)) if card else None)
    target = target_label if target_label is not None else (card.target_label if card else None)
    if (stamp is None) != (target is None):
        lacking = "trigger" if stamp is None else "target_label"
        raise mismatch(lacking, "both a trigger and a target label, or neither", None)
    source_class = source_label if source_label is not None else (card.source_label if card else None)
    if target is not None:
        check_target(target, test.num_classes)
    if source_class is not None:
        check_target(source_class, test.num_classes, name="source_label")
        if target in (None, source_class):
            raise mismatch("source_label", "a target label, of another class", target)
    return Case(
        name=name or (card.name if card else model),
        model=loaded,
        test=test,
        reference=reference.to(device),
        trigger=stamp,
        target_label=target,
        source_label=source_class,
    )


def open_cases(model: str, **options: Any) -> list[Case]:
    """Open a checkpoint as `open_case` does, as a case for each backdoor that its card tells of.

    They share the model and the pictures, and are called ``NAME#1``, ``NAME#2`` and so on. It is one case where the
    card tells of one backdoor or none, and where the options tell of one.

    Args:
        model: what `februus.models.load` takes.
        options: of `open_case`.
    """
    case = open_case(model, **options)
    card = read_card(model) if Path(model, WEIGHTS).is_file() else None
    told = card.extra.get("backdoors") if card else None
    if card is None or not told or any(options.get(name) is not None for name in TOLD):
        return [case]
    return [
        replace(
            case,
            name=f"{case.name}#{number}",
            trigger=trigger_of(one, Path(model)),
            target_label=one.target_label,
            source_label=one.source_label,
        )
        for number, one in enumerate((replace(card, **backdoor) for backdoor in told), 1)
    ]


def trigger_of(card: Card, folder: Path) -> Trigger | None:
    """Build the trigger that a card describes; files that it names lie beside the card."""
    if card.trigger is None:
        return None
    known = registry.options_of(registry.find("triggers", card.trigger["kind"]))
    options: dict[str, Any] = {key: value for key, value in card.trigger.items() if key in known}
    for key, value in options.items():
        if isinstance(value, str) and (folder / value).is_file():
            options[key] = str(folder / value)
    trigger: Trigger = registry.create("triggers", card.trigger["kind"], **options)
    return trigger

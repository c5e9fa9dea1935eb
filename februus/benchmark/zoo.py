"""A zoo: many federated models, trained over grids of options into one folder, with an index of what came of them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

from jsonargparse import ArgumentError, ArgumentParser

from februus.benchmark.sheets import markdown_table
from februus.checks import check_choice, mismatch
from februus.data import Dataset, Source
from februus.federated import Federation
from februus.federated import train as train_federated
from februus.federated.checkpoints import federation_of
from februus.files import output_folder, write_file, write_json
from februus.metrics import Rate, told
from februus.models import read_card
from februus.models.checkpoint import WEIGHTS

__all__ = ["Recipe", "plan", "tables", "train_zoo"]

RATES = ("clean_accuracy", "attack_success_rate")
NOTE = """CA: share of clean test pictures that get their class. ASR: share of the attacker's test pictures that get the
class it wants. Of a model: after its last round, with the Wilson 95 % interval. Over seeds: mean (smallest to largest).
"""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model of the zoo is made.

    Args:
        name: of its folder.
        group: its name without its seed, all where nothing else is in it.
        axes: its place in the grid: of each axis the value, or the name of the variant.
        options: all that was given.
        settings: of the federation.
        source: of the pictures.
    """

    name: str
    group: str
    axes: dict[str, Any]
    options: dict[str, Any]
    settings: Federation
    source: Source


class Train(Protocol):
    """Trains a model as `februus.federated.train` does."""

    def __call__(
        self, settings: Federation, data: Dataset, test: Dataset, output: Path, /, *, center_crop: int
    ) -> object:
        """Fill the checkpoint folder ``output``."""
        ...


def plan(models: Sequence[Mapping[str, Any]], defaults: Mapping[str, Any] | None = None) -> list[Recipe]:
    """Return how each model is made.

    An option whose value is a list is an axis: there is a model for each combination. An entry of such a list may be a
    variant, a mapping of several options that belong together; then the axis may have any name.

    Args:
        models: of each the fields of `Federation` and `Source`, and a name for all that come of it.
        defaults: options of all models; what a model says itself, or a variant, wins.

    Raises:
        ValueError: if an option is not known or does not fit, or if two models would have the same name.

    >>> for recipe in plan([{"aggregator": ["fed-avg", "median"], "seed": [0, 1]}], {"rounds": 3}):
    ...     print(recipe.name, recipe.settings.rounds)
    fed-avg_seed-0 3
    fed-avg_seed-1 3
    median_seed-0 3
    median_seed-1 3
    """
    recipes = [recipe for model in models for recipe in _expand(model, defaults or {})]
    if not recipes:
        raise mismatch("models", "at least one", "none")
    # Some file systems do not tell upper case from lower case.
    name, count = Counter(recipe.name.lower() for recipe in recipes).most_common(1)[0]
    if count > 1:
        raise mismatch("models", "names that differ; the key name gives one", f"{count} of the name {name}")
    return recipes


def train_zoo(
    recipes: Sequence[Recipe],
    output: Path,
    *,
    train: Train = train_federated,
    on_model: Callable[[Recipe], None] | None = None,
    on_failure: Callable[[Recipe, ValueError], None] | None = None,
) -> dict[str, Any]:
    """Train all models that are not finished, and keep an index of those that are.

    A model that was finished by an earlier call is passed over without loading its pictures; one that was stopped
    half-way goes on. ``output`` gets a checkpoint folder a model and, anew after each, ``index.json`` and ``index.md``.

    Args:
        recipes: of the models, as `plan` makes them.
        output: the folder.
        train: trains one of them; a ValueError costs only this model.
        on_model: called before one is trained.
        on_failure: called after it failed.

    Returns:
        The index: under ``models`` the finished ones, under ``summary`` mean and range over the axis ``seed``, under
        ``missing`` the names of the others.

    Raises:
        ValueError: if ``output`` cannot be written to.
    """
    output_folder(output)
    known = _options_in(output / "index.json")
    finished = {
        recipe.name: _entry(recipe, output)
        for recipe in recipes
        if known.get(recipe.name) == recipe.options and _is_finished(recipe, output)
    }
    index = _write_index(recipes, finished, output)
    load_once = cache(Source.load)
    for recipe in recipes:
        if recipe.name in finished:
            continue
        if on_model is not None:
            on_model(recipe)
        try:
            data, test = (load_once(recipe.source, split) for split in ("train", "test"))
            center_crop = recipe.source.center_crop or 0
            train(recipe.settings, data, test, output / recipe.name, center_crop=center_crop)
        except ValueError as error:
            if on_failure is not None:
                on_failure(recipe, error)
            continue
        finished[recipe.name] = _entry(recipe, output)
        index = _write_index(recipes, finished, output)
    return index


def tables(index: Mapping[str, Any]) -> list[list[list[str]]]:
    """Return what a person reads of an index: tables of lines of cells, the headings first."""
    found = [["model", "CA", "ASR", "MB"]]
    for entry in index["models"]:
        rates = [Rate(rate["count"], rate["total"]) for rate in entry["rates"].values()]
        cells = [*map(str, rates), ""][: len(RATES)]
        found.append([entry["name"], *cells, f"{entry['bytes'] / 1e6:.2f}"])
    if not index["summary"]:
        return [found]
    over = [["models", "seeds", "CA", "ASR"]]
    for group in index["summary"]:
        spans = (
            f"{span['mean']:.3f} ({span['min']:.3f} to {span['max']:.3f})" if (span := group.get(name)) else ""
            for name in RATES
        )
        over.append([group["name"], ", ".join(map(str, group["seeds"])), *spans])
    return [over, found]


# --- from a grid to models -------------------------------------------------------------------------------------------


def _expand(model: Mapping[str, Any], defaults: Mapping[str, Any]) -> Iterator[Recipe]:
    """Yield the recipes of one grid."""
    name = _name_in(model)
    # What a model says itself comes first in the names.
    given = {key: value for key, value in model.items() if key != "name"}
    given |= {key: value for key, value in defaults.items() if key not in given}
    axes = {key: value for key, value in given.items() if isinstance(value, list)}
    common = {key: value for key, value in given.items() if key not in axes}
    empty = [key for key, value in axes.items() if not value]
    if empty:
        raise mismatch(f"axis {empty[0]}", "at least one value", "none")
    if not axes and not name:
        raise mismatch("models", "a name, where no option is a list", common)
    for values in product(*axes.values()):
        yield _recipe(name, common, dict(zip(axes, values, strict=True)))


def _recipe(name: str, common: dict[str, Any], choice: dict[str, Any]) -> Recipe:
    """Return the recipe of one point of a grid: of each axis a value or a variant."""
    labels: dict[str, str] = {}
    varied: dict[str, Any] = {}
    for axis, value in choice.items():
        variant = value if isinstance(value, dict) else {axis: value}
        options = {option: value for option, value in variant.items() if option != "name"}
        twice = sorted(options.keys() & varied.keys())
        if twice:
            raise mismatch(f"axis {axis}", "options that no other axis sets", ", ".join(twice))
        varied |= options
        labels[axis] = _name_in(variant) or _slug("-".join(_label(*item) for item in options.items()))
        if not labels[axis]:
            raise mismatch(f"axis {axis}", "a value that makes a name, or the key name beside it", repr(value))
    whole = "_".join(filter(None, [name, *labels.values()]))
    options = {**common, **varied}
    settings, source = _build(whole, options)
    return Recipe(
        name=whole,
        group="_".join(filter(None, [name, *(label for axis, label in labels.items() if axis != "seed")])) or "all",
        axes={axis: labels[axis] if isinstance(value, dict) else value for axis, value in choice.items()},
        options=options,
        settings=settings,
        source=source,
    )


def _name_in(options: Mapping[str, Any]) -> str:
    """Return the name that was given, fit for a file; empty where none was."""
    if "name" not in options:
        return ""
    name = options["name"]
    # YAML reads the names no, on and 3 as something else.
    if not isinstance(name, str) or not _slug(name):
        raise mismatch("name", "a text with letters or digits", repr(name))
    return _slug(name)


def _label(option: str, value: Any) -> str:
    if isinstance(value, str):
        # Of a path, its end.
        return re.sub(r"[^:=,\[\]]*/", "", value.rstrip("/"))
    return f"{option}-{value}".lower()


def _slug(text: str) -> str:
    """Return ``text`` fit for a file; an underscore is left for what stands between the axes."""
    return re.sub(r"(?:[^\w.]|_)+", "-", text).strip("-.")


def _build(name: str, options: dict[str, Any]) -> tuple[Federation, Source]:
    known = [field.name for kind in (Federation, Source) for field in fields(kind)]
    for option in options:
        check_choice(f"option of {name}", option, known)
    try:
        values = _parser().parse_object(options).as_dict()
        source = Source(**{field.name: values.pop(field.name) for field in fields(Source)})
        return Federation(**values), source
    except (ArgumentError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from error


@cache
def _parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    for kind in (Federation, Source):
        parser.add_class_arguments(kind, None, as_group=False)
    return parser


# --- the index -------------------------------------------------------------------------------------------------------


def _options_in(file: Path) -> dict[str, Any]:
    """Return the options of the models in an index, by name; none where there is no index."""
    if not file.is_file():
        return {}
    try:
        return {entry["name"]: entry["options"] for entry in json.loads(file.read_bytes())["models"]}
    except (ValueError, TypeError, KeyError) as error:
        raise mismatch(str(file), "the index of a zoo", repr(error)) from error


def _is_finished(recipe: Recipe, output: Path) -> bool:
    folder = output / recipe.name
    if not (folder / WEIGHTS).is_file():
        return False
    try:
        extra = read_card(folder).extra
    except ValueError:
        return False  # To be told when it is its turn.
    return federation_of(extra) == asdict(recipe.settings) and len(extra["history"]) == recipe.settings.rounds


def _entry(recipe: Recipe, output: Path) -> dict[str, Any]:
    folder = output / recipe.name
    last = read_card(folder).extra["history"][-1]
    rates = {name: Rate(last[name]["count"], last[name]["total"]) for name in RATES if name in last}
    return {
        "name": recipe.name,
        "axes": recipe.axes,
        "options": recipe.options,
        **{name: rate.value for name, rate in rates.items()},
        "rates": {name: told(rate) for name, rate in rates.items()},
        "bytes": (folder / WEIGHTS).stat().st_size,
    }


def _write_index(recipes: Sequence[Recipe], finished: Mapping[str, dict[str, Any]], output: Path) -> dict[str, Any]:
    index = {
        "models": [finished[recipe.name] for recipe in recipes if recipe.name in finished],
        "summary": _summary([recipe for recipe in recipes if recipe.name in finished], finished),
        "missing": [recipe.name for recipe in recipes if recipe.name not in finished],
    }
    write_json(output / "index.json", index)
    write_file(output / "index.md", lambda temporary: temporary.write_text(_markdown(index)))
    return index


def _summary(recipes: Sequence[Recipe], finished: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return mean and range over the seeds of models that differ in nothing else."""
    groups: dict[Any, list[Recipe]] = {}
    for recipe in recipes:
        if "seed" in recipe.axes:
            alike = (recipe.group, replace(recipe.settings, seed=0), recipe.source)
            groups.setdefault(alike, []).append(recipe)
    return [
        {
            "name": members[0].group,
            "axes": {axis: value for axis, value in members[0].axes.items() if axis != "seed"},
            "seeds": [recipe.settings.seed for recipe in members],
            **_spans([finished[recipe.name] for recipe in members]),
        }
        for members in groups.values()
    ]


def _spans(entries: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    found = {name: [entry[name] for entry in entries if name in entry] for name in RATES}
    return {
        name: {"mean": fmean(values), "min": min(values), "max": max(values)}
        for name, values in found.items()
        if values
    }


def _markdown(index: Mapping[str, Any]) -> str:
    drawn = [NOTE]
    drawn += [markdown_table(lines) for lines in tables(index)]
    if index["missing"]:
        drawn.append(f"Not trained: {', '.join(index['missing'])}.\n")
    return "\n".join(drawn)

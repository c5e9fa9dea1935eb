"""A suite: a grid of checkpoints, triggers and defenses, measured side by side and kept piece by piece."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from importlib.metadata import version
from importlib.resources import files
from itertools import product
from pathlib import Path
from typing import Any

import torch
import yaml
from joblib import Parallel, delayed
from jsonargparse import ArgumentError, ArgumentParser

from februus import registry
from februus.benchmark.cases import Case, data_of, find_checkpoints, open_cases
from februus.benchmark.evaluation import ORACLE, evaluate, measure_oracle
from februus.checks import check_choice, check_range, mismatch
from februus.files import output_folder, write_json
from februus.models import read_card
from februus.models.checkpoint import WEIGHTS
from februus.panel import draw_panel
from februus.poisoning import stamp
from februus.purifier import Purifier
from februus.seeds import seeded

__all__ = ["Suite", "Unit", "draw_case", "read_suite", "run_suite", "shipped", "takes_inpainter"]

SUITES = files("februus.benchmark").joinpath("suites")
# The trigger that a checkpoint's card tells of.
OWN = "own"
# How a checkpoint of a suite is told: options of `open_case`.
TOLD = ("model", "name", "data", "split", "image_column", "label_column", "weights", "normalization", "image_size")
BACKDOOR = ("trigger", "target_label", "source_label")
DRAWN = 2


@dataclass(frozen=True, kw_only=True)
class Suite:
    """What a benchmark measures: each defense on each checkpoint with each trigger.

    Args:
        checkpoints: folders of checkpoints, searched to the bottom; or options of `februus.benchmark.cases.open_case`,
            with at least model: for a module:function, a name of torchvision or timm, data and triggers of one's own.
        defenses: presets with options, as verified, everywhere:restorer=jpeg, reject:detector=strip; or oracle.
        triggers: own for what the card tells; methods of the family triggers, which lead to the card's target.
        inpainters: that each preset which restores regions is tried with.
        data: pictures, as evaluate takes them, of checkpoints whose pictures are not drawn; the card's where not given.
        pictures: how many are scored of each checkpoint.
        references: how many other pictures a defense may learn from.
        seeds: of everything random; the whole grid is measured with each.
        batch_size: pictures that are worked on at once.
    """

    checkpoints: list[str | dict[str, Any]]
    defenses: list[str]
    triggers: list[str] = field(default_factory=lambda: [OWN])
    inpainters: list[str] = field(default_factory=lambda: ["gan"])
    data: str | None = None
    pictures: int = 500
    references: int = 256
    seeds: list[int] = field(default_factory=lambda: [0])
    batch_size: int = 256

    def __post_init__(self) -> None:
        for name in ("checkpoints", "defenses", "triggers", "inpainters", "seeds"):
            if not getattr(self, name):
                raise mismatch(name, "at least one", "none")
        for name in ("pictures", "references", "batch_size"):
            check_range(name, getattr(self, name), 1)
        for checkpoint in self.checkpoints:
            if isinstance(checkpoint, dict):
                for option in checkpoint:
                    check_choice("option of a checkpoint", option, (*TOLD, *BACKDOOR))
                if "model" not in checkpoint:
                    raise mismatch("checkpoint", "at least the option model", checkpoint)
        for spec in self.presets():
            if spec != ORACLE:
                registry.create("presets", spec)
        for trigger in self.triggers:
            if trigger != OWN:
                registry.create("triggers", trigger)

    def presets(self) -> list[str]:
        """Return the defenses, each that restores regions with each of the inpainters."""
        found = []
        for spec in self.defenses:
            if spec == ORACLE or self.inpainters == ["gan"] or not takes_inpainter(spec):
                found.append(spec)
                continue
            found += [f"{spec}{',' if ':' in spec else ':'}inpainter={inpainter}" for inpainter in self.inpainters]
        return found

    def units(self) -> list[Unit]:
        """Return what is measured, piece by piece; the pieces of one checkpoint are neighbours.

        Raises:
            ValueError: if a folder holds no checkpoint, or two have the same name.
        """
        models = list(self._models())
        names = [str(model.get("name", model["model"])) for model in models]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise mismatch("checkpoints", "names that differ", f"{names.count(twice)} called {twice}")
        backdoored = [_is_backdoored(model) for model in models]
        grid = product(zip(models, backdoored, strict=True), self.seeds, self.triggers, self.presets())
        return [
            Unit(
                checkpoint=checkpoint,
                trigger=trigger,
                preset=preset,
                seed=seed,
                pictures=self.pictures,
                references=self.references,
                batch_size=self.batch_size,
            )
            for (checkpoint, known), seed, trigger, preset in grid
            # A clean model has no class that another trigger could lead to, and no trigger to be restored.
            if known or (trigger == OWN and preset != ORACLE)
        ]

    def _models(self) -> Iterator[dict[str, Any]]:
        for checkpoint in self.checkpoints:
            if isinstance(checkpoint, dict):
                yield {"data": self.data, **checkpoint}
                continue
            folder = Path(checkpoint)
            if not folder.is_dir():
                raise mismatch("checkpoints", "folders of checkpoints", repr(checkpoint))
            for path in find_checkpoints(folder):
                yield {"model": str(path), "name": path.name, "data": data_of(path, self.data)}


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One defense on one checkpoint: what is measured, kept and passed over as a whole; the fields are `Suite`'s."""

    checkpoint: dict[str, Any]
    trigger: str
    preset: str
    seed: int
    pictures: int
    references: int
    batch_size: int

    @property
    def name(self) -> str:
        """What to call it."""
        parts = [str(self.checkpoint.get("name", self.checkpoint["model"])), self.preset]
        parts += [] if self.trigger == OWN else [self.trigger]
        return " ".join([*parts, *([f"seed {self.seed}"] if self.seed else [])])

    @property
    def digest(self) -> str:
        """What tells it from a unit with other options or other weights."""
        content = json.dumps(asdict(self), sort_keys=True, default=str).encode() + version("februus").encode()
        for file in (self.checkpoint.get("weights"), Path(self.checkpoint["model"], WEIGHTS)):
            if file is not None and Path(file).is_file():
                content += hashlib.sha256(Path(file).read_bytes()).digest()
        return hashlib.sha256(content).hexdigest()[:12]

    @property
    def stem(self) -> str:
        """The name of its files, without ending."""
        return f"{re.sub('[^A-Za-z0-9#-]+', '-', self.name).strip('-')[:80]}-{self.digest}"

    def open_cases(self) -> list[Case]:
        """Open the checkpoint with pictures and triggers."""
        options: dict[str, Any] = {
            "pictures": self.pictures,
            "references": self.references,
            "seed": self.seed,
            **self.checkpoint,
            **({} if self.trigger == OWN else {"trigger": self.trigger}),
        }
        if options.get("weights") is not None:
            options["weights"] = Path(options["weights"])
        return open_cases(**options)


def takes_inpainter(spec: str) -> bool:
    """Tell whether a preset restores regions and does not say yet by what."""
    name, _, options = spec.partition(":")
    return "inpainter=" not in options and "inpainter" in registry.options_of(registry.find("presets", name))


def shipped() -> tuple[str, ...]:
    """Return the names of the suites that come with the package."""
    return tuple(sorted(Path(file.name).stem for file in SUITES.iterdir() if file.name.endswith(".yaml")))


def read_suite(source: str, **changes: Any) -> Suite:
    """Read a suite from a YAML file, or one that comes with the package.

    Args:
        source: the file, or a name of `shipped`.
        changes: fields of `Suite` that win over those in the file; None changes nothing.

    Raises:
        ValueError: if there is no such suite, or what it holds does not fit.
    """
    path = Path(source)
    if not path.is_file():
        check_choice("suite", source, (*shipped(), "or a file"))
    text = path.read_text() if path.is_file() else SUITES.joinpath(f"{source}.yaml").read_text()
    try:
        content = yaml.safe_load(text)
        if not isinstance(content, dict):
            raise mismatch("suite", "a mapping of options", type(content).__name__)
        content |= {name: value for name, value in changes.items() if value is not None}
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(Suite, None, as_group=False)
        return Suite(**parser.parse_object(content).as_dict())
    except (ArgumentError, yaml.YAMLError, ValueError) as error:
        raise ValueError(f"suite {source}: {error}") from error


def run_suite(
    suite: Suite,
    output: Path,
    *,
    jobs: int = 1,
    on_unit: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Measure what is not measured yet, and return all that is.

    Each unit is written to ``output/cases`` by the process that measured it, so a run that is killed loses no finished
    one. Every process computes with one thread: the figures do not depend on how many there are.

    Args:
        suite: the grid.
        output: the folder.
        jobs: processes at once. They are joblib's: its ``parallel_config`` sends them to a cluster instead.
        on_unit: called with the number of units that are done, and of all.

    Returns:
        ``rows`` (as `Row.to_dict` gives them, with the seed and the stem of their picture), ``suite``, and ``failed``:
        the reasons by the names of the units that could not be measured.
    """
    check_range("jobs", jobs, 1)
    cases = output_folder(output / "cases")
    units = suite.units()
    pending = [unit for unit in units if _kept(unit, cases) is None]
    done = len(units) - len(pending)
    if on_unit is not None:
        on_unit(done, len(units))
    failed: dict[str, str] = {}
    workers = Parallel(n_jobs=jobs, return_as="generator_unordered")
    for name, reason in workers(delayed(_measure)(unit, cases) for unit in pending):
        done += 1
        if reason is not None:
            failed[name] = reason
        if on_unit is not None:
            on_unit(done, len(units))
    found = [_kept(unit, cases) for unit in units]
    rows = [row for kept in found if kept is not None for row in kept]
    return {"rows": rows, "suite": asdict(suite), "failed": failed}


def _is_backdoored(checkpoint: dict[str, Any]) -> bool:
    """Tell whether a target class is known."""
    if checkpoint.get("target_label") is not None:
        return True
    return Path(checkpoint["model"], WEIGHTS).is_file() and read_card(checkpoint["model"]).target_label is not None


def _measure(unit: Unit, cases: Path) -> tuple[str, str | None]:
    """Measure a unit and keep its rows and its picture; return its name, and why it could not be done."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = []
        for number, case in enumerate(_open(json.dumps(asdict(replace(unit, preset=""))))):
            if unit.preset == ORACLE:
                inpainter = registry.create("inpainters", "gan")
                row = measure_oracle(case, inpainter, batch_size=unit.batch_size, seed=unit.seed)
                rows += [{**row.to_dict(), "seed": unit.seed, "picture": None}] if row else []
                continue
            purifier = Purifier.for_model(case.model, case.reference, preset=unit.preset, batch_size=unit.batch_size)
            (row,) = evaluate(case, {unit.preset: purifier}, seed=unit.seed, oracle=False)
            picture = f"{unit.stem}-{number}.png"
            draw_case(case, purifier, cases / picture, pictures=DRAWN, seed=unit.seed)
            rows.append({**row.to_dict(), "seed": unit.seed, "picture": picture})
        write_json(cases / f"{unit.stem}.json", {"unit": asdict(unit), "rows": rows})
    except (ValueError, OSError) as error:
        return unit.name, str(error)
    finally:
        torch.set_num_threads(threads)
    return unit.name, None


@lru_cache(maxsize=1)
def _open(unit: str) -> list[Case]:
    """Open the cases of a unit; its neighbours, which differ only in their preset, take the same."""
    opened = Unit(**json.loads(unit))
    cases = opened.open_cases()
    return [case if opened.trigger == OWN else replace(case, name=f"{case.name} {opened.trigger}") for case in cases]


def _kept(unit: Unit, cases: Path) -> list[dict[str, Any]] | None:
    """Return the rows of a unit that was measured before."""
    path = cases / f"{unit.stem}.json"
    if not path.is_file():
        return None
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_bytes())["rows"]
    except (ValueError, KeyError, TypeError) as error:
        raise mismatch(str(path), "what a benchmark wrote", repr(error)) from error
    return rows


def draw_case(case: Case, purifier: Purifier, path: Path, *, pictures: int, seed: int) -> None:
    """Draw pictures on which the attack counts: those of other classes, with the trigger where there is one."""
    chosen = case.victims.take(pictures, seeded(seed))
    if case.trigger is not None:
        chosen = stamp(chosen, case.trigger, seeded(seed))
    images = chosen.floats().to(next(case.model.parameters()).device)
    first = "clean" if case.trigger is None else "triggered"
    draw_panel(path, images, purifier(images), case.test.classes, first_column=first)

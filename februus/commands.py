"""Sanitize the pictures that a possibly backdoored classifier is asked about, and measure such defenses."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import torch
from accelerate import PartialState
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor

from februus import registry
from februus.benchmark.adversarial import Adversary, draw_adversarial, measure_adversarial
from februus.benchmark.cases import DRAWN, Case, data_of, find_checkpoints, open_cases
from februus.benchmark.evaluation import Row
from februus.benchmark.evaluation import evaluate as evaluate_case
from februus.benchmark.inpainting import draw_inpainters
from februus.benchmark.inpainting import measure_inpainters as measure
from februus.benchmark.report import markdown, table, write_benchmark, write_report
from februus.benchmark.scans import measure_scan
from februus.benchmark.speed import compare_batched, compare_round, measure_rounds
from februus.benchmark.suite import draw_case, read_suite, run_suite, takes_inpainter
from februus.benchmark.zoo import Recipe, plan, tables, train_zoo
from februus.checks import check_device, check_range, mismatch
from februus.data import Dataset, Source, load
from februus.explanation import draw_explanation
from februus.explanation import explain as explain_picture
from februus.federated import Federation
from februus.federated import train as train_federated
from februus.federated.population import Engine
from februus.files import output_folder, write_file, write_json
from februus.metrics import Rate, told
from februus.models import Normalized, build
from februus.models import load as load_model
from februus.presets.verified import PARTS
from februus.priors import make_scanner
from februus.priors import scan as scan_model
from februus.progress import console, progress
from februus.purifier import Purifier
from februus.sanitizing import Record, check_output, find_pictures, read_picture
from februus.sanitizing import sanitize as sanitize_pictures
from februus.scanning import Service, draw_scan, observe
from februus.seeds import seeded
from februus.training.inpainting import InpainterTraining
from februus.training.inpainting import train_inpainter as train_completion

__all__ = ["COMMANDS"]

PANEL_ROWS = 4
# Clean pictures that thresholds are taken from.
REFERENCES = 256
# Pictures on which only the normalisation is checked.
NORMALIZED = 16


class PictureSize(TypedDict):
    """Which pictures a model takes: their side, and the centre that is cropped before."""

    image_size: int
    center_crop: int | None


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which classifier.

    Args:
        model: checkpoint folder, module:function, or the name of an architecture, also of torchvision or timm.
        weights: file of weights, where the model is not a folder.
        normalization: none, imagenet, cifar10 or gtsrb, where no card tells it.
        image_size: side in pixels of the pictures that it takes, where no card tells it.
        device: auto, cpu, cuda or mps.
    """

    model: str
    weights: Path | None = None
    normalization: str | None = None
    image_size: int | None = None
    device: str = "auto"

    def load(self) -> Normalized:
        """Load the classifier."""
        return load_model(
            self.model,
            weights=self.weights,
            normalization=self.normalization,
            image_size=self.image_size,
            device=check_device(self.device),
        )

    def picture_size(self, model: Normalized) -> PictureSize:
        """Return the size of the pictures that the classifier takes."""
        if model.card is None:
            return {"image_size": self.image_size or 32, "center_crop": None}
        size, crop = model.card.image_size, model.card.center_crop
        return {"image_size": size, "center_crop": None if crop == size else crop}

    def open_cases(self, **options: Any) -> list[Case]:
        """Load the classifier with pictures and triggers; the options are those of `februus.benchmark.cases`."""
        return open_cases(
            self.model,
            weights=self.weights,
            normalization=self.normalization,
            image_size=self.image_size,
            device=check_device(self.device),
            **options,
        )


@dataclass(frozen=True, kw_only=True)
class PurifierOptions:
    """How pictures are purified.

    Args:
        preset: verified, which touches only proven triggers, or paper, the published recipe; with options, as
            verified:false_positive_rate=0.01 or paper:threshold=0.8.
        inpainter: biharmonic, gan, mean-fill, navier-stokes or telea; options as gan:weights=FILE; the preset's where
            not given.
        reference: clean pictures of the kind that the model sees, from which verified takes its thresholds: a folder of
            pictures, or a data set as train takes it; the card's where that is signs.
        references: how many of them, drawn at random.
        prior: file that scan wrote of a backdoor in the model, for verified.
        purifier: folder that calibrate wrote; it stands for the five options above.
        batch_size: pictures that are worked on at once.
    """

    preset: str = "verified"
    inpainter: str | None = None
    reference: str | None = None
    references: int = REFERENCES
    prior: Path | None = None
    purifier: Path | None = None
    batch_size: int = 256

    def build(self, model: Normalized, size: PictureSize) -> Purifier:
        """Make the purifier, or read the one that was kept."""
        if self.purifier is not None:
            return Purifier.load(self.purifier, model)
        chosen = {"inpainter": self.inpainter, "prior": None if self.prior is None else str(self.prior)}
        return Purifier.for_model(
            model,
            self.read_reference(model, size),
            preset=self.preset,
            batch_size=self.batch_size,
            **{name: value for name, value in chosen.items() if value is not None},
        )

    def read_reference(self, model: Normalized, size: PictureSize) -> Tensor | None:
        """Read the clean pictures, where the model lies; None where none were named and the card's are not drawn."""
        source = self.reference
        if source is None and model.card is not None and model.card.dataset == DRAWN:
            source = DRAWN
        return None if source is None else self._read(source, size).to(next(model.parameters()).device)

    def _read(self, source: str, size: PictureSize) -> Tensor:
        check_range("references", self.references, 1)
        generator = seeded(0)
        try:
            paths = find_pictures(Path(source))
        except ValueError:
            return load(source, "train", **size).take(self.references, generator).floats()
        drawn = torch.randperm(len(paths), generator=generator)[: self.references].tolist()
        return torch.stack([read_picture(paths[index], **size) for index in sorted(drawn)])


def demo(*, output: Path = Path("februus-demo"), seed: int = 0, device: str = "auto") -> None:
    """Backdoor a federated model of drawn traffic signs, then defend it; two to seven minutes on two cores.

    Args:
        output: folder of the checkpoint, report.json and a panel of each preset; the same command goes on where it was
            stopped.
        seed: of everything random.
        device: auto, cpu, cuda or mps.
    """
    settings = Federation(
        clients=5, malicious=1, rounds=8, trigger="sticker", target_label=11, poison_rate=0.5, seed=seed
    )
    console.print(
        "Five clients train a model of traffic signs together. One of them pastes a flower on half of its signs and "
        "calls them 'parking'. Each round shows the accuracy on clean signs (CA) and how often a sign with a flower "
        "is taken for 'parking' (ASR)."
    )
    train, test = load("signs", "train"), load("signs", "test")
    model = _train(settings, train, test, output / "model", device=device)
    (backdoor,) = settings.make_attack().backdoors
    case = Case(
        name="demo",
        model=model,
        test=test,
        reference=train.take(REFERENCES, seeded(seed)).floats().to(check_device(device)),
        trigger=backdoor.trigger,
        target_label=backdoor.target_label,
    )
    console.print(
        "Now each picture passes the purifier before the model sees it: 'paper' is the published recipe, 'verified' "
        "touches only what is proven to be a trigger."
    )
    rows = _evaluate(case, ["paper", "verified"], output, inpainter=None, batch_size=256, seed=seed)
    write_report(output / "report.json", rows, seed=seed)
    console.print(table(rows))
    console.print(f"wrote {output}", soft_wrap=True)


def train(
    settings: Federation,
    source: Source,
    *,
    output: Path,
    engine: str = "local",
    threads: int | None = None,
    device: str = "auto",
) -> None:
    """Train a model by federated learning while some clients attack.

    Args:
        settings: of the federation.
        source: of the pictures.
        output: folder of the checkpoint, with a figure of feature-collision; the same command goes on where it stopped.
        engine: where clients work, a method of the family engines: local, in this process, or flower, in processes of
            Flower's simulation, as flower:processes=2.
        threads: that a client computes with, in either engine; as many as torch takes where not given.
        device: auto, cpu, cuda or mps.
    """
    place = _engine(engine, threads)
    pictures, test = source.load("train"), source.load("test")
    _train(settings, pictures, test, output, engine=place, center_crop=source.center_crop or 0, device=device)
    console.print(f"wrote {output}", soft_wrap=True)


def zoo(
    *,
    models: list[dict[str, Any]],
    defaults: dict[str, Any] = {},  # noqa: B006
    output: Path,
    engine: str = "local",
    threads: int | None = None,
    device: str = "auto",
) -> int:
    """Train many models, as a file tells by --config; the exit code is 1 where one failed.

    Args:
        models: of each the options of train, with underscores, and a name; a list of values is an axis of a grid.
        defaults: options of train for all models.
        output: folder of checkpoints, index.json and index.md; the same command goes on where it was stopped.
        engine: as of train.
        threads: as of train.
        device: auto, cpu, cuda or mps.
    """
    recipes = plan(models, defaults)

    def on_model(recipe: Recipe) -> None:
        console.print(f"{recipes.index(recipe) + 1}/{len(recipes)} {recipe.name}", soft_wrap=True)

    def on_failure(recipe: Recipe, error: ValueError) -> None:
        console.print(f"failed {recipe.name}: {error}", style="red", soft_wrap=True)

    trainer = partial(_train, engine=_engine(engine, threads), device=check_device(device))
    index = train_zoo(recipes, output, train=trainer, on_model=on_model, on_failure=on_failure)
    for headings, *lines in tables(index):
        drawn = Table(*headings, box=SIMPLE_HEAD)
        for line in lines:
            drawn.add_row(*line)
        console.print(drawn)
    console.print(f"wrote {output}", soft_wrap=True)
    return 1 if index["missing"] else 0


def train_inpainter(
    settings: InpainterTraining,
    *,
    data: list[str],
    output: Path,
    image_size: int | None = None,
    device: str = "auto",
) -> None:
    """Train the inpainting GAN; on several GPUs or CPUs under `torchrun --nproc-per-node N -m februus.cli`.

    Args:
        settings: of the training.
        data: pictures to learn from, one or more sources, as --data '[signs, FOLDER]'.
        output: folder of weights, card, metrics and samples; the same command goes on where it was stopped.
        image_size: side in pixels; the pictures' own where not given.
        device: auto or cpu.
    """
    train = [load(source, "train", image_size=image_size) for source in data]
    test = [load(source, "test", image_size=image_size) for source in data]
    with progress() as bars:
        # Of several processes one reports.
        bar = bars.add_task("steps", total=settings.steps, visible=False)

        def on_step(step: int, row: dict[str, float] | None) -> None:
            bars.update(bar, completed=step, visible=True)
            if row is not None:
                figures = "  ".join(f"{name} {value:.3f}" for name, value in row.items() if name != "step")
                console.print(f"step {step}  {figures}", soft_wrap=True)

        weights = train_completion(settings, train, test, output, device=device, on_step=on_step)
    if PartialState().is_main_process:
        console.print(f"wrote {weights}", soft_wrap=True)


def sanitize(
    source: Path,
    output: Path,
    model: ModelOptions,
    purifier: PurifierOptions,
    *,
    panels: bool = False,
    overwrite: bool = False,
) -> int:
    """Sanitize a picture or a folder of pictures; the exit code is 1 where a file was no good.

    Args:
        source: a picture or a folder.
        output: a folder, or the path of a picture; pictures, manifest.csv and manifest.json are written there.
        model: the classifier.
        purifier: how.
        panels: whether to draw each picture's way beside it.
        overwrite: whether the output may exist.
    """
    count = len(find_pictures(source))
    # Before the purifier is made, which may take long.
    check_output(source, output, overwrite=overwrite)
    loaded = model.load()
    card, size = loaded.card, model.picture_size(loaded)
    failed = flagged = 0
    with progress() as bars:
        bar = bars.add_task("pictures", total=count)

        def on_picture(record: Record) -> None:
            nonlocal failed, flagged
            bars.advance(bar)
            flagged += bool(record.flagged)
            if record.error:
                failed += 1
                console.print(f"failed {record.error}", style="red", soft_wrap=True)

        sanitize_pictures(
            source,
            output,
            purifier.build(loaded, size),
            **size,
            classes=card.classes if card else (),
            panels=panels,
            overwrite=overwrite,
            on_picture=on_picture,
        )
    done = f"{count - failed} of {count} pictures sanitized, {flagged} flagged; manifest beside them"
    console.print(done)
    return 1 if failed else 0


def calibrate(model: ModelOptions, purifier: PurifierOptions, *, output: Path) -> None:
    """Fit a purifier to a model and keep it, so that sanitize and explain need no reference pictures.

    Args:
        model: the classifier.
        purifier: how pictures are purified.
        output: folder of the purifier.
    """
    loaded = model.load()
    purifier.build(loaded, model.picture_size(loaded)).save(output)
    console.print(f"wrote {output}", soft_wrap=True)


def explain(picture: Path, model: ModelOptions, purifier: PurifierOptions, *, output: Path) -> None:
    """Draw why a picture is suspected or not: heatmaps, candidate regions, what each does, and the verdict.

    Args:
        picture: the picture.
        model: the classifier.
        purifier: how pictures are purified.
        output: the figure, a PNG.
    """
    loaded = model.load()
    size = model.picture_size(loaded)
    image = read_picture(picture, **size)[None].to(next(loaded.parameters()).device)
    explanation = explain_picture(purifier.build(loaded, size), image)
    draw_explanation(output, explanation, loaded.card.classes if loaded.card else ())
    console.print(f"wrote {output}", soft_wrap=True)


def scan(
    model: ModelOptions,
    purifier: PurifierOptions,
    *,
    pictures: Path | None = None,
    detector: str = "neural-cleanse",
    output: Path,
) -> None:
    """Look for a backdoor in a model, and in pictures that it was asked about in service.

    Args:
        model: the classifier.
        purifier: how the pictures are purified; its reference is what the model is tried on.
        pictures: a folder of pictures that were seen in service.
        detector: what looks, with options, as neural-cleanse:steps=400,batch_size=1024.
        output: folder of scan.json, scan.png and, where a class is suspected, prior.safetensors for the option prior;
            where the pictures have a trigger in common, trigger.safetensors, for the trigger pixels:weights=FILE.
    """
    scanner = make_scanner(detector)
    output_folder(output)
    loaded = model.load()
    size = model.picture_size(loaded)
    reference = purifier.read_reference(loaded, size)
    if reference is None:
        raise mismatch("reference", "clean pictures to try the model on", "none")
    paths = [] if pictures is None else find_pictures(pictures)
    with console.status("looking for the smallest trigger of each class"):
        found = scan_model(loaded, reference, scanner)
    classes = loaded.card.classes if loaded.card else ()

    def named(label: int) -> str:
        return f"{label} ({classes[label]})" if classes else str(label)

    facts: dict[str, Any] = {
        "anomaly_indices": found.indices.tolist(),
        "norms": found.triggers.norms.tolist(),
        "success": found.triggers.success.tolist(),
        "suspects": list(found.suspects),
    }
    if found.prior is None:
        console.print("no class is suspected: none is reached by a much smaller trigger than the others")
    else:
        found.prior.save(output / "prior.safetensors")
        suspects = ", ".join(f"{named(label)}, index {found.indices[label]:.1f}" for label in found.suspects)
        console.print(f"suspected: {suspects}")
    service = None
    if paths:
        seen = torch.stack([read_picture(path, **size) for path in paths]).to(reference.device)
        service = observe(purifier.build(loaded, size), seen, reference)
        facts["service"] = _service_facts(service)
        console.print(f"flagged {service.flagged.count} of {service.flagged.total} pictures")
        if service.suspect is not None:
            console.print(f"most of them were taken for class {named(service.suspect)}: {service.taken}")
        if service.trigger is not None:
            service.trigger.save(output / "trigger.safetensors")
            console.print(f"what they have in common leads reference pictures there: {service.success}")
    write_json(output / "scan.json", facts)
    draw_scan(output / "scan.png", found, service, classes)
    console.print(f"wrote {output}", soft_wrap=True)


def evaluate(
    model: ModelOptions,
    *,
    presets: list[str] = ["paper", "verified"],  # noqa: B006
    inpainter: str | None = None,
    batch_size: int = 256,
    data: str | None = None,
    split: str = "test",
    image_column: str | None = None,
    label_column: str | None = None,
    trigger: str | None = None,
    target_label: int | None = None,
    source_label: int | None = None,
    pictures: int | None = None,
    references: int = REFERENCES,
    seed: int = 0,
    output: Path = Path("februus-evaluation"),
) -> None:
    """Measure models before and behind purifiers, on clean and on triggered pictures, beside the oracle.

    Args:
        model: the classifier, or a folder of checkpoints, each of which is called by its path in it. One with several
            backdoors is measured for each of them.
        presets: of the purifier, side by side; with options, as '[paper:threshold=0.8, verified]'.
        inpainter: what the presets that restore regions do it with, as gan, telea or gan:weights=FILE; theirs where
            not given.
        batch_size: pictures that are worked on at once.
        data: pictures: signs, a folder, a torchvision or a Hugging Face data set, or a folder that holds the card's
            data set under its name; the card's where not given, and, among several checkpoints, where that is signs.
        split: of the data.
        image_column: of a Hugging Face data set, where it is neither image nor img.
        label_column: of a Hugging Face data set, where it is none of label, labels and fine_label.
        trigger: a method of the family triggers, with options as patch:size=4; the card's where not given.
        target_label: the class that the attacker wants; the card's where not given.
        source_label: the only class whose pictures are to be turned; the card's where not given.
        pictures: how many are scored, drawn at random; all that are no references where not given.
        references: how many other pictures the presets take their thresholds from.
        seed: of everything random.
        output: folder of report.json, report.md and a panel of each model and preset.
    """
    rows = []
    for name, checkpoint, own in _checkpoints(model, data):
        cases = checkpoint.open_cases(
            name=name,
            data=own,
            split=split,
            image_column=image_column,
            label_column=label_column,
            trigger=trigger,
            target_label=target_label,
            source_label=source_label,
            pictures=pictures,
            references=references,
            seed=seed,
        )
        for case in cases:
            rows += _evaluate(case, presets, output, inpainter=inpainter, batch_size=batch_size, seed=seed)
            # After each case: what is done is kept where a later one fails.
            write_report(output / "report.json", rows, seed=seed)
            write_file(output / "report.md", partial(_write_text, markdown(rows)))
    console.print(table(rows))
    console.print(f"wrote {output}", soft_wrap=True)


def ablate(
    model: ModelOptions,
    *,
    data: str | None = None,
    pictures: int | None = None,
    references: int = REFERENCES,
    seed: int = 0,
    output: Path = Path("februus-ablation"),
) -> None:
    """Measure the preset verified whole, and with each of its parts left out or replaced by a plainer one.

    Args:
        model: the classifier, or a folder of checkpoints.
        data: as of evaluate.
        pictures: how many are scored, drawn at random; all that are no references where not given.
        references: how many other pictures the thresholds come from.
        seed: of everything random.
        output: folder of report.json, report.md and panels.
    """
    parts = [f"verified:without={part}" for part in PARTS]
    plainer = ["verified:localizer=grad-cam", "verified:inpainter=mean-fill"]
    presets = ["verified", *parts, *plainer]
    evaluate(model, presets=presets, data=data, pictures=pictures, references=references, seed=seed, output=output)


def bench(
    *,
    suite: str = "smoke",
    checkpoints: list[str] | None = None,
    data: str | None = None,
    pictures: int | None = None,
    output: Path = Path("februus-bench"),
    jobs: int | None = None,
) -> int:
    """Measure every defense of a suite on every checkpoint, and write a report; the exit code is 1 where one failed.

    Args:
        suite: a YAML file, or a suite that ships: smoke, standard, full or detectors.
        checkpoints: folders that stand for those of the suite.
        data: pictures that stand for those of the suite.
        pictures: how many are scored of each checkpoint, where not as many as the suite says.
        output: folder of report.html, report.md, report.csv and report.json; the same command goes on where it was
            stopped.
        jobs: processes at once; as many as there are cores where not given.
    """
    chosen = read_suite(suite, checkpoints=checkpoints, data=data, pictures=pictures)
    output_folder(output)
    with progress() as bars:
        bar = bars.add_task(suite, total=None)
        report = run_suite(
            chosen,
            output,
            jobs=jobs or os.cpu_count() or 1,
            on_unit=lambda done, total: bars.update(bar, completed=done, total=total),
        )
    write_benchmark(output, report)
    for name, reason in report["failed"].items():
        console.print(f"failed {name}: {reason}", style="red", soft_wrap=True)
    console.print(f"wrote {output / 'report.html'}", soft_wrap=True)
    return 1 if report["failed"] else 0


def measure_scans(
    model: ModelOptions,
    *,
    data: str | None = None,
    references: int = REFERENCES,
    detector: str = "neural-cleanse",
    loop: bool = False,
    seed: int = 0,
    output: Path = Path("februus-scans"),
) -> None:
    """Scan models whose backdoor is known, and clean ones: is the target class found, and no other?

    Args:
        model: the classifier, or a folder of checkpoints.
        data: as of evaluate.
        references: how many clean pictures each model is tried on.
        detector: what looks, with options, as neural-cleanse:steps=400,batch_size=1024.
        loop: whether each scan is done again with one class at a time, to compare time and outcome.
        seed: of everything random.
        output: folder of scans.json.
    """
    scanner = make_scanner(detector)
    output_folder(output)
    drawn = Table(box=SIMPLE_HEAD)
    drawn.add_column("model", overflow="fold", min_width=16)
    compared = ("s, loop", "same", "rho") if loop else ()
    for heading in ("target", "rank", "index", "pixels", "suspects", "s", *compared):
        drawn.add_column(heading, no_wrap=True)
    rows = []
    for name, checkpoint, own in _checkpoints(model, data):
        for case in checkpoint.open_cases(name=name, data=own, pictures=1, references=references, seed=seed):
            with console.status(case.name):
                row = measure_scan(case, scanner, against_loop=loop)
            rows.append(asdict(row))
            # After each: what is done is kept where a later one fails.
            write_json(output / "scans.json", rows)
            cells = [
                row.name,
                _cell(row.target_label),
                "" if row.rank is None else f"{row.rank} of {row.classes}",
                f"{row.index:.1f}",
                f"{row.norm:.1f}",
                ", ".join(map(str, row.suspects)),
                f"{row.seconds:.0f}",
            ]
            if row.loop_seconds is not None:
                cells += [f"{row.loop_seconds:.0f}", _cell(row.same_suspects).lower(), f"{row.rank_correlation:.2f}"]
            drawn.add_row(*cells)
    console.print(drawn)
    clean = [row for row in rows if row["target_label"] is None]
    if clean:
        console.print(f"clean models with a suspect: {Rate(sum(bool(row['suspects']) for row in clean), len(clean))}")
    console.print(f"wrote {output}", soft_wrap=True)


def measure_inpainters(
    model: ModelOptions,
    *,
    data: str | None = None,
    pictures: int = 2000,
    threshold: float = 0.7,
    seed: int = 0,
    output: Path = Path("februus-inpainters"),
) -> None:
    """Compare all inpainters on test pictures: inside square holes, and inside the model's Grad-CAM masks.

    Args:
        model: the classifier whose Grad-CAM masks are holes.
        data: pictures; the card's where not given.
        pictures: how many, drawn at random.
        threshold: heat in (0, 1] from which on a pixel belongs to a Grad-CAM mask.
        seed: of everything random.
        output: folder of inpainters.json and inpainters.png.
    """
    output_folder(output)
    case = model.open_cases(data=data, pictures=pictures, references=NORMALIZED, seed=seed)[0]
    with progress() as bars:
        bar = bars.add_task("inpainters", total=None)
        rows = measure(case.test, case.model, heat=threshold, seed=seed, on_inpainter=lambda: bars.advance(bar))
    drawn = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("holes", "inpainter", "PSNR, dB", "SSIM", "sharpness", "ms", "MMAC"):
        drawn.add_column(heading, no_wrap=True)
    for row in rows:
        drawn.add_row(
            row["holes"].removesuffix(" square"),
            row["inpainter"],
            f"{row['psnr']:.2f} ± {row['psnr_interval']:.2f}",
            f"{row['ssim']:.3f} ± {row['ssim_interval']:.3f}",
            f"{row['gradient_energy']:.2f}",
            f"{1000 * row['seconds']:.2f}",
            f"{row['mega_macs']:.0f}",
        )
    console.print(drawn)
    write_json(output / "inpainters.json", rows)
    draw_inpainters(output / "inpainters.png", [case.test], seed=seed)
    console.print(f"wrote {output}", soft_wrap=True)


def measure_speed(
    *,
    data: str = "signs",
    architecture: str = "small-vgg",
    clients: int = 10,
    pictures: int = 256,
    repeats: int = 3,
    seed: int = 0,
    device: str = "auto",
    output: Path = Path("februus-speed"),
) -> None:
    """Measure two ratios: purifying a batch against one by one, and a federated round against a plain loop.

    Args:
        data: pictures: signs, a folder, a torchvision or a Hugging Face data set.
        architecture: small-vgg, wrn-16-1, a name of torchvision or timm; untrained.
        clients: of the federated round.
        pictures: of the batch.
        repeats: timed pairs; the median ratio counts.
        seed: of everything random.
        device: where pictures are purified; the round is on the CPU.
        output: folder of speed.json.
    """
    for name, value in (("pictures", pictures), ("repeats", repeats)):
        check_range(name, value, 1)
    output_folder(output)
    settings = Federation(architecture=architecture, clients=clients, malicious=0, seed=seed)
    train = load(data, "train")
    torch.manual_seed(seed)
    model = Normalized(build(settings.architecture, num_classes=train.num_classes)).eval().to(check_device(device))
    purifier = Purifier.for_model(model, preset="paper", batch_size=pictures)
    batched = compare_batched(purifier, train.take(pictures, seeded(seed)), repeats=repeats)
    console.print(f"one by one takes {_span(batched)} the time of a batch of {pictures}")
    rounds = compare_round(settings, train, repeats=repeats)
    console.print(f"a federated round takes {_span(rounds)} the time of the same SGD steps")
    write_json(output / "speed.json", {"batched": batched, "round": rounds})


def measure_engines(
    source: Source,
    *,
    architecture: str = "wrn-16-1",
    engines: list[str] = ["local", "flower"],  # noqa: B006
    clients: int = 100,
    crowds: list[int] = [10, 100, 1000],  # noqa: B006
    clients_per_round: int = 10,
    rounds: int = 3,
    threads: int = 1,
    seed: int = 0,
    output: Path = Path("februus-engines"),
) -> None:
    """Measure seconds a round and memory: of each engine, and of the local one as clients become more.

    Args:
        source: of the pictures.
        architecture: small-vgg, wrn-16-1, a name of torchvision or timm; untrained.
        engines: to compare, with options, as '[local, flower:processes=2]'.
        clients: that share the pictures, where engines are compared.
        crowds: how many clients share them, where the memory of the local engine is measured.
        clients_per_round: how many of them work in a round.
        rounds: that are timed; the median counts.
        threads: that each client computes with.
        seed: of everything random.
        output: folder of engines.json.
    """
    for name, value in (("rounds", rounds), ("threads", threads)):
        check_range(name, value, 1)
    for engine in engines:
        registry.create("engines", engine)
    output_folder(output)
    settings = Federation(
        architecture=architecture, clients=clients, clients_per_round=clients_per_round, malicious=0, seed=seed
    )
    cases = [(engine, settings) for engine in engines]
    cases += [("local", replace(settings, clients=count)) for count in crowds]
    rows = []
    drawn = Table(
        "engine", "clients", "a round", "s a round", "s the first", "MB before", "MB at most", box=SIMPLE_HEAD
    )
    for engine, federation in cases:
        row = measure_rounds(federation, source, engine, rounds=rounds, threads=threads)
        rows.append(row)
        drawn.add_row(
            engine,
            str(row["clients"]),
            str(row["clients_per_round"]),
            f"{row['seconds_a_round']:.2f}",
            f"{row['first_seconds']:.2f}",
            f"{row['bytes_before'] / 1e6:.0f}",
            f"{row['bytes_at_peak'] / 1e6:.0f}",
        )
        # After each: what is done is kept where a later one fails.
        write_json(output / "engines.json", rows)
    console.print(drawn)
    console.print(f"wrote {output}", soft_wrap=True)


def measure_robustness(
    model: ModelOptions,
    adversary: Adversary,
    *,
    data: str | None = None,
    pictures: int = 1000,
    batch_size: int = 256,
    seed: int = 0,
    output: Path = Path("februus-robustness"),
) -> None:
    """Measure a model on adversarial examples: test pictures that FGSM and PGD changed against it.

    Args:
        model: the classifier.
        adversary: how far and how long it goes.
        data: pictures; the card's where not given.
        pictures: how many, drawn at random.
        batch_size: pictures that are worked on at once.
        seed: of everything random.
        output: folder of robustness.json and robustness.png.
    """
    output_folder(output)
    case = model.open_cases(data=data, pictures=pictures, references=NORMALIZED, seed=seed)[0]
    with progress() as bars:
        bar = bars.add_task("pictures", total=len(case.test))
        rows = measure_adversarial(
            case.model,
            case.test,
            adversary,
            batch_size=batch_size,
            seed=seed,
            on_images=lambda count: bars.advance(bar, count),
        )
    drawn = Table("adversary", "accuracy", "L2 of the change", "Linf of the change", box=SIMPLE_HEAD)
    for row in rows:
        drawn.add_row(row.adversary, str(row.accuracy), f"{row.l2:.3f}", f"{row.linf:.4f}")
    console.print(drawn)
    facts = {"model": case.name, "data": case.test.name, "seed": seed, **asdict(adversary)}
    write_json(output / "robustness.json", {**facts, "rows": [row.to_dict() for row in rows]})
    draw_adversarial(output / "robustness.png", case.model, case.test, adversary, seed=seed)
    console.print(f"wrote {output}", soft_wrap=True)


def methods() -> None:
    """List the methods that other commands take, with their options: NAME or NAME:option=value,option=value."""
    for family in registry.FAMILIES:
        drawn = Table("name", "options", title=family, title_justify="left", show_header=False, box=None)
        for name in registry.available(family):
            known = registry.options_of(registry.find(family, name)).values()
            drawn.add_row(name, ", ".join(str(option).split(":")[0] + _default(option) for option in known))
        console.print(drawn)


def _default(option: Any) -> str:
    return "" if option.default is option.empty else f"={option.default}"


def _span(measured: dict[str, Any]) -> str:
    low, high = measured["ratio_range"]
    return f"{measured['ratio']:.2f} ({low:.2f} to {high:.2f}) times"


def _engine(spec: str, threads: int | None) -> Engine:
    """Return where clients work, and let this process compute with as many threads as they shall."""
    if threads is not None:
        check_range("threads", threads, 1)
        torch.set_num_threads(threads)
    engine: Engine = registry.create("engines", spec)
    return engine


def _train(
    settings: Federation,
    pictures: Dataset,
    test: Dataset,
    output: Path,
    *,
    engine: Engine | None = None,
    center_crop: int = 0,
    device: str,
) -> Normalized:
    with progress() as bars:
        bar = bars.add_task("rounds", total=settings.rounds)

        def on_round(row: dict[str, Any]) -> None:
            bars.update(bar, completed=row["round"])
            console.print(_round_line(row, settings.rounds))

        return train_federated(
            settings,
            pictures,
            test,
            output,
            device=check_device(device),
            center_crop=center_crop,
            engine=engine,
            on_round=on_round,
        )


def _service_facts(service: Service) -> dict[str, Any]:
    rates = {"flagged": service.flagged, "taken": service.taken, "success": service.success}
    return {
        "suspect": service.suspect,
        **{name: told(rate, "value") for name, rate in rates.items() if rate is not None},
    }


def _cell(value: object) -> str:
    return "" if value is None else str(value)


def _round_line(row: dict[str, Any], rounds: int) -> str:
    line = f"round {row['round']:>3}/{rounds}  loss {row['loss']:.3f}  CA {row['clean_accuracy']['value']:.3f}"
    if "attack_success_rate" in row:
        line += f"  ASR {row['attack_success_rate']['value']:.3f}"
    return line + (f"  attackers {row['attackers']}" if row["attackers"] else "")


def _checkpoints(model: ModelOptions, data: str | None) -> Iterator[tuple[str | None, ModelOptions, str | None]]:
    """Yield the model itself, or where it is a folder of checkpoints each of them with its path in it as a name.

    The last is where the pictures of each are.
    """
    folder = Path(model.model)
    paths = find_checkpoints(folder) if folder.is_dir() else [folder]
    for path in paths:
        if path == folder:
            yield None, model, data
        else:
            yield path.relative_to(folder).as_posix(), replace(model, model=str(path)), data_of(path, data)


def _evaluate(
    case: Case, presets: Sequence[str], output: Path, *, inpainter: str | None, batch_size: int, seed: int
) -> list[Row]:
    output_folder(output)
    purifiers = {}
    for preset in presets:
        options = {"inpainter": inpainter} if inpainter and takes_inpainter(preset) else {}
        purifiers[preset] = Purifier.for_model(
            case.model, case.reference, preset=preset, batch_size=batch_size, **options
        )
    with progress() as bars:
        passes = len(case.test) + (0 if case.trigger is None else len(case.victims))
        bar = bars.add_task(case.name, total=len(purifiers) * passes)
        rows = evaluate_case(case, purifiers, seed=seed, on_images=lambda count: bars.advance(bar, count))
    for preset, purifier in purifiers.items():
        # Two signs where a path goes on, so that a/b and a-b differ.
        name = re.sub("[^A-Za-z0-9#-]+", "-", f"{case.name} {preset}".replace("/", "--"))
        draw_case(case, purifier, output / f"{name}.png", pictures=PANEL_ROWS, seed=seed)
    return rows


def _write_text(text: str, path: Path) -> None:
    path.write_text(text)


COMMANDS: dict[str, Callable[..., int | None]] = {
    "demo": demo,
    "train": train,
    "train-inpainter": train_inpainter,
    "calibrate": calibrate,
    "sanitize": sanitize,
    "explain": explain,
    "scan": scan,
    "evaluate": evaluate,
    "bench": bench,
    "ablate": ablate,
    "zoo": zoo,
    "measure-scans": measure_scans,
    "measure-inpainters": measure_inpainters,
    "measure-speed": measure_speed,
    "measure-engines": measure_engines,
    "measure-robustness": measure_robustness,
    "methods": methods,
}

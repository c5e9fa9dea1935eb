"""Sanitizing pictures on disk: file by file, at their own resolution, with a manifest."""

from __future__ import annotations

import csv
import io
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2.functional import pil_to_tensor

from februus.checks import SMALLEST_SIDE, mismatch
from februus.data.loading import as_rgb
from februus.files import output_folder, write_file, write_json
from februus.panel import draw_panel
from februus.purifier import Purifier
from februus.types import Purified

__all__ = ["Record", "check_output", "find_pictures", "read_picture", "sanitize"]

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True, kw_only=True)
class Record:
    """What became of one picture; a line of the manifest.

    Args:
        file: the picture, relative to the input.
        output: what was written, relative to the output; empty where nothing was.
        label_before: the model's class as the picture came.
        confidence_before: its probability.
        label_after: the class of the sanitized picture.
        confidence_after: its probability.
        flagged: whether the picture is suspected of a trigger.
        score: how suspicious it is.
        stage: the last one that it went through; after `strike` the model itself would still say `label_before` of what
            was written.
        mask_area: share of the picture that was restored.
        error: why nothing was done, empty where all went well.
    """

    file: str
    output: str = ""
    label_before: str = ""
    confidence_before: float | None = None
    label_after: str = ""
    confidence_after: float | None = None
    flagged: bool | None = None
    score: float | None = None
    stage: str = ""
    mask_area: float | None = None
    error: str = ""


def find_pictures(source: Path) -> list[Path]:
    """Return ``source`` itself, or the pictures in it and its sub-folders, by name.

    Raises:
        ValueError: if there is none.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise mismatch("input", "a picture or a folder of pictures", repr(str(source)))
    found = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise mismatch("input", f"pictures ({', '.join(sorted(SUFFIXES))})", f"none in {source}")
    return found


def read_picture(path: Path, *, image_size: int, center_crop: int | None = None) -> Tensor:
    """Read a picture as the model sees it: upright, RGB, the centre of it where told, scaled.

    Args:
        path: of the picture.
        image_size: side of the pictures that the model takes.
        center_crop: side of the centre, in pixels of ``image_size``, that the model sees; all where None.

    Returns:
        (3, image_size, image_size) in [0, 1].

    Raises:
        ValueError: if it cannot be read or is too small.
    """
    return _as_model_sees(_read(path), image_size, (center_crop or image_size) / image_size)


def check_output(source: Path, output: Path, *, overwrite: bool) -> Path:
    """Return the folder that is written to when ``source`` is sanitized to ``output``.

    Raises:
        ValueError: if there is something already, unless ``overwrite``.
    """
    named = _is_named(source, output)
    folder = output.parent if named else output
    if not overwrite and (output.exists() if named else folder.is_dir() and any(folder.iterdir())):
        raise mismatch("output", "a new or empty place, or overwrite", f"{output}, which exists")
    return folder


def _is_named(source: Path, output: Path) -> bool:
    """Tell whether ``output`` is the path of the one picture that is written."""
    return source.is_file() and output.suffix.lower() in SUFFIXES


def sanitize(
    source: Path,
    output: Path,
    purifier: Purifier,
    *,
    image_size: int,
    center_crop: int | None = None,
    classes: Sequence[str] = (),
    panels: bool = False,
    overwrite: bool = False,
    on_picture: Callable[[Record], None] | None = None,
) -> list[Record]:
    """Sanitize a picture, or all in a folder.

    A picture of which nothing was restored is copied byte for byte. One that was changed is written as PNG, in its
    own resolution and upright (EXIF), and equals the original outside the restored region; where ``output`` is the
    path of a picture, the format is the one that it names, and some lose a little. ``manifest.csv`` and
    ``manifest.json``, of a single picture ``NAME.manifest.csv`` and so on, tell what became of each, also after an
    interruption. A file that is no good is recorded and
    the rest is done.

    Args:
        source: a picture or a folder.
        output: a folder, or the path of a picture where ``source`` is one.
        purifier: of the model.
        image_size: side of the pictures that the model takes.
        center_crop: side of the centre, in pixels of ``image_size``, that the model sees; all where None.
        classes: names of the classes.
        panels: whether to draw each picture's way beside it, as ``NAME.panel.png``.
        overwrite: whether ``output`` may hold files already.
        on_picture: called with each record.

    Returns:
        a record for each picture, in order of names.

    Raises:
        ValueError: if there is no picture, or the output exists or cannot be written.
    """
    pictures = find_pictures(source)
    named = _is_named(source, output)
    folder = output_folder(check_output(source, output, overwrite=overwrite))
    root = source.parent if source.is_file() else source
    view = image_size if center_crop is None else center_crop
    stems = _stems(pictures, root)
    records: list[Record] = []
    try:
        for start in range(0, len(pictures), purifier.batch_size):
            batch = {path: stems[path] for path in pictures[start : start + purifier.batch_size]}
            for record in _sanitize_batch(
                batch, root, output, purifier, named, image_size, view / image_size, classes, panels
            ):
                records.append(record)
                if on_picture is not None:
                    on_picture(record)
    finally:
        _write_manifest(folder / (f"{output.stem}.manifest" if named else "manifest"), records)
    return records


def _stems(pictures: Sequence[Path], root: Path) -> dict[Path, str]:
    """Return what the results of each picture are called: its name, with the ending where several differ only there."""
    alike = Counter(path.with_suffix("") for path in pictures)
    return {
        path: str((path if alike[path.with_suffix("")] > 1 else path.with_suffix("")).relative_to(root))
        for path in pictures
    }


def _sanitize_batch(
    batch: Mapping[Path, str],
    root: Path,
    output: Path,
    purifier: Purifier,
    named: bool,  # noqa: FBT001
    image_size: int,
    share: float,
    classes: Sequence[str],
    panels: bool,  # noqa: FBT001
) -> Iterator[Record]:
    seen: dict[Path, Tensor] = {}
    errors: dict[Path, str] = {}
    for path in batch:
        try:
            seen[path] = _as_model_sees(_read(path), image_size, share)
        except ValueError as error:
            errors[path] = str(error)
    if seen:
        device = next(purifier.model.parameters()).device
        images = torch.stack(list(seen.values())).to(device)
        purified = purifier(images)
    for path, stem in batch.items():
        name = path.relative_to(root)
        if path in errors:
            yield Record(file=str(name), error=errors[path])
            continue
        index = list(seen).index(path)
        one = _at(purified, index)
        touched = bool(one.masks.any())
        target = output if named else output / (f"{stem}.png" if touched else name)
        output_folder(target.parent)
        _write(path, target, one, share)
        if panels:
            panel = output.with_suffix(".panel.png") if named else output / f"{stem}.panel.png"
            draw_panel(panel, images[index : index + 1], one, classes)
        before, after = one.logits_before.softmax(1)[0], one.logits.softmax(1)[0]
        yield Record(
            file=str(name),
            output=target.name if named else str(target.relative_to(output)),
            label_before=_name(int(before.argmax()), classes),
            confidence_before=round(before.max().item(), 6),
            label_after=_name(int(after.argmax()), classes),
            confidence_after=round(after.max().item(), 6),
            flagged=bool(one.flagged[0]),
            score=round(one.scores[0].item(), 6),
            stage=one.stages[0],
            mask_area=round(one.masks.mean().item() * share**2, 6),
        )


def _read(path: Path) -> Image.Image:
    """Open a picture upright, as RGB."""
    try:
        with Image.open(path) as opened:
            picture = as_rgb(opened)
    except Exception as error:  # Pillow's decoders raise whatever a broken file leads them to.
        raise mismatch(str(path), "a readable picture", error) from error
    if min(picture.size) < SMALLEST_SIDE:
        width, height = picture.size
        raise mismatch(str(path), f"sides of at least {SMALLEST_SIDE} pixels", f"{width}x{height}")
    return picture


def _box(size: tuple[int, int], share: float) -> tuple[int, int, int, int]:
    """Return the centre that the model sees: left, top, right, bottom."""
    width, height = size
    inner_width, inner_height = round(width * share), round(height * share)
    left, top = (width - inner_width) // 2, (height - inner_height) // 2
    return left, top, left + inner_width, top + inner_height


def _as_model_sees(picture: Image.Image, image_size: int, share: float) -> Tensor:
    centre = picture.crop(_box(picture.size, share))
    small = centre.resize((image_size, image_size), Image.Resampling.BILINEAR)
    pixels: Tensor = pil_to_tensor(small)
    return pixels.float() / 255


def _write(path: Path, target: Path, purified: Purified, share: float) -> None:
    """Copy the picture, or paste the restored region into it at its own resolution."""
    formats = Image.registered_extensions()
    kind = formats.get(target.suffix.lower())
    if not purified.masks.any() and kind == formats.get(path.suffix.lower()):
        write_file(target, lambda temporary: shutil.copyfile(path, temporary))
        return
    picture = _read(path)
    left, top, right, bottom = _box(picture.size, share)
    size = (bottom - top, right - left)
    # A pixel that overlaps the mask belongs to it, also where the model saw more pixels than the picture has.
    mask = F.adaptive_max_pool2d(purified.masks, size)[0, 0].cpu().numpy() > 0
    restored = F.interpolate(purified.images, size=size, mode="bicubic", align_corners=False)[0].clamp(0, 1)
    pixels = np.asarray(picture).copy()
    inner = pixels[top:bottom, left:right]
    inner[mask] = (restored * 255).round().byte().permute(1, 2, 0).cpu().numpy()[mask]
    write_file(target, lambda temporary: Image.fromarray(pixels).save(temporary, format=kind, quality=95))


def _write_manifest(path: Path, records: Sequence[Record]) -> None:
    """Write ``path`` with the endings csv and json."""
    rows = [asdict(record) for record in records]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [field.name for field in fields(Record)])
    writer.writeheader()
    writer.writerows(rows)
    write_file(path.with_name(f"{path.name}.csv"), lambda temporary: temporary.write_text(text.getvalue()))
    write_json(path.with_name(f"{path.name}.json"), rows)


def _at(purified: Purified, index: int) -> Purified:
    """Return one picture of a batch, as a batch of one."""
    values = {field.name: getattr(purified, field.name)[index : index + 1] for field in fields(purified)}
    return Purified(**values)


def _name(label: int, classes: Sequence[str]) -> str:
    return classes[label] if classes else str(label)

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from februus.data import Dataset, load
from februus.inpainters.mean_fill import MeanFill
from februus.models import Normalized
from februus.panel import draw_panel
from februus.presets.paper import Paper
from februus.purifier import Purifier
from februus.sanitizing import SUFFIXES, Record, find_pictures, sanitize

Pixels = npt.NDArray[np.uint8]
PAINT = (0.0, 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Square:
    """A localizer that looks at one square, and at nothing in pictures that are darker than mid grey."""

    top: int = 8
    left: int = 16
    side: int = 8

    def __call__(self, model: nn.Module, images: Tensor) -> Tensor:
        model(images)
        heatmaps = torch.zeros_like(images[:, :1])
        heatmaps[..., self.top : self.top + self.side, self.left : self.left + self.side] = 1
        return heatmaps * (images.mean((1, 2, 3), keepdim=True) > 0.5)


class Watch:
    """A localizer that keeps what it saw, and finds the same everywhere."""

    def __init__(self, *, heat: float) -> None:
        self.heat, self.seen = heat, list[Tensor]()

    def __call__(self, model: nn.Module, images: Tensor) -> Tensor:
        self.seen.append(images)
        model(images)
        return torch.full_like(images[:, :1], self.heat)


class Blue:
    """An inpainter that paints blue."""

    def __call__(self, images: Tensor, masks: Tensor) -> Tensor:
        return torch.where(masks > 0, torch.tensor(PAINT).view(1, 3, 1, 1), images)


@pytest.fixture
def purifier(toy_model: Normalized) -> Purifier:
    return Purifier(toy_model, Paper(localizer=Square(), inpainter=Blue()), batch_size=3)


def bright(height: int, width: int, seed: int = 0) -> Pixels:
    pixels: Pixels = np.random.default_rng(seed).integers(150, 256, (height, width, 3), dtype=np.uint8)
    return pixels


def dark(height: int, width: int, seed: int = 0) -> Pixels:
    pixels: Pixels = np.random.default_rng(seed).integers(0, 100, (height, width, 3), dtype=np.uint8)
    return pixels


def write(path: Path, pixels: Pixels, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def read(path: Path) -> Pixels:
    with Image.open(path) as opened:
        assert opened.mode == "RGB"
        return np.asarray(opened).copy()


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def changed(before: Pixels, after: Pixels) -> tuple[slice, slice]:
    """Return the rows and columns that differ."""
    differs = (before != after).any(2)
    rows, columns = np.flatnonzero(differs.any(1)), np.flatnonzero(differs.any(0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


# --- what is found ---------------------------------------------------------------------------------------------------


def test_pictures_are_found_in_order_with_sub_folders(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "sub/deep/c.webp", "sub/note.txt", "manifest.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("any")
    (tmp_path / "folder.png").mkdir()
    assert [str(path.relative_to(tmp_path)) for path in find_pictures(tmp_path)] == [
        "a.png",
        "b.JPG",
        "sub/deep/c.webp",
    ]
    assert find_pictures(tmp_path / "sub" / "note.txt") == [tmp_path / "sub" / "note.txt"]


def test_nothing_to_sanitize(purifier: Purifier, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "note.txt").write_text("any")
    with pytest.raises(ValueError, match=r"input: expected pictures \(\.bmp, .*\.webp\), got none in .*empty"):
        sanitize(tmp_path / "empty", tmp_path / "out", purifier, image_size=32)
    with pytest.raises(ValueError, match=r"input: expected a picture or a folder of pictures, got '.*nowhere'"):
        sanitize(tmp_path / "nowhere", tmp_path / "out", purifier, image_size=32)
    assert not (tmp_path / "out").exists()


# --- what is written -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 96), (100, 70)])
def test_only_the_restored_region_changes_at_the_pictures_own_resolution(
    purifier: Purifier, tmp_path: Path, height: int, width: int
) -> None:
    before = bright(height, width)
    write(tmp_path / "in" / "a.png", before)
    (record,) = sanitize(tmp_path / "in", tmp_path / "out", purifier, image_size=32)
    after = read(tmp_path / "out" / "a.png")
    assert after.shape == before.shape
    # Rows 8 to 16 of 32, columns 16 to 24, each pixel that overlaps them.
    rows = slice(height * 8 // 32, -(-height * 16 // 32))
    columns = slice(width * 16 // 32, -(-width * 24 // 32))
    assert changed(before, after) == (rows, columns)
    inner = after[rows, columns][4:-4, 4:-4] if height > 32 else after[rows, columns]
    assert (inner == (np.array(PAINT) * 255).astype(np.uint8)).all()
    assert record.mask_area == 0.0625


def test_a_picture_smaller_than_what_the_model_sees_loses_nothing_of_the_mask(
    toy_model: Normalized, tmp_path: Path
) -> None:
    """A mask of one row lies between the rows that plain sampling would take."""
    for top in range(32):
        thin = Purifier(toy_model, Paper(localizer=Square(top=top, side=1), inpainter=Blue()))
        before = bright(20, 20)
        source = write(tmp_path / "a.png", before)
        sanitize(source, tmp_path / "out" / "a.png", thin, image_size=32, overwrite=True)
        rows, columns = changed(before, read(tmp_path / "out" / "a.png"))
        assert (rows.start, rows.stop) == (top * 20 // 32, -(-(top + 1) * 20 // 32))
        assert (columns.start, columns.stop) == (10, 11)


def test_what_was_not_touched_is_copied_byte_for_byte(purifier: Purifier, tmp_path: Path) -> None:
    for name in ("a.png", "b.jpg", "sub/c.webp", "d.GIF", "e.tif"):
        write(tmp_path / "in" / name, dark(40, 50))
    records = sanitize(tmp_path / "in", tmp_path / "out", purifier, image_size=32)
    assert files(tmp_path / "out") == sorted([*files(tmp_path / "in"), "manifest.csv", "manifest.json"])
    for record in records:
        assert record.output == record.file
        assert (tmp_path / "out" / record.file).read_bytes() == (tmp_path / "in" / record.file).read_bytes()
        assert record.mask_area == 0
        assert record.flagged is False
        assert record.score == 0
        assert record.label_before == record.label_after


def test_the_source_stays_as_it_is(purifier: Purifier, tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.jpg", bright(40, 50))
    before = (tmp_path / "in" / "a.jpg").read_bytes()
    sanitize(tmp_path / "in", tmp_path / "out", purifier, image_size=32)
    assert files(tmp_path / "in") == ["a.jpg"]
    assert (tmp_path / "in" / "a.jpg").read_bytes() == before
    assert (tmp_path / "out" / "a.png").is_file()


def test_pictures_that_differ_only_in_their_ending_do_not_overwrite_each_other(
    purifier: Purifier, tmp_path: Path
) -> None:
    pictures = {"a.bmp": bright(32, 32, 1), "a.png": bright(32, 32, 2), "a.tif": dark(32, 32), "b.bmp": bright(32, 32)}
    for name, pixels in pictures.items():
        write(tmp_path / "in" / name, pixels)
    records = sanitize(tmp_path / "in", tmp_path / "out", purifier, image_size=32, panels=True)
    assert [record.output for record in records] == ["a.bmp.png", "a.png.png", "a.tif", "b.png"]
    panels = ["a.bmp.panel.png", "a.png.panel.png", "a.tif.panel.png", "b.panel.png"]
    assert all((tmp_path / "out" / panel).is_file() for panel in panels)
    for record in records:
        after = read(tmp_path / "out" / record.output)
        assert (after[20:] == pictures[record.file][20:]).all()


@pytest.mark.parametrize("name", ["a.png", "a"])
def test_a_single_file_into_a_folder(purifier: Purifier, tmp_path: Path, name: str) -> None:
    write(tmp_path / name, bright(40, 40), format="PNG")
    (record,) = sanitize(tmp_path / name, tmp_path / "out", purifier, image_size=32)
    assert files(tmp_path / "out") == ["a.png", "manifest.csv", "manifest.json"]
    assert (record.file, record.output) == (name, "a.png")


def test_a_single_dark_file_without_ending_is_copied(purifier: Purifier, tmp_path: Path) -> None:
    write(tmp_path / "a", dark(40, 40), format="PNG")
    sanitize(tmp_path / "a", tmp_path / "out", purifier, image_size=32)
    assert (tmp_path / "out" / "a").read_bytes() == (tmp_path / "a").read_bytes()


def test_a_single_file_to_a_named_one(purifier: Purifier, tmp_path: Path) -> None:
    before = bright(40, 40)
    write(tmp_path / "a.png", before)
    (record,) = sanitize(tmp_path / "a.png", tmp_path / "new" / "b.png", purifier, image_size=32, panels=True)
    assert files(tmp_path / "new") == ["b.manifest.csv", "b.manifest.json", "b.panel.png", "b.png"]
    assert (record.file, record.output) == ("a.png", "b.png")
    assert (read(tmp_path / "new" / "b.png")[25:] == before[25:]).all()


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
@pytest.mark.parametrize("draw", [bright, dark])
def test_a_named_file_has_the_format_that_its_name_tells(
    purifier: Purifier, tmp_path: Path, suffix: str, draw: Callable[[int, int], Pixels]
) -> None:
    source = write(tmp_path / "a.png", draw(40, 40))
    output = tmp_path / "out" / f"b{suffix.upper()}"
    sanitize(source, output, purifier, image_size=32)
    with Image.open(output) as opened:
        assert opened.format == Image.registered_extensions()[suffix]
        assert opened.size == (40, 40)


@pytest.mark.parametrize("panels", [False, True])
def test_panels(purifier: Purifier, tmp_path: Path, panels: bool) -> None:  # noqa: FBT001
    write(tmp_path / "in" / "sub" / "a.jpg", bright(40, 40))
    write(tmp_path / "in" / "b.png", dark(40, 40))
    sanitize(tmp_path / "in", tmp_path / "out", purifier, image_size=32, panels=panels, classes=("a", "b", "c", "d"))
    drawn = [name for name in files(tmp_path / "out") if "panel" in name]
    assert drawn == (["b.panel.png", "sub/a.panel.png"] if panels else [])
    for name in drawn:
        with Image.open(tmp_path / "out" / name) as opened:
            assert opened.size[0] > 600


def test_a_panel_has_a_row_for_each_picture(toy_model: Normalized, toy_test: Dataset, tmp_path: Path) -> None:
    images = toy_test.floats(slice(3))
    purified = Purifier(toy_model, Paper(localizer=Square(), inpainter=MeanFill()))(images)
    heights = []
    for count in (1, 3):
        one = type(purified)(**{field.name: getattr(purified, field.name)[:count] for field in fields(purified)})
        draw_panel(tmp_path / "p.png", images[:count], one, toy_test.classes, first_column="triggered")
        with Image.open(tmp_path / "p.png") as opened:
            heights.append(opened.size[1])
    assert heights[1] > 2 * heights[0]
    with pytest.raises(ValueError, match="a file that can be written"):
        draw_panel(tmp_path / "no" / "p.png", images, purified)


# --- kinds of pictures -----------------------------------------------------------------------------------------------


def test_a_turned_photograph_comes_out_upright(purifier: Purifier, tmp_path: Path) -> None:
    before = bright(40, 60)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    write(tmp_path / "in" / "a.png", before, exif=exif)
    sanitize(tmp_path / "in", tmp_path / "out", purifier, image_size=32)
    after = read(tmp_path / "out" / "a.png")
    upright = np.rot90(before, -1)
    assert after.shape == (60, 40, 3)
    assert changed(np.ascontiguousarray(upright), after) == (slice(15, 30), slice(20, 30))
    with Image.open(tmp_path / "out" / "a.png") as opened:
        assert not opened.getexif().get(0x0112)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK", "I;16"])
def test_all_kinds_become_rgb_and_keep_their_colours(purifier: Purifier, tmp_path: Path, mode: str) -> None:
    grey = bright(40, 40)[..., 0]
    if mode == "I;16":
        picture = Image.fromarray(grey.astype(np.uint16) * 256 + 255)
        expected = np.repeat(grey[..., None], 3, 2)
    else:
        picture = Image.fromarray(bright(40, 40)).convert(mode)
        expected = np.asarray(picture.convert("RGB"))
    assert picture.mode == mode
    (tmp_path / "in").mkdir()
    picture.save(tmp_path / "in" / "a.tif")
    (record,) = sanitize(tmp_path / "in", tmp_path / "out", purifier, image_size=32)
    assert record.error == ""
    after = read(tmp_path / "out" / "a.png")
    assert (after[25:] == expected[25:]).all()


def test_a_large_picture(purifier: Purifier, tmp_path: Path) -> None:
    before = np.full((2000, 3000, 3), 200, np.uint8)
    before[::7, ::5] = (250, 120, 180)
    write(tmp_path / "a.bmp", before)
    (record,) = sanitize(tmp_path / "a.bmp", tmp_path / "b.bmp", purifier, image_size=32)
    after = read(tmp_path / "b.bmp")
    assert changed(before, after) == (slice(500, 1000), slice(1500, 2250))
    assert record.mask_area == 0.0625


def test_bad_files_are_told_and_the_rest_is_done(purifier: Purifier, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write(folder / "a.png", bright(40, 40))
    write(folder / "b.jpg", bright(400, 400))
    whole = (folder / "b.jpg").read_bytes()
    (folder / "b.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "c.png").write_text("this is text")
    write(folder / "d.png", bright(1, 1))
    (folder / "e.gif").write_bytes(b"")
    Image.fromarray(np.zeros((40, 40), np.float32)).save(folder / "f.tif")
    (folder / "g.ppm").write_bytes(b"P6\n40 40\nabc\n" + bytes(4800))
    write(folder / "z.png", dark(40, 40))
    seen: list[Record] = []
    records = sanitize(folder, tmp_path / "out", purifier, image_size=32, on_picture=seen.append)
    assert records == seen
    assert [record.file for record in records] == sorted(files(folder))
    errors = {record.file: record.error for record in records if record.error}
    assert list(errors) == ["b.jpg", "c.png", "d.png", "e.gif", "f.tif", "g.ppm"]
    for name, message in errors.items():
        assert message.startswith(f"{folder / name}: expected ")
    assert "truncated" in errors["b.jpg"]
    assert "cannot identify" in errors["c.png"]
    assert errors["d.png"].endswith("expected sides of at least 16 pixels, got 1x1")
    assert "floating point" in errors["f.tif"]
    assert files(tmp_path / "out") == ["a.png", "manifest.csv", "manifest.json", "z.png"]
    for record in records:
        if record.error:
            assert record == Record(file=record.file, error=record.error)


def test_a_folder_of_bad_files_only(purifier: Purifier, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_text("text")
    (record,) = sanitize(tmp_path / "in", tmp_path / "out", purifier, image_size=32)
    assert record.error
    assert files(tmp_path / "out") == ["manifest.csv", "manifest.json"]


# --- what the model sees ---------------------------------------------------------------------------------------------


def test_the_centre_crop(toy_model: Normalized, tmp_path: Path) -> None:
    """A model of 24 of 32 pixels sees the middle three quarters, enlarged; only there is anything restored."""
    before = np.full((64, 128, 3), 220, np.uint8)
    before[8:56, 16:112] = (10, 200, 30)
    write(tmp_path / "a.png", before)
    purifier = Purifier(toy_model, Paper(localizer=(watch := Watch(heat=1.0)), inpainter=Blue()))
    (record,) = sanitize(tmp_path / "a.png", tmp_path / "b.png", purifier, image_size=32, center_crop=24)
    (images,) = watch.seen
    assert images.shape == (1, 3, 32, 32)
    assert torch.equal(images, (torch.tensor([10, 200, 30]) / 255).view(1, 3, 1, 1).expand(1, 3, 32, 32))
    expected = before.copy()
    expected[8:56, 16:112] = (0, 0, 255)
    assert (read(tmp_path / "b.png") == expected).all()
    assert record.mask_area == 0.5625


@pytest.mark.parametrize("center_crop", [32, 24])
def test_the_model_sees_what_it_was_measured_on(
    toy_model: Normalized, toy_test: Dataset, tmp_path: Path, center_crop: int
) -> None:
    """The way from a file to the model is that of `februus.data.load`."""
    for index in range(3):
        write(tmp_path / "in" / "one" / f"{index}.png", toy_test.images[index].permute(1, 2, 0).numpy())
    loaded = load(tmp_path / "in", image_size=32, center_crop=center_crop).floats()
    purifier = Purifier(toy_model, Paper(localizer=(watch := Watch(heat=0.0)), inpainter=Blue()))
    sanitize(tmp_path / "in", tmp_path / "out", purifier, image_size=32, center_crop=center_crop)
    assert (watch.seen[0] - loaded).abs().amax() < 2 / 255


def test_the_model_sees_the_picture_scaled_without_aliasing(toy_model: Normalized, tmp_path: Path) -> None:
    stripes = np.zeros((320, 320, 3), np.uint8)
    stripes[::2] = 255
    write(tmp_path / "a.png", stripes)
    purifier = Purifier(toy_model, Paper(localizer=(watch := Watch(heat=0.0)), inpainter=Blue()))
    sanitize(tmp_path / "a.png", tmp_path / "out", purifier, image_size=32)
    assert (watch.seen[0] - 0.5).abs().amax() < 0.06


# --- the manifest ----------------------------------------------------------------------------------------------------


def test_the_manifest_tells_what_became_of_each(
    toy_model: Normalized, toy_test: Dataset, purifier: Purifier, tmp_path: Path
) -> None:
    for index in range(4):
        pixels = toy_test.images[index].permute(1, 2, 0).numpy()
        write(tmp_path / "in" / f"{index}.png", pixels)
    (tmp_path / "in" / "2.png").write_text("text")
    write(tmp_path / "in" / "sub" / "5.png", bright(32, 32))
    records = sanitize(tmp_path / "in", tmp_path / "out", purifier, image_size=32, classes=toy_test.classes)
    assert [record.file for record in records] == ["0.png", "1.png", "2.png", "3.png", "sub/5.png"]
    rows = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert rows == [asdict(record) for record in records]
    with (tmp_path / "out" / "manifest.csv").open(newline="") as file:
        read_back = list(csv.DictReader(file))
    assert list(read_back[0]) == [field.name for field in fields(Record)]
    assert read_back == [{key: "" if value is None else str(value) for key, value in row.items()} for row in rows]

    images = torch.stack([toy_test.floats()[0], torch.from_numpy(bright(32, 32)).permute(2, 0, 1) / 255])
    purified = purifier(images)
    for row, index in ((rows[0], 0), (rows[4], 1)):
        before, after = purified.logits_before[index].softmax(0), purified.logits[index].softmax(0)
        assert row["label_before"] == toy_test.classes[int(before.argmax())]
        assert row["label_after"] == toy_test.classes[int(after.argmax())]
        assert row["confidence_before"] == pytest.approx(before.max().item(), abs=1e-5)
        assert row["confidence_after"] == pytest.approx(after.max().item(), abs=1e-5)
        assert row["score"] == pytest.approx(purified.scores[index].item(), abs=1e-5)
        assert row["flagged"] == bool(purified.flagged[index])
        assert row["stage"] == purified.stages[index]
    assert rows[4]["output"] == "sub/5.png"


def test_without_names_classes_are_numbers(purifier: Purifier, tmp_path: Path) -> None:
    write(tmp_path / "a.png", dark(32, 32))
    (record,) = sanitize(tmp_path / "a.png", tmp_path / "out", purifier, image_size=32)
    assert record.label_before in {"0", "1", "2", "3"}


def test_what_was_done_is_kept_when_interrupted(purifier: Purifier, tmp_path: Path) -> None:
    for index in range(8):
        write(tmp_path / "in" / f"{index}.png", bright(32, 32, index))
    done: list[str] = []

    def interrupt(record: Record) -> None:
        done.append(record.file)
        if len(done) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sanitize(tmp_path / "in", tmp_path / "out", purifier, image_size=32, on_picture=interrupt)
    expected = [f"{index}.png" for index in range(5)]
    assert files(tmp_path / "out") == [*expected, "manifest.csv", "manifest.json"]
    assert [row["file"] for row in json.loads((tmp_path / "out" / "manifest.json").read_text())] == expected
    with (tmp_path / "out" / "manifest.csv").open(newline="") as file:
        assert [row["file"] for row in csv.DictReader(file)] == expected


def test_the_batch_does_not_matter(toy_model: Normalized, tmp_path: Path) -> None:
    for index in range(5):
        write(tmp_path / "in" / f"{index}.png", bright(32 + index, 40, index))
    (tmp_path / "in" / "1.png").write_text("text")
    records = []
    for size in (1, 2, 100):
        purifier = Purifier(toy_model, Paper(localizer=Square(), inpainter=Blue()), batch_size=size)
        records.append(sanitize(tmp_path / "in", tmp_path / f"out{size}", purifier, image_size=32))
    keys = ("file", "output", "label_before", "label_after", "flagged", "mask_area", "error")
    rows = [[[getattr(record, key) for key in keys] for record in run] for run in records]
    assert rows[0] == rows[1] == rows[2]
    for name in ("0.png", "2.png", "3.png", "4.png"):
        assert (tmp_path / "out1" / name).read_bytes() == (tmp_path / "out100" / name).read_bytes()


# --- the output ------------------------------------------------------------------------------------------------------


def test_an_output_that_exists_is_refused(purifier: Purifier, tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.png", bright(32, 32))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    (tmp_path / "there.png").write_text("mine")
    expected = r"output: expected a new or empty place, or overwrite, got .*{}, which exists"
    with pytest.raises(ValueError, match=expected.format("out")):
        sanitize(tmp_path / "in", tmp_path / "out", purifier, image_size=32)
    with pytest.raises(ValueError, match=expected.format("there.png")):
        sanitize(tmp_path / "in" / "a.png", tmp_path / "there.png", purifier, image_size=32)
    assert files(tmp_path / "out") == ["mine.txt"]
    assert (tmp_path / "there.png").read_text() == "mine"


def test_an_empty_output_will_do(purifier: Purifier, tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.png", bright(32, 32))
    (tmp_path / "out").mkdir()
    sanitize(tmp_path / "in", tmp_path / "out", purifier, image_size=32)
    assert (tmp_path / "out" / "a.png").is_file()


def test_overwrite(purifier: Purifier, tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.png", bright(32, 32, 1))
    sanitize(tmp_path / "in", tmp_path / "out", purifier, image_size=32)
    (tmp_path / "out" / "mine.txt").write_text("mine")
    before = bright(32, 32, 2)
    write(tmp_path / "in" / "a.png", before)
    sanitize(tmp_path / "in", tmp_path / "out", purifier, image_size=32, overwrite=True)
    assert (read(tmp_path / "out" / "a.png")[20:] == before[20:]).all()
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"
    named = tmp_path / "b.png"
    named.write_text("old")
    sanitize(tmp_path / "in" / "a.png", named, purifier, image_size=32, overwrite=True)
    assert read(named).shape == (32, 32, 3)


def test_an_output_that_is_a_file_is_refused(purifier: Purifier, tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.png", bright(32, 32))
    (tmp_path / "file").write_text("mine")
    for output in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(ValueError, match="output: expected a folder that can be written"):
            sanitize(tmp_path / "in", output, purifier, image_size=32)
    assert (tmp_path / "file").read_text() == "mine"

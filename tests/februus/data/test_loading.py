from __future__ import annotations

import os
import warnings
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from februus.data import load
from februus.data.signs import signs

RED, GREEN = (250, 0, 0), (0, 250, 0)


@pytest.fixture(autouse=True)
def own_folders(tmp_path_factory, monkeypatch):
    """Keep caches out of the home folder and the network out of reach."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("hugging-face"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("FEBRUUS_DATA", str(tmp_path_factory.mktemp("torchvision")))


def picture(colour=RED, size=(20, 20), mode="RGB") -> Image.Image:
    return Image.new("RGB", size, colour).convert(mode)


def write(folder: Path, **pictures: Image.Image) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in pictures.items():
        image.save(folder / f"{name}.png")


def table(features=None, count=6, mode="RGB", **columns) -> datasets.Dataset:
    made = {"image": [picture((40 * index, 0, 0), mode=mode) for index in range(count)], **columns}
    return datasets.Dataset.from_dict(made, features=datasets.Features(features) if features else None)


LABELLED = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog", "eel"])}


# --- signs -----------------------------------------------------------------------------------------------------------


def test_signs_come_with_seed_and_size():
    loaded, drawn = load("signs", "test", image_size=16, seed=3), signs("test", image_size=16, seed=3)
    assert torch.equal(loaded.images, drawn.images)
    assert torch.equal(loaded.labels, drawn.labels)
    assert loaded.classes == drawn.classes
    assert load("signs", "test").image_size == (32, 32)


# --- torchvision -----------------------------------------------------------------------------------------------------


class ByFlag(torchvision.datasets.VisionDataset):
    """Looks like CIFAR10: a flag, a download, class names, not there at first."""

    classes = ("cat", "dog")
    downloads = 0
    mode = "RGB"

    def __init__(self, root, train=True, transform=None, target_transform=None, download=False):  # noqa: FBT002
        super().__init__(root)
        self.train = train
        mark = Path(root) / "there"
        if download:
            type(self).downloads += 1
            mark.touch()
        if not mark.exists():
            raise RuntimeError("Dataset not found or corrupted")

    def __len__(self):
        return 4 if self.train else 2

    def __getitem__(self, index):
        return picture((10 * index, 0, 0), mode=self.mode), index % 2


class BySplit(torchvision.datasets.VisionDataset):
    """Looks like SVHN: named splits, grey, labels as numpy integers, no class names."""

    def __init__(self, root, split="train", transform=None, target_transform=None, download=False):  # noqa: FBT002
        torchvision.datasets.utils.verify_str_arg(split, "split", ("train", "extra"))

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return picture((90, 90, 90), mode="L"), np.int64(2 * index)


@pytest.mark.parametrize("prefix", ["", "torchvision:"])
def test_torchvision_by_flag_downloads_once(monkeypatch, prefix):
    monkeypatch.setattr(torchvision.datasets, "ByFlag", ByFlag, raising=False)
    monkeypatch.setattr(ByFlag, "downloads", 0)
    train, test = load(f"{prefix}ByFlag", "train"), load(f"{prefix}ByFlag", "test")
    assert (len(train), len(test), ByFlag.downloads) == (4, 2, 1)
    assert train.name == "ByFlag"
    assert train.classes == ("cat", "dog")
    assert train.labels.tolist() == [0, 1, 0, 1]
    assert train.images[:, 0, 0, 0].tolist() == [0, 10, 20, 30]
    with pytest.raises(ValueError, match="split: expected one of train, test"):
        load(f"{prefix}ByFlag", "extra")


def test_torchvision_by_split(monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "BySplit", BySplit, raising=False)
    dataset = load("BySplit", "extra")
    assert dataset.labels.tolist() == [0, 2, 4]
    assert dataset.classes == ("0", "1", "2", "3", "4")
    assert (dataset.images == 90).all()
    with pytest.raises(ValueError, match="extra"):
        load("BySplit", "test")


def test_torchvision_without_splits_warns(monkeypatch):
    class Unsplit(BySplit):
        def __init__(self):
            pass

    monkeypatch.setattr(torchvision.datasets, "Unsplit", Unsplit, raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load("Unsplit")
    with pytest.warns(UserWarning, match="Unsplit has no splits"):
        load("Unsplit", "test")


def test_torchvision_failures_are_value_errors(monkeypatch):
    class Unreachable(ByFlag):
        def __init__(self, root, train=True, download=False):  # noqa: FBT002
            raise OSError("no network")

    class Boxes(BySplit):
        def __getitem__(self, index):
            return picture(), {"boxes": []}

    for kind in (Unreachable, Boxes):
        monkeypatch.setattr(torchvision.datasets, kind.__name__, kind, raising=False)
    with pytest.raises(ValueError, match=r"Unreachable \(no network\)"):
        load("Unreachable")
    with pytest.raises(ValueError, match="one label a picture, got Boxes"):
        load("Boxes")
    with pytest.raises(ValueError, match=r"torchvision dataset: expected one of .*CIFAR10.*, got 'Nope'"):
        load("torchvision:Nope")


# --- image folders ---------------------------------------------------------------------------------------------------


def test_image_folder_reads_every_mode(tmp_path):
    colour = (200, 40, 90)
    grey = Image.fromarray(np.full((20, 20), 70 * 256 + 5, np.uint16))
    palette = picture(colour).quantize()
    palette.info["transparency"] = bytes([255] * 200)
    write(tmp_path / "b", colour=picture(colour), deep=grey, grey=picture((70, 70, 70), mode="L"), palette=palette)
    write(tmp_path / "a", alpha=picture(colour, mode="RGBA"))
    write(tmp_path / ".hidden", no=picture())
    (tmp_path / "a" / "._alpha.png").write_bytes(b"")
    (tmp_path / "a" / "notes.txt").write_text("no picture")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = load(tmp_path)
    assert dataset.name == tmp_path.name
    assert dataset.classes == ("a", "b")
    assert dataset.labels.tolist() == [0, 1, 1, 1, 1]
    expected = torch.tensor([colour, colour, (70, 70, 70), (70, 70, 70), colour])
    assert torch.equal(dataset.images.long(), expected[..., None, None].expand(5, 3, 20, 20))


def test_image_folder_honours_orientation(tmp_path):
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:, :15] = RED
    pixels[:, 15:] = GREEN
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    (tmp_path / "a").mkdir()
    Image.fromarray(pixels).save(tmp_path / "a" / "one.png", exif=exif)
    image = load(tmp_path).images[0]
    assert image.shape == (3, 30, 20)
    assert tuple(image[:, 0, 0].tolist()) == RED
    assert tuple(image[:, -1, 0].tolist()) == GREEN


@pytest.mark.parametrize("other", ["test", "val"])
def test_image_folder_with_splits_shares_the_classes(tmp_path, other):
    write(tmp_path / "train" / "a", one=picture())
    write(tmp_path / "train" / "b" / "deeper", one=picture(), two=picture())
    write(tmp_path / other / "b", one=picture(GREEN))
    train, test = load(str(tmp_path), "train"), load(str(tmp_path), "test")
    assert train.labels.tolist() == [0, 1, 1]
    assert test.labels.tolist() == [1]
    assert test.classes == train.classes == ("a", "b")
    with pytest.raises(ValueError, match="split: expected one of train, "):
        load(tmp_path, "extra")


def test_image_folder_without_splits_warns_of_test(tmp_path):
    write(tmp_path / "train", one=picture())  # a class named train
    write(tmp_path / "plane", one=picture())
    with pytest.warns(UserWarning, match="has no splits"):
        assert load(tmp_path, "test").classes == ("plane", "train")


def test_unreadable_pictures_are_named(tmp_path):
    write(tmp_path / "a", fine=picture(), torn=picture())
    torn = tmp_path / "a" / "torn.png"
    torn.write_bytes(torn.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"torn\.png: expected a readable picture"):
        load(tmp_path)


def test_folder_without_pictures_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError, match="a folder without sub-folders of pictures"):
        load(tmp_path)
    picture().save(tmp_path / "loose.png")
    with pytest.raises(ValueError, match="a folder without sub-folders of pictures"):
        load(tmp_path)


# --- sizes -----------------------------------------------------------------------------------------------------------


def test_sizes_are_kept_where_they_agree_and_32_where_not(tmp_path):
    write(tmp_path / "a", one=picture(size=(24, 20)), two=picture(GREEN, size=(24, 20)))
    assert load(tmp_path).image_size == (20, 24)
    write(tmp_path / "a", three=picture(size=(50, 20)))
    mixed = load(tmp_path)
    assert mixed.image_size == (32, 32)
    assert torch.equal(mixed.images[2, :, 5, 5], torch.tensor(GREEN).byte())
    assert load(tmp_path, image_size=17).image_size == (17, 17)
    with pytest.raises(ValueError, match="image_size: expected a value at least 16"):
        load(tmp_path, image_size=8)


def test_shrinking_is_antialiased(tmp_path):
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    (tmp_path / "a").mkdir()
    Image.fromarray(stripes).save(tmp_path / "a" / "one.png")
    shrunk = load(tmp_path, image_size=16).floats()[..., 2:-2]
    assert (shrunk - 0.5).abs().max() < 0.05


def test_center_crop_enlarges_the_center(tmp_path):
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[10:30, 10:30] = 200
    (tmp_path / "a").mkdir()
    Image.fromarray(pixels).save(tmp_path / "a" / "one.png")
    assert (load(tmp_path, center_crop=20).images == 200).all()
    assert torch.equal(load(tmp_path, center_crop=40).images, load(tmp_path).images)
    assert load(tmp_path, center_crop=20).image_size == (40, 40)
    loaded = load(tmp_path, center_crop=30).floats()
    whole = load(tmp_path).floats()[..., 5:35, 5:35]
    expected = torch.nn.functional.interpolate(whole, (40, 40), mode="bilinear", align_corners=False)
    assert (loaded - expected).abs().max() <= 0.5 / 255 + 1e-6
    for size in (0, 41):
        with pytest.raises(ValueError, match="center_crop"):
            load(tmp_path, center_crop=size)


# --- Hugging Face ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_parquet_folder(tmp_path, mode):
    table(LABELLED, label=[0, 1, 2, 0, 1, 2], mode=mode).to_parquet(tmp_path / "train.parquet")
    table(LABELLED, count=2, label=[1, 1]).to_parquet(tmp_path / "test.parquet")
    shown = not datasets.are_progress_bars_disabled()
    train, test = load(tmp_path), load(str(tmp_path), "test")
    assert shown == (not datasets.are_progress_bars_disabled())
    assert train.name == tmp_path.name
    assert train.classes == test.classes == ("cat", "dog", "eel")
    assert train.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert test.labels.tolist() == [1, 1]
    expected = [
        40 * index if mode != "L" else picture((40 * index, 0, 0), mode="L").getpixel((0, 0)) for index in range(6)
    ]
    assert train.images[:, 0, 3, 3].tolist() == expected
    with pytest.raises(ValueError, match="split: expected one of train, test, got 'validation'"):
        load(tmp_path, "validation")


def test_classes_without_names_are_those_of_all_splits(tmp_path):
    table(label=[10, 2, 10, 2, 7, 7]).to_parquet(tmp_path / "train.parquet")
    table(count=2, label=[10, 2]).to_parquet(tmp_path / "test.parquet")
    test = load(tmp_path, "test")
    assert test.classes == ("2", "7", "10")
    assert test.labels.tolist() == [2, 0]


def test_columns_are_found_or_named(tmp_path):
    made = table(label=["x"] * 6, kind=[[1]] * 6, number=[1] * 6, other=["b", "a"] * 3).rename_column("image", "photo")
    made.to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="image_column: expected one of photo, label, kind, number, other, got none"):
        load(tmp_path)
    with pytest.raises(ValueError, match=r"label_column: expected one of .*, got 'nope'"):
        load(tmp_path, image_column="photo", label_column="nope")
    with pytest.raises(ValueError, match="label_column: expected one label a picture"):
        load(tmp_path, image_column="photo", label_column="kind")
    with pytest.raises(ValueError, match="image_column: expected a column of pictures"):
        load(tmp_path, image_column="number")
    dataset = load(tmp_path, image_column="photo", label_column="other")
    assert dataset.classes == ("a", "b")
    assert dataset.labels.tolist() == [1, 0, 1, 0, 1, 0]


def test_usual_column_names(tmp_path):
    made = table(coarse_label=[0] * 6, fine_label=[0, 1] * 3).rename_column("image", "img")
    made.to_parquet(tmp_path / "train.parquet")
    assert load(tmp_path).labels.tolist() == [0, 1] * 3


def test_saved_to_disk(tmp_path):
    made = table(LABELLED, label=[0, 1, 2, 0, 1, 2])
    made.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": made, "test": made.select([4, 5])}).save_to_disk(tmp_path / "dict")
    assert load(tmp_path / "dict", "test").labels.tolist() == [1, 2]
    assert load(tmp_path / "one").labels.tolist() == [0, 1, 2, 0, 1, 2]
    with pytest.warns(UserWarning, match="one has no splits"):
        assert len(load(tmp_path / "one", "test")) == 6


def test_broken_and_unlabelled_rows_are_refused(tmp_path):
    made = table(LABELLED, label=[0, 1, None, 0, 1, 2])
    made.to_parquet(tmp_path / "unlabelled" / "train.parquet")
    with pytest.raises(ValueError, match="labels: expected values from 0 to 2, got values from -1 to 2"):
        load(tmp_path / "unlabelled")
    made = datasets.Dataset.from_dict({"image": [{"bytes": b"no picture", "path": None}], "label": [0]})
    made.to_parquet(tmp_path / "broken" / "train.parquet")
    with pytest.raises(ValueError, match="row 0, column 'image': expected a readable picture"):
        load(tmp_path / "broken")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "train.parquet").write_bytes(b"no table")
    with pytest.raises(ValueError, match="source: expected 'signs', a torchvision dataset"):
        load(tmp_path / "torn")


# --- what is none of these -------------------------------------------------------------------------------------------


def test_existing_paths_and_plain_words_are_never_looked_up(tmp_path, monkeypatch):
    def look_up(*_, **__):
        raise AssertionError("looked up on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", look_up)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "dataset").mkdir(parents=True)
    (tmp_path / "owner" / "file").write_text("no data")
    for source in (
        "owner/dataset",
        "owner/file",
        Path("owner/missing"),
        "./a/b",
        "~/a/b",
        "/a/b",
        "a/b/c",
        "words",
        "",
    ):
        with pytest.raises(
            ValueError, match="source: expected 'signs', a torchvision dataset such as CIFAR10, a folder"
        ):
            load(source)


def test_hub_names_are_looked_up_and_failures_are_one_line(monkeypatch):
    asked = []

    def look_up(name):
        asked.append(name)
        raise ConnectionError("Couldn't reach the Hub\nand more")

    monkeypatch.setattr(datasets, "load_dataset", look_up)
    with pytest.raises(ValueError, match=r"got 'owner/data-set.v2' \(Couldn't reach the Hub\)$"):
        load("owner/data-set.v2")
    assert asked == ["owner/data-set.v2"]


def test_columns_of_other_sources_are_refused(tmp_path):
    write(tmp_path / "a", one=picture())
    with pytest.raises(ValueError, match="a Hugging Face dataset, as a column is named"):
        load(tmp_path, label_column="label")


# --- real data -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif("FEBRUUS_SHARED" not in os.environ, reason="FEBRUUS_SHARED names no folder with real data")
def test_shared_data():
    folder = Path(os.environ["FEBRUUS_SHARED"]) / "data"
    dataset = load(folder / "cifar10", "test")
    assert dataset.name == "cifar10"
    assert dataset.image_size == (32, 32)
    assert dataset.classes[3] == "cat"
    assert dataset.labels.bincount().min() > 400
    assert load(folder / "gtsrb96", "test", image_size=48).num_classes == 43

from __future__ import annotations

import functools
import importlib.util
import io
import json
import os
import shutil
import sys
import warnings
from pathlib import Path

import pandas  # type: ignore[import-untyped]
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.functional import pil_to_tensor

from februus.metrics import clean_accuracy
from februus.models import Card, Normalized, build, load, read_card, save_checkpoint
from februus.registry import available

CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.head = nn.Linear(3, num_classes)

    def forward(self, images):
        return self.head(images.mean((2, 3)))

class Flat(nn.Module):
    def forward(self, images):
        return images.mean((1, 2, 3))

class Pair(nn.Module):
    def forward(self, images):
        return images.mean((2, 3)), None

class Large(nn.Module):
    def forward(self, images):
        return nn.functional.avg_pool2d(images, 200).flatten(1)

class Brightest(nn.Module):
    def forward(self, images):
        return images.mean((2, 3))

def fixed():
    return Net(7)

def options(**options):
    return Net(**options)

def grey():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten())

def no_network(num_classes):
    return num_classes

number = 3
"""


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Put a module into the current directory, as a user has it; return its name."""
    (tmp_path / "mine_of_a_test.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.delitem(sys.modules, "mine_of_a_test", raising=False)
    return "mine_of_a_test"


def pictures(count: int = 20, size: int = 32) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "name", [*available("architectures"), "small-vgg:dropout=0", "resnet18", "mobilenet_v3_small", "squeezenet1_1"]
)
def test_named_architectures_come_back_from_their_weights(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    network = build(name, num_classes=6).eval()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    model = load(name, weights=tmp_path / "weights.pth")
    with torch.no_grad():
        assert torch.equal(model(pictures(2)), network(pictures(2)))
    assert model(pictures(2)).shape == (2, 6)
    assert model.card is None
    assert not model.training


@pytest.mark.parametrize("name", ["resnet10t", "timm:resnet10t", "timm:resnet18"])
def test_timm(name: str) -> None:
    timm = pytest.importorskip("timm")
    network = build(name, num_classes=6)
    assert isinstance(network, timm.models.resnet.ResNet)
    assert network.get_classifier().out_features == 6


def test_timm_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"expected the package timm to be installed \(pip install 'februus\[timm\]'"):
        build("timm:resnet10t", num_classes=6)
    with pytest.raises(ValueError, match="timm is not installed"):
        build("resnet10t", num_classes=6)
    assert build("resnet18", num_classes=6).get_submodule("fc").weight.shape == (6, 512)


def test_an_unknown_name_lists_choices() -> None:
    with pytest.raises(ValueError, match=r"model: expected a checkpoint folder, module:function or a name .*resnet18"):
        build("resnet81", num_classes=6)
    with pytest.raises(ValueError, match=r"small-vgg, wrn-16-1.* got '/no/such/folder'"):
        load("/no/such/folder")
    with pytest.raises(ValueError, match="got 'timm:qqqqqq'"):
        build("timm:qqqqqq", num_classes=6)


@pytest.mark.parametrize("num_classes", [0, 1, 2.0, True, "3"])
def test_a_bad_number_of_classes_is_refused(num_classes: int) -> None:
    with pytest.raises(ValueError, match="num_classes: expected a whole number of at least 2, got "):
        build("small-vgg", num_classes=num_classes)
    with pytest.raises(ValueError, match="num_classes: expected a whole number of at least 2, got "):
        load("small-vgg", num_classes=num_classes)


def test_a_name_needs_weights() -> None:
    with pytest.raises(ValueError, match="weights: expected a file for 'wrn-16-1', got None"):
        load("wrn-16-1", num_classes=3)


def test_code_from_the_current_directory(code: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    for name in ("Net", "options"):
        network = build(f"{code}:{name}", num_classes=4)
        torch.save(network.state_dict(), tmp_path / "weights.pth")
        model = load(f"{code}:{name}", weights="weights.pth")
        assert torch.equal(model(pictures(2)), network(pictures(2)))
    assert load(f"{code}:fixed")(pictures(2)).shape == (2, 7)
    assert load(f"{code}:Net", num_classes=5)(pictures(2)).shape == (2, 5)
    torch.save(load(f"{code}:fixed").network.state_dict(), tmp_path / "weights.pth")
    assert load(f"{code}:fixed", weights="weights.pth", num_classes=7)(pictures(2)).shape == (2, 7)


@pytest.mark.parametrize(
    ("function", "options", "problem"),
    [
        ("nothing", {}, "model: expected module:function that can be imported, got .*nothing"),
        ("number", {}, "model: expected a function, got .*number', a int"),
        ("Net", {}, "model: expected a function that builds a network, got .* without num_classes"),
        ("no_network", {"num_classes": 3}, "model: expected a function that returns an nn.Module, got .*: int"),
        ("fixed", {"num_classes": 3}, r"model: expected logits \(2, 3\) .* got shape \(2, 7\)"),
        ("Flat", {}, r"model: expected logits \(2, C\) .* got shape \(2,\)"),
        ("Pair", {}, r"model: expected logits \(2, C\) .* got tuple"),
        ("grey", {}, "model: expected logits .* got RuntimeError: .*1 channels"),
        ("Large", {"image_size": 64}, r"model: expected logits .* pictures \(2, 3, 64, 64\), got RuntimeError"),
        ("Flat", {"device": "nowhere"}, "device: expected one that torch has here, got 'nowhere'"),
        ("Flat", {"image_size": 5}, "image_size: expected a value at least 16, got 5"),
        ("Flat", {"normalization": "cifar"}, "normalization: expected one of none, imagenet, cifar10, gtsrb, got "),
        ("Flat", {"normalization": (0.5, 0.5, 0.5)}, r"normalization: expected one of none.* or \(mean, std\), got "),
        ("Flat", {"normalization": ((0, 0, 0), (1, 1, 0))}, "normalization std: expected three positive numbers"),
        ("Flat", {"reference": torch.zeros(2, 32, 32, 3)}, r"reference: expected shape \(N, 3, H, W\)"),
    ],
)
def test_what_is_no_classifier_is_refused(code: str, function: str, options: dict[str, object], problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as caught:
        load(f"{code}:{function}", **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_a_module_that_is_not_there(code: str) -> None:
    with pytest.raises(ValueError, match=r"model: expected module:function that can be imported, .*No module named"):
        load("no_such_module:Net")


def test_training_needs_a_function_that_takes_the_classes(code: str) -> None:
    with pytest.raises(ValueError, match=r"architecture: expected a function that takes num_classes, got .*fixed"):
        build(f"{code}:fixed", num_classes=7)


def test_a_model_of_large_pictures_only_is_tried_with_224_pixels_too(code: str) -> None:
    assert load(f"{code}:Large")(pictures(2, 224)).shape == (2, 3)
    assert load(f"{code}:Large", reference=pictures(2, 224))


@pytest.mark.parametrize("given", ["imagenet", ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])
def test_the_normalisation_given(code: str, given: str) -> None:
    model = load(f"{code}:Brightest", normalization=given)
    expected = (pictures(2) - model.mean) / model.std
    torch.testing.assert_close(model(pictures(2)), expected.mean((2, 3)))
    assert model.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])


def test_the_model_goes_to_the_device(code: str) -> None:
    model = load(f"{code}:fixed", device="meta")
    assert {tensor.device.type for tensor in (model.mean, *model.parameters())} == {"meta"}


def test_loading_leaves_the_random_state(tmp_path: Path) -> None:
    torch.save(build("small-vgg", num_classes=3).state_dict(), tmp_path / "weights.pth")
    torch.manual_seed(0)
    before = torch.get_rng_state()
    load("small-vgg", weights=tmp_path / "weights.pth")
    assert torch.equal(torch.get_rng_state(), before)


def reference(share: float, count: int = 100) -> Tensor:
    """Pictures of which ``share`` are brightest in channel 1, the others in channel 2."""
    images = torch.zeros(count, 3, 16, 16)
    images[: round(share * count), 1] = 1
    images[round(share * count) :, 2] = 1
    return images


def test_a_reference_in_one_class_warns(code: str) -> None:
    with pytest.warns(UserWarning, match=r"91% of the 100 reference .* class 1: .* set it to .*imagenet") as caught:
        load(f"{code}:Brightest", reference=reference(0.91))
    assert caught[0].filename == __file__


@pytest.mark.parametrize("images", [reference(0.9), reference(1.0, count=15), None])
def test_otherwise_nothing_warns(code: str, images: Tensor | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(f"{code}:Brightest", reference=images)


def test_a_folder_keeps_to_its_card(tmp_path: Path) -> None:
    card = Card(name="a", architecture="wrn-16-1", dataset="signs", num_classes=3, image_size=32)
    save_checkpoint(tmp_path, build("wrn-16-1", num_classes=3), card)
    assert load(str(tmp_path), num_classes=3, image_size=32).card == card
    with pytest.raises(ValueError, match="num_classes: expected the card's 3, got 4"):
        load(tmp_path, num_classes=4)
    with pytest.raises(ValueError, match="image_size: expected the card's 32, got 64"):
        load(tmp_path, image_size=64)
    with pytest.raises(ValueError, match="weights: expected None, as the checkpoint folder has its own"):
        load(tmp_path, weights=tmp_path / "model.safetensors")


def test_a_normalisation_given_replaces_the_card_s(tmp_path: Path) -> None:
    card = Card(name="a", architecture="wrn-16-1", dataset="signs", num_classes=3, image_size=32)
    save_checkpoint(tmp_path, build("wrn-16-1", num_classes=3), card)
    model = load(tmp_path, normalization="gtsrb")
    assert model.card is not None
    assert model.card.normalization == {"mean": [0.3403, 0.3121, 0.3214], "std": [0.2724, 0.2608, 0.2669]}
    save_checkpoint(tmp_path, model, model.card)
    again = load(tmp_path)
    assert torch.equal(again(pictures(2)), model(pictures(2)))
    assert not torch.equal(load(tmp_path, normalization="none")(pictures(2)), model(pictures(2)))


def test_a_folder_of_someone_s_own_architecture(code: str, tmp_path: Path) -> None:
    card = Card(name="a", architecture=f"{code}:Net", dataset="signs", num_classes=3, image_size=32)
    network = build(card.architecture, num_classes=3)
    save_checkpoint("run", Normalized(network), card)
    assert torch.equal(load("run")(pictures(2)), network(pictures(2)))


def test_a_card_whose_classes_do_not_fit_the_weights(tmp_path: Path) -> None:
    card = Card(name="a", architecture="wrn-16-1", dataset="signs", num_classes=4, image_size=32)
    save_checkpoint(tmp_path, build("wrn-16-1", num_classes=3), card)
    with pytest.raises(ValueError, match=r"fc\.weight \(3, 64\) instead of \(4, 64\)"):
        load(tmp_path)


def test_a_folder_named_like_an_architecture_does_not_hide_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(build("wrn-16-1", num_classes=3).state_dict(), tmp_path / "weights.pth")
    (tmp_path / "wrn-16-1").mkdir()
    monkeypatch.chdir(tmp_path)
    assert isinstance(load("wrn-16-1", weights="weights.pth").network, nn.Module)


SHARED = os.environ.get("FEBRUUS_SHARED")
ACCURACIES = {
    "nad-wrn-cifar10-grid": 0.741,
    "ibau-vgg-cifar10-badnets": 0.780,
    "ibau-vgg-cifar10-trojan-square": 0.758,
    "ibau-vgg-cifar10-l2": 0.784,
    "ibau-vgg-gtsrb-l0": 0.967,
}


@functools.cache
def shared_pictures(dataset: str) -> tuple[Tensor, Tensor]:
    """The first 1,000 test pictures, as many as the README measures on; 300 would leave CA uncertain by 0.05."""
    table = pandas.read_parquet(Path(str(SHARED), "data", dataset, "test.parquet")).iloc[:1000]
    opened = (Image.open(io.BytesIO(image["bytes"])).convert("RGB") for image in table["image"])
    return torch.stack([pil_to_tensor(image).float() / 255 for image in opened]), torch.tensor(table["label"].tolist())


@pytest.mark.skipif(SHARED is None, reason="FEBRUUS_SHARED names no folder of foreign checkpoints")
@pytest.mark.parametrize("name", ACCURACIES)
def test_foreign_checkpoints_reach_their_accuracy(name: str, tmp_path: Path) -> None:
    folder = Path(str(SHARED), "checkpoints", name)
    model = load(folder)
    card = model.card
    assert card is not None
    assert {**card.to_dict(), **json.loads((folder / "card.json").read_text())} == card.to_dict()
    images, labels = shared_pictures(card.dataset)
    start = (card.image_size - card.center_crop) // 2
    images = images[..., start : start + card.center_crop, start : start + card.center_crop]
    images = F.interpolate(images, size=(32, 32), mode="bilinear", align_corners=False)
    with torch.no_grad():
        predictions = model(images).argmax(1)
    accuracy = clean_accuracy(predictions, labels)
    assert accuracy.value == pytest.approx(ACCURACIES[name], abs=0.005)
    save_checkpoint(tmp_path, model, card)
    shutil.copy(folder / "trigger.safetensors", tmp_path)
    assert read_card(tmp_path) == card
    with torch.no_grad():
        assert torch.equal(load(tmp_path)(images[:20]), model(images[:20]))

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from februus.benchmark.cases import Case, find_checkpoints, open_case, open_cases, trigger_of
from februus.benchmark.evaluation import evaluate
from februus.data import Dataset, load
from februus.models import Card, Normalized, build, read_card, save_checkpoint
from februus.poisoning import stamp
from februus.purifier import Purifier
from februus.seeds import seeded
from februus.training.classifier import predict
from februus.triggers.patch import Patch
from februus.triggers.pixels import Pixels
from februus.triggers.sticker import Sticker

Draw = Callable[..., Dataset]


def write_folder(folder: Path, data: Dataset) -> Path:
    """Write pictures as ``folder/test/CLASS/NUMBER.png``; the classes are in the order of their names."""
    for index, (image, label) in enumerate(zip(data.images, data.labels.tolist(), strict=True)):
        path = folder / "test" / f"{label} {data.classes[label]}" / f"{index:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return folder


@pytest.fixture(scope="module")
def folder(toy_draw: Draw, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("pictures"), toy_draw(64, 1))


def keys(images: Tensor) -> set[bytes]:
    """Return something by which each picture is told from any other."""
    return {
        image.numpy().tobytes() for image in (images if images.dtype == torch.uint8 else (images * 255).round().byte())
    }


def test_the_card_fills_in_what_is_not_given(toy_checkpoint: Path, toy_model: Normalized, folder: Path) -> None:
    case = open_case(str(toy_checkpoint), data=str(folder), references=16)
    assert case.name == "toy"
    assert case.trigger == Patch(size=4)
    assert case.target_label == 0
    assert case.source_label is None
    assert len(case.test) == 48
    assert case.test.image_size == (32, 32)
    assert not case.model.training
    assert torch.equal(predict(case.model, case.test), predict(toy_model, case.test))


def test_what_is_given_wins(toy_checkpoint: Path, folder: Path) -> None:
    given: dict[str, Any] = {"trigger": "sticker:size=6", "target_label": 2, "pictures": 10, "references": 20}
    case = open_case(str(toy_checkpoint), data=str(folder), name="mine", source_label=1, **given)
    assert case.name == "mine"
    assert case.source_label == 1
    assert case.trigger == Sticker(size=6)
    assert case.target_label == 2
    assert len(case.test) == 10
    assert len(case.reference) == 20


def test_pictures_are_drawn_by_the_seed(toy_checkpoint: Path, folder: Path) -> None:
    cases = [
        open_case(str(toy_checkpoint), data=str(folder), pictures=12, references=16, seed=seed) for seed in (0, 0, 1)
    ]
    for one, same, other in ([case.test.images for case in cases], [case.reference for case in cases]):
        assert torch.equal(one, same)
        assert not torch.equal(one, other)
    assert len(cases[0].test.labels.unique()) > 1


@pytest.mark.parametrize(
    ("pictures", "references", "scored"), [(None, 16, 48), (1000, 16, 48), (10, 16, 10), (None, 63, 1)]
)
def test_references_are_never_scored(
    toy_checkpoint: Path, folder: Path, pictures: int | None, references: int, scored: int
) -> None:
    case = open_case(str(toy_checkpoint), data=str(folder), pictures=pictures, references=references, seed=5)
    assert case.reference.shape == (references, 3, 32, 32)
    assert case.reference.dtype == torch.float32
    assert len(case.test) == scored
    everything = load(str(folder), "test")
    assert len(keys(everything.images)) == 64
    assert len(keys(case.reference)) == references
    assert len(keys(case.test.images)) == scored
    assert not keys(case.reference) & keys(case.test.images)
    assert keys(case.reference) | keys(case.test.images) <= keys(everything.images)


def test_more_scored_pictures_leave_the_references_as_they_are(toy_checkpoint: Path, folder: Path) -> None:
    cases = [open_case(str(toy_checkpoint), data=str(folder), pictures=count, references=16) for count in (4, 30)]
    assert torch.equal(cases[0].reference, cases[1].reference)
    assert keys(cases[0].test.images) < keys(cases[1].test.images)


def test_references_are_of_all_classes(toy_checkpoint: Path, folder: Path, toy_model: Normalized) -> None:
    """A folder has one class after the other."""
    case = open_case(str(toy_checkpoint), data=str(folder), references=16)
    with torch.no_grad():
        assert len(toy_model(case.reference).argmax(1).unique()) == 4


def test_victims_are_pictures_of_other_classes(toy_model: Normalized, toy_draw: Draw, toy_trigger: Patch) -> None:
    data = toy_draw(12, 1)
    case = Case(
        name="toy", model=toy_model, test=data, reference=data.floats(), trigger=toy_trigger, target_label=2
    )  # fmt: skip
    assert case.victims.labels.tolist() == [label for label in data.labels.tolist() if label != 2]
    assert torch.equal(case.victims.images, data.images[data.labels != 2])
    assert torch.equal(case.attacked, data.labels != 2)
    assert torch.equal(replace(case, trigger=None, target_label=None).victims.images, data.images)
    target = data.subset(data.labels == 2)
    with pytest.raises(ValueError, match=r"pictures: expected some of other classes than the target, got none of 3"):
        _ = replace(case, test=target).victims


def test_victims_are_pictures_of_the_source_class(toy_model: Normalized, toy_draw: Draw, toy_trigger: Patch) -> None:
    data = toy_draw(12, 1)
    case = Case(
        name="toy", model=toy_model, test=data, reference=data.floats(), trigger=toy_trigger, target_label=2,
        source_label=3,
    )  # fmt: skip
    assert case.victims.labels.tolist() == [3] * 3
    assert torch.equal(case.victims.images, data.images[data.labels == 3])
    with pytest.raises(ValueError, match=r"pictures: expected some of the source class 3, got none of 9"):
        _ = replace(case, test=data.subset(data.labels != 3)).victims


@pytest.fixture
def told(trained_toy: Normalized, tmp_path: Path) -> Callable[..., str]:
    """Write the toy checkpoint with other facts on its card."""

    def write(**facts: Any) -> str:
        assert trained_toy.card is not None
        save_checkpoint(tmp_path / "told", trained_toy, replace(trained_toy.card, **facts))
        return str(tmp_path / "told")

    return write


def test_the_source_class_is_on_the_card(told: Callable[..., str], folder: Path) -> None:
    model = told(source_label=3)
    case = open_case(model, data=str(folder), references=16)
    assert (case.target_label, case.source_label) == (0, 3)
    assert set(case.victims.labels.tolist()) == {3}
    assert len(case.victims) == int((case.test.labels == 3).sum())
    assert open_case(model, data=str(folder), references=16, source_label=2).source_label == 2
    with pytest.raises(ValueError, match="source_label: expected a target label, of another class, got 3"):
        open_case(model, data=str(folder), references=16, target_label=3)


BACKDOORS = [
    {"trigger": {"kind": "patch", "size": 4}, "target_label": 0, "source_label": None},
    {"trigger": {"kind": "pixels", "weights": "trigger-2.safetensors"}, "target_label": 2, "source_label": 1},
]


def test_a_card_with_several_backdoors_is_as_many_cases(told: Callable[..., str], folder: Path) -> None:
    model = told(extra={"backdoors": BACKDOORS})
    pixels = Path(model, "trigger-2.safetensors")
    save_file({"mask": torch.ones(1, 32, 32), "pattern": torch.ones(3, 32, 32)}, pixels)
    options: dict[str, Any] = {"data": str(folder), "references": 16}
    one, two = open_cases(model, **options)
    assert (one.name, one.trigger, one.target_label, one.source_label) == ("toy#1", Patch(size=4), 0, None)
    assert (two.name, two.trigger, two.target_label, two.source_label) == ("toy#2", Pixels(weights=str(pixels)), 2, 1)
    assert one.model is two.model
    assert one.test is two.test
    assert one.reference is two.reference
    assert [case.name for case in open_cases(model, name="there", **options)] == ["there#1", "there#2"]
    # Whoever tells of a backdoor means that one.
    for given in ({"trigger": "sticker"}, {"target_label": 3}, {"source_label": 3}):
        (case,) = open_cases(model, **options, **given)
        assert case.name == "toy"
        assert all(getattr(case, name) == value for name, value in given.items() if name != "trigger")
    assert open_case(model, **options).trigger == Patch(size=4)


def test_a_card_with_one_backdoor_or_none_is_one_case(toy_checkpoint: Path, folder: Path, tmp_path: Path) -> None:
    (case,) = open_cases(str(toy_checkpoint), data=str(folder), references=16)
    assert (case.name, case.trigger) == ("toy", Patch(size=4))
    torch.save(build("wrn-16-1", num_classes=4).state_dict(), tmp_path / "weights.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (case,) = open_cases("wrn-16-1", data=str(folder), references=16, weights=tmp_path / "weights.pth")
    assert (case.name, case.trigger) == ("wrn-16-1", None)


def test_the_data_and_the_crop_of_the_card(tmp_path: Path) -> None:
    card = Card(
        name="drawn", architecture="wrn-16-1", dataset="signs", num_classes=12, image_size=16, center_crop=12
    )  # fmt: skip
    torch.manual_seed(0)
    save_checkpoint(tmp_path, Normalized(build("wrn-16-1", num_classes=12)), card)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # untrained, it has one answer
        case = open_case(str(tmp_path))
    expected = load("signs", "test", image_size=16, center_crop=12)
    assert (case.name, case.test.name) == ("drawn", "signs")
    assert len(case.reference) == 256
    assert len(case.test) == len(expected) - 256
    assert keys(case.test.images) | keys(case.reference) == keys(expected.images)


def test_a_folder_with_one_class_after_the_other_makes_no_warning(
    toy_checkpoint: Path, toy_draw: Draw, tmp_path: Path
) -> None:
    """The normalisation is tried on pictures of all classes, not on the first of a folder."""
    many = toy_draw(600, 2)
    order = torch.cat([(many.labels == label).nonzero().flatten() for label in (0, 1, 2, 3)])
    uneven = many.subset(torch.cat([order, order[:150], order[:150]]))
    write_folder(tmp_path, uneven)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_case(str(toy_checkpoint), data=str(tmp_path))


def test_a_model_that_is_none_is_told_before_the_data_are_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model: expected a checkpoint folder, module:function or a name .*nowhere"):
        open_case(str(tmp_path / "nowhere"), data=str(tmp_path))


def test_a_model_of_a_name_with_weights(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build("wrn-16-1", num_classes=4)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    options: dict[str, Any] = {"data": str(folder), "weights": tmp_path / "weights.pth", "normalization": "cifar10"}
    options["references"] = 16
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        case = open_case("wrn-16-1", **options)
        attacked = open_case("wrn-16-1", **options, trigger="patch", target_label=1)
    assert (case.name, case.trigger, case.target_label) == ("wrn-16-1", None, None)
    assert (attacked.trigger, attacked.target_label) == (Patch(), 1)
    model = Normalized(network, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)).eval()
    images = case.test.floats()
    with torch.no_grad():
        torch.testing.assert_close(case.model(images), model(images))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_label": 4}, r"target_label: expected 0 to 3, got 4"),
        ({"target_label": -1}, r"target_label: expected 0 to 3, got -1"),
        ({"source_label": 4}, r"source_label: expected 0 to 3, got 4"),
        ({"source_label": 0}, r"source_label: expected a target label, of another class, got 0"),
        ({"trigger": "paint"}, r"trigger: expected one of any-of, blended, .*, warp, got 'paint'"),
        ({"pictures": 0}, r"pictures: expected a value at least 1, got 0"),
        ({"references": 0}, r"references: expected a value at least 1, got 0"),
        ({"references": 64}, r"references: expected fewer than the 64 pictures of .*, got 64"),
        ({"references": 256}, r"references: expected fewer than the 64 pictures of .*, got 256"),
        ({"data": "/nowhere"}, r"source: expected 'signs'.*got '/nowhere'"),
        ({"data": "signs"}, r"data: expected 4 classes, as the model has, got 12 in signs"),
        ({"weights": Path("weights.pth")}, r"weights: expected None, as the checkpoint folder has its own"),
        ({"device": "abacus"}, r"device: expected one that torch has here, got 'abacus'"),
        ({"image_size": 64}, r"image_size: expected the card's 32, got 64"),
        ({"split": "night"}, r"split: expected one of test, got 'night'"),
    ],
    ids=str,
)
def test_errors(toy_checkpoint: Path, folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_case(str(toy_checkpoint), **{"data": str(folder), "references": 16, **options})


def test_what_no_card_tells_must_be_given(folder: Path, tmp_path: Path) -> None:
    torch.save(build("wrn-16-1", num_classes=4).state_dict(), tmp_path / "weights.pth")
    weights = tmp_path / "weights.pth"
    with pytest.raises(ValueError, match="data: expected a source of pictures, as the model has no card"):
        open_case("wrn-16-1", weights=weights)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="target_label: expected both a trigger and a target label, or neither"):
            open_case("wrn-16-1", weights=weights, data=str(folder), references=16, trigger="patch")
        with pytest.raises(ValueError, match="trigger: expected both a trigger and a target label, or neither"):
            open_case("wrn-16-1", weights=weights, data=str(folder), references=16, target_label=1)
        with pytest.raises(ValueError, match="source_label: expected a target label, of another class, got None"):
            open_case("wrn-16-1", weights=weights, data=str(folder), references=16, source_label=1)


def test_the_trigger_of_a_card(toy_checkpoint: Path, toy_test: Dataset, tmp_path: Path) -> None:
    card = read_card(toy_checkpoint)
    assert trigger_of(replace(card, trigger=None), tmp_path) is None
    flag = {"kind": "sticker", "picture": "flag"}
    assert trigger_of(replace(card, trigger=flag), tmp_path) == Sticker(picture="flag")
    mask = torch.zeros(1, 32, 32)
    mask[:, :3] = 1
    save_file({"mask": mask, "pattern": mask.repeat(3, 1, 1)}, tmp_path / "mine.safetensors")
    # What else the card tells of it is for readers.
    told = {"kind": "pixels", "weights": "mine.safetensors", "rule": "images * (1 - mask) + pattern"}
    trigger = trigger_of(replace(card, trigger=told), tmp_path)
    assert trigger == Pixels(weights=str(tmp_path / "mine.safetensors"))
    assert trigger is not None
    assert (stamp(toy_test, trigger, seeded(0)).images[:, :, :3] == 255).all()
    for wrong in ({"kind": "paint"}, {"kind": "pixels", "weights": "other.safetensors"}, {"kind": "pixels"}):
        with pytest.raises(ValueError, match=r"^(trigger|weights)"):
            trigger_of(replace(card, trigger=wrong), tmp_path)


def test_checkpoints_below_a_folder(tmp_path: Path) -> None:
    for name in ("b", "a/deep", "a", "half", "other half"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        if name != "half":
            (tmp_path / name / "card.json").touch()
        if name != "other half":
            (tmp_path / name / "model.safetensors").touch()
    assert find_checkpoints(tmp_path) == [tmp_path / "a", tmp_path / "a" / "deep", tmp_path / "b"]
    assert find_checkpoints(tmp_path / "a") == [tmp_path / "a"]
    for folder in (tmp_path / "half", tmp_path / "other half", tmp_path / "nowhere"):
        with pytest.raises(ValueError, match=r"checkpoints: expected a folder with model\.safetensors and card\.json"):
            find_checkpoints(folder)


def test_a_checkpoint_is_found_and_opened(toy_checkpoint: Path, folder: Path) -> None:
    (found,) = find_checkpoints(toy_checkpoint.parent)
    assert open_case(str(found), data=str(folder), references=16).name == "toy"


# --- checkpoints by others -------------------------------------------------------------------------------------------

# The table of the checkpoints' README, on 1,000 pictures: CA and ASR.
TABLE = {
    "nad-wrn-cifar10-grid": (0.741, 1.000),
    "ibau-vgg-cifar10-badnets": (0.780, 0.985),
    "ibau-vgg-cifar10-trojan-square": (0.758, 0.998),
    "ibau-vgg-cifar10-l2": (0.784, 1.000),
    "ibau-vgg-gtsrb-l0": (0.967, 1.000),
}


def open_shared(shared: Path, name: str, pictures: int) -> Any:
    data = shared / "data" / ("gtsrb" if "gtsrb" in name else "cifar10")
    return open_case(str(shared / "checkpoints" / name), data=str(data), pictures=pictures)


@pytest.mark.parametrize("name", TABLE)
def test_checkpoints_by_others_have_the_figures_of_their_table(shared: Path, name: str) -> None:
    case = open_shared(shared, name, 300)
    clean = predict(case.model, case.test) == case.test.labels
    others = case.test.labels != case.target_label
    attacked = predict(case.model, stamp(case.test, case.trigger, seeded(0)))[others] == case.target_label
    accuracy, attack = TABLE[name]
    assert clean.float().mean().item() == pytest.approx(accuracy, abs=0.07)
    assert attacked.float().mean().item() == pytest.approx(attack, abs=0.025)


def test_the_published_recipe_fails_on_them_as_their_table_tells(shared: Path) -> None:
    case = open_shared(shared, "ibau-vgg-cifar10-badnets", 200)
    purifier = Purifier.for_model(case.model, preset="paper:threshold=0.7,inpainter=telea")
    rates = evaluate(case, {"paper": purifier})[0].rates
    assert rates["clean_accuracy_after"].value == pytest.approx(0.700, abs=0.09)
    assert rates["attack_success_rate_after"].value == pytest.approx(0.896, abs=0.07)
    assert rates["recovered_accuracy"].value == pytest.approx(0.083, abs=0.06)

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from februus.data import Dataset
from februus.inpainters.mean_fill import MeanFill
from februus.localizers.grad_cam import GradCam
from februus.models import Normalized
from februus.presets.paper import Paper
from februus.purifier import Purifier
from februus.registry import create, name_of
from februus.types import Purified


@pytest.fixture
def images(toy_test: Dataset) -> Tensor:
    return toy_test.floats(slice(12))


@pytest.fixture(scope="module")
def reference(toy_draw: Callable[..., Dataset]) -> Tensor:
    return toy_draw(40, seed=5).floats()


@pytest.fixture
def purifier(toy_model: Normalized) -> Purifier:
    return Purifier.for_model(toy_model, preset="paper")


# The promises of every preset, each with what makes it cheap.
PRESETS = ["paper", "verified:false_positive_rate=0.05,inpainter=telea"]


@pytest.fixture(params=PRESETS, ids=["paper", "verified"])
def either(request: pytest.FixtureRequest, toy_model: Normalized, reference: Tensor) -> Purifier:
    return Purifier.for_model(toy_model, reference, preset=request.param)


def paper(model: nn.Module, **options: Any) -> Purifier:
    """Make a purifier of the published recipe, without the registry."""
    return Purifier(model, Paper(**options))


def bare(model: Normalized) -> Any:
    """Return the network behind the normalisation, whose modules the toys know by name."""
    return model.network


@dataclass(frozen=True)
class Blind:
    """A localizer that sees nothing in the pictures of which the first pixel is black."""

    def __call__(self, model: nn.Module, images: Tensor) -> Tensor:
        heatmaps: Tensor = GradCam()(model, images)
        return heatmaps * (images[:, :1, :1, :1] > 0)


class Broken:
    """An inpainter that fails."""

    def __call__(self, images: Tensor, masks: Tensor) -> Tensor:
        raise RuntimeError("no paint")


def with_flat_pictures(images: Tensor) -> Tensor:
    """Make the first and the fourth picture such that `Blind` sees nothing in them."""
    images = images.clone()
    images[[0, 3], :, 0, 0] = 0
    return images


# --- what comes out --------------------------------------------------------------------------------------------------


def test_shapes_and_types(purifier: Purifier, images: Tensor) -> None:
    purified = purifier(images)
    count = len(images)
    assert isinstance(purified, Purified)
    expected = {
        "images": ((count, 3, 32, 32), torch.float32),
        "heatmaps": ((count, 1, 32, 32), torch.float32),
        "masks": ((count, 1, 32, 32), torch.float32),
        "logits_before": ((count, 4), torch.float32),
        "logits": ((count, 4), torch.float32),
        "labels": ((count,), torch.int64),
        "flagged": ((count,), torch.bool),
        "scores": ((count,), torch.float32),
    }
    found = {name: (tuple(getattr(purified, name).shape), getattr(purified, name).dtype) for name in expected}
    assert found == expected
    assert not any(getattr(purified, name).requires_grad for name in expected)
    assert purified.stages == ("classify",) * count
    assert purified.heatmaps.amin() == 0
    assert purified.heatmaps.amax() == 1
    assert set(purified.masks.unique().tolist()) == {0.0, 1.0}
    assert purified.images.amin() >= 0
    assert purified.images.amax() <= 1
    with pytest.raises(AttributeError):
        purified.labels = purified.labels  # type: ignore[misc]


def test_the_fields_agree(toy_model: Normalized, purifier: Purifier, images: Tensor) -> None:
    original = images.clone()
    purified = purifier(images)
    assert torch.equal(images, original)
    assert torch.equal(purified.masks, (purified.heatmaps >= 0.7).float())
    known = purified.masks.expand_as(images) == 0
    assert torch.equal(purified.images[known], images[known])
    assert not torch.equal(purified.images, images)
    with torch.no_grad():
        before, after = toy_model(images), toy_model(purified.images)
    torch.testing.assert_close(purified.logits_before, before, rtol=0, atol=1e-5)
    torch.testing.assert_close(purified.logits, after, rtol=0, atol=1e-5)
    assert torch.equal(purified.labels, purified.logits.argmax(1))
    assert torch.equal(purified.flagged, purified.labels != purified.logits_before.argmax(1))
    rows, label = torch.arange(len(images)), before.argmax(1)
    drop = before.softmax(1)[rows, label] - after.softmax(1)[rows, label]
    torch.testing.assert_close(purified.scores, drop, rtol=0, atol=1e-5)


def test_what_was_flagged_changed_its_class(toy_model: Normalized, images: Tensor) -> None:
    """With a low threshold nearly all is removed, and some pictures must fall in another class."""
    purified = Purifier.for_model(toy_model, preset="paper:threshold=0.05,inpainter=mean-fill")(images)
    assert purified.flagged.any()
    assert (purified.scores[purified.flagged] > 0).all()


def test_a_picture_without_heat_stays_bit_for_bit(toy_model: Normalized, images: Tensor) -> None:
    images = with_flat_pictures(images)
    purified = paper(toy_model, localizer=Blind(), inpainter=MeanFill())(images)
    empty = torch.tensor([stage == "locate" for stage in purified.stages])
    assert empty.nonzero().flatten().tolist() == [0, 3]
    assert torch.equal(purified.images[empty], images[empty])
    assert not purified.masks[empty].any()
    assert torch.equal(purified.logits[empty], purified.logits_before[empty])
    assert not purified.flagged[empty].any()
    assert not purified.scores[empty].any()
    assert set(purified.stages) == {"locate", "classify"}
    assert purified.masks[~empty].flatten(1).any(1).all()


def test_nothing_found_at_all(toy_model: Normalized, images: Tensor) -> None:
    """A model that answers all pictures alike has flat heatmaps: nothing is restored, nothing divided by 0."""
    nn.init.zeros_(bare(toy_model).classifier.weight)
    purifier = paper(toy_model, inpainter=Broken())
    purified = purifier(images)
    assert purified.stages == ("locate",) * len(images)
    assert torch.equal(purified.images, images)
    assert not purified.heatmaps.any()


def test_the_hidden_pixels_cannot_be_seen_in_the_restored_ones(toy_model: Normalized, images: Tensor) -> None:
    class Same:
        """A localizer that looks at one place whatever the picture."""

        def __call__(self, model: nn.Module, images: Tensor) -> Tensor:
            model(images)
            heatmaps = torch.zeros(len(images), 1, 32, 32)
            heatmaps[..., 20:28, 20:28] = 1
            return heatmaps

    purifier = paper(toy_model, localizer=Same(), inpainter=MeanFill())
    other = images.clone()
    other[..., 20:28, 20:28] = 1 - other[..., 20:28, 20:28]
    first, second = purifier(images), purifier(other)
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.logits, second.logits)


# --- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inpainter", ["gan", "telea"])
def test_the_result_does_not_depend_on_the_batch(toy_model: Normalized, images: Tensor, inpainter: str) -> None:
    preset = Paper(inpainter=create("inpainters", inpainter))
    whole = Purifier(toy_model, preset)(images)
    for batch_size in (1, 5):
        parts = Purifier(toy_model, preset, batch_size=batch_size)(images)
        torch.testing.assert_close(parts.logits, whole.logits, rtol=0, atol=1e-5)
        torch.testing.assert_close(parts.logits_before, whole.logits_before, rtol=0, atol=1e-5)
        torch.testing.assert_close(parts.images, whole.images, rtol=0, atol=1e-5)
        assert parts.stages == whole.stages
    order = torch.tensor([7, 2, 11])
    some = Purifier(toy_model, preset)(images[order])
    torch.testing.assert_close(some.logits, whole.logits[order], rtol=0, atol=1e-5)
    torch.testing.assert_close(some.images, whole.images[order], rtol=0, atol=1e-5)


def test_one_forward_and_one_backward_for_all_and_one_forward_for_the_restored(
    toy_model: Normalized, images: Tensor
) -> None:
    images = with_flat_pictures(images)
    purifier = paper(toy_model, localizer=Blind(), inpainter=MeanFill())
    purifier(images)  # traces the model once
    forwards: list[int] = []
    backwards: list[int] = []
    handles = [
        toy_model.register_forward_hook(lambda _module, inputs, _output: forwards.append(len(inputs[0]))),
        bare(toy_model).classifier.register_full_backward_hook(
            lambda _module, _inputs, outputs: backwards.append(len(outputs[0]))
        ),
    ]
    purifier(images)
    for handle in handles:
        handle.remove()
    assert forwards == [len(images), len(images) - 2]
    assert backwards == [len(images)]


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda images: images[:0], r"images: expected at least one picture, got an empty batch"),
        (lambda images: images.index_fill(3, torch.tensor([4]), float("nan")), r"values in \[0, 1\], got NaN"),
        (lambda images: images * 2, r"values in \[0, 1\], got values from"),
        (lambda images: images - 1, r"values in \[0, 1\], got values from"),
        (lambda images: images * float("inf"), r"values in \[0, 1\]"),
        (lambda images: images[:, :1], r"shape \(N, 3, H, W\), got \(12, 1, 32, 32\)"),
        (lambda images: images[0], r"shape \(N, 3, H, W\), got \(3, 32, 32\)"),
        (lambda images: images[..., :15], r"sides of at least 16 pixels, got 15x32"),
        (lambda images: (images * 255).byte(), r"float32 in \[0, 1\], got torch.uint8"),
        (lambda images: images.double(), r"float32 in \[0, 1\], got torch.float64"),
        (lambda images: images.numpy(), r"a float32 tensor \(N, 3, H, W\), got ndarray"),
    ],
)
def test_bad_pictures(purifier: Purifier, images: Tensor, spoil: Callable[[Tensor], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        purifier(spoil(images))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "papers"}, r"preset: expected one of double-masking, .*, verified, got 'papers'"),
        ({"preset": "paper:blur=3"}, r"option of preset paper: expected one of threshold, .*, got 'blur'"),
        ({"blur": 3}, r"option of preset paper: expected one of threshold, .*, got 'blur'"),
        ({"layer": "features.0"}, r"option of preset paper: expected one of threshold, .*, got 'layer'"),
        ({"localizer": "magic"}, r"localizer: expected one of grad-cam, .*, got 'magic'"),
        ({"inpainter": "magic"}, r"inpainter: expected one of biharmonic, gan, .*telea, got 'magic'"),
        ({"inpainter": "telea:radius=0"}, r"radius: expected a value above 0, got 0"),
        ({"localizer": "grad-cam:layer=nowhere"}, r"layer: expected one of network\.features\.0, .*got 'nowhere'"),
        ({"localizer": "grad-cam:layer=network.classifier"}, r"layer: expected one whose output are maps"),
        ({"threshold": 0}, r"threshold: expected a value above 0 and at most 1, got 0"),
        ({"threshold": 1.1}, r"threshold: expected a value above 0 and at most 1, got 1\.1"),
        ({"threshold": float("nan")}, r"threshold: expected a value above 0 and at most 1, got nan"),
        ({"batch_size": 0}, r"batch_size: expected a value at least 1, got 0"),
        ({"reference": torch.zeros(15, 3, 32, 32)}, r"reference: expected at least 16 pictures, got 15"),
        ({"reference": torch.zeros(16, 1, 32, 32)}, r"reference: expected shape \(N, 3, H, W\)"),
        ({"reference": torch.full((16, 3, 32, 32), 2.0)}, r"reference: expected values in \[0, 1\]"),
    ],
)
def test_bad_settings(toy_model: Normalized, toy_test: Dataset, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Purifier.for_model(toy_model, **{"preset": "paper", "reference": toy_test.floats(slice(16)), **options})


def test_a_layer_that_is_not_there_is_told_by_the_first_call_without_reference(
    toy_model: Normalized, images: Tensor
) -> None:
    purifier = Purifier.for_model(toy_model, preset="paper", localizer="grad-cam:layer=nowhere")
    with pytest.raises(ValueError, match="got 'nowhere'"):
        purifier(images)


def test_the_published_recipe_needs_no_reference_and_it_changes_nothing(
    toy_model: Normalized, toy_test: Dataset, images: Tensor
) -> None:
    without = Purifier.for_model(toy_model, None, preset="paper")
    given = Purifier.for_model(toy_model, toy_test.floats(slice(16)), preset="paper")
    assert repr(without) == repr(given)
    assert torch.equal(without(images).logits, given(images).logits)


def test_settings_reach_their_place(toy_model: Normalized, images: Tensor) -> None:
    inpainter = MeanFill()
    purifier = Purifier.for_model(
        toy_model,
        preset="paper:localizer=grad-cam:layer=network.features.4,threshold=0.5",
        inpainter=inpainter,
        threshold=0.6,
        batch_size=7,
    )
    assert purifier.inpainter is inpainter
    assert repr(purifier) == (
        "Purifier(Paper(threshold=0.6, localizer=GradCam(layer='network.features.4'), inpainter=MeanFill()), "
        "batch_size=7)"
    )
    purified = purifier(images)
    assert torch.equal(purified.heatmaps, GradCam(layer="network.features.4")(toy_model, images))
    assert torch.equal(purified.masks, (purified.heatmaps >= 0.6).float())


def test_what_touches_only_what_is_proven_is_the_default(toy_model: Normalized, reference: Tensor) -> None:
    purifier = Purifier.for_model(toy_model, reference, false_positive_rate=0.05)
    assert name_of(purifier.preset) == "verified"
    with pytest.raises(ValueError, match=r"reference: expected at least 200 pictures .*, got none"):
        Purifier.for_model(toy_model)


def test_bad_batch_sizes_are_refused_without_the_registry_too(toy_model: Normalized) -> None:
    with pytest.raises(ValueError, match="batch_size: expected a value at least 1, got 0"):
        Purifier(toy_model, Paper(), batch_size=0)


# --- the model is given back as it was -------------------------------------------------------------------------------


def condition(model: nn.Module) -> dict[str, Any]:
    """Return all that a purifier must leave alone."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "training": [module.training for module in model.modules()],
        "hooks": [len(getattr(module, name)) for module in model.modules() for name in hooks],
        "gradients": [None if value.grad is None else value.grad.clone() for value in model.parameters()],
        "requires_grad": [value.requires_grad for value in model.parameters()],
        "tensor_hooks": [len(value._backward_hooks or ()) for value in model.parameters()],
        "state": [value.clone() for value in model.state_dict().values()],
    }


def assert_same(first: dict[str, Any], second: dict[str, Any]) -> None:
    for key in ("training", "hooks", "requires_grad", "tensor_hooks"):
        assert first[key] == second[key], key
    for key in ("gradients", "state"):
        for one, other in zip(first[key], second[key], strict=True):
            assert (one is None and other is None) or torch.equal(one, other), key


def spoilt(model: Normalized) -> Normalized:
    """Give the model a mixed condition: some modules in training mode, a frozen weight, a gradient, a hook."""
    model.train()
    bare(model).features[1].eval()
    bare(model).features[0].weight.requires_grad_(requires_grad=False)
    bare(model).classifier.bias.grad = torch.ones(4)
    bare(model).features[4].register_forward_hook(lambda *_: None)
    return model


@pytest.mark.parametrize("preset", PRESETS, ids=["paper", "verified"])
@pytest.mark.parametrize("prepare", [lambda model: model, spoilt], ids=["plain", "mixed"])
def test_the_model_is_given_back_as_it_was(
    toy_model: Normalized,
    images: Tensor,
    reference: Tensor,
    prepare: Callable[[Normalized], Normalized],
    preset: str,
) -> None:
    model = prepare(toy_model)
    before = condition(model)
    purifier = Purifier.for_model(model, reference, preset=preset)
    assert_same(condition(model), before)
    purifier(images)
    purifier.as_classifier()(images)
    assert_same(condition(model), before)
    assert torch.is_grad_enabled()


def test_the_model_is_given_back_after_an_exception(toy_model: Normalized, images: Tensor) -> None:
    model = spoilt(toy_model)
    before = condition(model)
    with pytest.raises(RuntimeError, match="no paint"):
        paper(model, inpainter=Broken())(images)
    assert_same(condition(model), before)


@pytest.mark.parametrize("preset", PRESETS, ids=["paper", "verified"])
def test_the_model_is_given_back_after_an_exception_of_its_own(
    toy_model: Normalized, images: Tensor, reference: Tensor, preset: str
) -> None:
    model = spoilt(toy_model)
    before = condition(model)

    def fail(*_: Any) -> None:
        raise RuntimeError("no answer")

    purifier = Purifier.for_model(model, reference, preset=preset)
    purifier(images)
    handle = bare(model).classifier.register_forward_pre_hook(fail)
    for use in (lambda: purifier(images), lambda: Purifier.for_model(model, reference, preset=preset)):
        with pytest.raises(RuntimeError, match="no answer"):
            use()
    handle.remove()
    assert_same(condition(model), before)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("preset", PRESETS, ids=["paper", "verified"])
def test_modes_of_the_model_do_not_matter(
    toy_model: Normalized, images: Tensor, reference: Tensor, preset: str
) -> None:
    expected = Purifier.for_model(copy.deepcopy(toy_model), reference, preset=preset)(images)
    for model in (copy.deepcopy(toy_model).train(), copy.deepcopy(toy_model).requires_grad_(requires_grad=False)):
        purified = Purifier.for_model(model, reference, preset=preset)(images)
        torch.testing.assert_close(purified.logits, expected.logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, nullcontext])
def test_works_under_every_gradient_mode(
    either: Purifier, images: Tensor, mode: Callable[[], AbstractContextManager[None]]
) -> None:
    expected = either(images)
    with mode():
        purified = either(images)
        logits = either.as_classifier()(images)
    assert torch.equal(purified.images, expected.images)
    assert torch.equal(purified.logits, expected.logits)
    assert torch.equal(logits, expected.logits)


def test_pictures_made_in_inference_mode_or_with_gradient(either: Purifier, images: Tensor) -> None:
    expected = either(images)
    with torch.inference_mode():
        inference = images.clone()
    assert torch.equal(either(inference).logits, expected.logits)
    learnt = images.clone().requires_grad_()
    assert torch.equal(either(learnt).logits, expected.logits)
    assert learnt.grad is None
    assert not either(learnt).images.requires_grad


# --- as a classifier -------------------------------------------------------------------------------------------------


def test_the_classifier_answers_as_the_either(either: Purifier, images: Tensor) -> None:
    classifier = either.as_classifier()
    assert isinstance(classifier, nn.Module)
    logits = classifier(images)
    assert torch.equal(logits, either(images).logits)
    assert not logits.requires_grad


def test_the_classifier_has_the_state_of_the_bare_model(toy_model: Normalized, images: Tensor) -> None:
    classifier = Purifier.for_model(toy_model, preset="paper").as_classifier()
    state = classifier.state_dict()
    assert list(state) == list(toy_model.state_dict())
    assert all(torch.equal(state[name], value) for name, value in toy_model.state_dict().items())
    before = classifier(images)
    changed = {name: value.clone() for name, value in state.items()}
    changed["network.classifier.bias"] += torch.tensor([0.0, 0.0, 0.0, 1000.0])
    assert classifier.load_state_dict(changed).missing_keys == []
    assert torch.equal(bare(toy_model).classifier.bias, changed["network.classifier.bias"])
    assert (classifier(images).argmax(1) == 3).all()
    assert not torch.equal(classifier(images), before)
    with pytest.raises(RuntimeError, match=r"network\.classifier\.bias"):
        classifier.load_state_dict({name: value for name, value in state.items() if "bias" not in name})


def test_the_classifier_is_a_module_like_the_model(toy_model: Normalized, images: Tensor) -> None:
    classifier = Purifier.for_model(toy_model, preset="paper").as_classifier()
    before = classifier(images)
    assert classifier.train().training
    assert toy_model.training
    assert bare(toy_model).features[1].training
    torch.testing.assert_close(classifier(images), before, rtol=0, atol=1e-5)
    assert toy_model.training
    assert not classifier.eval().training
    assert not toy_model.training
    assert classifier.to("cpu") is classifier
    assert {id(value) for value in classifier.parameters()} == {id(value) for value in toy_model.parameters()}
    assert torch.equal(copy.deepcopy(classifier)(images), before)


def test_the_classifier_drops_into_a_loop_over_batches(toy_model: Normalized, toy_test: Dataset) -> None:
    classifier = Purifier.for_model(toy_model, preset="paper").as_classifier().eval()
    pictures = toy_test.subset(slice(30))
    loader = DataLoader(TensorDataset(pictures.floats(), pictures.labels), batch_size=8)
    right = 0
    with torch.no_grad():
        for images, labels in loader:
            right += int((classifier(images).argmax(1) == labels).sum())
    assert right == int(
        (Purifier.for_model(toy_model, preset="paper")(pictures.floats()).labels == pictures.labels).sum()
    )


# --- kept in a folder ------------------------------------------------------------------------------------------------


def test_saved_and_loaded_it_does_the_same_bit_by_bit(toy_model: Normalized, images: Tensor, tmp_path: Path) -> None:
    purifier = Purifier.for_model(toy_model, preset="paper:inpainter=telea:radius=2", threshold=0.6, batch_size=5)
    purifier.save(tmp_path / "new" / "folder")
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["purifier.json"]
    loaded = Purifier.load(tmp_path / "new" / "folder", toy_model)
    assert repr(loaded) == repr(purifier)
    for name, value in vars(loaded(images)).items():
        other = getattr(purifier(images), name)
        assert torch.equal(value, other) if isinstance(value, Tensor) else value == other, name


def test_one_purifier_is_saved_over_another(
    toy_model: Normalized, images: Tensor, reference: Tensor, either: Purifier, tmp_path: Path
) -> None:
    Purifier.for_model(toy_model, reference[:20], false_positive_rate=0.05, seed=1).save(tmp_path)
    either.save(tmp_path)
    loaded = Purifier.load(tmp_path, toy_model)
    assert repr(loaded) == repr(either)
    assert torch.equal(loaded(images).logits, either(images).logits)


def test_a_localizer_outside_the_registry_cannot_be_kept(toy_model: Normalized, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"localizer: expected one of grad-cam, .*, got .*Blind"):
        paper(toy_model, localizer=Blind()).save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_place_that_is_no_folder_is_refused(purifier: Purifier, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="output: expected a folder that can be written"):
        purifier.save(tmp_path / "file")


# --- other models ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn", "mobilenet_v3_small"])
def test_models_of_torchvision(name: str) -> None:
    torch.manual_seed(0)
    model = Normalized(torchvision.models.get_model(name, weights=None, num_classes=7)).eval()
    purifier = Purifier.for_model(model, preset="paper:inpainter=mean-fill")
    modes = [module.training for module in model.modules()]
    for side in (32, 64):
        images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1))
        purified = purifier(images)
        assert purified.logits.shape == (2, 7)
        assert purified.logits.isfinite().all()
        assert purified.heatmaps.shape == (2, 1, side, side)
        assert purified.stages == ("classify", "classify")
        known = purified.masks.expand_as(images) == 0
        assert known.any()
        assert torch.equal(purified.images[known], images[known])
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_pictures_need_not_be_square(toy_model: Normalized) -> None:
    images = torch.rand(2, 3, 24, 41, generator=torch.Generator().manual_seed(1))
    purified = Purifier.for_model(toy_model, preset="paper")(images)
    assert purified.images.shape == images.shape
    assert purified.masks.shape == (2, 1, 24, 41)


def test_a_vision_transformer_is_refused() -> None:
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(32, 8, 1, 2, 16, 32, num_classes=5)
    images = torch.rand(16, 3, 32, 32)
    message = r"model: expected a convolutional classifier, for Grad-CAM, got .*vision transformer"
    with pytest.raises(ValueError, match=message):
        Purifier.for_model(model, images)
    with pytest.raises(ValueError, match=message):
        Purifier.for_model(model, preset="paper")(images)


def test_a_model_without_convolution_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 5))
    images = torch.rand(16, 3, 32, 32)
    message = r"model: expected a convolutional classifier, for Grad-CAM, got one without a convolution"
    with pytest.raises(ValueError, match=message):
        Purifier.for_model(model, images)
    with pytest.raises(ValueError, match=message):
        Purifier.for_model(model, preset="paper")(images)

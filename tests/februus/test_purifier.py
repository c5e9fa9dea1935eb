from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
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
from februus.purifier import Purifier
from februus.types import Purified


@pytest.fixture
def images(toy_test: Dataset) -> Tensor:
    return toy_test.floats(slice(12))


@pytest.fixture
def purifier(toy_model: Normalized) -> Purifier:
    return Purifier.for_model(toy_model)


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
    purified = Purifier.for_model(toy_model, threshold=0.05, inpainter="mean-fill")(images)
    assert purified.flagged.any()
    assert (purified.scores[purified.flagged] > 0).all()


def test_a_picture_without_heat_stays_bit_for_bit(toy_model: Normalized, images: Tensor) -> None:
    images = with_flat_pictures(images)
    purified = Purifier(toy_model, localizer=Blind(), inpainter=MeanFill(), threshold=0.7)(images)
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
    purifier = Purifier(toy_model, localizer=GradCam(), inpainter=Broken(), threshold=0.7)
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

    purifier = Purifier(toy_model, localizer=Same(), inpainter=MeanFill(), threshold=0.7)
    other = images.clone()
    other[..., 20:28, 20:28] = 1 - other[..., 20:28, 20:28]
    first, second = purifier(images), purifier(other)
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.logits, second.logits)


# --- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inpainter", ["gan", "telea"])
def test_the_result_does_not_depend_on_the_batch(toy_model: Normalized, images: Tensor, inpainter: str) -> None:
    whole = Purifier.for_model(toy_model, inpainter=inpainter)(images)
    for batch_size in (1, 5):
        parts = Purifier.for_model(toy_model, inpainter=inpainter, batch_size=batch_size)(images)
        torch.testing.assert_close(parts.logits, whole.logits, rtol=0, atol=1e-5)
        torch.testing.assert_close(parts.logits_before, whole.logits_before, rtol=0, atol=1e-5)
        torch.testing.assert_close(parts.images, whole.images, rtol=0, atol=1e-5)
        assert parts.stages == whole.stages
    order = torch.tensor([7, 2, 11])
    some = Purifier.for_model(toy_model, inpainter=inpainter)(images[order])
    torch.testing.assert_close(some.logits, whole.logits[order], rtol=0, atol=1e-5)
    torch.testing.assert_close(some.images, whole.images[order], rtol=0, atol=1e-5)


def test_one_forward_and_one_backward_for_all_and_one_forward_for_the_restored(
    toy_model: Normalized, images: Tensor
) -> None:
    images = with_flat_pictures(images)
    purifier = Purifier(toy_model, localizer=Blind(), inpainter=MeanFill(), threshold=0.7)
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
        ({"preset": "papers"}, r"preset: expected one of paper, got 'papers'"),
        ({"inpainter": "magic"}, r"inpainter: expected one of biharmonic, gan, .*telea, got 'magic'"),
        ({"inpainter": "telea:radius=0"}, r"radius: expected a value above 0, got 0"),
        ({"layer": "nowhere"}, r"layer: expected one of network\.features\.0, .*got 'nowhere'"),
        ({"layer": "network.classifier"}, r"layer: expected one whose output are maps"),
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
        Purifier.for_model(toy_model, **{"reference": toy_test.floats(slice(16)), **options})


def test_a_layer_that_is_not_there_is_told_by_the_first_call_without_reference(
    toy_model: Normalized, images: Tensor
) -> None:
    purifier = Purifier.for_model(toy_model, layer="nowhere")
    with pytest.raises(ValueError, match="got 'nowhere'"):
        purifier(images)


def test_reference_is_not_needed_and_changes_nothing(toy_model: Normalized, toy_test: Dataset, images: Tensor) -> None:
    without = Purifier.for_model(toy_model, None)
    given = Purifier.for_model(toy_model, toy_test.floats(slice(16)))
    assert repr(without) == repr(given)
    assert torch.equal(without(images).logits, given(images).logits)


def test_settings_reach_their_place(toy_model: Normalized, images: Tensor) -> None:
    inpainter = MeanFill()
    purifier = Purifier.for_model(
        toy_model, inpainter=inpainter, threshold=0.6, layer="network.features.4", batch_size=7
    )
    assert purifier.inpainter is inpainter
    assert repr(purifier) == (
        "Purifier(localizer=GradCam(layer='network.features.4'), inpainter=MeanFill(), threshold=0.6, batch_size=7)"
    )
    purified = purifier(images)
    assert torch.equal(purified.heatmaps, GradCam(layer="network.features.4")(toy_model, images))
    assert torch.equal(purified.masks, (purified.heatmaps >= 0.6).float())


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


@pytest.mark.parametrize("prepare", [lambda model: model, spoilt], ids=["plain", "mixed"])
def test_the_model_is_given_back_as_it_was(
    toy_model: Normalized, images: Tensor, prepare: Callable[[Normalized], Normalized]
) -> None:
    model = prepare(toy_model)
    before = condition(model)
    purifier = Purifier.for_model(model)
    purifier(images)
    purifier.as_classifier()(images)
    assert_same(condition(model), before)
    assert torch.is_grad_enabled()


def test_the_model_is_given_back_after_an_exception(toy_model: Normalized, images: Tensor) -> None:
    model = spoilt(toy_model)
    before = condition(model)
    with pytest.raises(RuntimeError, match="no paint"):
        Purifier(model, localizer=GradCam(), inpainter=Broken(), threshold=0.7)(images)
    assert_same(condition(model), before)

    def fail(*_: Any) -> None:
        raise RuntimeError("no answer")

    purifier = Purifier.for_model(model)
    purifier(images)
    handle = bare(model).classifier.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="no answer"):
        purifier(images)
    handle.remove()
    assert_same(condition(model), before)
    assert torch.is_grad_enabled()


def test_modes_of_the_model_do_not_matter(toy_model: Normalized, images: Tensor) -> None:
    expected = Purifier.for_model(copy.deepcopy(toy_model))(images)
    for model in (copy.deepcopy(toy_model).train(), copy.deepcopy(toy_model).requires_grad_(requires_grad=False)):
        purified = Purifier.for_model(model)(images)
        torch.testing.assert_close(purified.logits, expected.logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, nullcontext])
def test_works_under_every_gradient_mode(
    purifier: Purifier, images: Tensor, mode: Callable[[], AbstractContextManager[None]]
) -> None:
    expected = purifier(images)
    with mode():
        purified = purifier(images)
        logits = purifier.as_classifier()(images)
    assert torch.equal(purified.images, expected.images)
    assert torch.equal(purified.logits, expected.logits)
    assert torch.equal(logits, expected.logits)


def test_pictures_made_in_inference_mode_or_with_gradient(purifier: Purifier, images: Tensor) -> None:
    expected = purifier(images)
    with torch.inference_mode():
        inference = images.clone()
    assert torch.equal(purifier(inference).logits, expected.logits)
    learnt = images.clone().requires_grad_()
    assert torch.equal(purifier(learnt).logits, expected.logits)
    assert learnt.grad is None
    assert not purifier(learnt).images.requires_grad


# --- as a classifier -------------------------------------------------------------------------------------------------


def test_the_classifier_answers_as_the_purifier(purifier: Purifier, images: Tensor) -> None:
    classifier = purifier.as_classifier()
    assert isinstance(classifier, nn.Module)
    logits = classifier(images)
    assert torch.equal(logits, purifier(images).logits)
    assert not logits.requires_grad


def test_the_classifier_has_the_state_of_the_bare_model(toy_model: Normalized, images: Tensor) -> None:
    classifier = Purifier.for_model(toy_model).as_classifier()
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
    classifier = Purifier.for_model(toy_model).as_classifier()
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
    classifier = Purifier.for_model(toy_model).as_classifier().eval()
    pictures = toy_test.subset(slice(30))
    loader = DataLoader(TensorDataset(pictures.floats(), pictures.labels), batch_size=8)
    right = 0
    with torch.no_grad():
        for images, labels in loader:
            right += int((classifier(images).argmax(1) == labels).sum())
    assert right == int((Purifier.for_model(toy_model)(pictures.floats()).labels == pictures.labels).sum())


# --- other models ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn", "mobilenet_v3_small"])
def test_models_of_torchvision(name: str) -> None:
    torch.manual_seed(0)
    model = Normalized(torchvision.models.get_model(name, weights=None, num_classes=7)).eval()
    purifier = Purifier.for_model(model, inpainter="mean-fill")
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
    purified = Purifier.for_model(toy_model)(images)
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
        Purifier.for_model(model)(images)


def test_a_model_without_convolution_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 5))
    images = torch.rand(16, 3, 32, 32)
    message = r"model: expected a convolutional classifier, for Grad-CAM, got one without a convolution"
    with pytest.raises(ValueError, match=message):
        Purifier.for_model(model, images)
    with pytest.raises(ValueError, match=message):
        Purifier.for_model(model)(images)

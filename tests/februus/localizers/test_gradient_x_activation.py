from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from februus.localizers._layers import last_of_each_size
from februus.localizers.grad_cam import GradCam
from februus.localizers.gradient_x_activation import GradientXActivation, between_half_and_twelve
from februus.models import build
from februus.seeds import seeded


def images(count: int = 2, height: int = 32, width: int = 32) -> Tensor:
    return torch.rand(count, 3, height, width, generator=seeded(0))


class OnPaper(nn.Module):
    """Red on the left speaks for class 0, red on the right against it; green speaks for class 1 where it is most."""

    def __init__(self) -> None:
        super().__init__()
        self.pick = nn.Conv2d(3, 2, 1, bias=False)
        with torch.no_grad():
            self.pick.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]).view(2, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        red, green = self.pick(images).unbind(1)
        half = red.shape[2] // 2
        return torch.stack([red[..., :half].sum((1, 2)) - red[..., half:].sum((1, 2)), green.amax((1, 2))], 1)


class Small(nn.Module):
    """Convolutions with maps of the whole, half and a quarter of the side."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.third = nn.Conv2d(6, 6, 3, stride=2, padding=1)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(6, 3)
        self.broken = False

    def forward(self, images: Tensor) -> Tensor:
        maps = F.relu(self.second(F.relu(self.norm(self.first(images)))), inplace=True)
        maps = F.relu(self.third(self.dropout(maps)))
        if self.broken:
            raise RuntimeError("the model broke")
        logits: Tensor = self.head(maps.mean((2, 3)))
        return logits


def small() -> Small:
    torch.manual_seed(0)
    return Small().eval()


def condition(model: nn.Module) -> tuple[object, ...]:
    """Return what a localizer must leave alone."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return (
        [module.training for module in model.modules()],
        [len(getattr(module, name)) for module in model.modules() for name in hooks],
        [(value.requires_grad, value.grad is None) for value in model.parameters()],
        [value.tolist() for value in model.state_dict().values()],
        torch.is_grad_enabled(),
    )


def test_numbers_on_paper() -> None:
    given = torch.zeros(4, 3, 16, 16)
    given[0, 0, :4, :8], given[0, 0, 4:8, :8] = 0.8, 0.4  # red on the left: class 0
    given[0, 0, :, 12:] = 0.1  # some on the right, which speaks against it: no heat there
    given[1, 1, 5, 6], given[1, 1, 8:] = 1.0, 0.9  # green: class 1, by one pixel alone
    given[2, 2] = 1.0  # only blue: all logits are 0, and all maps too
    heatmaps = GradientXActivation()(OnPaper(), given)
    expected = torch.zeros(4, 1, 16, 16)
    expected[0, 0, :4, :8], expected[0, 0, 4:8, :8] = 1, 0.5
    expected[1, 0, 5, 6] = 1
    torch.testing.assert_close(heatmaps, expected)
    # Grad-CAM's mean gradient lights up what took no part.
    assert GradCam()(OnPaper(), given)[1, 0, 8:].amin() > 0.8


def test_against_the_formula_for_a_small_network() -> None:
    model, given = small(), images(3)
    maps = model.second(F.relu(model.norm(model.first(given)))).detach().requires_grad_()
    logits = model.head(F.relu(model.third(F.relu(maps))).mean((2, 3)))
    (slopes,) = torch.autograd.grad(logits.amax(1).sum(), maps)
    coarse = F.relu((slopes * maps).sum(1, keepdim=True)).detach()
    fine = F.interpolate(coarse, size=(32, 32), mode="bilinear", align_corners=False)
    low, high = fine.amin((1, 2, 3), keepdim=True), fine.amax((1, 2, 3), keepdim=True)
    torch.testing.assert_close(GradientXActivation()(model, given), (fine - low) / (high - low))


def test_flat_maps_are_0() -> None:
    model = small()
    nn.init.zeros_(model.head.weight)
    heatmaps = GradientXActivation()(model, images())
    assert heatmaps.shape == (2, 1, 32, 32)
    assert not heatmaps.any()


@pytest.mark.parametrize(
    ("name", "side", "layers"),
    [
        ("small-vgg", 32, ["features.13"]),
        ("wrn-16-1", 32, ["block3.layer.0.bn1"]),
        ("resnet18", 96, ["relu", "layer1", "layer2"]),
        ("resnet18", 32, ["relu"]),
    ],
)
def test_maps_from_half_resolution_to_twelve_cells_are_read(name: str, side: int, layers: list[str]) -> None:
    torch.manual_seed(0)
    model, given = build(name, num_classes=3).eval(), images(2, side, side)
    assert GradientXActivation().layers(model, given) == layers
    each = torch.cat([GradientXActivation(layer=layer)(model, given) for layer in layers], 1)
    torch.testing.assert_close(GradientXActivation()(model, given), each)


@pytest.mark.parametrize(
    ("cells", "side", "expected"),
    [
        ((32, 16, 8), 32, [16]),
        ((32, 15), 32, [15]),
        ((48, 24, 12, 6), 96, [48, 24, 12]),
        ((12, 48, 24), 96, [48, 24, 12]),
        ((32, 31, 8), 32, [31]),  # none between: the closest above
        ((8, 4), 32, [8]),  # none above either: the finest
    ],
)
def test_the_choice_of_maps_on_paper(cells: tuple[int, ...], side: int, expected: list[int]) -> None:
    layers = {(size, size): str(size) for size in cells}
    assert between_half_and_twelve(layers, side) == [str(size) for size in expected]


def test_the_last_layer_of_a_size_has_all_that_goes_on() -> None:
    """After a block with a shortcut that is the block, not the convolution in one of its branches."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branch = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, maps: Tensor) -> Tensor:
            return maps + self.branch(maps)

    model = nn.Sequential(nn.Conv2d(3, 4, 2, 2), Block(), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(64, 2))
    # Pooled maps are of no convolution's size.
    assert last_of_each_size(model, images()) == {(16, 16): "1"}


def test_a_named_layer_may_be_any_module_with_maps() -> None:
    model = small()
    heatmaps = {layer: GradientXActivation(layer=layer)(model, images()) for layer in ("first", "second", "norm")}
    assert torch.equal(heatmaps["second"], GradientXActivation()(model, images()))
    assert not torch.equal(heatmaps["second"], heatmaps["first"])
    assert heatmaps["norm"].amax() == 1


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("fourth", r"layer: expected one of first, second, third, got 'fourth'"),
        ("head", r"layer: expected one whose output are maps \(N, K, H, W\), got 'head'"),
    ],
)
def test_a_layer_that_cannot_be_read_is_refused(layer: str, message: str) -> None:
    model = small()
    before = condition(model)
    with pytest.raises(ValueError, match=message):
        GradientXActivation(layer=layer)(model, images())
    assert condition(model) == before


def test_a_model_without_convolution_and_what_are_no_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="model: expected a convolutional classifier"):
        GradientXActivation()(nn.Sequential(nn.Flatten(), nn.Linear(3072, 3)), images())
    with pytest.raises(ValueError, match="images: expected values"):
        GradientXActivation()(small(), images() * 255)


def test_a_picture_s_heat_is_independent_of_its_batch() -> None:
    model, given = small(), images(5)
    alone = torch.cat([GradientXActivation()(model, one) for one in given.split(1)])
    torch.testing.assert_close(GradientXActivation()(model, given), alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("context", [nullcontext, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("mixed", [False, True])
def test_the_model_is_left_as_it_was(
    context: type[AbstractContextManager[None]],
    mixed: bool,  # noqa: FBT001
) -> None:
    expected = GradientXActivation()(small(), images())
    model = small()
    if mixed:
        model.train().norm.eval()
        model.first.requires_grad_(requires_grad=False)
    before = condition(model)
    with context():
        heatmaps = GradientXActivation()(model, images())
    assert condition(model) == before
    assert torch.equal(heatmaps, expected)
    assert not heatmaps.requires_grad


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("layer", [None, "second"])
def test_an_exception_in_the_model_leaves_nothing_behind(layer: str | None, traced: bool) -> None:  # noqa: FBT001
    model = small().train()
    if traced:
        GradientXActivation(layer=layer)(model, images())
    before = condition(model)
    model.broken = True
    with pytest.raises(RuntimeError, match="the model broke"):
        GradientXActivation(layer=layer)(model, images())
    assert condition(model) == before
    model.broken = False
    assert torch.equal(GradientXActivation(layer=layer)(model, images()), GradientXActivation()(small(), images()))


def test_one_forward_and_one_backward_for_all_pictures() -> None:
    model = small()
    passes: list[str] = []
    GradientXActivation()(model, images())  # traces the model
    model.register_forward_hook(lambda *_: passes.append("forward"))
    model.head.register_full_backward_hook(lambda *_: passes.append("backward"))
    GradientXActivation()(model, images(8))
    assert passes == ["forward", "backward"]

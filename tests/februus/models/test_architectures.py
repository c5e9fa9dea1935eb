from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from februus.models.architectures.small_vgg import SmallVgg
from februus.models.architectures.wrn_16_1 import Wrn161
from februus.registry import available, create


@pytest.mark.parametrize("name", available("architectures"))
@pytest.mark.parametrize("size", [16, 32, 96])
def test_every_size_gives_logits_and_gradients(name: str, size: int) -> None:
    torch.manual_seed(0)
    network = create("architectures", name, num_classes=7)
    logits = network(torch.rand(2, 3, size, size))
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in network.parameters())


def test_the_names_are_those_of_the_registry() -> None:
    assert {"small-vgg", "wrn-16-1"} <= set(available("architectures"))


def test_small_vgg_has_the_published_names_and_dropout() -> None:
    network = SmallVgg(num_classes=10)
    convolutions = {key for key, value in network.state_dict().items() if value.ndim == 4}
    assert convolutions == {f"features.{index}.weight" for index in (0, 3, 8, 11, 16, 19)}
    assert network.classifier.weight.shape == (10, 2048)
    shares = [module.p for module in network.modules() if isinstance(module, nn.Dropout)]
    assert shares == pytest.approx([0.2, 0.3, 0.4])


def test_the_pool_of_small_vgg_changes_nothing_at_32_pixels() -> None:
    torch.manual_seed(0)
    network = SmallVgg(num_classes=3).eval()
    images = torch.rand(2, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    assert torch.equal(network(images), network.classifier(network.features(images).flatten(1)))


def test_wrn_layer_by_hand() -> None:
    torch.manual_seed(0)
    layer: Any = Wrn161(num_classes=3).eval().block2.layer[0]
    maps = torch.randn(2, 16, 8, 8)
    active = F.relu(layer.bn1(maps))
    inner = F.conv2d(active, layer.conv1.weight, stride=2, padding=1)
    inner = F.conv2d(F.relu(layer.bn2(inner)), layer.conv2.weight, padding=1)
    expected = inner + F.conv2d(active, layer.convShortcut.weight, stride=2)
    torch.testing.assert_close(layer(maps), expected)


def test_wrn_has_shortcuts_only_where_the_width_changes() -> None:
    shortcuts = {key for key in Wrn161(num_classes=3).state_dict() if "convShortcut" in key}
    assert shortcuts == {"block2.layer.0.convShortcut.weight", "block3.layer.0.convShortcut.weight"}


def test_a_wider_wrn_has_more_channels_and_the_same_names() -> None:
    narrow, wide = (Wrn161(num_classes=3, width=width) for width in (1, 4))
    assert wide(torch.rand(2, 3, 16, 16)).shape == (2, 3)
    assert wide.fc.weight.shape == (3, 4 * 64)
    added = set(wide.state_dict()) - set(narrow.state_dict())
    assert added == {"block1.layer.0.convShortcut.weight"}
    with pytest.raises(ValueError, match="width: expected"):
        Wrn161(num_classes=3, width=0)


@pytest.mark.parametrize("network", [SmallVgg, Wrn161])
def test_bad_options_are_refused(network: type[nn.Module]) -> None:
    with pytest.raises(ValueError, match="num_classes: expected"):
        network(num_classes=0)
    with pytest.raises(ValueError, match="dropout: expected"):
        network(num_classes=3, dropout=1.5)


def test_dropout_can_be_switched_off() -> None:
    images = torch.rand(4, 3, 16, 16)
    for name in ("small-vgg", "wrn-16-1"):
        for dropout, same in ((0.0, True), (0.5, False)):
            torch.manual_seed(0)
            network = create("architectures", name, num_classes=3, dropout=dropout)
            assert torch.equal(network(images), network(images)) is same

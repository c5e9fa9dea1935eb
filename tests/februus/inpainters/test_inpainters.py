from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from februus.inpainters.biharmonic import Biharmonic
from februus.inpainters.gan import Gan, read_inpainter
from februus.inpainters.mean_fill import MeanFill
from februus.inpainters.navier_stokes import NavierStokes
from februus.inpainters.telea import Telea
from februus.masks import random_masks
from februus.models.completion import CompletionNetwork
from februus.registry import available
from februus.training.inpainting import save_inpainter
from februus.types import Inpainter

SIZES = [(16, 16), (24, 40), (33, 19)]
INPAINTERS: dict[str, Callable[[Path], Inpainter]] = {
    "mean-fill": lambda _: MeanFill(),
    "telea": lambda _: Telea(),
    "navier-stokes": lambda _: NavierStokes(radius=2),
    "biharmonic": lambda _: Biharmonic(),
    "gan": lambda weights: Gan(weights=str(weights)),
    "gan-shipped": lambda _: Gan(),
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hold a tiny completion network with random weights."""
    torch.manual_seed(0)
    network = CompletionNetwork(width=8)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    path = tmp_path_factory.mktemp("gan") / "tiny.safetensors"
    save_inpainter(path, network, {"width": 8, "note": "random"})
    return path


@pytest.fixture(params=INPAINTERS)
def inpainter(request: pytest.FixtureRequest, weights: Path) -> Inpainter:
    return INPAINTERS[request.param](weights)


def scene(count: int = 4, height: int = 24, width: int = 40) -> tuple[Tensor, Tensor]:
    """Return smooth random pictures and masks, the second of which is empty."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 5, 5, generator=generator)
    images = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=True)
    masks = random_masks(count, height, width, generator=generator, largest=0.2)
    if count > 1:
        masks[1] = 0
    return images.clamp(0, 1), masks


def test_every_inpainter_of_the_registry_is_in_the_table() -> None:
    assert set(available("inpainters")) <= set(INPAINTERS)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_known_pixels_stay_bit_for_bit(inpainter: Inpainter, height: int, width: int) -> None:
    images, masks = scene(height=height, width=width)
    copies = images.clone(), masks.clone()
    restored = inpainter(images, masks)
    assert restored.shape == images.shape
    assert restored.dtype == torch.float32
    assert restored.min() >= 0
    assert restored.max() <= 1
    known = (masks == 0).expand_as(images)
    assert torch.equal(restored[known], images[known])
    assert not torch.equal(restored[~known], images[~known])
    assert torch.equal(images, copies[0])
    assert torch.equal(masks, copies[1])


def test_the_hidden_pixels_do_not_leak(inpainter: Inpainter) -> None:
    images, masks = scene()
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(1))
    other = torch.where(masks > 0, noise, images)
    torch.testing.assert_close(inpainter(images, masks), inpainter(other, masks), rtol=0, atol=1e-6)


def test_empty_masks_give_the_pictures_back(inpainter: Inpainter) -> None:
    images, masks = scene()
    assert torch.equal(inpainter(images, torch.zeros_like(masks)), images)


def test_a_full_mask_gives_some_picture(inpainter: Inpainter) -> None:
    images, masks = scene()
    masks[0] = 1
    restored = inpainter(images, masks)
    assert restored[0].min() >= 0
    assert restored[0].max() <= 1
    torch.testing.assert_close(restored[2:], inpainter(images[2:], masks[2:]), rtol=0, atol=1e-5)


def test_a_picture_s_result_is_independent_of_its_batch(inpainter: Inpainter) -> None:
    images, masks = scene(6)
    together = inpainter(images, masks)
    alone = torch.cat([inpainter(images[index : index + 1], masks[index : index + 1]) for index in range(6)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(inpainter(images[order], masks[order]), together[order], rtol=0, atol=1e-5)


def test_no_gradient_is_kept(inpainter: Inpainter) -> None:
    images, masks = scene()
    assert not inpainter(images, masks).requires_grad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda images, masks: (images, masks[:1]), "masks: expected shape"),
        (lambda images, masks: (images, masks[..., 1:]), "masks: expected shape"),
        (lambda images, masks: (images, masks.expand(-1, 3, -1, -1)), "masks: expected shape"),
        (lambda images, masks: (images, masks / 2), "masks: expected values 0 and 1 only"),
        (lambda images, masks: (images, masks > 0), "masks: expected a float32 tensor"),
        (lambda images, masks: (images * 255, masks), r"images: expected values in \[0, 1\]"),
        (lambda images, masks: (images[0], masks), r"images: expected shape \(N, 3, H, W\)"),
    ],
)
def test_bad_pictures_and_masks_are_refused(
    inpainter: Inpainter, change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        inpainter(*change(*scene()))


@pytest.mark.parametrize("name", ["telea", "navier-stokes", "biharmonic"])
def test_a_hole_in_a_smooth_picture_is_closed(name: str, weights: Path) -> None:
    ramp = torch.linspace(0.2, 0.8, 24).view(1, 1, 1, 24).expand(1, 3, 24, 24).contiguous()
    masks = torch.zeros(1, 1, 24, 24)
    masks[..., 10:14, 9:13] = 1
    restored = INPAINTERS[name](weights)(torch.where(masks > 0, 0.0, ramp), masks)
    assert (restored - ramp).abs().max() < 0.06


def test_mean_fill_by_hand() -> None:
    images = torch.zeros(2, 3, 16, 16)
    images[0, 0, :8], images[0, 1] = 0.5, 0.25
    masks = torch.zeros(2, 1, 16, 16)
    masks[0, :, :4], masks[1] = 1, 1
    restored = MeanFill()(images, masks)
    # Of the red channel's 12 known rows 4 are 0.5.
    assert restored[0, :, 0, 0].tolist() == pytest.approx([0.5 * 4 / 12, 0.25, 0])
    assert restored[1].unique().tolist() == [0.5]


@pytest.mark.parametrize("method", [Telea, NavierStokes])
@pytest.mark.parametrize("radius", [0, -1])
def test_a_radius_is_positive(method: type, radius: float) -> None:
    with pytest.raises(ValueError, match="radius: expected a value above 0"):
        method(radius=radius)


@pytest.mark.parametrize(("first", "second"), [(Telea(radius=1), Telea(radius=9)), (Telea(), NavierStokes())])
def test_radius_and_algorithm_count(first: Inpainter, second: Inpainter) -> None:
    images, masks = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 1, 24, 24)
    masks[..., 6:18, 6:18] = 1
    assert not torch.equal(first(images, masks), second(images, masks))


def test_the_gan_is_its_network_read_once(weights: Path) -> None:
    images, masks = scene()
    gan = Gan(weights=str(weights))
    network, card = read_inpainter(weights)
    assert card == {"width": 8, "note": "random"}
    with torch.no_grad():
        assert torch.equal(gan(images, masks), network.eval()(images, masks))
    assert gan.network is gan.network
    assert not gan.network.training
    assert not any(parameter.requires_grad for parameter in gan.network.parameters())


def test_the_gan_works_first_in_inference_mode_and_then_outside(weights: Path) -> None:
    images, masks = scene()
    gan = Gan(weights=str(weights))
    with torch.inference_mode():
        first = gan(images, masks).clone()
    assert torch.equal(gan(images, masks), first)


def test_weights_are_saved_in_half_precision(weights: Path, tmp_path: Path) -> None:
    network, _ = read_inpainter(weights)
    save_inpainter(tmp_path / "again.safetensors", network, {"width": 8, "note": "random"})
    assert (tmp_path / "again.safetensors").read_bytes() == weights.read_bytes()
    assert weights.stat().st_size < 2 * sum(parameter.numel() for parameter in network.parameters()) + 5000


@pytest.mark.parametrize("kind", ["missing", "no weights", "no card", "bad card", "bad width", "other tensors"])
def test_what_is_no_file_of_an_inpainter_is_refused(kind: str, tmp_path: Path) -> None:
    path, tensors = tmp_path / "bad.safetensors", {"a": torch.zeros(1)}
    if kind == "no weights":
        path.write_bytes(b"not a safetensors file")
    elif kind != "missing":
        card = {"no card": None, "bad card": "{", "bad width": '{"width": "wide"}', "other tensors": '{"width": 8}'}
        save_file(tensors, path, metadata=None if card[kind] is None else {"card": card[kind]})
    message = r"weights: expected a file that `februus train-inpainter` wrote, got .*bad\.safetensors"
    with pytest.raises(ValueError, match=message):
        read_inpainter(path)
    with pytest.raises(ValueError, match=message):
        Gan(weights=str(path))(*scene())

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from februus.data import Dataset
from februus.inpainters.gan import Gan, read_inpainter
from februus.metrics import gradient_energy
from februus.models.completion import LARGE, CompletionNetwork, Critic, halve, smooth_fill
from februus.training import inpainting
from februus.training.inpainting import InpainterTraining, save_inpainter, train_inpainter

FILES = ["card.json", "inpainter.safetensors", "metrics.json", "samples.png", "state.pt"]


def toy(count: int = 64, *, name: str = "toy", seed: int = 0, size: int = 16) -> Dataset:
    """Return stripes of two random colours each: a pattern that smooth filling cannot guess and a network can."""
    generator = torch.Generator().manual_seed(seed)
    dark = torch.randint(0, 100, (count, 3, 1, 1), generator=generator)
    light = torch.randint(155, 256, (count, 3, 1, 1), generator=generator)
    images = torch.where(torch.arange(size) // 2 % 2 == 0, dark, light).expand(count, 3, size, size)
    labels = torch.zeros(count, dtype=torch.int64)
    return Dataset(name=name, images=images.byte().contiguous(), labels=labels, classes=("stripes",))


def textures(count: int = 4) -> tuple[Tensor, Tensor]:
    """Return noise of several scales, as natural pictures have it, and holes (count, 1, 32, 32)."""
    generator = torch.Generator().manual_seed(0)
    images = torch.full((count, 3, 32, 32), 0.5)
    for side, height in ((4, 0.3), (8, 0.2), (16, 0.15), (32, 0.15)):
        noise = torch.rand(count, 3, side, side, generator=generator) - 0.5
        images += height * F.interpolate(noise, size=(32, 32), mode="bilinear")
    masks = torch.zeros(count, 1, 32, 32)
    masks[:, :, 8:24, 8:24] = 1.0
    return images, masks


def tiny(**settings: Any) -> InpainterTraining:
    defaults: dict[str, Any] = {
        "steps": 2,
        "batch_size": 8,
        "width": 8,
        "learning_rate": 3e-3,
        "adversarial_from": 1.0,
        "average": 0.5,
        "bfloat16": False,
        "report_every": 2,
    }
    return InpainterTraining(**{**defaults, **settings})


def train(settings: InpainterTraining, output: Path, **options: Any) -> Path:
    return train_inpainter(settings, [toy()], [toy(16, name="held-out", seed=1)], output, device="cpu", **options)


def rows(output: Path) -> list[dict[str, float]]:
    found: list[dict[str, float]] = json.loads((output / "metrics.json").read_text())
    return found


def state(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(output / "state.pt", weights_only=True)
    return found


@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_few_steps_lower_the_error(tmp_path: Path, bfloat16: bool) -> None:  # noqa: FBT001
    train(tiny(steps=40, report_every=1, bfloat16=bfloat16), tmp_path)
    measured = rows(tmp_path)
    # Every other step is of enlarged pictures.
    losses = [row["reconstruction"] for row in measured[::2]]
    assert sum(losses[-5:]) / 5 < sum(losses[:5]) / 5 - 0.1
    for name in ("psnr_held-out_square", "psnr_held-out_random"):
        assert measured[-1][name] > measured[0][name] + 0.5


@pytest.mark.parametrize("size", [16, 40])
def test_the_critics_join_when_told(tmp_path: Path, size: int) -> None:
    settings = tiny(steps=4, adversarial_from=0.5, report_every=1, critic_steps=2)
    train_inpainter(settings, [toy(size=size)], [toy(4, size=size)], tmp_path, device="cpu")
    assert [{"critic_gap", "realism"} <= row.keys() for row in rows(tmp_path)] == [False, False, True, True]
    torch.manual_seed(settings.seed)
    _, critics = CompletionNetwork(width=8), (Critic(), Critic())
    for index, critic in enumerate(critics):
        for name, tensor in critic.state_dict().items():
            # Of scores that are only compared, the last bias learns nothing but rounding errors.
            if name != "layers.6.bias":
                assert not torch.equal(state(tmp_path)["critics"][f"critics.{index}.{name}"], tensor), (index, name)


def test_the_critics_teach_the_network(tmp_path: Path) -> None:
    train(tiny(adversarial_from=0.0), tmp_path / "with")
    train(tiny(adversarial_from=0.0, adversarial_weight=0.0), tmp_path / "without")
    with_critics, without = (load_file(tmp_path / name / "inpainter.safetensors") for name in ("with", "without"))
    assert any(not torch.equal(tensor, without[name]) for name, tensor in with_critics.items())


def test_the_files_tell_what_was_done(tmp_path: Path) -> None:
    seen: list[tuple[int, bool]] = []
    path = train(tiny(steps=3), tmp_path / "a" / "run", on_step=lambda step, row: seen.append((step, row is not None)))
    output = tmp_path / "a" / "run"
    assert seen == [(1, False), (2, True), (3, True)]
    assert path == output / "inpainter.safetensors"
    assert sorted(file.name for file in output.iterdir()) == FILES
    card = json.loads((output / "card.json").read_text())
    assert card["settings"]["steps"] == card["steps_done"] == 3
    assert card["width"] == 8
    assert card["data"] == {"train": ["toy"], "test": ["held-out"], "processes": 1}
    assert card["curve"] == rows(output)
    command = "februus train-inpainter --data '[toy]' --steps 3 --batch-size 8"
    assert card["command"].startswith(command), card["command"]
    assert [row["step"] for row in rows(output)] == [2, 3]
    with Image.open(output / "samples.png") as samples:
        assert samples.format == "PNG"
        assert samples.size == (12 * 18 + 2, 6 * 18 + 2)  # 12 pictures and their 2 pixels of frame, 2 scenes of 3 rows


def test_what_ships_is_the_average_with_its_card(tmp_path: Path) -> None:
    path = train(tiny(), tmp_path)
    network, card = read_inpainter(path)
    assert card == json.loads((tmp_path / "card.json").read_text())
    saved = state(tmp_path)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, saved["average"][name].half().float())
    assert any(not torch.equal(saved["average"][name], tensor) for name, tensor in saved["network"].items())
    images, masks = toy(2).floats(), torch.zeros(2, 1, 16, 16)
    masks[..., 4:8, 4:8] = 1
    assert Gan(weights=str(path))(images, masks).shape == images.shape


class _KilledError(Exception):
    pass


def run_with_a_break(settings: InpainterTraining, output: Path, step: int) -> None:
    """Train, be killed after ``step``, and train again."""

    def on_step(done: int, _row: dict[str, float] | None) -> None:
        if done == step:
            raise _KilledError

    with pytest.raises(_KilledError):
        train(settings, output, on_step=on_step)
    train(settings, output)


@pytest.mark.parametrize("step", [2, 3])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(tmp_path: Path, step: int) -> None:
    settings = tiny(steps=4, adversarial_from=0.25)  # the critics learn before the break and after
    run_with_a_break(settings, tmp_path / "stopped", step)
    train(settings, tmp_path / "straight")
    stopped, straight = state(tmp_path / "stopped"), state(tmp_path / "straight")
    assert stopped["step"] == straight["step"] == 4
    for part in ("network", "critics", "average"):
        for name, tensor in straight[part].items():
            assert torch.equal(stopped[part][name], tensor), (part, name)
    assert stopped["rows"] == straight["rows"]
    assert (tmp_path / "stopped" / "metrics.json").read_text() == (tmp_path / "straight" / "metrics.json").read_text()


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    train(tiny(), tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    train(tiny(), tmp_path, on_step=lambda *_: pytest.fail("a step was taken"))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_seeds_count_and_torch_s_own_generator_does_not(tmp_path: Path) -> None:
    weights: list[dict[str, Tensor]] = []
    for name, seed, own in (("a", 0, 1), ("b", 0, 2), ("c", 1, 1)):
        torch.manual_seed(own)
        before = torch.get_rng_state()
        weights.append(load_file(train(tiny(seed=seed), tmp_path / name)))
        assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(weights[1][name], tensor) for name, tensor in weights[0].items())
    assert any(not torch.equal(weights[2][name], tensor) for name, tensor in weights[0].items())


def test_a_run_of_other_settings_is_refused(tmp_path: Path) -> None:
    train(tiny(), tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="expected an empty folder or a run of the same settings"):
        train(tiny(steps=4), tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_training_can_start_from_earlier_weights(tmp_path: Path) -> None:
    start = train(tiny(), tmp_path / "first")
    train(tiny(start=str(start), learning_rate=1e-9, average=0.0), tmp_path / "second")
    first, second = (load_file(tmp_path / name / "inpainter.safetensors") for name in ("first", "second"))
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor)
    card = json.loads((tmp_path / "second" / "card.json").read_text())
    assert card["started_from"] == json.loads((tmp_path / "first" / "card.json").read_text())


def test_weights_of_another_width_are_no_start(tmp_path: Path) -> None:
    save_inpainter(tmp_path / "wide.safetensors", CompletionNetwork(width=4), {"width": 4})
    with pytest.raises(ValueError, match="start: expected weights of width 8, got width 4"):
        train(tiny(start=str(tmp_path / "wide.safetensors")), tmp_path / "run")
    with pytest.raises(ValueError, match="weights: expected a file that `februus train-inpainter` wrote"):
        train(tiny(start=str(tmp_path / "nowhere")), tmp_path / "run")


def test_the_rate_rises_and_falls(tmp_path: Path) -> None:
    rates = []

    def on_step(_step: int, _row: dict[str, float] | None) -> None:
        rates.append(state(tmp_path)["optimizer"]["param_groups"][0]["lr"])

    train(tiny(steps=40, report_every=1, learning_rate=1e-3), tmp_path, on_step=on_step)
    assert rates[0] < 1e-4
    assert max(rates) == max(rates[1:5]) > 9e-4
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert 4e-5 < rates[-1] < 1e-4


def test_only_texture_that_lacks_or_is_too_much_costs() -> None:
    images, masks = textures()
    mean = images.mean((2, 3), keepdim=True)
    halved, doubled = mean + 0.5 * (images - mean), mean + 2 * (images - mean)  # a quarter of the energy, four times
    for enough in (images, halved):
        assert inpainting._texture_gap(enough, images, masks, 0.25).item() == pytest.approx(0, abs=1e-4)
    assert inpainting._texture_gap(halved, images, masks, 1.0).item() == pytest.approx(0.25, abs=0.03)
    assert inpainting._texture_gap(doubled, images, masks, 0.25).item() == pytest.approx(1, abs=0.1)


def test_a_mesh_does_not_pass_for_texture() -> None:
    images, masks = textures()
    mean = images.mean((2, 3), keepdim=True)
    chequers = (torch.arange(32)[:, None] + torch.arange(32)) % 2 - 0.5
    energy = gradient_energy(images, masks) / gradient_energy((0.5 + 0.1 * chequers).expand_as(images), masks)
    mesh = mean + 0.1 * energy.sqrt()[:, None, None, None] * chequers
    torch.testing.assert_close(gradient_energy(mesh, masks), gradient_energy(images, masks))
    restored = images * (1 - masks) + mesh * masks
    assert inpainting._texture_gap(restored, images, masks, 0.8).item() > 0.1


@pytest.mark.parametrize("size", [16, 40])
def test_every_other_step_takes_fewer_enlarged_pictures(tmp_path: Path, size: int) -> None:
    seen = list[tuple[Tensor, Tensor, Tensor, Tensor]]()
    forward = CompletionNetwork.forward

    def look(network: CompletionNetwork, images: Tensor, masks: Tensor, base: Tensor | None = None) -> Tensor:
        if network.training and torch.is_grad_enabled():
            assert base is not None
            with torch.no_grad():
                own = smooth_fill(images, masks, coarse=forward(network, *halve(images, masks)))
            seen.append((images, base, smooth_fill(images, masks), own))
        return forward(network, images, masks, base)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(CompletionNetwork, "forward", look)
        train_inpainter(tiny(steps=4), [toy(size=size)], [toy(4, size=size)], tmp_path, device="cpu")
    assert [tuple(images.shape) for images, *_ in seen] == [(8, 3, size, size), (2, 3, 2 * size, 2 * size)] * 2
    for number, (_, base, smooth, own) in enumerate(seen):
        from_own = number % 2 == 1 and 2 * size >= LARGE
        torch.testing.assert_close(base, own if from_own else smooth)
        # At first the network adds nothing.
        assert number < 2 or not torch.allclose(own, smooth, atol=1e-6)
    for name in ("loss", "reconstruction"):
        assert rows(tmp_path)[-1][f"{name}_enlarged"] != rows(tmp_path)[-1][name]


def test_enlarged_pictures_are_parts_from_everywhere() -> None:
    ramp = torch.linspace(0, 1, 32)
    images = torch.stack([ramp.expand(32, 32), ramp[:, None].expand(32, 32), torch.ones(32, 32)])
    parts = inpainting._enlarge(images.expand(200, 3, 32, 32), torch.Generator().manual_seed(0))
    assert parts.shape == (200, 3, 64, 64)
    assert (parts[:, 0].diff(dim=2) >= 0).all()
    assert (parts[:, 1].diff(dim=1) >= 0).all()
    extent = parts.amax((2, 3)) - parts.amin((2, 3))
    torch.testing.assert_close(extent[:, 0], extent[:, 1], rtol=0, atol=0.02)
    assert 0.24 < extent[:, 0].min() < 0.27
    assert 0.95 < extent[:, 0].max() <= 1
    torch.testing.assert_close(parts[:, 2], torch.ones(200, 64, 64))
    middles = parts[:, :2].mean((2, 3))
    assert (middles.std(0) > 0.1).all()
    assert (middles[:, 0] - middles[:, 1]).std() > 0.1


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    broken = CompletionNetwork(width=8)
    torch.nn.init.constant_(broken.paint[0].bias, float("nan"))
    save_inpainter(tmp_path / "broken.safetensors", broken, {"width": 8})
    with pytest.raises(ValueError, match="loss: expected a finite value by step 2, got nan; lower the learning rate"):
        train(tiny(start=str(tmp_path / "broken.safetensors")), tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize(
    ("training", "test", "message"),
    [
        ([toy(4), toy(4, size=18)], [toy(4)], r"data: expected pictures of one size, .*got \[\(16, 16\), \(18, 18\)\]"),
        ([toy(4)], [toy(4, size=18)], r"data: expected pictures of one size, .*got \[\(16, 16\), \(18, 18\)\]"),
        ([toy(4, size=12)], [toy(4, size=12)], r"data: expected pictures of one size, 16 pixels or more"),
        ([], [toy(4)], "data: expected pictures to train and to report on, got 0 and 1 data sets"),
        ([toy(4)], [], "data: expected pictures to train and to report on, got 1 and 0 data sets"),
    ],
)
def test_pictures_that_do_not_fit_are_refused_before_the_first_step(
    tmp_path: Path, training: list[Dataset], test: list[Dataset], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train_inpainter(tiny(), training, test, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_places_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match="output: expected a folder that can be written"):
        train(tiny(), tmp_path / "file")
    with pytest.raises(ValueError, match="device: expected one of auto, cpu, got 'cuda'"):
        train_inpainter(tiny(), [toy(4)], [toy(4)], tmp_path / "run", device="cuda")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("batch_size", 0),
        ("width", 0),
        ("critic_steps", 0),
        ("report_every", 0),
        ("learning_rate", 0),
        ("adversarial_from", 1.5),
        ("adversarial_weight", -1),
        ("gradient_penalty", -1),
        ("average", 1.5),
        ("seed", -1),
    ],
)
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected a value"):
        InpainterTraining(**{name: value})


@pytest.mark.parametrize("count", [1, 2])
def test_small_batches_do(tmp_path: Path, count: int) -> None:
    train(tiny(steps=1, batch_size=count, adversarial_from=0.0), tmp_path)
    assert rows(tmp_path)[0]["step"] == 1


def test_the_surroundings_are_half_the_picture_around_the_hole() -> None:
    masks = torch.zeros(3, 1, 40, 64)
    masks[0, :, 18:22, 30:34] = 1  # in the middle
    masks[1, :, :2, :2] = 1  # in a corner: the crop stays inside
    masks[2, :, 38:, 62:] = 1
    places = torch.arange(40 * 64).view(1, 1, 40, 64).expand(3, 3, 40, 64).float()
    cropped, holes = inpainting._surroundings(places, masks)
    assert cropped.shape == (3, 3, 20, 32)
    assert holes.sum((1, 2, 3)).tolist() == masks.sum((1, 2, 3)).tolist()
    assert cropped[:, 0, 0, 0].tolist() == [10 * 64 + 16, 0, 20 * 64 + 32]

"""Training of the inpainting GAN: reconstruction first, then two critics (Iizuka et al. 2017; WGAN-GP, 2017)."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torchvision.utils import save_image

from februus.checks import SMALLEST_SIDE, check_choice, check_device, check_range, mismatch
from februus.data import Dataset
from februus.files import output_folder, write_file, write_json
from februus.inpainters.gan import read_inpainter
from februus.masks import random_masks, random_rectangles
from februus.metrics import gradient_energy, peak_signal_to_noise_ratio
from februus.models.completion import LARGE, CompletionNetwork, Critic, halve, smooth_fill
from februus.seeds import seeded
from februus.training.precision import autocast

__all__ = ["InpainterTraining", "save_inpainter", "train_inpainter"]

Row = dict[str, float]
# What the network starts from, or what it restores first for that: images, masks and what it starts from there.
_Base = Tensor | tuple[Tensor, Tensor, Tensor | None]
# Share of the steps. The last layers of the residual blocks begin at zero, and Adam's first steps move all of their
# weights by the same amount: at a high rate features grow a thousandfold, and ELUs behind them are constant ever after.
WARM_UP = 0.05
# Pixels, and batches at most, that are drawn and smoothly filled at once, but two batches in any case: some thousand
# small steps, which take a GPU as long for a few pictures as for some thousand.
AHEAD_PIXELS, AHEAD_BATCHES = 2**23, 16
# What the last key of `seeded` means: the pictures between real and restored ones that the gradient penalty looks at.
MIXING = 1
# Pictures of a step that the gradient penalty looks at, at most: it is a mean, and its second derivatives take long.
PENALIZED = 64
# Every other step takes parts of pictures, of a fourth of their sides or more, at twice the size of the pictures: so
# that large holes, and pictures that are smooth at their size, are known, too.
ZOOM, ENLARGED = 4.0, 2
# Pixels: the scales at which texture is compared with the original's.
SCALES = (1, 2, 4)
# Energy of a detail that is hardly seen, of four grey levels.
FLAT = (4 / 255) ** 2


@dataclass(frozen=True, kw_only=True)
class InpainterTraining:
    """How the completion network is trained.

    Args:
        steps: optimiser steps in all.
        batch_size: pictures a step and process; of enlarged ones a quarter.
        width: channels of the completion network at half resolution.
        learning_rate: Adam's, after it rose over the first twentieth of the steps; falls to a twentieth along a cosine.
        adversarial_from: share of the steps after which the critics join, in [0, 1].
        adversarial_weight: of the critics' loss beside the logarithm of the squared error.
        sharpness: share of the original's energy that is asked for inside the holes, in each band of frequencies, in
            [0, 1].
        sharpness_weight: of what is lacking of it, or is more than all of it, which joins with the critics.
        gradient_penalty: weight of WGAN-GP's penalty.
        critic_steps: critic updates for each update of the network.
        average: decay of the moving average of the weights, which is what ships.
        bfloat16: whether the completion network computes in bfloat16.
        report_every: steps between two rows of metrics, sample grids and states to resume from.
        seed: of everything random.
        start: weights of an earlier run of the same width to begin with, say of one that only reconstructed.
    """

    steps: int = 20_000
    batch_size: int = 64
    width: int = 64
    learning_rate: float = 1e-3
    adversarial_from: float = 0.65
    adversarial_weight: float = 0.3
    sharpness: float = 0.65
    sharpness_weight: float = 4.0
    gradient_penalty: float = 10.0
    critic_steps: int = 1
    average: float = 0.999
    bfloat16: bool = True
    report_every: int = 1000
    seed: int = 0
    start: str | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "width", "critic_steps", "report_every"):
            check_range(name, getattr(self, name), 1)
        check_range("learning_rate", self.learning_rate, 0, 1, open_low=True)
        check_range("adversarial_from", self.adversarial_from, 0, 1)
        check_range("average", self.average, 0, 1)
        check_range("sharpness", self.sharpness, 0, 1)
        for name in ("adversarial_weight", "sharpness_weight", "gradient_penalty", "seed"):
            check_range(name, getattr(self, name), 0)


def train_inpainter(
    settings: InpainterTraining,
    train: Sequence[Dataset],
    test: Sequence[Dataset],
    output: Path,
    *,
    device: str = "auto",
    on_step: Callable[[int, Row | None], None] | None = None,
) -> Path:
    """Train a completion network and its critics, or go on from where the same call was stopped.

    Runs as one process or as several under ``accelerate launch`` or ``torchrun``. Writes to ``output``:
    ``inpainter.safetensors`` (the averaged weights, half precision, with its card as metadata), ``card.json``,
    ``metrics.json``, ``samples.png`` and ``state.pt`` to resume from.

    Args:
        settings: how to train.
        train: pictures to learn from, all of one size.
        test: pictures to report on, of the same size; 256 of each are used.
        output: a folder.
        device: ``auto`` or ``cpu``.
        on_step: called on the main process after each step with the number of steps done and, where one was
            measured, the row of metrics.

    Returns:
        the path of the weights.

    Raises:
        ValueError: if the pictures differ in size, the folder holds another run, or the loss is no longer finite.
    """
    check_choice("device", device, ("auto", "cpu"))
    _check_sizes(train, test)
    # Told that there is no accelerator, several processes share the work; left alone, each would train by itself.
    accelerator = Accelerator(cpu=check_device(device) == "cpu")
    output_folder(output)
    run = _Run(settings, accelerator, torch.cat([data.images for data in train]), output)
    scenes = _held_out(test, settings.seed)
    while run.step < settings.steps:
        run.advance()
        row = None
        if run.step % settings.report_every == 0 or run.step == settings.steps:
            row = run.report(scenes, {"train": [data.name for data in train], "test": [data.name for data in test]})
        if on_step is not None and accelerator.is_main_process:
            on_step(run.step, row)
    return output / "inpainter.safetensors"


class _Run:
    """The state of a training run."""

    def __init__(self, settings: InpainterTraining, accelerator: Accelerator, images: Tensor, output: Path):
        self.settings, self.accelerator, self.output = settings, accelerator, output
        self.images = images.to(accelerator.device)
        pixels = settings.batch_size * images.shape[2] * images.shape[3]
        # A step of pictures as they are and one of enlarged ones.
        self._pairs = min(max(AHEAD_PIXELS // (2 * pixels), 1), AHEAD_BATCHES // 2)
        self._block, self._drawn = -1, list[tuple[Tensor, Tensor, _Base]]()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            network, critics = CompletionNetwork(width=settings.width), nn.ModuleList([Critic(), Critic()])
        self.ancestor: dict[str, Any] | None = None
        if settings.start is not None:
            network, self.ancestor = read_inpainter(Path(settings.start))
            if self.ancestor["width"] != settings.width:
                raise mismatch("start", f"weights of width {settings.width}", f"width {self.ancestor['width']}")
        self.average = copy.deepcopy(network).to(accelerator.device)
        rate, fused = settings.learning_rate, accelerator.device.type == "cuda"
        optimizer = torch.optim.Adam(network.parameters(), rate, betas=(0.9, 0.99), fused=fused)
        critic_optimizer = torch.optim.Adam(critics.parameters(), rate, betas=(0.5, 0.99), fused=fused)
        network.to(memory_format=torch.channels_last)
        prepared = accelerator.prepare(network, _Critics(critics), optimizer, critic_optimizer)
        self.network, self.critics, self.optimizer, self.critic_optimizer = prepared
        self.step, self.rows = 0, list[Row]()
        # They are read where they are reported: each look would wait for the device.
        self._losses = dict[str, Tensor]()
        self._resume()

    def advance(self) -> None:
        """Take one step of the network and, once they take part, of the critics."""
        settings = self.settings
        adversarial = self.step >= settings.adversarial_from * settings.steps
        done = self.step / settings.steps
        rate = settings.learning_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))
        # Of the first step, too, something is left.
        rate *= min(1, (done + 1e-4) / WARM_UP)
        for optimizer in (self.optimizer, self.critic_optimizer):
            for group in optimizer.param_groups:
                group["lr"] = rate
        images, masks, base = self._draw()
        with autocast(images.device, bfloat16=settings.bfloat16):
            restored = self.network(images, masks, base)
        error = ((restored - images).square() * masks).sum((1, 2, 3)) / (3 * masks.sum((1, 2, 3)))
        loss = (error + 1e-4).log().mean()
        losses = {"reconstruction": loss}
        if adversarial:
            generator = seeded(settings.seed, self.step, self.accelerator.process_index, MIXING, device=images.device)
            for _ in range(settings.critic_steps):
                losses["critic_gap"] = self._teach_critics(images, restored.detach(), masks, generator)
            scores = self.critics(restored, masks)
            losses["realism"] = scores.mean()
            loss = loss - settings.adversarial_weight * scores.mean()
            loss = loss + settings.sharpness_weight * _texture_gap(restored, images, masks, settings.sharpness)
        kind = "_enlarged" if self.step % 2 else ""
        self._losses |= {f"{name}{kind}": value.detach() for name, value in {**losses, "loss": loss}.items()}
        self.optimizer.zero_grad()
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        decay = min(settings.average, (1 + self.step) / (10 + self.step))
        parameters = self.accelerator.unwrap_model(self.network).parameters()
        get_ema_multi_avg_fn(decay)(list(self.average.parameters()), list(parameters), self.step)
        self.step += 1

    def _teach_critics(self, images: Tensor, restored: Tensor, masks: Tensor, generator: torch.Generator) -> Tensor:
        """Take one step of both critics, and return by how much they told real pictures from restored ones."""
        mix = torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device)
        mixed = (mix * images + (1 - mix) * restored)[:PENALIZED].requires_grad_()
        real, fake = self.critics(torch.cat([images, restored]), masks.repeat(2, 1, 1, 1)).chunk(2, dim=1)
        penalty = torch.zeros((), device=images.device)
        for scores in self.critics(mixed, masks[:PENALIZED]):
            (slope,) = torch.autograd.grad(scores.sum(), mixed, create_graph=True)
            penalty = penalty + (slope.flatten(1).norm(dim=1) - 1).square().mean()
        gap: Tensor = real.mean() - fake.mean()
        loss = self.settings.gradient_penalty * penalty / 2 - gap
        self.critic_optimizer.zero_grad()
        self.accelerator.backward(loss)
        self.critic_optimizer.step()
        return gap

    def _draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the step's pictures, masks and what the network starts from.

        Pictures and masks are a function of seed, step and process. Every other step takes fewer, enlarged ones.
        """
        block, place = divmod(self.step, 2 * self._pairs)
        if block != self._block:
            self._block, self._drawn = block, self._draw_ahead(block)
        images, masks, base = self._drawn[place]
        if isinstance(base, tuple):
            network = self.accelerator.unwrap_model(self.network)
            with torch.no_grad(), autocast(images.device, bfloat16=self.settings.bfloat16):
                base = smooth_fill(images, masks, coarse=network(*base))
        return images, masks, base

    def _draw_ahead(self, block: int) -> list[tuple[Tensor, Tensor, _Base]]:
        """Draw what the steps of a block take, where it is used."""
        generator = seeded(self.settings.seed, block, self.accelerator.process_index, device=self.accelerator.device)
        count = self.settings.batch_size
        # At most as many pixels a step, but one picture at least.
        fewer = max(count // ENLARGED**2, 1)
        plain = self._draw_pictures(count * self._pairs, generator)
        parts = _enlarge(self._draw_pictures(fewer * self._pairs, generator), generator)
        steps = self._split(plain, generator), self._split(parts, generator)
        return [step for pair in zip(*steps, strict=True) for step in pair]

    def _split(self, images: Tensor, generator: torch.Generator) -> list[tuple[Tensor, Tensor, _Base]]:
        """Draw masks for pictures, and split both into steps, with what the network starts from."""
        images = images.contiguous(memory_format=torch.channels_last)
        masks = self._draw_masks(images, generator)
        pictures, holes = images.chunk(self._pairs), masks.chunk(self._pairs)
        if min(images.shape[2:]) < LARGE:
            return list(zip(pictures, holes, smooth_fill(images, masks).chunk(self._pairs), strict=True))
        halves = halve(images, masks)
        small = min(halves[0].shape[2:]) < LARGE
        bases = smooth_fill(*halves).chunk(self._pairs) if small else [None] * self._pairs
        first = zip(*(half.chunk(self._pairs) for half in halves), bases, strict=True)
        return list(zip(pictures, holes, first, strict=True))

    def _draw_pictures(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw pictures, half of them mirrored."""
        device = self.accelerator.device
        drawn = torch.randint(len(self.images), (count,), generator=generator, device=device)
        images = self.images[drawn].float() / 255
        flipped = torch.rand(count, 1, 1, 1, generator=generator, device=device) < 0.5
        return torch.where(flipped, images.flip(3), images)

    def _draw_masks(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Draw a mask for each of the pictures."""
        count = len(images)
        # Half of the masks are three holes: more pixels to learn from, at the same cost.
        split = {1: count - count // 2, 3: count // 2}
        masks = torch.cat([
            random_masks(share, *images.shape[2:], pieces=pieces, generator=generator)
            for pieces, share in split.items()
        ])  # fmt: skip
        return masks[torch.randperm(count, generator=generator, device=images.device)]

    def report(self, scenes: list[tuple[str, Tensor, Tensor]], data: dict[str, list[str]]) -> Row:
        """Measure on held-out pictures; write metrics, samples, weights and the state to resume from.

        Raises:
            ValueError: if the loss is no longer finite; what was written before stays.
        """
        row: Row = {"step": self.step, **{name: loss.item() for name, loss in self._losses.items()}}
        for name in ("loss", "loss_enlarged"):
            if not math.isfinite(row.get(name, 0)):
                value = f"{row[name]}; lower the learning rate"
                raise mismatch("loss", f"a finite value by step {self.step}", value)
        rows = []
        for name, images, masks in scenes:
            on_device = images.to(self.accelerator.device), masks.to(self.accelerator.device)
            with torch.no_grad():
                restored = self.average(*on_device).cpu()
            row[f"psnr_{name}"] = peak_signal_to_noise_ratio(restored, images, masks).mean().item()
            energy = gradient_energy(restored, masks).sum() / gradient_energy(images, masks).sum()
            row[f"gradient_energy_{name}"] = energy.item()
            rows += [images[:12], images[:12] * (1 - masks[:12]) + 0.5 * masks[:12], restored[:12]]
        self.rows.append(row)
        if self.accelerator.is_main_process:
            processes = len(gather_object([self.accelerator.process_index]))
            self._write(torch.cat(rows), {**data, "processes": processes})
        else:
            gather_object([self.accelerator.process_index])
        self.accelerator.wait_for_everyone()
        return row

    def _write(self, samples: Tensor, data: dict[str, Any]) -> None:
        card = {
            "architecture": "completion-network",
            "width": self.settings.width,
            "settings": asdict(self.settings),
            "steps_done": self.step,
            "data": data,
            "hardware": _hardware(self.accelerator.device),
            "torch": torch.__version__,
            "command": _command(self.settings, data["train"]),
            "curve": self.rows,
            "started_from": self.ancestor,
        }
        write_file(self.output / "samples.png", lambda path: save_image(samples, path, nrow=12, format="png"))
        write_json(self.output / "metrics.json", self.rows)
        save_inpainter(self.output / "inpainter.safetensors", self.average, card)
        write_json(self.output / "card.json", card)
        unwrap = self.accelerator.unwrap_model
        state = {
            "settings": asdict(self.settings),
            "step": self.step,
            "rows": self.rows,
            "losses": self._losses,
            "network": unwrap(self.network).state_dict(),
            "critics": unwrap(self.critics).state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "critic_optimizer": self.critic_optimizer.state_dict(),
        }
        write_file(self.output / "state.pt", lambda path: torch.save(state, path))

    def _resume(self) -> None:
        path = self.output / "state.pt"
        if not path.exists():
            return
        state = torch.load(path, map_location=self.accelerator.device, weights_only=True)
        if state["settings"] != asdict(self.settings):
            raise mismatch(str(self.output), "an empty folder or a run of the same settings", state["settings"])
        self.step, self.rows, self._losses = state["step"], state["rows"], state["losses"]
        self.accelerator.unwrap_model(self.network).load_state_dict(state["network"])
        self.accelerator.unwrap_model(self.critics).load_state_dict(state["critics"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.critic_optimizer.load_state_dict(state["critic_optimizer"])


class _Critics(nn.Module):
    """The global critic on whole pictures, the local one on the surroundings of the hole; scores (2, N)."""

    def __init__(self, critics: nn.ModuleList):
        super().__init__()
        self.critics = critics

    def forward(self, images: Tensor, masks: Tensor) -> Tensor:
        everywhere, around = self.critics
        return torch.stack([everywhere(images, masks), around(*_surroundings(images, masks))])


def _enlarge(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return a part of each picture, of at least 1 / `ZOOM` of its sides, at `ENLARGED` times its size (bicubic)."""
    draw = torch.rand(3, len(images), generator=generator, device=images.device)
    scale = ZOOM ** -draw[0]
    place = (1 - scale) * (2 * draw[1:] - 1)
    zero = torch.zeros_like(scale)
    parts = torch.stack([scale, zero, place[0], zero, scale, place[1]], 1).view(-1, 2, 3)
    shape = [*images.shape[:2], *(ENLARGED * side for side in images.shape[2:])]
    grid = F.affine_grid(parts, shape, align_corners=False)
    return F.grid_sample(images, grid, mode="bicubic", padding_mode="reflection", align_corners=False).clamp(0, 1)


def _texture_gap(restored: Tensor, images: Tensor, masks: Tensor, sharpness: float) -> Tensor:
    """Return how far the holes' texture is from the original's: mean square over bands, relative to the original's.

    Bands are undecimated Haar details: three directions at scales of 1, 2 and 4 pixels. In each, ``sharpness`` of the
    original's energy is asked for, and no more than all of it; what lies between costs nothing. Asked of all bands
    together, energy comes where it is cheapest: as a chequered mesh at the finest.
    """
    gaps = []
    for scale in SCALES:
        # A detail counts by the part of its pixels that lie in the hole.
        weights = F.avg_pool2d(masks, 2 * scale, stride=1)
        for detail, original in zip(_details(restored, scale), _details(images, scale), strict=True):
            found, wanted = (
                ((band.square() * weights).mean((1, 2, 3)) / weights.mean((1, 2, 3)) + FLAT).sqrt()
                for band in (detail, original)
            )
            gap = (sharpness**0.5 * wanted - found).clamp(min=0) + (found - wanted).clamp(min=0)
            gaps.append(gap.square().mean() / wanted.square().mean())
    return torch.stack(gaps).mean()


def _details(images: Tensor, scale: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return how means over squares of ``scale`` pixels differ: along rows, along columns and along diagonals."""
    means = F.avg_pool2d(images, scale, stride=1)
    left, right = means[..., :-scale], means[..., scale:]
    rise, mean = right - left, right + left
    return (
        rise[..., scale:, :] + rise[..., :-scale, :],
        mean[..., scale:, :] - mean[..., :-scale, :],
        rise[..., scale:, :] - rise[..., :-scale, :],
    )


def _surroundings(images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Crop half the height and width, but what a critic needs, around each hole's centre of mass, in the picture."""
    height, width = images.shape[2:]
    half_height, half_width = max(height // 2, SMALLEST_SIDE), max(width // 2, SMALLEST_SIDE)
    area = masks.sum((1, 2, 3))
    rows = torch.arange(height, device=masks.device)
    columns = torch.arange(width, device=masks.device)
    top = (masks.sum((1, 3)) @ rows.to(masks.dtype) / area - half_height / 2).round().long()
    left = (masks.sum((1, 2)) @ columns.to(masks.dtype) / area - half_width / 2).round().long()
    row_index = top.clamp(0, height - half_height)[:, None] + rows[:half_height]
    column_index = left.clamp(0, width - half_width)[:, None] + columns[:half_width]
    # Twice `gather`: on GPUs the gradient of indexing sorts first.
    both = torch.cat([images, masks], 1)
    both = both.gather(2, row_index[:, None, :, None].expand(-1, both.shape[1], -1, width))
    both = both.gather(3, column_index[:, None, None, :].expand(-1, both.shape[1], half_height, -1))
    return both[:, :3], both[:, 3:]


def save_inpainter(path: Path, network: CompletionNetwork, card: dict[str, Any]) -> None:
    """Write the weights in half precision, with the card as metadata."""
    weights = {name: tensor.to(torch.float16).cpu().contiguous() for name, tensor in network.state_dict().items()}
    content = save(weights, metadata={"card": json.dumps(card)})
    write_file(path, lambda temporary: temporary.write_bytes(content))


def _command(settings: InpainterTraining, data: Sequence[str]) -> str:
    """Return the command line that trains so, with the names of the data sets."""
    changed = {
        field.name.replace("_", "-"): getattr(settings, field.name)
        for field in fields(settings)
        if getattr(settings, field.name) != field.default
    }
    options = "".join(f" --{name} {value}" for name, value in changed.items())
    return f"februus train-inpainter --data '[{', '.join(data)}]'{options} --output DIR"


def _check_sizes(train: Sequence[Dataset], test: Sequence[Dataset]) -> None:
    if not train or not test:
        raise mismatch("data", "pictures to train and to report on", f"{len(train)} and {len(test)} data sets")
    sizes = {data.image_size for data in (*train, *test)}
    if len(sizes) != 1 or min(min(sizes)) < SMALLEST_SIDE:
        expected = f"pictures of one size, {SMALLEST_SIDE} pixels or more; set image_size"
        raise mismatch("data", expected, sorted(sizes))


def _held_out(datasets: Sequence[Dataset], seed: int, count: int = 256) -> list[tuple[str, Tensor, Tensor]]:
    """Return, a data set, some pictures and the masks to report on: random shapes, and square holes of a quarter."""
    scenes = []
    for data in datasets:
        generator = seeded(seed)
        images = data.take(count, generator).floats()
        height, width = data.image_size
        square = random_rectangles(len(images), height, width, side=min(height, width) // 4, generator=generator)
        scenes.append((f"{data.name}_square", images, square))
        scenes.append((f"{data.name}_random", images, random_masks(len(images), height, width, generator=generator)))
    return scenes


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"

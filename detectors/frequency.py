"""Frequency: a trigger leaves high frequencies that pictures of the kind do not have."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from scipy.fft import dctn
from torch import Tensor, nn
from torch.nn import functional as F

from detectors._checks import check_count, check_range
from detectors._kinds import Detector, Seeded
from detectors._models import answers

__all__ = ["Frequency"]

# Below a tenth of a grey level a coefficient is rounding.
FLOOR = 0.1 / 255
# Clean pictures of a training step; as many triggered ones join them.
TRAINED = 32


@dataclass(kw_only=True)
class Frequency(Seeded, Detector):
    """Frequency (Zeng et al., ICCV 2021, arXiv 2104.03413): what a small network makes of a picture's spectrum.

    The network is trained to tell the spectra (two-dimensional cosine transform) of clean pictures from those of the
    same pictures with random triggers: a white block, a block of noise, noise all over, a shadow, another picture
    blended in. The score is its log odds that there is a trigger. The model is only tried at the fit; the score does
    not depend on it. Where the authors give the network coefficients, it gets the logarithms of their magnitudes,
    less the mean and over the standard deviation of clean pictures, which a few pictures suffice to train on.

    Args:
        epochs: passes over the clean pictures, each with new triggers.
        learning_rate: of Adam, above 0.
        batch_size: pictures that are scored at once.
        seed: of the triggers and the training.
    """

    epochs: int = 20
    learning_rate: float = 3e-3
    _network: nn.Module = field(init=False, repr=False, compare=False)
    _mean: Tensor = field(init=False, repr=False, compare=False)
    _deviation: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("epochs", self.epochs, 1)
        check_range("learning_rate", self.learning_rate, 0, open_low=True)

    def learn(self, images: Tensor) -> None:
        """Train the network, on the CPU."""
        check_count("images", images, 2, "pictures")
        answers(self.model, images[:1], self.batch_size)
        clean = images.cpu()
        spectra = _spectra(clean)
        self._mean, self._deviation = spectra.mean(0), spectra.std(0).clamp(min=1e-3)
        generator = self.generator()
        with torch.random.fork_rng(), torch.inference_mode(mode=False), torch.enable_grad():
            torch.manual_seed(self.seed)
            self._network = _network()
            optimizer = torch.optim.Adam(self._network.parameters(), self.learning_rate, weight_decay=1e-4)
            steps = self.epochs * -(-len(clean) // TRAINED)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, total_steps=steps)
            for _ in range(self.epochs):
                triggered = _triggered(clean, generator)
                for own in torch.randperm(len(clean), generator=generator).split(TRAINED):
                    seen = self._standard(torch.cat([clean[own], triggered[own]]))
                    truth = (torch.arange(len(seen)) >= len(own)).float()
                    optimizer.zero_grad()
                    loss = F.binary_cross_entropy_with_logits(self._network(seen)[:, 0], truth)
                    loss.backward()
                    optimizer.step()
                    schedule.step()
        self._network.eval()

    def score_batch(self, images: Tensor) -> Tensor:
        """Return the log odds (N,) of a trigger."""
        with torch.no_grad():
            odds: Tensor = self._network(self._standard(images.cpu()))
        return odds[:, 0]

    def _standard(self, images: Tensor) -> Tensor:
        return (_spectra(images) - self._mean) / self._deviation


def _spectra(images: Tensor) -> Tensor:
    """Return the logarithms of the magnitudes of the cosine transform (N, 3, H, W)."""
    coefficients = torch.from_numpy(dctn(images.numpy(), axes=(2, 3), norm="ortho"))
    return (coefficients.abs() + FLOOR).log()


def _network() -> nn.Module:
    """Return the untrained network: (N, 3, H, W) -> (N, 1)."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 32), (32, 32)):
        layers += [
            nn.Conv2d(inputs, outputs, 3, padding=1),
            nn.BatchNorm2d(outputs),
            nn.ELU(),
            nn.MaxPool2d(2, ceil_mode=True),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.3), nn.Linear(32 * 16, 1))


def _triggered(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return the pictures (N, 3, H, W), each with one of the authors' five random triggers; lengths as of 32 pixels."""
    count, _, height, width = images.shape

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    # Blocks of 2 to 7 pixels, at most 5 from a corner.
    unit = min(height, width) / 32
    tall, broad, margin = (uniform(*span, 1, 1, 1).floor() * unit for span in ((2, 8), (2, 8), (0, 6)))
    low, right = (uniform(0, 1, 1, 1, 1) < 0.5 for _ in range(2))
    down, across = torch.arange(height)[:, None] + 0.5, torch.arange(width)[None] + 0.5
    down, across = down.expand(count, 1, height, 1), across.expand(count, 1, 1, width)
    depth = torch.where(low, height - down, down) - margin
    breadth = torch.where(right, width - across, across) - margin
    block = (depth >= 0) & (depth < tall) & (breadth >= 0) & (breadth < broad)
    # A shadow: a triangle in the lower half, where all corners turn the same way.
    corners = [(uniform(0.5, 1, 1, 1, 1) * height, uniform(0, 1, 1, 1, 1) * width) for _ in range(3)]
    sides = [
        (to[0] - start[0]) * (across - start[1]) - (to[1] - start[1]) * (down - start[0])
        for start, to in zip(corners, corners[1:] + corners[:1], strict=True)
    ]
    turns = torch.stack(sides).sign()
    shadow = (turns == turns[0]).all(0)
    # Noise of a mean of 25 and a variance of 10 to 70, in grey levels.
    noise = (25 + uniform(10, 70, 1, 1, 1).sqrt() * torch.randn(images.shape, generator=generator)) / 255
    others = images[torch.randperm(count, generator=generator)]
    choices = torch.stack(
        [
            torch.where(block, 1, images),
            torch.where(block, torch.rand(images.shape, generator=generator), images),
            images + noise,
            torch.where(shadow, images / 2, images),
            images + 0.3 * others,
        ]
    )
    kind = torch.randint(len(choices), (count,), generator=generator)
    return choices[kind, torch.arange(count)].clamp(0, 1)

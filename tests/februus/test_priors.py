from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from detectors.neural_cleanse import NeuralCleanse
from februus.models import Normalized
from februus.priors import Prior, scan
from februus.registry import create
from februus.seeds import seeded


@pytest.fixture
def prior() -> Prior:
    mask = torch.zeros(1, 32, 32)
    mask[:, 28:30, 28:30] = torch.tensor([[1.0, 0.6], [0.5, 0.4]])
    return Prior(label=2, mask=mask, pattern=mask * torch.tensor([1.0, 0.5, 0.0])[:, None, None])


def test_the_region_is_what_is_solid_and_one_pixel_more(prior: Prior) -> None:
    expected = torch.zeros(1, 1, 32, 32)
    expected[..., 27:31, 27:31] = 1
    # The pixel of 0.4 is too faint; the one of 1 beside it brings it in again.
    expected[..., 30, 30] = 0
    assert torch.equal(prior.region[..., :30, :30], expected[..., :30, :30])
    assert prior.region.sum() == 15


def test_it_is_kept(prior: Prior, tmp_path: Path) -> None:
    prior.save(tmp_path / "prior.safetensors")
    kept = Prior.load(tmp_path / "prior.safetensors")
    assert kept.label == 2
    assert torch.equal(kept.mask, prior.mask)
    assert torch.equal(kept.pattern, prior.pattern)


def test_its_file_is_a_trigger(prior: Prior, tmp_path: Path) -> None:
    prior.save(tmp_path / "prior.safetensors")
    stamped = create("triggers", f"pixels:weights={tmp_path / 'prior.safetensors'}")(torch.full((1, 3, 32, 32), 0.2))
    torch.testing.assert_close(stamped[0], 0.2 * (1 - prior.mask) + prior.pattern)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"mask": torch.zeros(1, 4, 4)}, "prior: expected the tensors mask, pattern and target_label, got mask"),
        (
            {"mask": torch.zeros(4, 4), "pattern": torch.zeros(3, 4, 4), "target_label": torch.tensor(1)},
            r"prior: expected mask \(1, H, W\) and pattern",
        ),
        (
            {"mask": torch.zeros(1, 4, 5), "pattern": torch.zeros(3, 4, 4), "target_label": torch.tensor(1)},
            r"prior: expected mask \(1, H, W\) and pattern",
        ),
    ],
)
def test_what_is_no_prior(tensors: dict[str, Tensor], message: str, tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "prior.safetensors")
    with pytest.raises(ValueError, match=message):
        Prior.load(tmp_path / "prior.safetensors")
    (tmp_path / "text").write_text("no tensors")
    for name in ("text", "missing"):
        with pytest.raises(ValueError, match="prior: expected a safetensors file that scan wrote"):
            Prior.load(tmp_path / name)


class Corner(nn.Module):
    """Ten classes by the brightness of a field each; class 3 also by a bright corner."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(40.0))

    def forward(self, images: Tensor) -> Tensor:
        fields = nn.functional.adaptive_avg_pool2d(images.mean(1), (2, 5)).flatten(1)
        easy = torch.zeros(10)
        easy[3] = 1.0
        return self.gain * fields + 80 * images[:, 0, -2:, -2:].mean((1, 2))[:, None] * easy


def test_a_scan_finds_the_class_that_a_corner_leads_to() -> None:
    images = torch.rand(32, 3, 20, 20, generator=seeded(0)) * 0.5
    images[:, 0, -2:, -2:] = 0
    found = scan(Corner(), images, NeuralCleanse(steps=200))
    assert found.indices.argmax() == 3
    assert found.suspects[0] == 3
    assert found.prior is not None
    assert found.prior.label == 3
    assert found.prior.region[0, 0, -2:, -2:].any()


def test_a_scan_of_the_toy(toy_model: Normalized, toy_draw: Any) -> None:
    found = scan(toy_model, toy_draw(64, 5).floats(), NeuralCleanse(steps=100))
    assert found.indices.shape == (4,)
    assert found.indices.argmax() == 0
    assert (found.prior is None) == (not found.suspects)

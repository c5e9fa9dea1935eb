from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from februus.benchmark.inpainting import draw_inpainters, measure_inpainters
from februus.data import Dataset
from februus.inpainters.mean_fill import MeanFill
from februus.localizers.grad_cam import GradCam
from februus.masks import random_rectangles
from februus.metrics import peak_signal_to_noise_ratio
from februus.models import Normalized
from februus.registry import available
from februus.seeds import seeded

Draw = Callable[..., Dataset]
TIMED = {"seconds"}


def test_every_inpainter_on_the_same_holes(toy_model: Normalized, toy_draw: Draw) -> None:
    data = toy_draw(6, 3)
    done: list[None] = []
    rows = measure_inpainters(data, toy_model, heat=0.7, on_inpainter=lambda: done.append(None))
    inpainters = available("inpainters")
    assert [(row["holes"], row["inpainter"]) for row in rows] == [
        (holes, name) for holes in ("8x8 square", "Grad-CAM") for name in inpainters
    ]
    assert len(done) == len(rows)
    assert all(row["data"] == "toy" and row["pictures"] == 6 for row in rows)
    assert all(-1 <= row["ssim"] <= 1 and row["psnr"] > 5 and row["seconds"] > 0 for row in rows)
    work = {row["inpainter"]: row["mega_macs"] for row in rows}
    assert work.pop("gan") > 10
    assert set(work.values()) == {0.0}

    by_name = {(row["holes"], row["inpainter"]): row for row in rows}
    images = data.floats()
    holes = {
        "8x8 square": random_rectangles(6, 32, 32, side=8, generator=seeded(0)),
        "Grad-CAM": (GradCam()(toy_model, images) >= 0.7).float(),
    }
    for kind, masks in holes.items():
        psnr = peak_signal_to_noise_ratio(MeanFill()(images, masks), images, masks)
        row = by_name[kind, "mean-fill"]
        assert row["psnr"] == pytest.approx(psnr.mean().item(), abs=1e-4)
        # Student's t for five degrees of freedom
        assert row["psnr_interval"] == pytest.approx(2.5706 * psnr.std().item() / 6**0.5, rel=1e-3)
        assert row["gradient_energy"] == pytest.approx(0, abs=1e-6)


def test_the_seed_draws_the_holes(toy_draw: Draw) -> None:
    data = toy_draw(4, 3)
    first, again, other = (measure_inpainters(data, None, heat=0.7, seed=seed) for seed in (0, 0, 1))
    strip = [[{key: row[key] for key in row.keys() - TIMED} for row in rows] for rows in (first, again, other)]
    assert strip[0] == strip[1]
    assert strip[0] != strip[2]
    assert {row["holes"] for row in first} == {"8x8 square"}


def test_pictures_without_a_hole_do_not_count(toy_model: Normalized, toy_draw: Draw) -> None:
    """A model with flat maps for some pictures leaves only the others to be measured."""

    class Half(torch.nn.Module):
        """Answers pictures with a black corner all alike."""

        def __init__(self) -> None:
            super().__init__()
            self.model = toy_model

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.model(images)
            return logits * (images[:, 0, 0, :1] > 0)

    data = toy_draw(5, 3)
    data.images[0, :, 0, 0] = 0
    rows = measure_inpainters(data, Half(), heat=0.7)
    assert {row["holes"]: row["pictures"] for row in rows} == {"8x8 square": 5, "Grad-CAM": 4}


def test_the_drawing(toy_draw: Draw, tmp_path: Path) -> None:
    draw_inpainters(tmp_path / "one.png", [toy_draw(5)], count=2)
    draw_inpainters(tmp_path / "again.png", [toy_draw(5)], count=2)
    draw_inpainters(tmp_path / "two.png", [toy_draw(5), toy_draw(5, 1)], count=2)
    sizes = {}
    for name in ("one", "again", "two"):
        with Image.open(tmp_path / f"{name}.png") as opened:
            sizes[name] = opened.size
            assert len(np.unique(np.asarray(opened))) > 20
    assert sizes["two"][1] > 1.8 * sizes["one"][1]
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "again.png").read_bytes()

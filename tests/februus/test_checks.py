from __future__ import annotations

from functools import partial

import pytest
import torch

from februus.checks import check_choice, check_images, check_labels, check_masks, check_range, mismatch

IMAGES = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))


def test_every_error_reads_alike() -> None:
    error = mismatch("size", "a number", "none")
    assert isinstance(error, ValueError)
    assert str(error) == "size: expected a number, got none"


@pytest.mark.parametrize(
    "check",
    [
        partial(check_images, IMAGES),
        partial(check_images, torch.zeros(1, 3, 16, 16)),
        partial(check_images, torch.ones(1, 3, 16, 16)),
        partial(check_images, torch.zeros(1, 3, 4, 4), smallest_side=4),
        partial(check_images, torch.zeros(1, 3, 16, 16, requires_grad=True)),
        partial(check_masks, torch.zeros(2, 1, 16, 24), IMAGES),
        partial(check_masks, torch.ones(2, 1, 16, 24), IMAGES),
        partial(check_labels, torch.zeros(2, dtype=torch.int64), 2),
        partial(check_range, "rate", 0, 0, 1),
        partial(check_range, "rate", 1, 0, 1),
        partial(check_range, "rate", 1e9, 0),
        partial(check_choice, "position", "left", ("left", "right")),
        partial(check_choice, "position", "left", {"left": 1}),
    ],
)
def test_what_fits_passes(check: partial[None]) -> None:
    check()


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (partial(check_images, [1]), r"images: expected a float32 tensor \(N, 3, H, W\), got list"),
        (partial(check_images, IMAGES[0]), r"images: expected shape \(N, 3, H, W\), got \(3, 16, 24\)"),
        (partial(check_images, IMAGES[:, :1]), r"images: expected shape \(N, 3, H, W\), got \(2, 1, 16, 24\)"),
        (partial(check_images, IMAGES.double()), r"images: expected float32 in \[0, 1\], got torch.float64"),
        (partial(check_images, IMAGES[:0]), "images: expected at least one picture, got an empty batch"),
        (partial(check_images, IMAGES[..., :15]), "images: expected sides of at least 16 pixels, got 15x16"),
        (partial(check_images, IMAGES[:, :, 1:]), "images: expected sides of at least 16 pixels, got 24x15"),
        (partial(check_images, torch.full((1, 3, 16, 16), 2.0)), r"values in \[0, 1\], got values from 2 to 2"),
        (partial(check_images, torch.full((1, 3, 16, 16), -0.5)), "got values from -0.5 to -0.5"),
        (partial(check_images, torch.full((1, 3, 16, 16), float("nan"))), r"values in \[0, 1\], got NaN"),
        (partial(check_images, [1], name="reference"), "reference: expected"),
        (partial(check_masks, torch.zeros(2, 16, 24), IMAGES), r"masks: expected shape \(2, 1, 16, 24\), got \(2, 16"),
        (partial(check_masks, torch.zeros(1, 1, 16, 24), IMAGES), r"masks: expected shape \(2, 1, 16, 24\)"),
        (partial(check_masks, torch.zeros(2, 1, 24, 16), IMAGES), r"masks: expected shape \(2, 1, 16, 24\)"),
        (partial(check_masks, torch.full((2, 1, 16, 24), 0.5), IMAGES), "masks: expected values 0 and 1 only"),
        (partial(check_masks, torch.full((2, 1, 16, 24), float("nan")), IMAGES), "masks: expected values 0 and 1 only"),
        (partial(check_masks, torch.zeros(2, 1, 16, 24).bool(), IMAGES), "masks: expected a float32 .*got torch.bool"),
        (partial(check_masks, None, IMAGES), "masks: expected a float32 tensor .*got NoneType"),
        (partial(check_labels, torch.zeros(2), 2), r"labels: expected int64 \(2,\), got torch.float32 \(2,\)"),
        (partial(check_labels, torch.zeros(3).long(), 2), r"labels: expected int64 \(2,\), got torch.int64 \(3,\)"),
        (partial(check_labels, torch.zeros(2, 1).long(), 2), r"labels: expected int64 \(2,\)"),
        (partial(check_range, "rate", 1.5, 0, 1), "rate: expected a value at least 0 and at most 1, got 1.5"),
        (partial(check_range, "rate", 0, 0, 1, open_low=True), "rate: expected a value above 0 and at most 1, got 0"),
        (partial(check_range, "size", 0, 1), "size: expected a value at least 1, got 0"),
        (partial(check_range, "size", float("nan"), 1), "size: expected a value at least 1, got nan"),
        (partial(check_range, "size", "big", 1), "size: expected a value at least 1, got 'big'"),
        (partial(check_range, "size", None, 1), "size: expected a value at least 1, got None"),
        (partial(check_choice, "position", "up", ("left", "right")), "position: expected one of left, right, got 'up'"),
        (partial(check_choice, "position", "up", iter(("left",))), "position: expected one of left, got 'up'"),
    ],
)
def test_what_does_not_fit_is_told(check: partial[None], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check()

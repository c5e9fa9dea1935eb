"""Labelled pictures in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from februus.checks import check_labels, check_range, mismatch

__all__ = ["Dataset"]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Dataset:
    """Labelled pictures, all of one size, held as bytes.

    Args:
        name: where they come from, for reports.
        images: uint8 (N, 3, H, W), N at least 1.
        labels: int64 (N,), from 0 to the number of classes - 1.
        classes: the name of each class; a class may have no picture.

    Raises:
        ValueError: if shapes, types or labels do not fit.

    >>> images, labels = torch.zeros(4, 3, 16, 16, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
    >>> dataset = Dataset(name="toy", images=images, labels=labels, classes=("cat", "dog"))
    >>> dataset
    Dataset(name='toy', pictures=4, image_size=(16, 16), num_classes=2)
    >>> dataset.subset([1, 3]).labels
    tensor([1, 1])
    """

    name: str
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.shape[1] != 3 or self.images.dtype != torch.uint8:
            raise mismatch("images", "uint8 (N, 3, H, W)", f"{self.images.dtype} {tuple(self.images.shape)}")
        if self.images.numel() == 0:
            raise mismatch("images", "at least one picture", f"shape {tuple(self.images.shape)}")
        check_labels(self.labels, len(self.images))
        low, high = (int(bound) for bound in self.labels.aminmax())
        if low < 0 or high >= self.num_classes:
            raise mismatch("labels", f"values from 0 to {self.num_classes - 1}", f"values from {low} to {high}")

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        facts = f"pictures={len(self)}, image_size={self.image_size}, num_classes={self.num_classes}"
        return f"Dataset(name={self.name!r}, {facts})"

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.classes)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.images.shape[2:]
        return height, width

    def floats(self, indices: Tensor | Sequence[int] | slice | None = None) -> Tensor:
        """Return the pictures, or those at ``indices``, as float32 (N, 3, H, W) in [0, 1]."""
        images = self.images if indices is None else self.images[indices]
        return images.float() / 255

    def subset(self, indices: Tensor | Sequence[int] | slice) -> Dataset:
        """Return the pictures at ``indices`` with their labels; all classes stay."""
        return replace(self, images=self.images[indices], labels=self.labels[indices])

    def take(self, count: int, generator: torch.Generator) -> Dataset:
        """Return ``count`` pictures drawn without replacement, in their old order; all where there are fewer."""
        check_range("count", count, 1)
        chosen = torch.randperm(len(self), generator=generator)[:count]
        return self.subset(chosen.sort().values)

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield pictures as `floats` gives them and labels (N,), in order; the last batch may be smaller."""
        check_range("batch_size", batch_size, 1)
        for start in range(0, len(self), batch_size):
            rows = slice(start, start + batch_size)
            yield self.floats(rows), self.labels[rows]

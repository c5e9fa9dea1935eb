from __future__ import annotations

import pytest
import torch

from detectors.activation_clustering import ActivationClustering


def test_the_score_by_hand() -> None:
    """Four at 0, of which one at 3, and two at 12: silhouettes of 11, 11, 11, 6, 10.5 and 10.5 to their neighbours."""
    seen = torch.tensor([[0.0], [0], [0], [3], [12], [12]]).double()
    # Mean distances: to the own cluster 1, 1, 1, 3, 0, 0; to the other one 12, 12, 12, 9 and (3 * 12 + 9) / 4.
    silhouettes = torch.tensor([-11 / 12, -11 / 12, -11 / 12, -6 / 9, 1, 1]).double()
    torch.testing.assert_close(ActivationClustering().score_class(seen), silhouettes * (1 - 2 / 4))


def test_halves_tell_nothing() -> None:
    scores = ActivationClustering().score_class(torch.tensor([[0.0], [1], [10], [11]]).double())
    assert scores.abs().max() == 0


def test_few_dimensions_see_less() -> None:
    """What is small lies across the direction in which most varies."""
    generator = torch.Generator().manual_seed(0)
    seen = torch.randn(60, 2, generator=generator).double() * torch.tensor([0.5, 10])
    seen[:10, 0] += 8
    assert ActivationClustering(dimensions=1).score_class(seen)[:10].max() < 0.5
    both = ActivationClustering().score_class(seen / torch.tensor([1, 20]))
    assert both[:10].min() > 0.5 > 0 > both[10:].max()


def test_bad_options() -> None:
    with pytest.raises(ValueError, match="dimensions: expected a value at least 1, got 0"):
        ActivationClustering(dimensions=0)

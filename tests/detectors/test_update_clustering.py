from __future__ import annotations

import pytest
import torch

from detectors.update_clustering import UpdateClustering


def test_the_score_by_hand() -> None:
    """Three at right angles, at distance 1 from each other, and two at 1 + sqrt(1/3) from all of them."""
    updates = torch.cat([torch.eye(3), -torch.ones(2, 3)]) * torch.tensor([[1.0], [2], [3], [4], [5]])
    far = 1 + 3**-0.5
    expected = torch.tensor([0, 0, 0, (far - 1) / far, (far - 1) / far]).double()
    torch.testing.assert_close(UpdateClustering().score(updates), expected)


def test_members_are_scored_too() -> None:
    """The cluster holds those at 0, 60 and 60 degrees."""
    angles = torch.deg2rad(torch.tensor([0.0, 60, 60, 130, 240]).double())
    distances = 1 - (angles[:, None] - angles).cos()
    own = distances[:, :3].sum(1) / torch.tensor([2, 2, 2, 3, 3])
    usual = own[:3].mean()
    scores = UpdateClustering().score(torch.stack([angles.cos(), angles.sin()], 1))
    torch.testing.assert_close(scores, (own - usual) / own.clamp_min(usual))
    assert scores.argmax() == 4


@pytest.mark.parametrize("updates", [torch.eye(4)[:2], torch.tensor([[1.0, 0], [2, 0], [-1, 0], [-3, 0]])])
def test_without_a_majority_all_are_alike(updates: torch.Tensor) -> None:
    scores = UpdateClustering().score(updates)
    torch.testing.assert_close(scores, torch.zeros(len(updates), dtype=torch.float64))


def test_the_threshold() -> None:
    scores = torch.tensor([-0.2, 0.5, 0.51])
    assert UpdateClustering().decide(scores).tolist() == [False, False, True]
    assert UpdateClustering(threshold=0.1).decide(scores).tolist() == [False, True, True]
    with pytest.raises(ValueError, match=r"threshold: expected a value above 0 and at most 1, got 1\.5"):
        UpdateClustering(threshold=1.5)

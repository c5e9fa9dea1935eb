from __future__ import annotations

import torch

from detectors.update_cosine import UpdateCosine


def test_the_score_by_hand() -> None:
    """The median points right; the distances 0, 1 - r, 1 - r, 0, 2 with r = sqrt(1/2) have the median and MAD 1 - r."""
    updates = torch.tensor([[1.0, 0], [1, 1], [1, -1], [3, 0], [-1, 0]])
    usual = 1 - 0.5**0.5
    expected = torch.tensor([-usual, 0, 0, -usual, 2 - usual]).double() / (1.4826 * usual)
    torch.testing.assert_close(UpdateCosine().score(updates), expected)


def test_where_most_agree_a_twentieth_counts() -> None:
    """What is long is no matter, and zero is at a right angle."""
    updates = torch.tensor([[1.0, 0], [2, 0], [3, 0], [100, 0], [0, 0], [0, -0.01]])
    torch.testing.assert_close(UpdateCosine().score(updates), torch.tensor([0.0, 0, 0, 0, 20, 20]).double())


def test_the_threshold() -> None:
    scores = torch.tensor([2.0, 3.5, 3.6])
    assert UpdateCosine().decide(scores).tolist() == [False, False, True]
    assert UpdateCosine(threshold=1.0).decide(scores).tolist() == [True, True, True]

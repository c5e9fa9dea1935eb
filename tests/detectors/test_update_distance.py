from __future__ import annotations

import pytest
import torch

from detectors.update_distance import UpdateDistance


def test_the_score_by_hand() -> None:
    """The median is (2, 0); the distances 2, 1, 0, 1, 8 have the median 1 and the MAD 1."""
    updates = torch.tensor([[0.0, 0], [1, 0], [2, 0], [3, 0], [10, 0]])
    expected = (torch.tensor([2.0, 1, 0, 1, 8]).double() - 1) / 1.4826
    torch.testing.assert_close(UpdateDistance().score(updates), expected)


def test_between_the_middle_two() -> None:
    """The median is 2.5; the distances 2.5, 1.5, 1.5, 9.5 have the median 2 and the MAD 0.5."""
    updates = torch.tensor([[0.0], [1], [4], [12]])
    expected = (torch.tensor([2.5, 1.5, 1.5, 9.5]).double() - 2) / (1.4826 * 0.5)
    torch.testing.assert_close(UpdateDistance().score(updates), expected)


def test_where_most_agree_a_tenth_of_the_distance_counts() -> None:
    updates = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1], [0, -2]])
    scores = UpdateDistance().score(updates)
    torch.testing.assert_close(scores, torch.tensor([0.0, 0, 0, 0, 10]).double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("threshold", "expected"), [(3.5, [False, False, True]), (2.0, [False, True, True])])
def test_the_threshold(threshold: float, expected: list[bool]) -> None:
    assert UpdateDistance(threshold=threshold).decide(torch.tensor([2.0, 3.5, 3.6])).tolist() == expected

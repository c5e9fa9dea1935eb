from __future__ import annotations

import pytest
import torch

from februus.federated.partition import partition

LABELS = torch.arange(503) % 5


@pytest.mark.parametrize("alpha", [None, 0.3, 1.0, 100.0])
@pytest.mark.parametrize("clients", [1, 7])
def test_every_picture_goes_to_one_client(clients: int, alpha: float | None) -> None:
    parts = partition(LABELS, clients, alpha, 0)
    assert len(parts) == clients
    assert sorted(torch.cat(parts).tolist()) == list(range(len(LABELS)))
    assert all(torch.equal(part, part.sort().values) for part in parts)
    assert all(part.dtype == torch.int64 for part in parts)


@pytest.mark.parametrize("alpha", [None, 0.5])
def test_the_deal_is_a_function_of_the_seed(alpha: float | None) -> None:
    first, again, other = (partition(LABELS, 4, alpha, seed) for seed in (3, 3, 4))
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not all(torch.equal(one, two) for one, two in zip(first, other, strict=True))


def test_without_alpha_shares_are_even() -> None:
    parts = partition(LABELS, 7, None, 0)
    assert {len(part) for part in parts} == {71, 72}
    counts = torch.stack([LABELS[part].bincount(minlength=5) for part in parts])
    assert counts.amin() >= 5
    # At random, and not card by card in the order of the pictures.
    assert not torch.equal(parts[0], torch.arange(0, 503, 7))


def test_a_small_alpha_is_less_even_than_a_large_one() -> None:
    def spread(alpha: float) -> float:
        shares = torch.stack([LABELS[part].bincount(minlength=5) for part in partition(LABELS, 4, alpha, 0)]).float()
        return float((shares / shares.sum(0)).std())

    assert spread(0.5) > 2 * spread(50.0)
    assert spread(1e6) < 0.02


def test_dirichlet_keeps_the_shares_of_a_class() -> None:
    """Over many deals each client gets the same share of every class."""
    shares = torch.stack([
        torch.stack([LABELS[part].bincount(minlength=5) for part in partition(LABELS, 3, 1.0, seed)])
        for seed in range(60)
    ]).float().mean(0)  # fmt: skip
    assert (shares / shares.sum(0) - 1 / 3).abs().amax() < 0.12


@pytest.mark.parametrize(
    ("clients", "alpha", "message"),
    [
        (504, None, r"partition: expected at least one picture for every client, got none for 1 of 504 \(client 503"),
        (400, 0.01, r"partition: expected .* got none for \d+ of 400 \(client 1 first\); raise alpha or take fewer"),
        (0, None, r"clients: expected a value at least 1, got 0"),
        (3, 0.0, r"alpha: expected a value above 0, got 0"),
        (3, float("nan"), r"alpha: expected a value above 0, got nan"),
    ],
)
def test_errors(clients: int, alpha: float | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        partition(LABELS, clients, alpha, 0)

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from februus.models import Normalized


def test_pictures_are_normalised_by_channel() -> None:
    model = Normalized(nn.Identity(), (0.0, 0.5, 1.0), (1.0, 0.5, 2.0))
    out = model(torch.ones(1, 3, 2, 2))
    assert out[0, :, 0, 0].tolist() == [1.0, 1.0, 0.0]


def test_without_normalisation_nothing_changes() -> None:
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Normalized(nn.Identity())(images), images)


def test_the_state_dict_round_trips_and_holds_the_network_alone() -> None:
    one, other = (Normalized(nn.Conv2d(3, 2, 1), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)) for _ in range(2))
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(one(images), other(images))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(images), other(images))
    assert set(one.state_dict()) == {"network.weight", "network.bias"}


def test_the_normalisation_moves_and_copies_with_the_model() -> None:
    model = copy.deepcopy(Normalized(nn.Identity(), (0.5, 0.5, 0.5))).to(torch.float64)
    assert model.mean.dtype == torch.float64
    assert model.mean.flatten().tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (1, 1, 1)), ((0, 0, 0), (1, 1, 0)), ((0, 0, 0), (1, 1, -1))])
def test_a_bad_normalisation_is_refused(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"normalization (mean|std): expected three"):
        Normalized(nn.Identity(), mean, std)

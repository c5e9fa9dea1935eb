"""The fast exponential linear unit is PyTorch's, in value and gradient."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from februus.models.elu import Elu, elu
from februus.seeds import seeded


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_values_are_pytorchs(dtype: torch.dtype) -> None:
    special = torch.tensor([-1e-9, 0.0, -200.0, 200.0, math.inf, -math.inf, math.nan])
    values = torch.cat([torch.linspace(-30, 5, 10_001), special]).to(dtype)
    found, expected = Elu()(values), nn.ELU()(values)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7, equal_nan=True)


def test_gradients_of_both_orders_are_right() -> None:
    values = torch.randn(30, generator=seeded(0), dtype=torch.float64, requires_grad=True)
    assert gradcheck(elu, values)
    assert gradgradcheck(elu, values)


def test_gradients_are_pytorchs() -> None:
    values = torch.randn(4, 3, 8, 8, generator=seeded(0)).to(memory_format=torch.channels_last).requires_grad_()
    weights = torch.randn(4, 3, 8, 8, generator=seeded(1))
    (found,) = torch.autograd.grad((elu(values) * weights).sum(), values)
    (expected,) = torch.autograd.grad((nn.functional.elu(values) * weights).sum(), values)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


def test_the_input_is_left_as_it_was() -> None:
    values = torch.tensor([-1.0, 2.0])
    elu(values)
    assert values.tolist() == [-1, 2]


def test_transforms_of_functions_pass_through() -> None:
    values = torch.randn(5, 3, generator=seeded(0))
    assert torch.equal(torch.func.vmap(elu)(values), elu(values))

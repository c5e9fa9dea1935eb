from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import nn

from februus.models.modes import evaluation_mode, recorded_outputs, training_mode

Borrow = Callable[[nn.Module], AbstractContextManager[None]]


def mixed() -> nn.Module:
    """Return a network in training mode of which some modules are frozen in eval mode."""
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Sequential(nn.Dropout(), nn.Linear(2, 3)))
    model[1].eval()
    model[2][0].eval()
    return model


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


@pytest.mark.parametrize(("borrow", "training"), [(evaluation_mode, False), (training_mode, True)])
def test_all_modules_are_in_the_mode_and_get_back_their_own(borrow: Borrow, training: bool) -> None:  # noqa: FBT001
    for model in (mixed(), mixed().train(), mixed().eval()):
        before = modes(model)
        with borrow(model):
            assert set(modes(model)) == {training}
        assert modes(model) == before


@pytest.mark.parametrize("borrow", [evaluation_mode, training_mode])
def test_modes_are_given_back_after_an_exception(borrow: Borrow) -> None:
    model = mixed()
    before = modes(model)
    with pytest.raises(RuntimeError, match="half-way"), borrow(model):
        raise RuntimeError("half-way")
    assert modes(model) == before


def test_modes_can_be_nested() -> None:
    model = mixed()
    before = modes(model)
    with training_mode(model):
        with evaluation_mode(model):
            assert not model.training
        assert set(modes(model)) == {True}
    assert modes(model) == before


def test_outputs_are_recorded_in_order_and_without_gradient() -> None:
    model, inputs = nn.Linear(2, 3), torch.rand(4, 2)
    with recorded_outputs(model) as outputs:
        first, second = model(inputs), model(2 * inputs)
        assert first.requires_grad
    model(inputs)
    assert len(outputs) == 2
    assert torch.equal(outputs[0], first.detach())
    assert torch.equal(outputs[1], second.detach())
    assert not any(output.requires_grad for output in outputs)
    assert not model._forward_hooks


def test_the_hook_goes_after_an_exception() -> None:
    model = nn.Linear(2, 3)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), recorded_outputs(model) as outputs:
        model(torch.rand(4, 5))
    assert outputs == []
    assert not model._forward_hooks

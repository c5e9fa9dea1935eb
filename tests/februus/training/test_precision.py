from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from februus.training import precision
from februus.training.precision import autocast

CPU = torch.device("cpu")
OLD = {"architecture": "x86_64", "cpu_name": "Old One", "avx512_bf16": False, "amx_bf16": False}


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    precision._warn_where_slow.cache_clear()
    yield
    precision._warn_where_slow.cache_clear()


def on(monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, Any]) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)


def test_it_computes_in_bfloat16_only_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, {})
    ones = torch.ones(2, 2)
    for bfloat16, expected in ((True, torch.bfloat16), (False, torch.float32)):
        with autocast(CPU, bfloat16=bfloat16):
            assert (ones @ ones).dtype == expected


def test_a_processor_without_it_is_told_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, OLD)
    with pytest.warns(UserWarning, match="bfloat16: Old One has no instructions for it") as told:
        assert len([autocast(CPU, bfloat16=True) for _ in range(3)]) == 3
    assert len(told) == 1


@pytest.mark.parametrize(
    "capabilities",
    [{**OLD, "avx512_bf16": True}, {**OLD, "amx_bf16": True}, {**OLD, "architecture": "arm64"}, {}],
    ids=["avx512", "amx", "arm", "unknown"],
)
def test_others_are_not_warned_of(monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, Any]) -> None:
    on(monkeypatch, capabilities)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        autocast(CPU, bfloat16=True)


def test_who_does_not_ask_for_it_is_not_warned(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, OLD)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        autocast(CPU, bfloat16=False)

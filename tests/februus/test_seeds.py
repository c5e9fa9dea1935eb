from __future__ import annotations

import pytest
import torch

from februus.seeds import seeded


def draw(*keys: int) -> tuple[float, ...]:
    return tuple(torch.rand(4, generator=seeded(*keys)).tolist())


def test_the_same_keys_give_the_same_stream() -> None:
    assert draw(3, 1, 4) == draw(3, 1, 4)


def test_every_key_and_their_order_count() -> None:
    keys = [(seed, number, client) for seed in range(3) for number in range(4) for client in range(5)]
    assert len({draw(*key) for key in keys}) == len(keys)
    assert draw(1, 2) != draw(2, 1)
    assert draw(1) != draw(1, 1)


def test_torch_s_own_generator_is_left_alone() -> None:
    state = torch.get_rng_state()
    draw(5)
    assert torch.equal(torch.get_rng_state(), state)


def test_large_keys_are_fine_and_negative_ones_are_not() -> None:
    assert draw(2**40) != draw(2**40 + 1)
    with pytest.raises(ValueError, match="non-negative"):
        seeded(-1)

"""A federation on the toy, under attack and without, that several attacks are tried in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from februus.data import Dataset
from februus.federated import Federation, train
from februus.models import Card, Normalized, read_card


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a federation under attack, and of the same one without."""

    card: Card
    model: Normalized
    honest: Normalized
    test: Dataset

    @property
    def last(self) -> dict[str, Any]:
        """The last round under attack."""
        history: list[dict[str, Any]] = self.card.extra["history"]
        return history[-1]


@pytest.fixture
def toy_outcome(toy_draw: Callable[..., Dataset], toy_architecture: str, tmp_path: Path) -> Callable[..., Outcome]:
    """Give a function that trains two clients for three rounds under the options of an attack, and honestly."""

    def outcome(*, pictures: int = 300, tested: int = 40, malicious: int = 1, **options: Any) -> Outcome:
        settings = Federation(
            architecture=toy_architecture,
            clients=2,
            malicious=malicious,
            rounds=3,
            local_epochs=2,
            batch_size=16,
            learning_rate=0.02,
            **options,
        )
        data, test = toy_draw(pictures), toy_draw(tested, 1)
        model = train(settings, data, test, tmp_path / "backdoored")
        honest = train(replace(settings, malicious=0), data, test, tmp_path / "clean")
        return Outcome(card=read_card(tmp_path / "backdoored"), model=model, honest=honest, test=test)

    return outcome

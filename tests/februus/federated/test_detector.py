"""A server that suspects some of the updates, and leaves them out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from detectors.update_distance import UpdateDistance
from februus.data import Dataset
from februus.federated import Federation, train
from februus.federated.client import Update
from februus.federated.server import inspect
from februus.models import read_card

Draw = Callable[..., Dataset]


@pytest.fixture
def settings(toy_architecture: str) -> Federation:
    return Federation(
        architecture=toy_architecture,
        clients=6,
        malicious=2,
        rounds=3,
        local_epochs=2,
        batch_size=16,
        learning_rate=0.02,
    )


@pytest.mark.parametrize(
    ("attack", "detector"),
    [
        ("sign-flip", "update-distance"),
        ("same-value", "update-cosine:threshold=3"),
        ("sign-flip:scale=1.0", "update-clustering"),
    ],
)
def test_attackers_are_suspected_and_the_model_learns(
    settings: Federation, toy_draw: Draw, tmp_path: Path, attack: str, detector: str
) -> None:
    """Without a detector the first two leave the model at chance, which is a quarter."""
    guarded = replace(settings, attack=attack, detector=detector)
    train(guarded, toy_draw(480), toy_draw(80, 1), tmp_path)
    card = read_card(tmp_path)
    for row in card.extra["history"]:
        assert set(row["attackers"]) <= set(row["suspected"])
        # Of the honest some may be, too, but hardly ever.
        assert len(row["suspected"]) <= 3
        assert list(row["scores"]) == [str(client) for client in row["clients"]]
        worst = sorted(row["clients"], key=lambda client: row["scores"][str(client)])[-len(row["suspected"]) :]
        assert sorted(worst) == row["suspected"]
    assert card.extra["federation"]["detector"] == detector
    print(
        attack,
        [row["clean_accuracy"]["value"] for row in card.extra["history"]],
        [row["suspected"] for row in card.extra["history"]],
    )
    assert card.extra["history"][-1]["clean_accuracy"]["value"] > 0.4


def update(client: int, *change: float) -> Update:
    return Update(client=client, change=torch.tensor(change), buffers={}, count=1, loss=0)


def test_inspection_by_hand() -> None:
    updates = [update(7, 1, 0), update(3, 1.1, 0), update(5, -9, 0), update(4, 0.8, 0)]
    kept, judged = inspect(updates, UpdateDistance())
    assert [item.client for item in kept] == [7, 3, 4]
    assert judged["suspected"] == [5]
    scores: Tensor = UpdateDistance().score(torch.stack([item.change for item in updates]))
    assert judged["scores"] == {"7": scores[0], "3": scores[1], "5": scores[2], "4": scores[3]}
    json.dumps(judged)


def test_if_all_are_suspected_the_last_round_stays(
    settings: Federation, toy_draw: Draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guarded = replace(settings, detector="update-distance", local_epochs=1, rounds=2)
    data, test = toy_draw(96), toy_draw(8, 1)

    def all_from_now_on(row: dict[str, Any]) -> None:
        monkeypatch.setattr(UpdateDistance, "decide", lambda self, scores: scores > -1e9)

    with pytest.raises(ValueError, match=r"updates: expected at least one that is not suspected, got \{'0': "):
        train(guarded, data, test, tmp_path, on_round=all_from_now_on)
    assert len(read_card(tmp_path).extra["history"]) == 1


def test_a_card_from_before_there_were_detectors(settings: Federation, toy_draw: Draw, tmp_path: Path) -> None:
    two = replace(settings, local_epochs=1, malicious=0, rounds=2)
    data, test = toy_draw(96), toy_draw(8, 1)

    class StopError(Exception):
        pass

    def stop(row: dict[str, Any]) -> None:
        assert not {"suspected", "scores"} & row.keys()
        raise StopError

    with pytest.raises(StopError):
        train(two, data, test, tmp_path, on_round=stop)
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["federation"].pop("detector") is None
    (tmp_path / "card.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match="an earlier run with the same settings, got one that differs in federation"):
        train(replace(two, detector="update-cosine"), data, test, tmp_path)
    rows: list[dict[str, Any]] = []
    train(two, data, test, tmp_path, on_round=rows.append)
    assert [row["round"] for row in rows] == [2]


def test_only_detectors_of_updates() -> None:
    with pytest.raises(
        ValueError,
        match="detector: expected one of updates: update-clustering, update-cosine, update-distance, got 'strip'",
    ):
        Federation(detector="strip")
    with pytest.raises(ValueError, match=r"detector: expected one of .*strip.*, got 'lie'"):
        Federation(detector="lie")
    with pytest.raises(ValueError, match="threshold: expected a value above 0, got 0"):
        Federation(detector="update-cosine:threshold=0")

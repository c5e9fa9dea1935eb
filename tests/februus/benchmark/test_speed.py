from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from februus.benchmark.speed import compare_batched, compare_round, measure_rounds
from februus.cli import main
from februus.data import Dataset, Source
from februus.federated import Federation
from februus.models import Normalized
from februus.purifier import Purifier

Draw = Callable[..., Dataset]


def check(measured: dict[str, Any], repeats: int) -> None:
    assert len(measured["seconds"]) == repeats
    ratios = [first / second for first, second in measured["seconds"]]
    assert measured["ratio"] == pytest.approx(statistics.median(ratios))
    assert measured["ratio_range"] == pytest.approx([min(ratios), max(ratios)])
    assert measured["threads"] == torch.get_num_threads()
    assert json.loads(json.dumps(measured)) == measured


def test_a_batch_is_quicker_than_one_by_one(toy_model: Normalized, toy_draw: Draw) -> None:
    measured = compare_batched(
        Purifier.for_model(toy_model, preset="paper", inpainter="mean-fill"), toy_draw(24), repeats=3
    )
    check(measured, 3)
    assert measured["pictures"] == 24
    assert measured["ratio"] > 1


def test_a_round_against_a_plain_loop(toy_architecture: str, toy_draw: Draw) -> None:
    settings = Federation(architecture=toy_architecture, clients=3, clients_per_round=2, batch_size=8, malicious=0)
    measured = compare_round(settings, toy_draw(60), repeats=2)
    check(measured, 2)
    # Two clients of 20 pictures: three steps each.
    assert measured["steps"] == 6
    assert 0.2 < measured["ratio"] < 5


def test_the_rounds_of_an_engine(toy_draw: Draw, tmp_path: Path) -> None:
    data = toy_draw(24)
    for index, (image, label) in enumerate(zip(data.images, data.labels.tolist(), strict=True)):
        path = tmp_path / str(label) / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    settings = Federation(clients=4, clients_per_round=2, malicious=0)
    row = measure_rounds(settings, Source(data=str(tmp_path)), "local", rounds=2)
    assert (row["engine"], row["clients"], row["clients_per_round"], row["threads"]) == ("local", 4, 2, 1)
    assert row["parameters"] > 100_000
    assert len(row["seconds"]) == 2
    assert row["seconds_a_round"] == pytest.approx(statistics.mean(row["seconds"]))
    # Torch alone holds some; a leak of gigabytes would be seen.
    assert 5e7 < row["bytes_before"] < row["bytes_at_peak"] < row["bytes_before"] + 2e9
    assert json.loads(json.dumps(row)) == row


def test_engines_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("flwr", reason='Flower is not installed: pip install "februus[flower]"')
    asked = []

    def measure(settings: Federation, source: Source, engine: str, **options: Any) -> dict[str, Any]:
        asked.append((engine, settings.clients, source.data, options))
        seconds = {"seconds_a_round": 1.0, "first_seconds": 2.0}
        return {"clients": settings.clients, "clients_per_round": 10, **seconds, "bytes_before": 1, "bytes_at_peak": 2}

    monkeypatch.setattr("februus.commands.measure_rounds", measure)
    output = tmp_path / "measured"
    assert main(["measure-engines", "--data", "x", "--crowds", "[10, 20]", "--output", str(output)]) == 0
    options = {"rounds": 3, "threads": 1}
    expected = [("local", 100), ("flower", 100), ("local", 10), ("local", 20)]
    assert asked == [(engine, clients, "x", options) for engine, clients in expected]
    assert [row["clients"] for row in json.loads((output / "engines.json").read_text())] == [100, 100, 10, 20]
    assert main(["measure-engines", "--engines", "[cloud]", "--output", str(output)]) == 2

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from februus.benchmark.cases import trigger_of
from februus.data import Dataset
from februus.federated import Federation, train
from februus.federated.aggregators.fed_avg import FedAvg
from februus.federated.client import State, Update
from februus.federated.engines.local import Local
from februus.federated.population import Population, Runner
from februus.federated.server import STAMPING, aggregate, screen
from februus.metrics import attack_success_rate, clean_accuracy
from februus.models import load, read_card
from februus.poisoning import stamp
from februus.seeds import seeded
from februus.training.classifier import LocalTraining, predict
from februus.triggers.patch import Patch
from februus.types import Context

Draw = Callable[..., Dataset]

SMALL: dict[str, Any] = {"clients": 4, "malicious": 1, "rounds": 2, "batch_size": 16, "trigger": "patch:size=4"}


@pytest.fixture(scope="session")
def data(toy_draw: Draw) -> Dataset:
    return toy_draw(96)


@pytest.fixture(scope="session", name="test")
def held_out(toy_draw: Draw) -> Dataset:
    return toy_draw(40, 1)


@pytest.fixture
def settings(toy_architecture: str) -> Federation:
    return Federation(architecture=toy_architecture, **SMALL)


def weights_of(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def assert_equal_weights(one: Path, other: Path) -> None:
    first, second = weights_of(one), weights_of(other)
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different


def files_of(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clients": 0, "malicious": 0}, r"clients: expected a value at least 1, got 0"),
        ({"clients": 3, "malicious": 4}, r"malicious: expected 0 to 3, the number of clients, got 4"),
        ({"malicious": -1}, r"malicious: expected 0 to 10, the number of clients, got -1"),
        ({"clients_per_round": 11}, r"clients_per_round: expected 1 to 10, the number of clients, got 11"),
        ({"clients_per_round": 0}, r"clients_per_round: expected 1 to 10"),
        ({"rounds": 0}, r"rounds: expected a value at least 1, got 0"),
        ({"alpha": 0.0}, r"alpha: expected a value above 0, got 0"),
        ({"local_epochs": 0}, r"epochs: expected a value at least 1, got 0"),
        ({"batch_size": 1}, r"batch_size: expected a value at least 2, got 1"),
        ({"learning_rate": 0.0}, r"learning_rate: expected a value above 0, got 0"),
        ({"learning_rate": float("nan")}, r"learning_rate: expected a value above 0, got nan"),
        ({"momentum": 1.0}, r"momentum: expected a value at least 0 and below 1, got 1"),
        ({"weight_decay": -1.0}, r"weight_decay: expected a value at least 0, got -1"),
        ({"aggregator": "mode"}, r"aggregator: expected one of .*fed-avg.*, got 'mode'"),
        ({"trigger": "flower"}, r"trigger: expected one of any-of, blended, .*, warp, got 'flower'"),
        ({"trigger": "patch:size=0"}, r"size: expected a value at least 1, got 0"),
        ({"trigger": "patch:shape=3"}, r"option of trigger patch: expected one of size, .*, got 'shape'"),
        ({"trigger": "pixels:weights=no.safetensors"}, r"weights: expected a safetensors file with mask"),
        ({"poison_rate": 1.1}, r"poison_rate: expected a value at least 0 and at most 1, got 1\.1"),
        ({"attack": "model-replacement", "scale": 0.0}, r"scale: expected a value above 0, got 0"),
        ({"source_label": 2}, r"option of attack data-poisoning: expected one of .*trigger, .*, got 'source_label'"),
        ({"attack": "flood"}, r"attack: expected one of .*data-poisoning.*, got 'flood'"),
        ({"server_pictures": 0}, r"server_pictures: expected a value at least 1, got 0"),
        ({"backdoor_from": 0}, r"backdoor_from: expected a value at least 1, got 0"),
        ({"backdoor_every": 0}, r"backdoor_every: expected a value at least 1, got 0"),
        ({"seed": -1}, r"seed: expected a value at least 0, got -1"),
    ],
)
def test_settings_are_checked_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Federation(**options)


@pytest.mark.parametrize(
    ("start", "every", "rounds"), [(1, 1, [1, 2, 3, 4, 5, 6]), (3, 1, [3, 4, 5, 6]), (2, 2, [2, 4, 6]), (9, 1, [])]
)
def test_the_rounds_of_attack(start: int, every: int, rounds: list[int]) -> None:
    settings = Federation(backdoor_from=start, backdoor_every=every)
    assert [number for number in range(1, 7) if settings.attacks_in(number)] == rounds
    assert not any(replace(settings, malicious=0).attacks_in(number) for number in range(1, 7))


def test_sampling_is_seeded_and_sized() -> None:
    settings = Federation(clients=10, clients_per_round=4)
    drawn = [settings.sample(number) for number in range(1, 30)]
    assert all(len(set(clients)) == 4 and list(clients) == sorted(clients) for clients in drawn)
    assert {client for clients in drawn for client in clients} == set(range(10))
    assert len(set(drawn)) > 10
    assert drawn == [Federation(clients=10, clients_per_round=4).sample(number) for number in range(1, 30)]
    assert drawn != [replace(settings, seed=1).sample(number) for number in range(1, 30)]
    assert Federation(clients=5, malicious=0).sample(3) == (0, 1, 2, 3, 4)


def test_the_learning_rate_falls_along_a_cosine() -> None:
    settings = Federation(rounds=4, learning_rate=0.1, local_epochs=3, batch_size=8, momentum=0.5, weight_decay=0.25)
    rates = [settings.local_training(number).learning_rate for number in (1, 2, 3, 4)]
    expected = [0.1 * (0.01 + 0.99 * (1 + math.cos(math.pi * share)) / 2) for share in (0, 0.25, 0.5, 0.75)]
    assert rates == pytest.approx(expected)
    assert rates[0] == pytest.approx(0.1)
    local = settings.local_training(2)
    assert (local.epochs, local.batch_size, local.momentum, local.weight_decay) == (3, 8, 0.5, 0.25)


# --- aggregation -----------------------------------------------------------------------------------------------------


def test_aggregation_by_hand() -> None:
    state = State(
        parameters=torch.tensor([1.0, 10.0]),
        buffers={"running_mean": torch.tensor([0.0]), "num_batches_tracked": torch.tensor(0)},
    )
    updates = [
        Update(
            client=client,
            change=torch.tensor(change),
            buffers={"running_mean": torch.tensor([mean]), "num_batches_tracked": torch.tensor(steps)},
            count=count,
            loss=0.0,
        )
        for client, change, mean, steps, count in ((0, [4.0, 0.0], 2.0, 3, 30), (5, [0.0, -8.0], 6.0, 10, 10))
    ]
    merged = aggregate(state, updates, FedAvg(), Context(generator=seeded(0), clients=(0, 5)))
    assert merged.parameters.tolist() == [4.0, 8.0]
    assert merged.buffers["running_mean"].tolist() == [3.0]
    # 0.75 * 3 + 0.25 * 10 = 4.75
    assert merged.buffers["num_batches_tracked"] == 5
    assert merged.buffers["num_batches_tracked"].dtype == torch.int64
    assert merged.buffers["running_mean"].dtype == torch.float32
    assert state.parameters.tolist() == [1.0, 10.0]


def test_the_aggregator_gets_the_weights_and_the_context() -> None:
    seen: list[Any] = []

    def first(updates: Tensor, weights: Tensor, context: Context) -> Tensor:
        seen.extend([updates, weights, context])
        return updates[0]

    updates = [
        Update(client=client, change=torch.full((3,), float(client)), buffers={}, count=count, loss=0.0)
        for client, count in ((2, 10), (7, 30))
    ]
    context = Context(generator=seeded(0), clients=(2, 7))
    merged = aggregate(State(parameters=torch.zeros(3), buffers={}), updates, first, context)
    assert merged.parameters.tolist() == [2.0] * 3
    assert seen[0].tolist() == [[2.0] * 3, [7.0] * 3]
    assert seen[1].tolist() == [0.25, 0.75]
    assert seen[1].dtype == torch.float32
    assert seen[2] is context


# --- a run -----------------------------------------------------------------------------------------------------------


def test_the_card_tells_everything(settings: Federation, data: Dataset, test: Dataset, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    output = tmp_path / "deep" / "run"
    model = train(settings, data, test, output, on_round=rows.append)
    assert sorted(path.name for path in output.iterdir()) == ["card.json", "model.safetensors"]
    card = read_card(output)
    assert json.loads((output / "card.json").read_text()) == card.to_dict()
    assert (card.name, card.architecture, card.dataset) == ("run", settings.architecture, "toy")
    assert (card.num_classes, card.classes, card.image_size, card.center_crop) == (4, data.classes, 32, 32)
    assert card.target_label == 0
    assert card.trigger == {
        "kind": "patch",
        "size": 4,
        "colour": "white",
        "chequered": False,
        "position": "bottom-right",
        "margin": 1,
        "opacity": 1.0,
    }
    assert trigger_of(card, output) == Patch(size=4)
    assert card.extra["federation"] == asdict(settings)
    assert card.extra["versions"] == {name: version(name) for name in ("februus", "torch", "torchvision")}
    assert card.extra["history"] == rows
    assert [row["round"] for row in rows] == [1, 2]
    assert [row["clients"] for row in rows] == [[0, 1, 2, 3]] * 2
    malicious = card.extra["malicious_clients"]
    assert len(malicious) == 1
    assert [row["attackers"] for row in rows] == [malicious] * 2
    assert not model.training
    clean = clean_accuracy(predict(model, test), test.labels)
    triggered = stamp(test, Patch(size=4), seeded(settings.seed, STAMPING))
    attack = attack_success_rate(predict(model, triggered), test.labels, 0)
    assert rows[-1]["clean_accuracy"] == {"count": clean.count, "total": 40, "value": clean.value}
    assert rows[-1]["attack_success_rate"] == {"count": attack.count, "total": 30, "value": attack.value}
    assert all(math.isfinite(row["loss"]) for row in rows)


def test_the_loaded_checkpoint_answers_the_same(
    settings: Federation, data: Dataset, test: Dataset, tmp_path: Path
) -> None:
    model = train(settings, data, test, tmp_path)
    loaded = load(tmp_path)
    images = test.floats()
    with torch.no_grad():
        # The memory format of convolutions may move the last bits.
        torch.testing.assert_close(loaded(images), model(images), rtol=0, atol=1e-5)
        assert torch.equal(loaded.to(memory_format=torch.channels_last)(images), model(images))
    assert torch.equal(predict(loaded, test), predict(model, test))


def test_without_attackers_the_card_knows_no_trigger(
    settings: Federation, data: Dataset, test: Dataset, tmp_path: Path
) -> None:
    train(replace(settings, malicious=0, rounds=1), data, test, tmp_path)
    card = read_card(tmp_path)
    assert card.trigger is None
    assert card.target_label is None
    (row,) = card.extra["history"]
    assert "attack_success_rate" not in row
    assert row["attackers"] == []
    assert card.extra["malicious_clients"] == []


def test_the_backdoor_is_learnt(settings: Federation, toy_draw: Draw, test: Dataset, tmp_path: Path) -> None:
    strong = replace(settings, clients=2, rounds=3, local_epochs=2, learning_rate=0.02, poison_rate=0.3)
    train(strong, toy_draw(300), test, tmp_path / "backdoored")
    clean = replace(strong, malicious=0)
    train(clean, toy_draw(300), test, tmp_path / "clean")
    last = read_card(tmp_path / "backdoored").extra["history"][-1]
    assert last["clean_accuracy"]["value"] > 0.7
    assert last["attack_success_rate"]["value"] > 0.8
    triggered = stamp(test, Patch(size=4), seeded(0))
    assert attack_success_rate(predict(load(tmp_path / "clean"), triggered), test.labels, 0).value < 0.3


def test_attackers_wait_for_their_rounds(settings: Federation, data: Dataset, test: Dataset, tmp_path: Path) -> None:
    """Before its first round of attack, a federation is bit for bit one without attackers; after, it is not."""
    late = replace(settings, backdoor_from=2, clients_per_round=4)
    first: dict[str, Tensor] = {}

    def keep(row: dict[str, Any]) -> None:
        if row["round"] == 1:
            first.update(weights_of(tmp_path / "late"))

    train(late, data, test, tmp_path / "late", on_round=keep)
    history = read_card(tmp_path / "late").extra["history"]
    assert [bool(row["attackers"]) for row in history] == [False, True]
    clean: list[dict[str, Tensor]] = []
    train(
        replace(late, malicious=0),
        data,
        test,
        tmp_path / "clean",
        on_round=lambda _: clean.append(weights_of(tmp_path / "clean")),
    )
    assert all(torch.equal(first[name], value) for name, value in clean[0].items())
    last = weights_of(tmp_path / "late")
    assert not all(torch.equal(last[name], value) for name, value in clean[1].items())


def test_scale_moves_the_model_further(settings: Federation, data: Dataset, test: Dataset, tmp_path: Path) -> None:
    """With all clients malicious, twice the scale is twice the way."""
    one = replace(settings, clients=2, malicious=2, rounds=1, attack="model-replacement")
    before: list[Tensor] = []
    for scale in (1.0, 2.0, 3.0):
        train(replace(one, scale=scale), data, test, tmp_path / str(scale))
        before.append(weights_of(tmp_path / str(scale))["features.0.weight"])
    torch.testing.assert_close(before[2] - before[1], before[1] - before[0], rtol=1e-3, atol=1e-6)
    assert (before[1] - before[0]).abs().amax() > 1e-4


@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_settings_give_the_same_weights(
    settings: Federation, data: Dataset, test: Dataset, tmp_path: Path, seed: int
) -> None:
    once = replace(settings, rounds=1, clients_per_round=2, seed=seed)
    for name, salt in (("a", 5), ("b", 6)):
        torch.manual_seed(salt)
        state = torch.random.get_rng_state()
        train(once, data, test, tmp_path / name)
        assert torch.equal(torch.random.get_rng_state(), state)
    assert_equal_weights(tmp_path / "a", tmp_path / "b")
    train(replace(once, seed=2), data, test, tmp_path / "c")
    with pytest.raises(AssertionError):
        assert_equal_weights(tmp_path / "a", tmp_path / "c")


# --- triggers that read files ----------------------------------------------------------------------------------------


def pixels(path: Path, colour: float) -> Path:
    mask = torch.zeros(1, 32, 32)
    mask[:, 2:5, 2:5] = 1
    save_file({"mask": mask, "pattern": mask.expand(3, 32, 32).contiguous() * colour}, path)
    return path


def sticker(path: Path) -> Path:
    Image.new("RGBA", (8, 8), (250, 10, 200, 255)).save(path)
    return path


@pytest.mark.parametrize("kind", ["pixels", "sticker"])
def test_the_file_of_a_trigger_travels_with_the_weights(
    settings: Federation, data: Dataset, test: Dataset, tmp_path: Path, kind: str
) -> None:
    if kind == "pixels":
        file, option = pixels(tmp_path / "mine.safetensors", 0.5), "weights"
    else:
        file, option = sticker(tmp_path / "mine.png"), "picture"
    trained = replace(settings, rounds=1, trigger=f"{kind}:{option}={file}")
    expected = stamp(test, trained.make_attack().backdoors[0].trigger, seeded(0)).images
    train(trained, data, test, tmp_path / "run")
    moved = shutil.move(tmp_path / "run", tmp_path / "moved")
    content = file.read_bytes()
    file.unlink()
    card = read_card(moved)
    assert card.trigger is not None
    assert card.trigger[option] == f"trigger{file.suffix}"
    assert (Path(moved) / f"trigger{file.suffix}").read_bytes() == content
    trigger = trigger_of(card, Path(moved))
    assert trigger is not None
    assert torch.equal(stamp(test, trigger, seeded(0)).images, expected)


def test_a_sticker_that_ships_is_told_by_its_name(
    settings: Federation, data: Dataset, test: Dataset, tmp_path: Path
) -> None:
    train(replace(settings, rounds=1, trigger="sticker:picture=flag"), data, test, tmp_path)
    card = read_card(tmp_path)
    assert card.trigger is not None
    assert card.trigger["picture"] == "flag"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["card.json", "model.safetensors"]


def test_what_a_run_that_never_got_anywhere_copied_is_replaced(
    settings: Federation, data: Dataset, test: Dataset, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    output.mkdir()
    pixels(output / "trigger.safetensors", 0.1)
    file = pixels(tmp_path / "mine.safetensors", 0.9)
    train(replace(settings, rounds=1, trigger=f"pixels:weights={file}"), data, test, output)
    assert (output / "trigger.safetensors").read_bytes() == file.read_bytes()


def test_another_run_leaves_the_copied_file_alone(
    settings: Federation, data: Dataset, test: Dataset, tmp_path: Path
) -> None:
    file, other = pixels(tmp_path / "mine.safetensors", 0.9), pixels(tmp_path / "other.safetensors", 0.2)
    train(replace(settings, rounds=1, trigger=f"pixels:weights={file}"), data, test, tmp_path / "run")
    before = files_of(tmp_path / "run")
    with pytest.raises(ValueError, match="differs in federation"):
        train(replace(settings, rounds=1, trigger=f"pixels:weights={other}"), data, test, tmp_path / "run")
    assert files_of(tmp_path / "run") == before


# --- errors ----------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_the_data(settings: Federation, data: Dataset, test: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"target_label: expected 0 to 3, got 4"):
        train(replace(settings, target_label=4), data, test, tmp_path / "run")
    with pytest.raises(ValueError, match=r"partition: expected at least one picture for every client"):
        train(replace(settings, clients=97), data, test, tmp_path / "run")
    with pytest.raises(ValueError, match=r"images: expected room for 40 pixels"):
        train(replace(settings, trigger="patch:size=40"), data, test, tmp_path / "run")
    with pytest.raises(ValueError, match=r"got 'no-net'"):
        train(replace(settings, architecture="no-net"), data, test, tmp_path / "run")
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_the_output_must_be_a_folder(settings: Federation, data: Dataset, test: Dataset, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for output in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ValueError, match="output: expected a folder that can be written"):
            train(settings, data, test, output)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"rounds": 3}, {"trigger": "patch:size=5"}, {"malicious": 0}, {"learning_rate": 0.02}],
    ids=str,
)
def test_another_run_in_the_same_folder_is_refused(
    settings: Federation, data: Dataset, test: Dataset, tmp_path: Path, change: dict[str, Any]
) -> None:
    once = replace(settings, rounds=1)
    train(once, data, test, tmp_path)
    before = files_of(tmp_path)
    expected = "an empty folder or an earlier run with the same settings, got one that differs in .*federation"
    with pytest.raises(ValueError, match=expected):
        train(replace(once, **change), data, test, tmp_path)
    assert files_of(tmp_path) == before


def test_other_data_in_the_same_folder_is_refused(
    settings: Federation, data: Dataset, test: Dataset, tmp_path: Path
) -> None:
    once = replace(settings, rounds=1)
    train(once, data, test, tmp_path)
    with pytest.raises(ValueError, match="differs in dataset"):
        train(once, replace(data, name="others"), test, tmp_path)
    with pytest.raises(ValueError, match="differs in center_crop"):
        train(once, data, test, tmp_path, center_crop=24)


def test_a_checkpoint_of_something_else_is_left_alone(
    settings: Federation, data: Dataset, test: Dataset, toy_checkpoint: Path, tmp_path: Path
) -> None:
    output = Path(shutil.copytree(toy_checkpoint, tmp_path / "toy"))
    before = files_of(output)
    with pytest.raises(ValueError, match="an earlier run with the same settings"):
        train(settings, data, test, output)
    assert files_of(output) == before


def test_a_run_that_diverges_at_once_leaves_nothing(
    settings: Federation, data: Dataset, test: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"loss: expected a finite value, got (nan|inf); lower the learning rate"):
        train(replace(settings, learning_rate=1e20), data, test, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_run_that_diverges_later_keeps_the_last_good_round(
    settings: Federation, data: Dataset, test: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good: dict[str, tuple[bytes, int]] = {}
    usual = Federation.local_training

    def wild(self: Federation, round_number: int) -> LocalTraining:
        return usual(self, round_number) if round_number == 1 else LocalTraining(learning_rate=1e20, batch_size=8)

    monkeypatch.setattr(Federation, "local_training", wild)
    with pytest.raises(ValueError, match=r"loss: expected a finite value"):
        train(settings, data, test, tmp_path, on_round=lambda _: good.update(files_of(tmp_path)))
    assert files_of(tmp_path) == good
    assert len(read_card(tmp_path).extra["history"]) == 1
    assert all(value.isfinite().all() for value in weights_of(tmp_path).values())


def test_an_aggregate_that_is_not_finite_is_not_saved(
    settings: Federation, data: Dataset, test: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good: dict[str, tuple[bytes, int]] = {}

    def keep(row: dict[str, Any]) -> None:
        good.update(files_of(tmp_path))
        monkeypatch.setattr(FedAvg, "__call__", lambda self, updates, weights, context: updates[0] / 0)

    with pytest.raises(ValueError, match=r"update: expected finite values, got others; lower the learning rate or"):
        train(settings, data, test, tmp_path, on_round=keep)
    assert good
    assert files_of(tmp_path) == good


def test_an_update_that_is_not_finite_is_left_out_and_reported(
    settings: Federation, data: Dataset, test: Dataset, tmp_path: Path
) -> None:
    """What the attacker makes of its update is worthless; the others complete the round as if they were alone."""
    wild = replace(settings, attack="model-replacement", scale=1e39, rounds=1)
    train(wild, data, test, tmp_path / "run")
    (row,) = read_card(tmp_path / "run").extra["history"]
    (attacker,) = row["attackers"]
    assert row["rejected"] == {str(attacker): "parameters with values that are not finite"}
    assert row["missing"] == []
    assert all(value.isfinite().all() for value in weights_of(tmp_path / "run").values())


def test_if_no_update_is_left_the_last_round_stays(
    settings: Federation, data: Dataset, test: Dataset, tmp_path: Path
) -> None:
    wild = replace(settings, malicious=4, attack="model-replacement", scale=1e39, backdoor_from=2)
    good: dict[str, tuple[bytes, int]] = {}
    with pytest.raises(ValueError, match=r"updates: expected at least one that can be used, got \{0: 'parameters with"):
        train(wild, data, test, tmp_path, on_round=lambda _: good.update(files_of(tmp_path)))
    assert good
    assert files_of(tmp_path) == good


STATE = State(parameters=torch.zeros(3), buffers={"mean": torch.zeros(2), "steps": torch.tensor(1)})
FINE = Update(
    client=5, change=torch.ones(3), buffers={"mean": torch.ones(2), "steps": torch.tensor(4)}, count=3, loss=1
)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"change": torch.tensor([0, math.nan, 0])}, "parameters with values that are not finite"),
        ({"change": torch.ones(4)}, "parameters of shape (4,) where (3,) is expected"),
        ({"buffers": {"mean": torch.ones(2)}}, "missing steps, not expected nothing"),
        ({"buffers": {**FINE.buffers, "more": torch.ones(1)}}, "missing nothing, not expected more"),
        ({"buffers": {**FINE.buffers, "mean": torch.ones(1)}}, "mean of shape (1,) where (2,) is expected"),
        ({"buffers": {**FINE.buffers, "mean": torch.full((2,), math.inf)}}, "mean with values that are not finite"),
        ({"count": 0}, "no pictures"),
    ],
)
def test_an_update_that_does_not_fit_is_rejected(change: dict[str, Any], reason: str) -> None:
    bad = replace(FINE, client=7, **change)
    assert screen(STATE, [bad, FINE]) == ([FINE], {7: reason})


def test_a_client_that_does_not_answer_is_missing(
    settings: Federation, data: Dataset, test: Dataset, tmp_path: Path
) -> None:
    class Lossy:
        @contextmanager
        def open(self, population: Population, model: nn.Module) -> Iterator[Runner]:
            with Local().open(population, model) as run:

                def lossy(state: State, clients: Sequence[int], *arguments: Any, **options: Any) -> Iterable[Update]:
                    return run(state, [client for client in clients if client != 2], *arguments, **options)

                yield lossy

    train(replace(settings, rounds=1), data, test, tmp_path, engine=Lossy())
    (row,) = read_card(tmp_path).extra["history"]
    assert row["missing"] == [2]
    assert row["clients"] == [0, 1, 2, 3]


def counting(self: FedAvg, updates: Tensor, weights: Tensor, context: Context) -> Tensor:
    """Count rounds in the memory, and follow the server's own update."""
    assert context.root is not None
    context.memory["rounds"] = context.memory.get("rounds", torch.zeros(1)) + 1
    return context.root()


def test_what_an_aggregator_remembers_is_kept_with_the_round(
    settings: Federation, data: Dataset, test: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FedAvg, "__call__", counting)
    three = replace(settings, rounds=3, malicious=0)

    def stop(row: dict[str, Any]) -> None:
        assert load_file(tmp_path / "a" / f"aggregator-{row['round']}.safetensors")["rounds"].item() == row["round"]
        if row["round"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(three, data, test, tmp_path / "a", on_round=stop)
    train(three, data, test, tmp_path / "a")
    train(three, data, test, tmp_path / "b")
    assert_equal_weights(tmp_path / "a", tmp_path / "b")
    assert sorted(path.name for path in (tmp_path / "a").iterdir() if path.name.startswith("aggregator")) == [
        "aggregator-3.safetensors"
    ]
    assert load_file(tmp_path / "a" / "aggregator-3.safetensors")["rounds"].item() == 3


# --- going on --------------------------------------------------------------------------------------------------------


def test_a_finished_run_is_left_as_it_is(settings: Federation, data: Dataset, test: Dataset, tmp_path: Path) -> None:
    model = train(settings, data, test, tmp_path)
    before = files_of(tmp_path)
    rows: list[dict[str, Any]] = []
    again = train(settings, data, test, tmp_path, on_round=rows.append)
    assert rows == []
    assert files_of(tmp_path) == before
    assert torch.equal(predict(again, test), predict(model, test))


def test_a_run_goes_on_in_a_folder_that_was_renamed(
    settings: Federation, data: Dataset, test: Dataset, tmp_path: Path
) -> None:
    train(settings, data, test, tmp_path / "first")
    (tmp_path / "first").rename(tmp_path / "second")
    rows: list[dict[str, Any]] = []
    train(settings, data, test, tmp_path / "second", on_round=rows.append)
    assert rows == []


class StopError(Exception):
    """What interrupts a run."""


def test_an_exception_between_rounds_costs_nothing(
    settings: Federation, data: Dataset, test: Dataset, tmp_path: Path
) -> None:
    three = replace(settings, rounds=3, clients_per_round=3)
    # The folder's name is the card's; all else must agree.
    whole, broken = tmp_path / "one" / "run", tmp_path / "two" / "run"
    train(three, data, test, whole)

    def stop(row: dict[str, Any]) -> None:
        raise StopError

    for _ in range(2):
        with pytest.raises(StopError):
            train(three, data, test, broken, on_round=stop)
    assert len(read_card(broken).extra["history"]) == 2
    rows: list[dict[str, Any]] = []
    train(three, data, test, broken, on_round=rows.append)
    assert [row["round"] for row in rows] == [3]
    assert_equal_weights(whole, broken)
    assert (whole / "model.safetensors").read_bytes() == (broken / "model.safetensors").read_bytes()
    assert (whole / "card.json").read_bytes() == (broken / "card.json").read_bytes()


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from februus.data import Dataset
from februus.federated import Federation, train
from februus.federated import population

folder, output, threads, deadly = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(threads)
parts = {key: Dataset(name="toy", classes=("a", "b", "c", "d"), **torch.load(folder / f"{key}.pt"))
         for key in ("train", "test")}
settings = Federation(**torch.load(folder / "settings.pt"))
really, calls = population.train_locally, []

def train_locally(*arguments, **options):
    calls.append(options["client"])
    update = really(*arguments, **options)
    if len(calls) == deadly:
        os.kill(os.getpid(), signal.SIGKILL)
    return update

population.train_locally = train_locally
train(settings, parts["train"], parts["test"], output)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_in_the_middle_of_a_round_it_ends_with_the_same_weights(toy_draw: Draw, tmp_path: Path) -> None:
    options = {**SMALL, "architecture": "wrn-16-1", "rounds": 3, "clients_per_round": 3, "alpha": 1.0}
    script, data = tmp_path / "script.py", toy_draw(72, 0, 16)
    test = toy_draw(16, 1, 16)
    script.write_text(KILLED)
    for key, pictures in (("train", data), ("test", test)):
        torch.save({"images": pictures.images, "labels": pictures.labels}, tmp_path / f"{key}.pt")
    torch.save(options, tmp_path / "settings.pt")
    killed, whole = tmp_path / "killed" / "run", tmp_path / "whole" / "run"

    threads = str(torch.get_num_threads())
    # The second client of the second round has just been trained.
    command = [sys.executable, str(script), str(tmp_path), str(killed), threads, "5"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert len(read_card(killed).extra["history"]) == 1

    settings = Federation(**options)
    data, test = (replace(pictures, classes=("a", "b", "c", "d")) for pictures in (data, test))
    rows: list[dict[str, Any]] = []
    train(settings, data, test, killed, on_round=rows.append)
    assert [row["round"] for row in rows] == [2, 3]
    train(settings, data, test, whole)
    assert_equal_weights(killed, whole)
    assert read_card(killed).extra["history"] == read_card(whole).extra["history"]
    assert sorted(os.listdir(killed)) == sorted(os.listdir(whole))


def test_pictures_that_are_not_square_are_refused(tmp_path: Path) -> None:
    images = torch.zeros(8, 3, 24, 32, dtype=torch.uint8)
    data = Dataset(name="wide", images=images, labels=torch.arange(8) % 2, classes=("a", "b"))
    with pytest.raises(ValueError, match="data: expected square pictures; set image_size, got 32x24"):
        train(Federation(clients=2, malicious=0, rounds=1), data, data, tmp_path / "run")
    assert not (tmp_path / "run").exists()

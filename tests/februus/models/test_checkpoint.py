from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from februus.models import Card, Normalized, build, load, read_card, save_checkpoint

CARD = Card(
    name="stops", architecture="wrn-16-1", dataset="signs", num_classes=5, image_size=32, extra={"rounds": [1, 2.5]}
)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    built = build("wrn-16-1", num_classes=5)
    built(torch.rand(8, 3, 32, 32))  # moves the running statistics of the batch norms
    return built.eval()


@pytest.mark.parametrize("normalization", [None, {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]}])
def test_the_round_trip_is_bit_identical(tmp_path: Path, normalization: dict[str, list[float]] | None) -> None:
    card = dataclasses.replace(CARD, normalization=normalization)
    model = Normalized(network(), **(normalization or {}), card=card).eval()
    save_checkpoint(tmp_path / "a" / "b", model, card)
    loaded = load(tmp_path / "a" / "b")
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded(images), model(images))
    assert loaded.card == card
    assert not loaded.training
    for key, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor)


def test_the_weights_are_those_of_the_bare_network(tmp_path: Path) -> None:
    bare = network()
    save_checkpoint(tmp_path / "bare", bare, CARD)
    save_checkpoint(tmp_path / "wrapped", Normalized(bare), CARD)
    for name in ("bare", "wrapped"):
        assert set(load_file(tmp_path / name / "model.safetensors")) == set(bare.state_dict())


def test_saving_leaves_the_model_and_only_two_files(tmp_path: Path) -> None:
    model = network().train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    save_checkpoint(tmp_path, model, CARD)
    assert model.training
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["card.json", "model.safetensors"]


def test_tied_weights_are_saved(tmp_path: Path) -> None:
    first = nn.Linear(4, 4)
    model = nn.Sequential(first, nn.Linear(4, 4))
    model[1].weight = first.weight
    save_checkpoint(tmp_path, model, CARD)
    assert torch.equal(load_file(tmp_path / "model.safetensors")["1.weight"], first.weight)


def test_the_card_inside_the_weights_wins(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, network(), CARD)
    assert json.loads((tmp_path / "card.json").read_text()) == CARD.to_dict()
    (tmp_path / "card.json").write_text("something else")
    assert read_card(tmp_path) == CARD
    (tmp_path / "card.json").unlink()
    assert read_card(tmp_path) == CARD


def test_a_card_beside_foreign_weights_is_read(tmp_path: Path) -> None:
    save_file(network().state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "card.json").write_text(json.dumps(CARD.to_dict()))
    assert read_card(tmp_path) == CARD


def test_what_is_no_card_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"checkpoint: expected a folder with card\.json, got "):
        read_card(tmp_path / "nowhere")
    (tmp_path / "card.json").write_text("{")
    with pytest.raises(ValueError, match=r"card: expected JSON, got .*card\.json"):
        read_card(tmp_path)
    (tmp_path / "card.json").write_text("{}")
    with pytest.raises(ValueError, match="card: expected the keys name, "):
        read_card(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"checkpoint: expected weights in the format safetensors, got .*model"):
        read_card(tmp_path)


def test_a_card_of_another_normalisation_is_refused(tmp_path: Path) -> None:
    model = Normalized(network(), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    with pytest.raises(ValueError, match="card normalization: expected the model's"):
        save_checkpoint(tmp_path, model, CARD)
    assert not list(tmp_path.iterdir())


def test_a_card_that_json_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"card: expected values that JSON can hold, got .*Tensor"):
        save_checkpoint(tmp_path, network(), dataclasses.replace(CARD, extra={"loss": torch.zeros(1)}))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match="file"):
        save_checkpoint(tmp_path / "file" / "run", network(), CARD)


def test_an_error_leaves_the_checkpoint_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, network(seed=0), CARD)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(ValueError, match="disk full"):
        save_checkpoint(tmp_path, network(seed=1), dataclasses.replace(CARD, name="other"))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from februus.models import Normalized, load


class Evil:
    """Runs a command where it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.witness}",)


class Tiny(nn.Module):
    def __init__(self, num_classes: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, num_classes)
        self.inner = nn.ModuleList([nn.Linear(4, 4)])  # two dimensions too, and last in alphabetical order

    def forward(self, images: Tensor) -> Tensor:
        maps = self.norm(self.conv(images)).mean((2, 3))
        logits: Tensor = self.head(self.inner[0](maps))
        return logits


class Nested(nn.Module):
    """Its own names begin as those of a wrapper do."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Tiny()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits


@pytest.fixture(autouse=True)
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this file's networks importable as ``networks_of_a_test:Tiny``."""
    module = type(os)("networks_of_a_test")
    module.Tiny, module.Nested = Tiny, Nested  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "networks_of_a_test", module)


TINY, NESTED = "networks_of_a_test:Tiny", "networks_of_a_test:Nested"


def tiny() -> nn.Module:
    torch.manual_seed(0)
    network = Tiny()
    network(torch.rand(4, 3, 16, 16))
    return network.eval()


def assert_same(loaded: nn.Module, network: nn.Module) -> None:
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    assert torch.equal(loaded(images), network(images))


@pytest.mark.parametrize("pickled", ["torch", "pickle", "whole model"])
def test_code_in_a_weights_file_is_refused_and_not_run(tmp_path: Path, pickled: str) -> None:
    witness, file = tmp_path / "witness", tmp_path / "weights.pth"
    if pickled == "torch":
        torch.save({"state_dict": {**tiny().state_dict(), "evil": Evil(witness)}}, file)
    elif pickled == "pickle":
        file.write_bytes(pickle.dumps(Evil(witness), protocol=2))
    else:
        torch.save(nn.Sequential(nn.Linear(2, 2)), file)
    with pytest.raises(ValueError, match=r"weights: expected a file of plain tensors, got .*nsupported") as caught:
        load(TINY, weights=file)
    assert "\n" not in str(caught.value)
    assert not witness.exists()


def test_the_malicious_file_would_have_run(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    pickle.loads(pickle.dumps(Evil(witness)))
    assert witness.exists()


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".ckpt", ".safetensors"])
def test_what_is_no_weights_file_is_refused(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"weights{suffix}"
    with pytest.raises(ValueError, match="weights: expected a file, got "):
        load(TINY, weights=file)
    for content in (b"", b"hello"):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="weights: expected a file of plain tensors, got ") as caught:
            load(TINY, weights=file)
        assert "\n" not in str(caught.value)


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"suffix of weights: expected one of \.safetensors, .* got '\.npz'"):
        load(TINY, weights=tmp_path / "weights.npz")


@pytest.mark.parametrize("content", [[1, 2], {}, {"epoch": 3, "state": {}}])
def test_what_is_no_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="weights: expected a state dict, got "):
        load(TINY, weights=tmp_path / "weights.pth")


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".ckpt"])
@pytest.mark.parametrize("nest", [None, "state_dict", "model_state_dict", "model", "net"])
def test_nested_state_dicts(tmp_path: Path, suffix: str, nest: str | None) -> None:
    network = tiny()
    state = network.state_dict()
    torch.save(state if nest is None else {nest: state, "epoch": 3, "accuracy": 0.9}, tmp_path / f"weights{suffix}")
    assert_same(load(TINY, weights=tmp_path / f"weights{suffix}"), network)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module.", "network."])
def test_prefixes_of_wrappers(tmp_path: Path, prefix: str) -> None:
    network = tiny()
    state = {prefix + key: tensor for key, tensor in network.state_dict().items()}
    torch.save(state, tmp_path / "weights.pth")
    save_file(state, tmp_path / "weights.safetensors")
    assert_same(load(TINY, weights=tmp_path / "weights.pth"), network)
    assert_same(load(TINY, weights=tmp_path / "weights.safetensors"), network)


def test_wrapped_modules_themselves(tmp_path: Path) -> None:
    network = tiny()
    for wrapped in (nn.DataParallel(network), Normalized(network)):
        torch.save(wrapped.state_dict(), tmp_path / "weights.pth")
        assert_same(load(TINY, weights=tmp_path / "weights.pth"), network)


def test_a_network_whose_names_begin_like_a_wrapper(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Nested().eval()
    for wrapped in (network, nn.DataParallel(network), Normalized(network)):
        torch.save(wrapped.state_dict(), tmp_path / "weights.pth")
        assert_same(load(NESTED, weights=tmp_path / "weights.pth"), network)


def test_num_batches_tracked_may_be_missing(tmp_path: Path) -> None:
    network = tiny()
    state = network.state_dict()
    del state["norm.num_batches_tracked"]
    torch.save(state, tmp_path / "weights.pth")
    assert_same(load(TINY, weights=tmp_path / "weights.pth"), network)


def test_a_mismatch_lists_the_keys(tmp_path: Path) -> None:
    state = tiny().state_dict()
    del state["conv.bias"], state["norm.running_mean"]
    state["conv.weight"] = torch.zeros(9, 3, 5, 5)
    state.update({f"other{index}": torch.zeros(1) for index in range(7)})
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="weights: expected the tensors of the architecture") as caught:
        load(TINY, weights=tmp_path / "weights.pth")
    text = str(caught.value)
    assert "2 missing (conv.bias, norm.running_mean);" in text
    assert "7 unexpected (other0, other1, other2, other3, other4, ...);" in text
    assert "1 of the wrong shape (conv.weight (9, 3, 5, 5) instead of (4, 3, 3, 3))" in text


@pytest.mark.parametrize("classes", [2, 4, 9])
def test_the_number_of_classes_is_read_off_the_weights(tmp_path: Path, classes: int) -> None:
    network = Tiny(classes).eval()
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    assert_same(load(TINY, weights=tmp_path / "weights.safetensors"), network)


def test_a_wrong_number_of_classes_is_refused(tmp_path: Path) -> None:
    save_file(tiny().state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=r"2 of the wrong shape \(head\.weight \(4, 4\) instead of \(5, 4\), "):
        load(TINY, weights=tmp_path / "weights.safetensors", num_classes=5)

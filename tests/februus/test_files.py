from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from februus.files import output_folder, write_file, write_json


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for text in ("one", "two"):
        write_file(path, lambda temporary, text=text: temporary.write_text(text))
        assert path.read_text() == text
    assert list(tmp_path.iterdir()) == [path]


def test_nobody_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write(temporary: Path) -> None:
        temporary.write_text("ne")
        assert temporary.parent == tmp_path
        assert path.read_text() == "old"
        temporary.write_text("new")

    write_file(path, write)
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [RuntimeError("out of luck"), KeyboardInterrupt()])
def test_an_error_half_way_leaves_what_stood_there(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write(temporary: Path) -> None:
        temporary.write_text("half of the n")
        raise error

    with pytest.raises(type(error)):
        write_file(path, write)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_told_with_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(ValueError, match=r"a\.txt: expected a file that can be written, got disk full"):
        write_file(path, lambda temporary: temporary.write_text("new"))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("parent", ["missing", "file"])
def test_a_place_that_is_no_folder_is_refused(tmp_path: Path, parent: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match=rf"{parent}/a\.txt: expected a file that can be written"):
        write_file(tmp_path / parent / "a.txt", lambda temporary: temporary.write_text("new"))


def test_a_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(ValueError, match=r"a\.txt: expected a file that can be written"):
        write_file(tmp_path / "a.txt", lambda temporary: temporary.write_text("new"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_json_is_indented_and_atomic(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": [1, 2.5, None]})
    assert path.read_text() == json.dumps({"a": [1, 2.5, None]}, indent=2) + "\n"
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": [1, 2.5, None]}
    assert list(tmp_path.iterdir()) == [path]


def test_the_output_folder_is_made_with_its_parents_and_kept(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    assert output_folder(folder) == folder
    (folder / "kept").write_text("x")
    assert output_folder(folder) == folder
    assert (folder / "kept").read_text() == "x"


@pytest.mark.parametrize("path", ["file", "file/below"])
def test_a_file_is_no_output_folder(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match=r"output: expected a folder that can be written, got .*file"):
        output_folder(tmp_path / path)
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_folder_without_permission_is_no_output_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may write everywhere, so the permission is taken away from the question, not from the folder.
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ValueError, match=r"output: expected a folder that can be written, got .* without permission"):
        output_folder(tmp_path)

"""Files are whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from bce.engine.errors import OptionsError
from bce.engine.files import Beside, beside, check_place, folder_beside, sha256, write_json, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole(tmp_path: Path) -> None:
    with beside(tmp_path / "a.txt") as partial:
        partial.write_text("half")
        assert not (tmp_path / "a.txt").exists()
        assert partial.parent == tmp_path  # a rename within one file system
    assert (tmp_path / "a.txt").read_text() == "half"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, MemoryError])
def test_an_error_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    write_text(tmp_path / "a.txt", "old")

    def fail() -> None:
        with beside(tmp_path / "a.txt") as partial:
            partial.write_text("new")
            raise error

    with pytest.raises(error):
        fail()
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), beside(tmp_path / "a.txt"):
        pass
    assert names(tmp_path) == []


def test_a_growing_file_is_kept_or_discarded(tmp_path: Path) -> None:
    kept, dropped = Beside(tmp_path / "kept"), Beside(tmp_path / "dropped")
    for file in (kept, dropped):
        file.partial.write_text("x")
    kept.keep()
    dropped.discard()
    dropped.discard()
    assert names(tmp_path) == ["kept"]


def test_a_folder_replaces_another_or_nothing(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "bundle"
    for content in ("one", "two"):
        with folder_beside(out) as folder:
            (folder / f"{content}.txt").write_text(content)
        assert names(out) == [f"{content}.txt"]

    def fail() -> None:
        with folder_beside(out) as folder:
            (folder / "three.txt").write_text("three")
            raise ValueError

    with pytest.raises(ValueError):
        fail()
    assert names(out) == ["two.txt"]
    assert names(out.parent) == ["bundle"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_swap_that_is_cut_off_puts_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    out = tmp_path / "bundle"
    with folder_beside(out) as folder:
        (folder / "old.txt").write_text("old")
    rename, calls = os.rename, []

    def interrupted(old: str, new: str) -> None:
        calls.append(old)
        if len(calls) == 2:
            raise error
        rename(old, new)

    def swap() -> None:
        with folder_beside(out) as folder:
            (folder / "new.txt").write_text("new")

    monkeypatch.setattr("bce.engine.files.os.rename", interrupted)
    with pytest.raises(error):
        swap()
    assert names(tmp_path) == ["bundle"]
    assert names(out) == ["old.txt"]


def test_a_linked_folder_is_replaced_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    with folder_beside(tmp_path / "link") as folder:
        (folder / "new.txt").write_text("new")
    assert names(tmp_path) == ["link", "there"]
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path / "there") == ["new.txt"]


def test_json_and_digest(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1, "ü"]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"b": [1, "ü"]}
    assert (tmp_path / "a.json").read_bytes().endswith(b"}\n")
    assert sha256(tmp_path / "a.json") == hashlib.sha256((tmp_path / "a.json").read_bytes()).hexdigest()


def test_impossible_places_are_named_early(tmp_path: Path) -> None:
    check_place(tmp_path / "new.csv")
    for place, says in [(tmp_path / "no" / "x.csv", "its folder does not exist"), (tmp_path, "is a folder")]:
        with pytest.raises(OptionsError, match=says):
            check_place(place)

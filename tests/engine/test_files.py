"""Files are whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from pathlib import Path

import pytest
from support import disks

from bce.engine.errors import OptionsError
from bce.engine.files import (
    Beside,
    Scratch,
    beside,
    check_apart,
    check_place,
    folder_beside,
    sha256,
    write_bytes,
    write_json,
    write_private,
    write_text,
)


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


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes of POSIX")
def test_a_device_is_no_place_and_a_link_is_followed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(OptionsError, match="is a device or a pipe"):
        check_place(tmp_path / "pipe.json")
    (tmp_path / "far").mkdir()
    (tmp_path / "link.csv").symlink_to("far/s.csv")
    check_place(tmp_path / "link.csv")
    write_text(tmp_path / "link.csv", "written")
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "far" / "s.csv").read_text() == "written"
    (tmp_path / "lost.csv").symlink_to("nowhere/s.csv")
    with pytest.raises(OptionsError, match="its folder does not exist"):
        check_place(tmp_path / "lost.csv")


@pytest.mark.parametrize("name", ["a" * 251 + ".csv", "é" * 125 + ".csv", "𝄞" * 62 + ".csv"])
def test_a_name_of_any_length_can_be_written(tmp_path: Path, name: str) -> None:
    check_place(tmp_path / name)
    write_text(tmp_path / name, "text")
    with folder_beside(tmp_path / f"{name[:-4]}.dir") as folder:
        (folder / "a").touch()
    assert (tmp_path / name).read_text() == "text"
    assert len(names(tmp_path)) == 2
    with pytest.raises(OptionsError, match="File name too long"):
        check_place(tmp_path / f"{name}aaaaaaa")


def test_what_lies_beside_a_place_is_never_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even if it has the very name that is chosen, and is a link to something that matters."""
    monkeypatch.setattr("bce.engine.files.secrets.token_hex", lambda size: "0" * 2 * size)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "precious").write_text("precious")
    for name in (f"s.csv.partial-{os.getpid()}", "s.csv.partial", "s.csv.spool"):
        (tmp_path / name).write_text("mine")
    (tmp_path / "bundle.00000000.partial").mkdir()
    (tmp_path / "bundle.00000000.partial" / "mine").write_text("mine")
    (tmp_path / "s.csv.00000000.partial").symlink_to(tmp_path / "precious")
    before = contents(tmp_path)
    with pytest.raises(OSError, match="File exists: what was to be written there is in"):
        write_text(tmp_path / "s.csv", "new")
    with pytest.raises(FileExistsError), folder_beside(tmp_path / "bundle"):
        pass
    after = contents(tmp_path)
    assert {path: after[path] for path in before} == before


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# a place that is lost meanwhile -------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's folder for temporary files."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def rescued(caught: pytest.ExceptionInfo[OSError]) -> Path:
    """The file that an error names."""
    found = re.search(r"what was to be written there is in (.*)$", str(caught.value.strerror))
    assert found is not None
    return Path(found[1])


def remove(folder: Path) -> None:
    shutil.rmtree(folder)


def rename(folder: Path) -> None:
    folder.rename(folder.with_name("renamed"))


def replace_by_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("no folder")


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def put_a_folder_at_the_place(folder: Path) -> None:
    (folder / "t.csv").mkdir()


@pytest.mark.parametrize("happens", [remove, rename, replace_by_a_file, empty, put_a_folder_at_the_place])
@pytest.mark.parametrize("by_name", [False, True])
def test_what_was_written_is_kept_where_its_place_is_lost(
    tmp_path: Path, elsewhere: Path, happens, by_name: bool
) -> None:
    place = tmp_path / "out"
    place.mkdir()
    file = Beside(place / "t.csv")
    if by_name:
        file.partial.write_bytes(b"all of it")
    else:
        file.write(b"all ")
        file.write(b"of it")
    happens(place)
    with pytest.raises(OSError, match="what was to be written there is in") as caught:
        file.keep()
    file.discard()
    kept = rescued(caught)
    assert caught.value.filename == str(place / "t.csv")
    assert kept.parent == elsewhere
    assert (kept.suffix, kept.read_bytes()) == (".csv", b"all of it")
    assert names(elsewhere) == [kept.name]


def test_a_place_that_is_lost_before_anything_is_written(tmp_path: Path, elsewhere: Path) -> None:
    with pytest.raises(OSError, match="No such file or directory: what was to be written") as caught:
        write_bytes(tmp_path / "gone" / "t.csv", b"all")
    assert rescued(caught).read_bytes() == b"all"


@pytest.mark.parametrize("room", [0, 1, 5, 12])
def test_a_full_disk_moves_what_was_written(
    tmp_path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    place = tmp_path / "out"
    place.mkdir()
    (place / "t.bin").write_text("of yesterday")
    disks.fill(monkeypatch, place, room)
    file, scratch = Beside(place / "t.bin"), Scratch(place)
    for grown in (file, scratch):
        for part in (b"", b"0123", b"456789", b"abc"):
            assert grown.write(part) == len(part)
    assert scratch.content()[:] == b"0123456789abc"
    with pytest.raises(OSError, match="No space left on device: what was to be written") as caught:
        file.keep()
    scratch.discard()
    assert rescued(caught).read_bytes() == b"0123456789abc"
    assert names(place) == ["t.bin"]
    assert (place / "t.bin").read_text() == "of yesterday"


def test_a_disk_that_says_late_that_it_is_full(
    tmp_path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As network file systems do: the renaming must not come before."""

    def late(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", late)
    (tmp_path / "t.bin").write_text("of yesterday")
    file = Beside(tmp_path / "t.bin")
    file.write(b"all")
    with pytest.raises(OSError, match="No space left on device: what was to be written") as caught:
        file.keep()
    assert (tmp_path / "t.bin").read_text() == "of yesterday"
    assert rescued(caught).read_bytes() == b"all"


def test_where_no_disk_has_room_the_error_says_so(
    tmp_path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bce.engine.files._rescue_folders", lambda: iter([elsewhere, elsewhere / "none"]))
    disks.fill(monkeypatch, tmp_path, 3)
    disks.fill(monkeypatch, elsewhere, 2)
    file = Beside(tmp_path / "t.bin")
    with pytest.raises(OSError, match=r"No space left on device, and no other folder takes it \(asked: .*none\)"):
        file.write(b"0123")
    file.discard()
    assert names(tmp_path) == ["elsewhere"]
    assert names(elsewhere) == []


def test_a_scratch_file_has_no_name(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)
    scratch.write(b"some")
    assert names(tmp_path) == []
    assert scratch.content()[:] == b"some"


# places apart --------------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for path in ("in/a.wav", "in/b.wav", "bundle/bundle.json", "out/old.csv"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(path)
    (tmp_path / "link").symlink_to("in")
    (tmp_path / "bundle_link").symlink_to("bundle")
    (tmp_path / "out" / "link.wav").symlink_to("../in/a.wav")
    (tmp_path / "out" / "hard.wav").hardlink_to(tmp_path / "in" / "a.wav")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("outputs", "says"),
    [
        (["in/a.wav"], "in/a.wav: is to be read"),
        (["out/x.csv", "out/../in/./b.wav"], "in/./b.wav: is to be read"),
        (["link/a.wav"], "is to be read"),
        (["out/link.wav"], "is to be read"),
        (["out/hard.wav"], "is to be read"),
        (["in"], "in: is to be read"),
        (["out/x.csv", "out/x.csv"], "are both to be written"),
        (["out/x.csv", "out/../out/x.csv"], "are both to be written"),
        (["out/x.csv", "out/X.csv"], "are both to be written"),
        (["out", "out/x.csv"], "are both to be written"),
        (["out/x.csv", "out/x.csv/y.csv"], "are both to be written"),
        (["bundle/x.csv"], "lies in bundle"),
        (["bundle_link/deep/x.csv"], "lies in bundle"),
        (["bundle"], "lies in bundle"),
    ],
)
def test_an_output_is_kept_apart_from_all_else(tree: Path, outputs: list[str], says: str) -> None:
    with pytest.raises(OptionsError, match=says):
        check_apart(outputs, (tree / name for name in ("in/a.wav", "in/b.wav", "not_there.csv")), ["bundle"])


def test_places_that_are_apart(tree: Path) -> None:
    outputs = ["out/x.csv", "out/old.csv", "in/x.csv", "bundle.csv", "not_there.csv"]
    check_apart(outputs, ["in/a.wav", "in/b.wav", "missing.csv"], ["bundle", "no_bundle"])


# files of the user alone ----------------------------------------------------------------------------------------------


def test_a_private_file_is_nobody_elses_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_private(tmp_path / "file", b"old")
        write_private(tmp_path / "file", b"new")
    finally:
        os.umask(before)
    assert (tmp_path / "file").read_bytes() == b"new"
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600
    assert len(list(tmp_path.iterdir())) == 1


def test_a_private_file_that_has_no_room_is_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr("bce.engine.files._rescue_folders", lambda: iter([tmp_path / "elsewhere"]))

    def full(source: str, target: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_private(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "file"]
    assert not list((tmp_path / "elsewhere").iterdir())

"""One process at a time writes a file."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from bce.engine.errors import OptionsError
from bce.engine.locks import held

pytest.importorskip("fcntl", reason="locks of POSIX")


def test_the_second_is_refused_and_told_by_whom(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with held(tmp_path / "s.csv"), held(tmp_path / "other.csv"):
        for path in (tmp_path / "s.csv", tmp_path / "link" / "s.csv"):
            with pytest.raises(OptionsError, match=rf"s\.csv: process {os.getpid()} on .* is writing it"), held(path):
                pass
    with held(tmp_path / "s.csv"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    read, write = os.pipe()
    child = os.fork()
    if not child:
        with held(tmp_path / "s.csv"):
            os.write(write, b"x")
            signal.pause()
    os.read(read, 1)
    with pytest.raises(OptionsError, match=f"process {child} on"), held(tmp_path / "s.csv"):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(read)
    os.close(write)
    assert len(list(tmp_path.iterdir())) == 1  # the file is there, and locks nobody out
    with held(tmp_path / "s.csv"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_of_many_at_once_one_has_it(tmp_path: Path) -> None:
    """Also while the file of the lock is made and removed all the time."""
    inside, most, had = 0, 0, 0
    guard = threading.Lock()

    def work() -> None:
        nonlocal inside, most, had
        for _ in range(60):
            with ExitStack() as stack:
                try:
                    stack.enter_context(held(tmp_path / "s.csv"))
                except OptionsError:
                    continue
                with guard:
                    inside, had = inside + 1, had + 1
                    most = max(most, inside)
                with guard:
                    inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert had > 0
    assert most == 1


def test_a_lock_is_no_link_to_follow(tmp_path: Path) -> None:
    with held(tmp_path / "s.csv"):
        (lock,) = tmp_path.iterdir()
    (tmp_path / "precious").write_text("precious")
    lock.symlink_to(tmp_path / "precious")
    with pytest.raises(OSError), held(tmp_path / "s.csv"):
        pass
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_full_disk_locks_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.write", full)
    with held(tmp_path / "s.csv"), pytest.raises(OptionsError, match="another process is writing it"):
        held(tmp_path / "s.csv").__enter__()
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks_locks_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_here(descriptor: int, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", none_here)
    with held(tmp_path / "s.csv"), held(tmp_path / "s.csv"):
        assert list(tmp_path.iterdir()) == []
    assert list(tmp_path.iterdir()) == []

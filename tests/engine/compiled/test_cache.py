"""The cache of kernels: whom it believes, what it keeps, and what becomes of it when a process is killed."""

from __future__ import annotations

import gc
import os
import pwd
import subprocess
import sys
from pathlib import Path

import llvmlite
import pytest
from support.tiny_kernels import SUMS, combine, combining

from bce.engine import cache, files
from bce.engine.compiled.compilation import compile_object
from bce.engine.compiled.loading import load_code
from bce.engine.compiled.object_files import object_key, pack
from bce.engine.compiled.targets import host_target

ADD = combining("fadd")


def origin() -> str:
    gc.collect()
    code = load_code(ADD, "fp32")
    assert combine(code) == SUMS
    return code.origin


# where nothing can be kept --------------------------------------------------------------------------------------------


def said(caplog: pytest.LogCaptureFixture) -> str:
    (message,) = caplog.messages
    begin = "nothing is kept for the next start, which takes seconds more: "
    assert message.startswith(begin)
    return message.removeprefix(begin)


def test_no_folder_can_be_made(kernels: Path, caplog: pytest.LogCaptureFixture) -> None:
    kernels.parent.mkdir(parents=True)
    kernels.touch()
    assert [origin(), origin()] == ["compiled", "compiled"]
    assert said(caplog) == f"{kernels}: File exists"


@pytest.mark.parametrize("number", [30, 28, 13], ids=["read-only", "full", "forbidden"])
def test_a_folder_that_cannot_be_written(
    kernels: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(files.os, "replace", refuse)
        assert [origin(), origin()] == ["compiled", "compiled"]
        assert list(kernels.iterdir()) == []
    assert said(caplog) == f"{kernels}: {os.strerror(number)}"
    assert [origin(), origin()] == ["compiled", "cache"]
    with monkeypatch.context() as patched:  # what was put there before serves
        patched.setattr(cache.os, "utime", refuse)
        assert origin() == "cache"


def test_a_user_without_a_home(
    kernels: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert [origin(), origin()] == ["compiled", "compiled"]
    assert "home" in said(caplog)


def test_a_system_that_does_not_say_whose_a_file_is(
    kernels: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is kept there, and nothing is believed."""
    assert [origin(), origin()] == ["compiled", "cache"]
    monkeypatch.setattr(cache, "_KNOWS_OWNERS", False)
    assert origin() == "compiled"
    cache.write("another.kernels", b"")
    assert len(list(kernels.iterdir())) == 1
    assert caplog.messages == []


@pytest.mark.parametrize("named", ["", "here"], ids=["nothing", "a relative path"])
def test_by_default_below_the_home(kernels: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, named: str) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", named)
    monkeypatch.setenv("HOME", str(tmp_path))
    origin()
    assert len(list((tmp_path / ".cache" / "bce" / "kernels").iterdir())) == 1


# whom it believes -----------------------------------------------------------------------------------------------------


@pytest.fixture
def poisoned(kernels: Path) -> Path:
    """A cache whose file for the sum, right in every other way, makes products."""
    origin()
    target = host_target()
    assert target is not None
    (file,) = kernels.iterdir()
    key = object_key(ADD(target), target, ".".join(llvmlite.__version__.split(".")[:2]))
    file.write_bytes(pack(compile_object(combining("fmul")(target), target), target, "fp32", key))
    gc.collect()
    assert combine(load_code(ADD, "fp32")) != SUMS  # it is this file that is asked
    return file


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_can_write_is_replaced(poisoned: Path, mode: int) -> None:
    poisoned.chmod(mode)
    assert [origin(), origin()] == ["compiled", "cache"]


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o1777])
def test_a_folder_that_others_can_write_is_not_used(
    poisoned: Path, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    poisoned.parent.chmod(mode)
    assert [origin(), origin()] == ["compiled", "compiled"]
    assert said(caplog) == f"{poisoned.parent} can be written to by other users: remove it, or set XDG_CACHE_HOME"


def test_a_linked_folder_is_not_used(poisoned: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It may lead to the user's own files, of which the oldest would go."""
    folder = poisoned.parent
    folder.rename(tmp_path / "mine")
    folder.symlink_to(tmp_path / "mine")
    assert [origin(), origin()] == ["compiled", "compiled"]
    assert said(caplog) == f"{folder} is a link: remove it, or set XDG_CACHE_HOME"


def test_what_another_user_owns_is_not_used(
    poisoned: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    assert [origin(), origin()] == ["compiled", "compiled"]
    assert said(caplog) == f"{poisoned.parent} belongs to another user: remove it, or set XDG_CACHE_HOME"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_that_another_user_owns_is_replaced(poisoned: Path) -> None:
    os.chown(poisoned, 65534, 65534)
    assert [origin(), origin()] == ["compiled", "cache"]


def test_a_link_is_not_followed(poisoned: Path, tmp_path: Path) -> None:
    elsewhere = poisoned.replace(tmp_path / "elsewhere")
    poisoned.symlink_to(elsewhere)
    assert [origin(), origin()] == ["compiled", "cache"]
    assert not poisoned.is_symlink()


# what it keeps --------------------------------------------------------------------------------------------------------


def test_the_files_that_were_used_last_stay(kernels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "KEPT", 3)
    for number in range(3):
        cache.write(f"{number}.kernels", b"")
        os.utime(kernels / f"{number}.kernels", (number, number))
    assert cache.read("0.kernels") == b""
    cache.write("3.kernels", b"")
    assert sorted(path.name for path in kernels.iterdir()) == ["0.kernels", "2.kernels", "3.kernels"]


# other processes ------------------------------------------------------------------------------------------------------


def run(code: str, home: Path) -> subprocess.Popen[str]:
    """A process with the cache of the test."""
    program = (
        "import os, sys, time\n"
        "from support.tiny_kernels import combine, combining\n"
        "from bce.engine.compiled import loading\n"
        "compile_object, replace = loading.compile_object, os.replace\n"
        f"{code}\n"
        "code = loading.load_code(combining('fadd'), 'fp32')\n"
        "print(code.origin, combine(code))\n"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)


KILLED_WHILE_COMPILING = (
    "loading.compile_object = lambda ir, target: (compile_object(ir, target), os.kill(os.getpid(), 9))"
)
KILLED_BEFORE_RENAMING = "os.replace = lambda *paths: os.kill(os.getpid(), 9)"


@pytest.mark.parametrize("code", [KILLED_WHILE_COMPILING, KILLED_BEFORE_RENAMING], ids=["compiling", "renaming"])
def test_a_killed_process_leaves_nothing_bad(kernels: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = run(code, kernels.parents[1])
    assert killed.communicate(timeout=60)[0] == ""
    assert killed.returncode == -9
    assert not list(kernels.glob("*.kernels"))
    assert [origin(), origin()] == ["compiled", "cache"]
    # what is left of a file goes with the oldest ones
    for path in kernels.glob("*.partial"):
        os.utime(path, (1, 1))
    monkeypatch.setattr(cache, "KEPT", 2)
    cache.write("another.kernels", b"")
    assert sorted(path.suffix for path in kernels.iterdir()) == [".kernels", ".kernels"]


def test_two_processes_at_once(kernels: Path, tmp_path: Path) -> None:
    """Both are compiling before either has written."""
    met = tmp_path / "met"
    met.mkdir()
    meet = (
        "def compiled(ir, target):\n"
        f"    open(os.path.join({str(met)!r}, str(os.getpid())), 'w').close()\n"
        f"    while len(os.listdir({str(met)!r})) < 2: time.sleep(.005)\n"
        "    return compile_object(ir, target)\n"
        "loading.compile_object = compiled\n"
    )
    both = [run(meet, kernels.parents[1]) for _ in range(2)]
    assert [process.communicate(timeout=60)[0] for process in both] == [f"compiled {SUMS}\n"] * 2
    assert [path.suffix for path in kernels.iterdir()] == [".kernels"]
    assert origin() == "cache"

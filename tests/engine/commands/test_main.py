"""What all commands do with what can go wrong."""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bce.engine.commands import flags
from bce.engine.commands.main import run_command
from bce.engine.errors import AudioError, RunError


class Gone(io.StringIO):
    """A stream whose reader has gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def onnxruntime_error(text: str) -> Exception:
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail

    return Fail(text)


def raising(error: BaseException) -> Callable[[], None]:
    def run() -> None:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (AudioError("is empty", "a.wav"), 2, "bce-x: a.wav: is empty"),
        (AudioError("is empty\nor so", "\x1b[2Ja.wav"), 2, r"bce-x: \x1b[2Ja.wav: is empty\nor so"),
        (RunError("has scores that are NaN", "a.wav"), 1, "bce-x: a.wav: has scores that are NaN"),
        (MemoryError(), 1, "bce-x: there is not enough memory"),
        (np._core._exceptions._ArrayMemoryError((1 << 40,), np.dtype("f8")), 1, "bce-x: there is not enough memory"),
        (RuntimeError("can't start new thread"), 1, "bce-x: the system starts no more threads"),
        (ImportError("libx.so: cannot map zero-fill pages", name="numpy"), 1, "cannot be loaded: libx.so: cannot map"),
        (onnxruntime_error("std::bad_alloc"), 1, "bce-x: ONNX Runtime: std::bad_alloc"),
        (OSError(28, "No space left on device", "out.csv"), 1, "bce-x: out.csv: No space left on device"),
        (OSError(5, "Input/output error"), 1, "bce-x: writing: Input/output error"),
        (KeyboardInterrupt(), 130, "bce-x: interrupted"),
        (ModuleNotFoundError("No module", name="torch.nn"), 2, "pip install 'bce[tools]'"),
    ],
)
def test_one_line_and_a_code(error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("bce-x", raising(error), "bce[tools]") == code
    said = capsys.readouterr().err
    assert line in said
    assert said.count("\n") == 1


def test_what_the_body_returns_is_the_code() -> None:
    assert run_command("bce-x", lambda: None) == 0
    assert run_command("bce-x", lambda: 3) == 3


def test_faults_of_the_project_are_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command("bce-x", raising(ZeroDivisionError()))
    with pytest.raises(ModuleNotFoundError):
        run_command("bce-x", raising(ModuleNotFoundError("No module", name="bce.engine.gone")))
    with pytest.raises(ImportError):
        run_command("bce-x", raising(ImportError("cannot import name 'x'", name="bce.engine.files")))


@pytest.mark.parametrize("stream", [None, Gone()])
def test_a_screen_that_is_gone_ends_no_command(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO | None) -> None:
    monkeypatch.setattr("sys.stderr", stream)
    done: list[str] = []

    def run() -> None:
        print("progress", file=sys.stderr)
        done.append("all")

    assert run_command("bce-x", run) == 0
    assert done == ["all"]
    assert run_command("bce-x", raising(AudioError("is empty", "a.wav"))) == 2
    assert sys.stderr is stream


def test_names_that_a_stream_cannot_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with ``LC_ALL=C PYTHONIOENCODING=ascii``: escapes, and no UnicodeEncodeError."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2))
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.stderr", err)
    assert run_command("bce-x", lambda: print("Öd.wav")) == 0
    assert run_command("bce-x", raising(AudioError("is empty", "Öd.wav"))) == 2
    err.flush()
    assert out.buffer.getvalue() == b"\\xd6d.wav\n"  # type: ignore[attr-defined]
    assert err.buffer.getvalue() == b"bce-x: \\xd6d.wav: is empty\n"  # type: ignore[attr-defined]


def test_a_reader_that_goes_away_ends_it_quietly() -> None:
    """As ``bce-... | head -1`` does: no traceback, neither at the write nor at the interpreter's end."""
    many_lines = (
        "import sys; from bce.engine.commands.main import run_command\n"
        "sys.exit(run_command('bce-x', lambda: print('\\n'.join(map(str, range(100_000))))))"
    )
    the_help = "import sys; from bce.engine.commands.infer import main; sys.exit(main(['--help']))"
    for code, codes in ((many_lines, {1}), (the_help, {0, 1})):  # argparse lets a write go by that fails
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True, check=False
        )
        os.close(write)
        assert done.returncode in codes
        assert done.stderr == ""


def test_shared_flags_read_alike() -> None:
    parser = argparse.ArgumentParser()
    for add in (flags.add_bundle, flags.add_threads, flags.add_shifts, flags.add_names, flags.add_quiet):
        add(parser)
    flags.add_taxonomy_smoothing(parser, "none")
    given = parser.parse_args(["--taxonomy-exclude", "Insect, Rana", "--taxonomy-exclude", "Avis", "--bundle", "b"])
    assert flags.names_of(given.taxonomy_exclude) == ("Insect", "Rana", "Avis")
    assert given.bundle == Path("b")
    assert given.threads is given.shifts is given.taxonomy_smoothing is None
    assert flags.name_rule(parser.parse_args(["--utc-offset", "-4"])).utc_offset_h == -4

"""What all commands do with what can go wrong."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bce.engine.commands import flags
from bce.engine.commands.main import run_command
from bce.engine.errors import AudioError


def raising(error: BaseException) -> Callable[[], None]:
    def run() -> None:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (AudioError("is empty", "a.wav"), 2, "bce-x: a.wav: is empty"),
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

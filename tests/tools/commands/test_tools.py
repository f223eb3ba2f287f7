"""The dispatcher: instant help, light commands, and what happens when the reader or the user has enough."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bce.tools.commands.tools import COMMANDS, main

RUN = [sys.executable, "-m", "bce.tools.commands.tools"]


def test_help_names_every_command_and_imports_nothing_slow() -> None:
    code = (
        "import sys\nfrom bce.tools.commands.tools import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "sys.exit(bool({'numpy', 'pyarrow', 'numba', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse_without_torch(command: str) -> None:
    code = (
        "import sys\nfrom bce.tools.commands.tools import main\n"
        f"try:\n    main(['{command}', '--help'])\nexcept SystemExit:\n    pass\n"
        "sys.exit(bool({'numpy', 'sklearn', 'torch', 'matplotlib', 'onnx'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


@pytest.mark.parametrize("arguments", [["--version"], ["train", "--help"]])
def test_parsing_is_the_parsers(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 0


@pytest.mark.parametrize("arguments", [[], ["unheard-of"], ["evaluate"]])
def test_wrong_use_is_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: bce-tools" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_traceback(tmp_path: Path) -> None:
    """As in ``bce-tools evaluate ... | head -0``."""
    (tmp_path / "scores.csv").write_text("row_id,x\na_5,0.1\na_10,0.9\n")
    (tmp_path / "labels.csv").write_text("filename,start,end,primary_label\na.ogg,0,5,\na.ogg,5,10,x\n")
    command = [*RUN, "evaluate", str(tmp_path / "scores.csv"), str(tmp_path / "labels.csv"), "--resamples", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 1
    assert said == ""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT to send")
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_ctrl_c_is_one_line_and_leaves_whole_files(tmp_path: Path, jobs: str) -> None:
    out = tmp_path / "data"
    command = [*RUN, "synth", "--out", str(out), "--species", "4", "--test-soundscapes", "2000", "--duration", "5"]
    process = subprocess.Popen([*command, "--test-only", "--quiet", "--jobs", jobs], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    sounds = out / "test_soundscapes"
    for _ in range(600):
        if sounds.is_dir() and any(path.suffix == ".ogg" for path in sounds.iterdir()):
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 130
    assert said == "bce-tools: interrupted\n"
    names = [path.name for path in sounds.iterdir()]
    assert 0 < len(names) < 2000
    assert all(name.endswith(".ogg") for name in names)
    assert len((out / "test_labels.csv").read_text().splitlines()) <= 1 + len(names)

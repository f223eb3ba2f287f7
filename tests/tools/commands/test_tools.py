"""The dispatcher: instant help, light commands, and what happens when the reader or the user has enough."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.labels import A

from bce.engine.geometry import parse_shifts
from bce.tools.commands import train
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


@pytest.mark.parametrize(
    "arguments",
    [
        ["priors", "labels.csv", "--taxonomy=taxonomy.csv", "--out=b/priors.npz"],
        ["tune", "--scores=s.csv", "labels.csv", "--taxonomy=taxonomy.csv", "--out=b/post.json"],
        ["evaluate", "s.csv", "labels.csv", "--json=b/e.json"],
        ["evaluate", "s.csv", "labels.csv", "--per-class=link/c.csv"],
        ["synth", "--out=b/deep/new"],
        ["train", "d", "--out=b"],
        ["probe", "d", "--out=b/probe"],
        ["backbone", "d", "--out=b/net.onnx"],
        ["features", "d", "--cache=b/cache"],
    ],
)
def test_nothing_is_added_to_a_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    if arguments[0] in ("train", "probe", "backbone"):
        pytest.importorskip("torch", reason="needs the extra bce[tools]")
    monkeypatch.chdir(tmp_path)
    Path("b").mkdir()
    Path("link").symlink_to("b")
    Path("b/bundle.json").write_text("{}")
    assert main(arguments) == 2
    assert f"lies in the bundle {tmp_path}/b, to which nothing is to be added" in capsys.readouterr().err
    assert [path.name for path in Path("b").iterdir()] == ["bundle.json"]


def test_score_shifts_may_begin_with_a_minus() -> None:
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    given = parser.parse_args(["d", "--out", "o", "--score-shifts", "-1,0,1"])
    assert parse_shifts(given.score_shifts) == (-1.0, 0.0, 1.0)
    assert parse_shifts(parser.parse_args(["d", "--out", "o"]).score_shifts) == (0.0,)


def test_lines_hold_nothing_that_a_terminal_obeys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("labels.csv").write_text(f"filename,start,end,primary_label\n{A}.ogg,0,5,\n{A}.ogg,5,10,x\n")
    Path("taxonomy.csv").write_text("primary_label,scientific_name,common_name,class_name\nx,Rana rana,frog,Amphibia\n")
    assert main(["priors", "labels.csv", "--taxonomy=taxonomy.csv", "--out=p\x1b[31m.npz"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "wrote p\\x1b[31m.npz" in out

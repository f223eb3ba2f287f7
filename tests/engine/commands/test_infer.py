"""``bce-infer`` as a user meets it: exit codes, messages, what lies on the disk afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support.sounds import write_sound

from bce.engine import Bundle
from bce.engine.commands.infer import main
from bce.engine.network.model import Model
from bce.engine.tables.scores import read_scores


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_a_whole_run(
    small_bundle: Bundle, soundscapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, report = tmp_path / "s.csv", tmp_path / "run.json"
    assert run("--bundle", small_bundle.path, "--shifts", 1, "--out", out, "--report", report, soundscapes) == 0
    said = capsys.readouterr().err
    assert "stand-in weights" in said
    assert "prior: off (there are no priors" in said
    assert "5 recordings (5 ok), 44 rows" in said
    assert f"wrote {out}" in said
    assert len(read_scores(out).row_ids) == 44
    assert json.loads(report.read_text())["settings"]["shifts_s"] == [0.0]


def test_quiet_says_only_what_went_wrong(
    small_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sound(tmp_path / "in" / "good.wav", 5.0, 1)
    common = ("--bundle", small_bundle.path, "--quiet", "--raw", "--out", tmp_path / "s.csv")
    assert run(*common, tmp_path / "in") == 0
    assert capsys.readouterr().err == ""
    (tmp_path / "in" / "bad.ogg").write_text("text")
    assert run(*common, tmp_path / "in") == 3
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "bad.ogg: failed: cannot be read as audio" in said[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bundle", "nowhere", "x.wav"], "nowhere: is not a bundle"),
        (["{bundle}", "no_such.wav"], "no_such.wav: does not exist"),
        (["{bundle}"], "no recordings"),
        (["{bundle}", "--shifts", "4", "{sounds}"], "shifts '4'"),
        (["{bundle}", "--shifts", "0,0.005", "{sounds}"], "not a multiple of 0.01"),
        (["{bundle}", "--threads", "0", "{sounds}"], "threads is 0"),
        (["{bundle}", "--out", "x.txt", "{sounds}"], "x.txt: ends in '.txt'"),
        (["{bundle}", "--features", "f.csv", "{sounds}"], "f.csv: features are written as parquet"),
        (["{bundle}", "--precision", "int8", "{sounds}"], "has no int8 backbone"),
        (
            ["{bundle}", "--objects", ".", "--backend", "onnxruntime", "{sounds}"],
            "--backend onnxruntime --precision fp32 does not run",
        ),
        (["{bundle}", "--sigma", "-1", "{sounds}"], "sigma is -1"),
        (["{bundle}", "--prior-strength", "0.5", "{sounds}"], "cannot run the prior step"),
        (["{bundle}", "--priors", "no.npz", "{sounds}"], "no.npz"),
        (["{bundle}", "--raw", "--sigma", "2", "{sounds}"], "--raw switches off what --sigma asks for"),
        (["{bundle}", "--budget-minutes", "2", "--reserve-minutes", "2", "{sounds}"], "reserve of 2 minutes"),
        (["{bundle}", "--reserve-minutes", "2", "{sounds}"], "give --budget-minutes"),
        (["{bundle}", "--stall-seconds", "0", "{sounds}"], "stall is 0 s"),
        (["{bundle}", "/dev/zero"], "/dev/zero: is a pipe or a device"),
        (["{bundle}", "--name-pattern", "(", "{sounds}"], "not a regular expression"),
        (["{bundle}", "--sample-submission", "no.csv", "{sounds}"], "no.csv"),
        (["{bundle}", "--report", "no/run.json", "{sounds}"], "no/run.json: its folder does not exist"),
        (["{bundle}", "--out", "no/s.csv", "{sounds}"], "no/s.csv: its folder does not exist"),
    ],
)
def test_wrong_use_is_one_line_and_exit_2(
    small_bundle: Bundle,
    soundscapes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    filled = [str(soundscapes) if a == "{sounds}" else a for a in arguments]
    if filled[0] == "{bundle}":
        filled[:1] = ["--bundle", str(small_bundle.path)]
    assert run("--quiet", *filled) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("bce-infer: ")
    assert message in said[0]
    assert os.listdir(tmp_path) == []


def test_a_damaged_bundle_is_refused(
    small_bundle: Bundle, soundscapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in small_bundle.path.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    with open(damaged / "backbone.onnx", "r+b") as stream:
        stream.seek(5000)
        stream.write(b"\x00\x01\x02\x03")
    assert run("--quiet", "--bundle", damaged, "--out", tmp_path / "s.csv", soundscapes) == 2
    assert "SHA-256 differs" in capsys.readouterr().err


def test_the_bundle_can_be_named_by_the_environment(
    small_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sound(tmp_path / "a.wav", 5.0, 1)
    monkeypatch.setenv("BCE_BUNDLE", str(small_bundle.path))
    assert run("--quiet", "--out", tmp_path / "s.csv", tmp_path / "a.wav") == 0


SPEAKING = """
import sys
from bce.engine.commands.infer import main
from bce.engine.tables.sinks import ScoreTableSink
real = ScoreTableSink.add
def add(self, part):
    real(self, part)
    print("rows", flush=True)
ScoreTableSink.add = add
sys.exit(main())
"""
"""``bce-infer``, saying on standard output when rows have come."""


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_terminal_that_is_closed_leaves_what_was_computed(tmp_path: Path) -> None:
    """Its screen is gone, and then the hang-up comes. Several seconds: a process of its own with the embedded model."""
    folder, out, report = tmp_path / "in", tmp_path / "s.csv", tmp_path / "run.json"
    first = write_sound(folder / "r000.ogg", 60.0, 1)
    for index in range(1, 200):
        os.link(first, folder / f"r{index:03}.ogg")
    command = ["--threads", "1", "--raw", "--out", out, "--report", report, folder]
    process = subprocess.Popen(
        [sys.executable, "-c", SPEAKING, *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if name != "BCE_BUNDLE"},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == b"rows\n"
    process.stderr.close()
    process.send_signal(signal.SIGHUP)
    while process.stdout.readline():
        pass
    assert process.wait(60) == 130
    rows = read_scores(out).row_ids
    content = json.loads(report.read_text())
    done = content["totals"].get("ok", 0)
    assert 1 <= done < 200
    assert len(rows) == 12 * done
    assert content["totals"]["not_run"] == 200 - done
    assert content["totals"]["interrupted"] == "SIGHUP"
    assert sorted(os.listdir(tmp_path)) == ["in", "run.json", "s.csv"]


def test_as_a_process_it_leaves_at_once_with_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Taking Python apart is half a second of work that no deadline has."""
    left: list[int] = []
    monkeypatch.setattr("sys.argv", ["bce-infer", "--bundle", "nowhere", "x.wav"])
    monkeypatch.setattr("os._exit", left.append)
    assert main() == 2
    assert left == [2]
    assert main(["--bundle", "nowhere", "x.wav"]) == 2  # called by another program it returns
    assert left == [2]


@pytest.mark.skipif(os.name == "nt", reason="a shell of POSIX")
def test_streams_that_are_closed_are_no_table(tmp_path: Path) -> None:
    """With its screen closed, the table would be the next file to get that number, and have all that is said in it."""
    write_sound(tmp_path / "in" / "a.wav", 10.0, 1)
    (tmp_path / "in" / "bad.wav").write_text("no audio")
    command = [sys.executable, "-m", "bce.engine.commands.infer", "--threads", "1", "--out", "s.csv", "in"]
    done = subprocess.run(["sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-', *command], cwd=tmp_path, check=False)
    assert done.returncode == 3
    assert len(read_scores(tmp_path / "s.csv").row_ids) == 2 + 2
    assert sorted(os.listdir(tmp_path)) == ["in", "s.csv"]


def test_a_plan_tells_the_time_and_writes_nothing(
    small_bundle: Bundle, soundscapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("--bundle", small_bundle.path, "--plan", "--quiet", "--budget-minutes", 90, soundscapes) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "5 recordings, 0.06 h of audio, 44 chunks"
    assert lines[1] == f"backbone: {Model(small_bundle).form}"
    assert [line.split()[0] for line in lines[2:]] == ["5", "3", "1"]
    minutes = [float(line.split(":")[1].split()[0]) for line in lines[2:]]
    assert all(0 <= m < 10 for m in minutes)
    assert all("of 90 minutes" in line for line in lines[2:])
    assert os.listdir(tmp_path) == []


def test_a_recorder_on_local_time_needs_no_pattern_of_its_own(small_bundle: Bundle, tmp_path: Path) -> None:
    write_sound(tmp_path / "BC2026_Test_0001_S05_20250227_010002.wav", 5.0, 1)
    out = tmp_path / "s.parquet"
    assert run("--bundle", small_bundle.path, "--quiet", "--utc-offset", -4, "--out", out, tmp_path) == 0
    assert pq.read_table(out)["start_time"][0].as_py().isoformat() == "2025-02-27T05:00:02+00:00"

"""Programs measured from outside, and recordings for them."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("psutil", reason="benchmarks need the extra bce[bench]")

from support.sounds import write_sound

from bce.bench import contestants as ways
from bce.bench.materials import Work, headless, linked, long_recording
from bce.bench.processes import run
from bce.engine.audio.recordings import find_recordings
from bce.engine.errors import BceError, OptionsError
from bce.engine.frontends.perch import WINDOW
from bce.engine.geometry import SHIFT_SETS

SAMPLE_RATE = WINDOW.sample_rate
SHIFTS = SHIFT_SETS[5]


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


def test_memory_of_a_child_counts() -> None:
    child = "import time; block = bytearray(200_000_000); time.sleep(0.5)"
    ran = run(python(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"), sample_s=0.01)
    assert 200e6 < ran.peak_bytes < 400e6
    assert len(ran.time_s) == len(ran.rss_bytes) > 5
    assert ran.time_s == tuple(sorted(ran.time_s))


def test_work_is_cpu_time_and_waiting_is_not() -> None:
    ran = run(python("import time\nwhile time.process_time() < 0.3: pass\ntime.sleep(0.2)"))
    assert 0.25 < ran.cpu_s < 2.0  # it is counted in ticks of 10 ms
    assert ran.wall_s >= 0.5
    assert ran.busy_threads == ran.cpu_s / ran.wall_s


def test_a_program_that_fails_says_why() -> None:
    with pytest.raises(BceError, match=r"code 7: no such thing"):
        run(python("import sys; print('working'); print('no such thing', file=sys.stderr); sys.exit(7)"))
    assert run(python("raise SystemExit(3)"), good=(0, 3)).code == 3


def test_links_are_recordings_of_their_own(tmp_path: Path) -> None:
    sources = [write_sound(tmp_path / "s" / f"{i}.ogg", 6.0, i) for i in range(2)]
    for count in (5, 3):
        found = find_recordings([linked(Work(tmp_path / "work"), sources, count)])
        assert len({recording.stem for recording in found}) == count
        assert all(recording.start_time is not None and recording.site is not None for recording in found)


def test_a_long_recording_is_as_long_as_asked_and_small(tmp_path: Path) -> None:
    path = long_recording(Work(tmp_path), 0.1, SAMPLE_RATE)
    assert soundfile.info(path).duration == 360.0
    assert path.stat().st_size < 1e6


def test_what_is_made_is_made_once_and_whole(tmp_path: Path) -> None:
    said: list[str] = []
    work = Work(tmp_path, said.append)

    def fail(path: Path) -> None:
        path.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        work.made_file("x", fail)
    assert list(tmp_path.iterdir()) == []
    for _ in range(2):
        assert work.made_file("x", lambda path: path.write_text("whole")).read_text() == "whole"
    assert len(said) == 2


def test_folders_are_made_once_and_whole_too(tmp_path: Path) -> None:
    work = Work(tmp_path)

    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        work.made_folder("x", fail)
    assert list(tmp_path.iterdir()) == []
    for _ in range(2):
        made = work.made_folder("x", lambda folder: (folder / "a").write_text("whole"))
        assert [path.name for path in made.iterdir()] == ["a"]
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_waveforms_are_the_windows_of_every_shift(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 20 * SAMPLE_RATE).astype(np.float32)
    path = tmp_path / "x.wav"
    soundfile.write(path, samples, SAMPLE_RATE, subtype="FLOAT")
    audio = ways.load_audio(find_recordings([path]), 20, SHIFTS, WINDOW, 1)
    assert audio.waveforms.shape == (20, 5 * SAMPLE_RATE)
    for index, shift in enumerate(SHIFTS):
        for chunk in range(4):
            start = round(min(max(5 * chunk + shift, 0.0), 15.0) * SAMPLE_RATE)
            np.testing.assert_array_equal(audio.waveforms[4 * index + chunk], samples[start : start + 5 * SAMPLE_RATE])
    with pytest.raises(OptionsError, match="give more audio"):
        ways.load_audio(find_recordings([path]), 500, SHIFTS, WINDOW, 2)


def test_the_headless_graph_gives_the_same_embedding(small_onnx: Path, tmp_path: Path) -> None:
    import onnxruntime as ort

    cut = headless(Work(tmp_path), small_onnx)
    windows = np.random.default_rng(0).normal(0, 0.1, (2, 5 * SAMPLE_RATE)).astype(np.float32)
    whole = ort.InferenceSession(small_onnx).run(["embedding"], {"inputs": windows})[0]
    session = ort.InferenceSession(cut)
    assert [output.name for output in session.get_outputs()] == ["embedding"]
    np.testing.assert_allclose(session.run(None, {"inputs": windows})[0], whole, rtol=1e-4, atol=1e-5)


def test_the_stock_script_scores_as_the_graph_does(small_onnx: Path, tmp_path: Path) -> None:
    import onnxruntime as ort

    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 15 * SAMPLE_RATE).astype(np.float32)
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "a.wav", samples, SAMPLE_RATE, subtype="FLOAT")
    script = Path(ways.__file__).with_name("stock.py")
    run(
        [sys.executable, str(script), str(tmp_path / "in"), "--model", str(small_onnx), "--threads", "1",
         "--shifts=-1,0", "--classes", "5", "--out", str(tmp_path / "out.csv")]
    )  # fmt: skip
    with open(tmp_path / "out.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert [row[0] for row in rows] == ["row_id", "a_5", "a_10", "a_15"]
    session = ort.InferenceSession(small_onnx)
    windows = np.stack([samples[4 * SAMPLE_RATE : 9 * SAMPLE_RATE], samples[5 * SAMPLE_RATE : 10 * SAMPLE_RATE]])
    logits = session.run(["label"], {"inputs": windows})[0][:, :5].mean(axis=0)
    np.testing.assert_allclose(np.array(rows[2][1:], float), 1 / (1 + np.exp(-logits)), rtol=1e-3)

"""Chunks that are longer or shorter than windows: which windows they have, and rows against a plain pipeline."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given
from hypothesis import strategies as st
from support.sounds import RATE

from bce.engine import Bundle, BundleError, Engine, EngineOptions, OptionsError
from bce.engine.commands import infer as cli
from bce.engine.geometry import ChunkGrid, WindowSpec, plan_windows, window_offsets
from bce.engine.run.infer import RunOptions, infer
from bce.engine.run.plan import plan
from bce.engine.tables.scores import read_scores


@given(
    window=st.integers(10, 800),
    longer=st.integers(0, 3000),
    step=st.none() | st.integers(1, 800),
)
def test_windows_lie_evenly_from_one_end_of_a_longer_chunk_to_the_other(window: int, longer: int, step: int | None):
    spec, grid = WindowSpec(100, window / 100), ChunkGrid((window + longer) / 100)
    step_s = None if step is None else min(step, window) / 100
    found = window_offsets(spec, grid, step_s)
    assert found[0] == 0
    assert found[-1] == pytest.approx(longer / 100)
    most = spec.window_s if step_s is None else step_s
    gaps = np.diff(found)
    assert (gaps <= most + 0.01 + 1e-9).all()  # begins are rounded to 10 ms
    if len(found) > 2:
        assert np.ptp(gaps) <= 0.01 + 1e-9
        assert longer / 100 / (len(found) - 2) > most - 1e-9  # one window less would be too few


@pytest.mark.parametrize(
    ("window_s", "chunk_s", "step_s", "expected"),
    [
        (3.0, 5.0, 1.0, (0.0, 1.0, 2.0)),
        (3.0, 5.0, 2.0, (0.0, 2.0)),
        (3.0, 5.0, None, (0.0, 2.0)),
        (5.0, 5.0, None, (0.0,)),
        (5.0, 60.0, None, tuple(float(start) for start in range(0, 60, 5))),
        (3.0, 1.5, 1.0, (-0.75,)),
        (3.0, 2.0, None, (-0.5,)),
    ],
)
def test_offsets(window_s: float, chunk_s: float, step_s: float | None, expected: tuple[float, ...]):
    assert window_offsets(WindowSpec(48_000, window_s), ChunkGrid(chunk_s), step_s) == pytest.approx(expected)


def test_a_chunk_uses_all_its_windows_for_each_shift():
    spec, grid = WindowSpec(100, 3.0), ChunkGrid(5.0)
    found = plan_windows(spec, grid, 0, 2, (0.0, 0.5), 1000, (0.0, 1.0, 2.0))
    assert found.starts[found.index].tolist() == [
        [0, 100, 200, 50, 150, 250],
        [500, 600, 700, 550, 650, 700],  # the last one is moved back into the recording
    ]


def test_no_window_of_several_lies_in_the_zeros_behind_the_audio():
    spec, grid, offsets = WindowSpec(100, 3.0), ChunkGrid(5.0), (0.0, 1.0, 2.0)
    found = plan_windows(spec, grid, 0, 2, (0.0,), 1000, offsets, 600)  # 6 s of audio, padded to 10
    assert found.starts[found.index].tolist() == [[0, 100, 200], [500, 500, 500]]
    found = plan_windows(spec, grid, 1, 1, (0.0,), 1000, offsets, 850)
    assert found.starts[found.index].tolist() == [[500, 550, 550]]
    found = plan_windows(spec, ChunkGrid(60.0), 0, 1, (0.0,), 6000, tuple(range(58)), 600)
    assert found.starts.tolist() == [0, 100, 200, 300]
    assert plan_windows(spec, ChunkGrid(1.0), 0, 1, (0.0,), 300, (-1.0,), 100).starts.tolist() == [0]


def placed(small_bundle: Bundle, folder: Path, **placing: object) -> Bundle:
    """The small bundle with another placing."""
    shutil.copytree(small_bundle.path, folder)
    content = json.loads((folder / "bundle.json").read_text())
    content["placing"] |= placing
    (folder / "bundle.json").write_text(json.dumps(content))
    return Bundle.load(folder)


def plain_rows(bundle: Bundle, audio: Path, chunk_s: float, shifts: tuple[float, ...], step_s: float, how: str):
    """One window at a time, begins by hand."""
    samples, rate = soundfile.read(audio, dtype="float32", always_2d=True)
    mono = samples.mean(axis=1)
    if rate != RATE:
        mono = soxr.resample(mono, rate, RATE, "HQ")
    seconds = len(samples) / rate
    chunks = int(seconds / chunk_s + 1e-9)
    chunks += seconds - chunks * chunk_s >= min(1.0, chunk_s) - 1e-9
    length = max(round(chunks * chunk_s * RATE), 5 * RATE)
    ends = min(len(mono), round(chunks * chunk_s * RATE)) / RATE  # zeros begin here
    mono = np.pad(mono, (0, max(0, length - len(mono))))[: round(chunks * chunk_s * RATE)]
    mono = np.pad(mono, (0, length - len(mono)))
    room = chunk_s - 5.0
    count = 1 if room <= 0 else math.ceil(room / step_s - 1e-9) + 1
    offsets = [room / 2] if room <= 0 else [round(k * room / (count - 1), 2) for k in range(count)]
    engine = Engine(bundle, EngineOptions(threads=1))
    rows = []
    for chunk in range(chunks):
        # a window of several ends with the audio at the latest, unless it begins with its chunk
        last = max(math.floor((ends - 5.0 - chunk * chunk_s) * 100 + 1e-4) / 100, 0)
        of_shifts = []
        for shift in shifts:
            logits = []
            for offset in offsets:
                start = min(max(round((chunk * chunk_s + shift + min(offset, last)) * RATE), 0), length - 5 * RATE)
                window = np.empty((1, *engine.member.frontend.shape), np.float32)
                engine.member.frontend.open(mono[start : start + 5 * RATE]).window(0, window[0])
                logits.append(engine.member.model.logits(engine.member.model.features(window))[0])
            of_shifts.append(np.max(logits, axis=0) if how == "max" else np.mean(logits, axis=0, dtype=np.float64))
        rows.append(np.mean(of_shifts, axis=0, dtype=np.float64))
    return np.array(rows)


@pytest.mark.parametrize(
    ("chunk_s", "step_s", "how", "shifts"),
    [
        (7.0, 1.0, "mean", (-1.0, 0.0)),
        (2.0, 5.0, "mean", (0.0,)),
        (30.0, 5.0, "max", (0.0,)),
        (8.0, 1.0, "max", (-1.0, 0.0, 0.5)),
    ],
)
def test_rows_equal_a_plain_pipeline(
    small_bundle: Bundle,
    soundscapes: Path,
    tmp_path: Path,
    chunk_s: float,
    step_s: float,
    how: str,
    shifts: tuple[float, ...],
) -> None:
    bundle = placed(small_bundle, tmp_path / "b", step_s=step_s, reduce=how)
    engine = Engine(bundle, EngineOptions(threads=2, chunk_s=chunk_s, shifts_s=shifts))
    for result in engine.run([soundscapes]):
        expected = plain_rows(bundle, result.recording.path, chunk_s, shifts, step_s, how)
        assert result.logits.shape == expected.shape
        # windows of one recording share frames: other places in a block, other roundings
        np.testing.assert_allclose(result.logits, expected, atol=1e-3, rtol=0)


def test_a_table_has_a_row_for_each_chunk(small_bundle: Bundle, soundscapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "t.csv"
    engine = EngineOptions(threads=1, chunk_s=10.0, shifts_s=(0.0,))
    report = infer(small_bundle, RunOptions((soundscapes,), out, engine=engine, quiet=True))
    ends = [int(name.rpartition("_")[2]) for name in read_scores(out).row_ids]
    assert report.rows == len(ends)
    assert all(end % 10 == 0 for end in ends)
    assert report.settings["chunk_s"] == 10.0
    measured = plan(
        small_bundle, engine, [entry.recording for entry in Engine(small_bundle, engine).run([soundscapes])]
    )
    assert measured.chunks == len(ends)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--chunk", "0"], "must be above 0"),
        (["--chunk", "nan"], "must be above 0"),
        (["--chunk", "601"], "at most 600 s"),
        (["--chunk", "2.003"], "multiple of 0.01 s"),
        (["--chunk", "2.5"], "whole seconds"),
        (["--threshold", "0.5"], "give --detections as well"),
        (["--detections", "d.txt"], "ends in .csv"),
        (["--detections", "d.csv", "--threshold", "0"], "threshold is 0"),
    ],
)
def test_wrong_use_is_one_line(
    arguments: list[str],
    message: str,
    small_bundle: Bundle,
    soundscapes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["--bundle", str(small_bundle.path), *arguments, str(soundscapes)]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step_s", [0.0, -1.0, 6.0])
def test_a_step_beyond_the_windows_is_refused(small_bundle: Bundle, tmp_path: Path, step_s: float) -> None:
    with pytest.raises(BundleError, match=r"placing\.step_s"):
        placed(small_bundle, tmp_path / "b", step_s=step_s)


def test_detections_alone(small_bundle: Bundle, soundscapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    out = tmp_path / "d.csv"
    arguments = ["--bundle", str(small_bundle.path), "--raw", "--threads", "1", "--shifts", "1", "--threshold", "0.01"]
    assert cli.main([*arguments, "--detections", str(out), str(soundscapes)]) == 0
    rows = out.read_text().splitlines()[1:]
    assert rows
    assert f"{len(rows)} detections" in capsys.readouterr().err
    results = list(Engine(small_bundle, EngineOptions(threads=1, shifts_s=(0.0,))).run([soundscapes]))
    assert len(rows) == sum(int((1 / (1 + np.exp(-r.logits.astype(float))) >= 0.01).sum()) for r in results)
    with pytest.raises(OptionsError):
        replace(EngineOptions(), chunk_s="5")  # type: ignore[arg-type]

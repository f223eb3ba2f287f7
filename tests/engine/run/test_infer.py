"""``infer`` from recordings to tables: values, order, rows, bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pytest
import soundfile
import soxr
from scipy.special import expit
from support.sounds import RATE, sound, write_sound

from bce.engine import Bundle, Engine, EngineOptions, OptionsError, TableError
from bce.engine.post.options import PostprocessOptions
from bce.engine.run.infer import RunOptions, infer
from bce.engine.tables.scores import read_scores

RAW = PostprocessOptions.raw()
EXPECTED_CHUNKS = [12, 3, 13, 1, 15]


def options(
    *paths: Path, out: Path | None = None, shifts: tuple[float, ...] = (0.0,), threads: int = 2, **more
) -> RunOptions:
    engine = EngineOptions(threads=threads, shifts_s=shifts)
    return RunOptions(paths, out, engine=engine, postprocess=more.pop("postprocess", RAW), quiet=True, **more)


def naive_logits(source: Path, audio: Path, shifts: tuple[float, ...]) -> np.ndarray:
    """The slow plain pipeline: whole file, one 5-s window at a time through the source itself, mean over shifts."""
    samples, rate = soundfile.read(audio, dtype="float32", always_2d=True)
    mono = samples.mean(axis=1)
    if rate != RATE:
        mono = soxr.resample(mono, rate, RATE, "HQ")
    chunks = len(samples) / rate // 5 + (len(samples) / rate % 5 >= 1)
    length = int(chunks) * 5 * RATE
    mono = np.pad(mono, (0, max(0, length - len(mono))))[:length]
    session = onnxruntime.InferenceSession(str(source), providers=["CPUExecutionProvider"])
    logits = []
    for chunk in range(int(chunks)):
        starts = [min(max(round((chunk * 5 + shift) * RATE), 0), length - 5 * RATE) for shift in shifts]
        rows = [session.run(["label"], {"inputs": mono[None, s : s + 5 * RATE]})[0][0] for s in starts]
        logits.append(np.mean(rows, axis=0, dtype=np.float64))
    return np.array(logits)


@pytest.mark.parametrize("shifts", [(0.0,), (-1.5, 0.0, 2.0)])
def test_equals_the_naive_pipeline(
    small_onnx: Path, small_bundle: Bundle, soundscapes: Path, shifts: tuple[float, ...]
) -> None:
    engine = Engine(small_bundle, EngineOptions(threads=2, shifts_s=shifts))
    results = list(engine.run([soundscapes]))
    assert [len(r.logits) for r in results] == EXPECTED_CHUNKS
    for result in results:
        naive = naive_logits(small_onnx, result.recording.path, shifts)
        np.testing.assert_allclose(result.logits, naive, atol=1e-3, rtol=0)


@pytest.mark.slow
def test_equals_the_naive_pipeline_on_real_recordings(shared: Path, small_onnx: Path, small_bundle: Bundle) -> None:
    shifts = (-2.0, -1.0, 0.0, 1.0, 2.0)
    audio = shared / "data" / "audio"
    paths = [
        audio / "scikit_maad",
        audio / "misc" / "perchv2_pytorch_sample.wav",
        audio / "misc" / "birdnet_soundscape.ogg",
    ]
    for result in Engine(small_bundle, EngineOptions(threads=2, shifts_s=shifts)).run(paths):
        naive = naive_logits(small_onnx, result.recording.path, shifts)
        np.testing.assert_allclose(result.logits, naive, atol=1e-3, rtol=0)


def test_the_table_is_the_sigmoid_of_the_logits(small_bundle: Bundle, soundscapes: Path, tmp_path: Path) -> None:
    report = infer(small_bundle, options(soundscapes, out=tmp_path / "raw.csv"))
    table = read_scores(tmp_path / "raw.csv")
    logits = np.concatenate([r.logits for r in Engine(small_bundle, EngineOptions(2, (0.0,))).run([soundscapes])])
    assert report.exit_code == 0
    assert table.classes == small_bundle.classes
    np.testing.assert_array_equal(table.scores, expit(logits.astype(np.float64)))
    stems = [f"BC2026_Test_{n:04}_S0{n}_20250227_{(n * 3) % 24:02}0002" for n in range(1, 6)]
    expected = [f"{stem}_{5 * (i + 1)}" for stem, n in zip(stems, EXPECTED_CHUNKS, strict=True) for i in range(n)]
    assert list(table.row_ids) == expected


def test_threads_do_not_change_a_byte(small_bundle: Bundle, soundscapes: Path, tmp_path: Path) -> None:
    shifts = (-1.0, 0.0, 1.0)
    defaults = PostprocessOptions()
    for name, threads in (("one", 1), ("two", 2), ("again", 2)):
        infer(
            small_bundle,
            options(soundscapes, out=tmp_path / f"{name}.csv", shifts=shifts, threads=threads, postprocess=defaults),
        )
    one, two, again = ((tmp_path / f"{name}.csv").read_bytes() for name in ("one", "two", "again"))
    assert one == two == again


def test_parquet_and_features(small_bundle: Bundle, soundscapes: Path, tmp_path: Path) -> None:
    out, features = tmp_path / "scores.parquet", tmp_path / "features.parquet"
    infer(small_bundle, options(soundscapes, out=out, features_out=features, shifts=(-1.0, 0.0, 1.0)))
    table = pq.read_table(out)
    assert table.column_names[:6] == ["row_id", "path", "site", "start_time", "chunk_start_s", "chunk_end_s"]
    assert table["site"][0].as_py() == "S01"
    assert table["start_time"][0].as_py().isoformat() == "2025-02-27T03:00:02+00:00"
    found = pq.read_table(features)
    assert found["row_id"].to_pylist() == table["row_id"].to_pylist()
    widths = {name: len(found[name][0]) for name in small_bundle.manifest.blocks}
    assert widths == small_bundle.manifest.blocks
    assert b"stand-in" in found.schema.metadata[b"notice"]

    windows = tmp_path / "windows.parquet"
    infer(small_bundle, options(soundscapes, features_out=windows, features_per="window", shifts=(-1.0, 0.0, 1.0)))
    rows = pq.read_table(windows).to_pylist()
    first = [row for row in rows if row["site"] == "S01"]
    # 12 chunks x 3 shifts of a minute, of which the first and the last one are moved into the recording
    assert [row["start_s"] for row in first] == sorted(
        {min(max(5.0 * c + s, 0), 55.0) for c in range(12) for s in (-1, 0, 1)}
    )
    # a chunk's features are the mean of its windows'
    name = next(iter(widths))
    by_start = {row["start_s"]: np.array(row[name]) for row in first}
    mean = np.mean([by_start[4.0], by_start[5.0], by_start[6.0]], axis=0)
    np.testing.assert_allclose(found[name][1].as_py(), mean, rtol=1e-5, atol=1e-6)


def test_a_head_of_none_gives_features_or_refuses(small_bundle: Bundle, soundscapes: Path, tmp_path: Path) -> None:
    headless = tmp_path / "headless"
    shutil.copytree(small_bundle.path, headless)
    content = json.loads((headless / "bundle.json").read_text())
    content["head"] = {"kind": "none", "folds": 0, "parameters": 0}
    content["score"] = None
    (headless / "bundle.json").write_text(json.dumps(content))
    bundle = Bundle.load(headless)
    with pytest.raises(OptionsError, match="has no head"):
        infer(bundle, options(soundscapes, out=tmp_path / "out.csv"))
    assert not (tmp_path / "out.csv").exists()
    report = infer(bundle, options(soundscapes, features_out=tmp_path / "f.parquet"))
    assert report.exit_code == 0
    assert pq.read_metadata(tmp_path / "f.parquet").num_rows == sum(EXPECTED_CHUNKS)


# bad recordings ----------------------------------------------------------------------------------------------------


def damage(good: Path, folder: Path, kind: str) -> Path:
    """A recording with something wrong, made from a good one of 60 s."""
    path = folder / f"{kind}.wav"
    samples, rate = soundfile.read(good, dtype="float32")
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path = folder / "text.ogg"
        path.write_text("these are notes, not audio\n" * 40)
    elif kind == "bare_header":
        soundfile.write(path, samples[:0], rate)
    elif kind == "truncated_wav":
        soundfile.write(path, samples, rate)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "truncated_flac":
        path = folder / "truncated_flac.flac"
        soundfile.write(path, samples, rate)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "nan":
        samples = samples.copy()
        samples[round(32.5 * rate)] = np.nan
        soundfile.write(path, samples, rate, subtype="FLOAT")
    elif kind == "too_short":
        soundfile.write(path, samples[: round(0.4 * rate)], rate)
    return path


@pytest.mark.parametrize(
    ("kind", "status", "rows", "computed"),
    [
        ("empty", "failed", 12, 0),
        ("text", "failed", 12, 0),
        ("bare_header", "failed", 12, 0),
        ("too_short", "failed", 12, 0),
        ("truncated_wav", "short_read", 12, 6),
        ("truncated_flac", "short_read", 12, None),
        ("nan", "short_read", 12, 7),
    ],
)
def test_a_bad_recording_costs_only_its_own_rows(
    small_bundle: Bundle, tmp_path: Path, kind: str, status: str, rows: int | None, computed: int | None
) -> None:
    folder = tmp_path / "recordings"
    first, last = write_sound(folder / "a.wav", 60.0, 1), write_sound(folder / "z.wav", 20.0, 2)
    good_report = infer(small_bundle, options(folder, out=tmp_path / "good.csv"))
    good = read_scores(tmp_path / "good.csv")
    bad = damage(first, folder, kind)
    report = infer(small_bundle, options(folder, out=tmp_path / "all.csv"))
    table = read_scores(tmp_path / "all.csv")

    entry = next(e for e in report.recordings if e["recording"] == str(bad))
    assert entry["status"] == status
    assert entry["reason"]
    assert good_report.exit_code == 0
    there = {name: row for row, name in enumerate(table.row_ids)}
    np.testing.assert_array_equal(table.scores[[there[name] for name in good.row_ids]], good.scores)
    own = [name for name in table.row_ids if name.startswith(bad.stem + "_")]
    if rows is not None:
        assert own == [f"{bad.stem}_{5 * (i + 1)}" for i in range(rows)]
    filled = entry["filled"]
    assert entry["rows"] == len(own)
    if computed is not None:
        assert entry["rows"] - filled == computed
    assert report.exit_code == (3 if filled else 0)
    if filled:
        # the fill is the per-class mean of all rows that were computed
        unfilled = np.array([name not in own[len(own) - filled :] for name in table.row_ids])
        fill = table.scores[there[own[-1]]]
        np.testing.assert_allclose(fill, table.scores[unfilled].mean(axis=0), rtol=1e-12)
    assert [last.stem in e["recording"] and e["status"] for e in report.recordings][-1] == "ok"


@pytest.mark.parametrize("threads", [1, 3])
def test_a_bad_recording_has_as_many_rows_as_most_others(small_bundle: Bundle, tmp_path: Path, threads: int) -> None:
    """Also where those come later, and whatever is wrong with it: empty, no audio, shorter than a chunk can be."""
    folder = tmp_path / "recordings"
    for name, seconds in (("b", 10.0), ("c", 10.0), ("d", 5.0)):
        write_sound(folder / f"{name}.wav", seconds, 1)
    (folder / "a.wav").write_bytes(b"")
    (folder / "e.ogg").write_text("notes")
    write_sound(folder / "f.wav", 0.4, 2)
    report = infer(small_bundle, options(folder, out=tmp_path / "out.csv", threads=threads))
    assert [entry["status"] for entry in report.recordings] == ["failed", "ok", "ok", "ok", "failed", "failed"]
    assert [entry["rows"] for entry in report.recordings] == [2, 2, 2, 1, 2, 2]
    assert report.rows == 11


def test_nothing_but_bad_recordings_is_still_a_table(small_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    report = infer(small_bundle, options(tmp_path / "bad.wav", out=tmp_path / "out.csv"))
    table = read_scores(tmp_path / "out.csv")
    assert report.exit_code == 3
    assert len(table.row_ids) == 12
    np.testing.assert_allclose(table.scores, 1 / 12)


def test_one_stem_in_two_folders_is_refused_before_anything_runs(small_bundle: Bundle, tmp_path: Path) -> None:
    for folder in ("x", "y"):
        write_sound(tmp_path / folder / "same.wav", 5.0, 1)
    with pytest.raises(OptionsError, match="same name"):
        infer(small_bundle, options(tmp_path / "x", tmp_path / "y", out=tmp_path / "out.csv"))
    assert not (tmp_path / "out.csv").exists()


def test_an_empty_folder_is_refused(small_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(OptionsError, match="no recordings found"):
        infer(small_bundle, options(tmp_path / "nothing", out=tmp_path / "out.csv"))


def test_a_folder_for_the_output_must_exist(small_bundle: Bundle, soundscapes: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match="folder does not exist"):
        infer(small_bundle, options(soundscapes, out=tmp_path / "no" / "out.csv"))


# sample submission -------------------------------------------------------------------------------------------------


def write_sample(path: Path, row_ids: list[str], classes: tuple[str, ...]) -> Path:
    value = ",".join(["0.25"] * len(classes))
    path.write_text(",".join(["row_id", *classes]) + "\n" + "".join(f"{name},{value}\n" for name in row_ids))
    return path


@pytest.fixture
def two(tmp_path: Path) -> Path:
    folder = tmp_path / "two"
    write_sound(folder / "a.wav", 15.0, 1)
    write_sound(folder / "b.wav", 10.0, 2)
    return folder


def test_the_sample_submission_gives_rows_order_and_class_order(
    small_bundle: Bundle, two: Path, tmp_path: Path
) -> None:
    plain = infer(small_bundle, options(two, out=tmp_path / "plain.csv"))
    reference = read_scores(tmp_path / "plain.csv")
    classes = small_bundle.classes[::-1]
    ids = ["b_10", "a_5", "a_15", "b_5"]
    sample = write_sample(tmp_path / "sample.csv", ids, classes)
    report = infer(small_bundle, options(two, out=tmp_path / "out.csv", sample_submission=sample))
    table = read_scores(tmp_path / "out.csv")
    assert plain.exit_code == report.exit_code == 0
    assert list(table.row_ids) == ids
    assert table.classes == classes
    rows = [reference.row_ids.index(name) for name in ids]
    np.testing.assert_array_equal(table.scores, reference.scores[rows][:, ::-1])


def test_ids_without_a_recording_are_filled_and_reported(small_bundle: Bundle, two: Path, tmp_path: Path) -> None:
    ids = ["a_5", "a_10", "gone_5", "b_5", "b_10", "b_15"]
    sample = write_sample(tmp_path / "sample.csv", ids, small_bundle.classes)
    report = infer(small_bundle, options(two, out=tmp_path / "out.csv", sample_submission=sample))
    table = read_scores(tmp_path / "out.csv")
    assert report.exit_code == 3
    assert report.missing == ["gone"]
    assert report.filled == 2
    computed = table.scores[[0, 1, 3, 4]]
    for row in (2, 5):  # of a missing recording, and past the end of one
        np.testing.assert_allclose(table.scores[row], computed.mean(axis=0), rtol=1e-12)


def test_recordings_without_ids_are_refused(small_bundle: Bundle, two: Path, tmp_path: Path) -> None:
    sample = write_sample(tmp_path / "sample.csv", ["a_5"], small_bundle.classes)
    with pytest.raises(TableError, match=r"no rows for 1 of 2 recordings.*b\.wav"):
        infer(small_bundle, options(two, out=tmp_path / "out.csv", sample_submission=sample))


def test_other_classes_are_refused(small_bundle: Bundle, two: Path, tmp_path: Path) -> None:
    sample = write_sample(tmp_path / "sample.csv", ["a_5", "b_5"], (*small_bundle.classes[:-1], "other"))
    with pytest.raises(TableError, match="'other'"):
        infer(small_bundle, options(two, out=tmp_path / "out.csv", sample_submission=sample))


@pytest.mark.parametrize("folders", [0, 1])
def test_a_sample_without_recordings_is_written_unchanged(small_bundle: Bundle, tmp_path: Path, folders: int) -> None:
    """A notebook's dry run: no recordings named, or a folder that is still empty."""
    sample = write_sample(tmp_path / "sample.csv", ["a_5", "a_10"], small_bundle.classes)
    empty = [tmp_path / "test_soundscapes"] * folders
    for folder in empty:
        folder.mkdir()
    report = infer(small_bundle, options(*empty, out=tmp_path / "out.csv", sample_submission=sample))
    assert report.exit_code == 3
    table = read_scores(tmp_path / "out.csv")
    assert list(table.row_ids) == ["a_5", "a_10"]
    assert (table.scores == 0.25).all()


# interruption and report -------------------------------------------------------------------------------------------


def test_a_stopped_run_writes_what_it_has(small_bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    for number in range(8):
        write_sound(folder / f"r{number}.wav", 20.0, number)

    def stop_soon(engine: Engine) -> None:
        compute = engine.compute

        def counted(*args, **more):
            done.append(1)
            if len(done) == 3:
                engine.stop("interrupted by SIGINT")
            return compute(*args, **more)

        engine.compute = counted  # type: ignore[method-assign]

    done: list[int] = []
    infer(small_bundle, options(folder, out=tmp_path / "whole.csv"))
    report = infer(small_bundle, options(folder, out=tmp_path / "part.csv", threads=1), stop_soon)
    whole, part = read_scores(tmp_path / "whole.csv"), read_scores(tmp_path / "part.csv")
    assert part.row_ids == whole.row_ids[:12]
    np.testing.assert_array_equal(part.scores, whole.scores[:12])
    assert report.statuses == {"ok": 3, "not_run": 5}
    assert all("SIGINT" in entry["reason"] for entry in report.bad)


def test_a_crash_leaves_no_half_table_and_what_stood_there_before(small_bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    for number in range(3):
        write_sound(folder / f"r{number}.wav", 10.0, number)

    def crash_late(engine: Engine) -> None:
        compute = engine.compute

        def counted(*args, **more):
            done.append(1)
            if len(done) == 3:
                raise MemoryError("no room")
            return compute(*args, **more)

        engine.compute = counted  # type: ignore[method-assign]

    done: list[int] = []
    outputs = tmp_path / "out"
    outputs.mkdir()
    (outputs / "features.parquet").write_text("of yesterday")
    asked = options(folder, out=outputs / "s.csv", features_out=outputs / "features.parquet", threads=1)
    with pytest.raises(MemoryError):
        infer(small_bundle, asked, crash_late)
    assert [path.name for path in outputs.iterdir()] == ["features.parquet"]
    assert (outputs / "features.parquet").read_text() == "of yesterday"


def test_the_report_says_what_happened(small_bundle: Bundle, soundscapes: Path, tmp_path: Path) -> None:
    report = infer(small_bundle, options(soundscapes, out=tmp_path / "out.csv", postprocess=PostprocessOptions()))
    report.write(tmp_path / "run.json")
    content = json.loads((tmp_path / "run.json").read_text())
    assert content["bundle"]["identity"] == small_bundle.identity
    assert "stand-in" in content["bundle"]["notice"]
    assert content["totals"]["rows"] == sum(EXPECTED_CHUNKS)
    assert content["totals"]["ok"] == 5
    by_rate = [entry["resampled_from"] for entry in content["recordings"]]
    assert by_rate == [None, 48_000, None, 22_050, 44_100]
    assert content["settings"]["postprocessing"][1] == "Gaussian: sigma 1 chunks, on logits"
    assert content["versions"]["onnxruntime"] == onnxruntime.__version__
    assert content["thread_seconds"]["inference"] > 0


def test_sounds_of_the_fixture_differ() -> None:
    assert not np.allclose(sound(1.0, 1), sound(1.0, 2))

"""The cache of features against the engine's parts run by hand, and against damage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from bce.engine.errors import OptionsError
from bce.engine.frontends import perch
from bce.engine.network.bundle import Bundle
from bce.engine.network.default import DEFAULT_BUNDLE
from bce.engine.network.model import Model
from bce.tools.commands import tools as cli
from bce.tools.learn.features import FeatureOptions, cache_key, find_audio, read_features

OPTIONS = FeatureOptions(threads=1)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.load(DEFAULT_BUNDLE)


@pytest.fixture
def recordings(tmp_path: Path) -> tuple[Path, ...]:
    """12 s, 6 s and 3 s of noise at a level of their own: 2, 1 and 1 chunks that are mostly audio."""
    rng = np.random.default_rng(5)
    paths = []
    for number, seconds in enumerate((12, 6, 3)):
        samples = (0.01 * 4**number * rng.standard_normal(32_000 * seconds)).astype(np.float32)
        paths.append(tmp_path / "audio" / f"r{number}.wav")
        paths[-1].parent.mkdir(exist_ok=True)
        soundfile.write(paths[-1], samples, 32_000, subtype="FLOAT")
    return tuple(paths)


def test_rows_are_the_backbone_on_each_chunk(bundle: Bundle, recordings: tuple[Path, ...], tmp_path: Path) -> None:
    table = read_features(recordings, bundle, tmp_path / "cache", OPTIONS)
    assert table.recording.tolist() == [0, 0, 1, 2]
    assert table.chunk.tolist() == [0, 1, 0, 0]
    assert table.grid.chunk_s == 5
    windows = []
    for path, chunk in ((recordings[0], 0), (recordings[0], 1), (recordings[1], 0), (recordings[2], 0)):
        samples, _ = soundfile.read(path, dtype="float64")
        window = np.zeros(160_000)
        part = samples[160_000 * chunk : 160_000 * (chunk + 1)]
        window[: len(part)] = part
        windows.append(perch.log_mel_reference(window, "none"))
    expected = Model(bundle, backend="onnxruntime").features(np.stack(windows).astype(np.float32))
    assert list(table.features) == list(bundle.manifest.blocks)
    for name, values in table.features.items():
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(values / scale, expected[name] / scale, atol=1e-4)
    means, places = table.per_recording()
    assert places.tolist() == [0, 1, 2]
    for name, values in means.items():
        np.testing.assert_allclose(values[0], table.features[name][:2].mean(axis=0), rtol=1e-5, atol=1e-6)


def test_a_recording_is_computed_once_wherever_it_lies(
    bundle: Bundle, recordings: tuple[Path, ...], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    first = read_features(recordings, bundle, cache, OPTIONS)
    assert first.computed == 3
    moved = tmp_path / "other name.wav"
    recordings[1].rename(moved)
    second = read_features((recordings[0], moved, recordings[2]), bundle, cache, OPTIONS)
    assert (first.backbone, second.backbone) == (str(Model(bundle).form),) * 2
    assert second.computed == 0
    for file in cache.rglob("*.npz"):
        assert np.load(file)["backbone"] == first.backbone
    for name, values in first.features.items():
        np.testing.assert_array_equal(second.features[name], values)


def test_a_run_goes_on_where_it_stopped(bundle: Bundle, recordings: tuple[Path, ...], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    read_features(recordings[:1], bundle, cache, OPTIONS)
    whole = read_features(recordings, bundle, cache, OPTIONS)
    assert whole.computed == 2
    files = sorted((cache / cache_key(bundle, OPTIONS)).iterdir())
    files[0].write_bytes(files[0].read_bytes()[:200])
    files[1].unlink()
    again = read_features(recordings, bundle, cache, OPTIONS)
    assert again.computed == 2
    for name, values in whole.features.items():
        np.testing.assert_array_equal(again.features[name], values)


def test_what_features_depend_on_keeps_caches_apart(bundle: Bundle) -> None:
    prepared = Bundle(bundle.path, replace(bundle.manifest, frontend=perch.spec("peak")))
    keys = {
        cache_key(bundle, OPTIONS),
        cache_key(bundle, FeatureOptions(1, (-1.0, 0.0, 1.0))),
        cache_key(prepared, OPTIONS),
    }
    assert len(keys) == 3
    assert cache_key(bundle, FeatureOptions(2, (1.0, 0.0, -1.0))) in keys  # neither threads nor order matter


def test_a_recording_that_cannot_be_read_is_named_and_has_no_rows(
    bundle: Bundle, recordings: tuple[Path, ...], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"no audio at all")
    table = read_features((recordings[0], bad, recordings[2]), bundle, tmp_path / "cache", OPTIONS)
    assert list(table.failed) == [bad]
    assert table.recording.tolist() == [0, 0, 2]
    with pytest.raises(OptionsError, match="no recording could be read"):
        read_features((bad,), bundle, tmp_path / "cache", OPTIONS)


def test_hidden_files_and_folders_are_passed_over(recordings: tuple[Path, ...]) -> None:
    folder = recordings[0].parent
    for name in ("._r0.wav", ".trash/r9.wav", "more/r3.WAV", "more/notes.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"not looked at")
    assert find_audio([folder, recordings[2]]) == [folder / "more" / "r3.WAV", *recordings, recordings[2]]
    with pytest.raises(OptionsError, match="holds no recordings"):
        find_audio([folder, _empty(folder)])
    with pytest.raises(OptionsError, match="does not exist"):
        find_audio([folder / "nowhere"])


def _empty(folder: Path) -> Path:
    """A folder with a hidden recording alone."""
    (folder / "empty").mkdir()
    (folder / "empty" / ".r.wav").write_bytes(b"")
    return folder / "empty"


def test_the_command_says_what_it_did(
    recordings: tuple[Path, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["features", str(recordings[0].parent), "--bundle", str(DEFAULT_BUNDLE), "--threads", "1", "--quiet",
                 "--cache", str(tmp_path / "cache")]  # fmt: skip
    backbone = f"backbone: {Model(Bundle.load(DEFAULT_BUNDLE)).form}\n"
    assert cli.main(arguments) == 0
    said = capsys.readouterr().out
    assert "3 computed, 0 from the cache" in said
    assert backbone in said
    assert cli.main(arguments) == 0
    said = capsys.readouterr().out
    assert "0 computed, 3 from the cache" in said
    assert backbone in said
    assert cli.main(["features", str(tmp_path / "nowhere"), "--quiet"]) == 2

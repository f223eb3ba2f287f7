"""The windows of a proof: out of recordings, made up, and extreme."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from bce.engine.errors import AudioError, OptionsError
from bce.engine.frontends.perch import WINDOW
from bce.engine.geometry import WindowSpec
from bce.export.proof.check_audio import check_inputs, recordings_in


def test_windows_come_from_the_recordings(tmp_path: Path) -> None:
    rate = 32_000
    samples = np.repeat(np.arange(1, 7) / 10, 5 * rate).astype(np.float32)
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "steps.wav", samples, rate, subtype="FLOAT")
    soundfile.write(tmp_path / "in" / "short.wav", samples[: 2 * rate], rate, subtype="FLOAT")
    short, steps, *extremes = check_inputs(WINDOW, [tmp_path / "in"])
    assert (short.name, steps.name) == ("short.wav", "steps.wav")
    assert short.waveforms.shape == (1, 160_000)
    np.testing.assert_allclose(short.waveforms[0, [0, 2 * rate]], [0.1, 0.0], atol=1e-6)
    np.testing.assert_allclose(steps.waveforms[:, 80_000], [0.1, 0.3, 0.4, 0.6], atol=1e-6)
    assert not any(item.natural for item in extremes)
    assert {"silence", "DC offset", "clipping", "full-scale noise"} <= {item.name for item in extremes}
    assert all(np.abs(item.waveforms).max() <= 1 for item in extremes)


def test_synthetic_windows_are_the_same_every_time() -> None:
    first, second = check_inputs(WINDOW), check_inputs(WINDOW)
    assert sum(item.natural for item in first) >= 5
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.waveforms, b.waveforms)
    levels = [20 * np.log10(item.waveforms.std()) for item in first if item.natural]
    assert max(levels) - min(levels) > 20


def test_missing_check_audio_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match="does not exist"):
        check_inputs(WINDOW, [tmp_path / "none"])
    with pytest.raises(AudioError, match="holds no recordings"):
        check_inputs(WINDOW, [tmp_path])


def test_hidden_files_are_passed_over(tmp_path: Path) -> None:
    """The ``._x.wav`` that macOS leaves on cards hold no audio; neither does what a program keeps in hidden folders."""
    soundfile.write(tmp_path / "x.wav", np.zeros(3 * 32_000), 32_000)
    (tmp_path / "._x.wav").write_bytes(b"\x00\x05\x16\x07 not a recording")
    (tmp_path / ".trash").mkdir()
    (tmp_path / ".trash" / "y.wav").write_bytes(b"")
    assert recordings_in(tmp_path) == [tmp_path / "x.wav"]
    assert [item.name for item in check_inputs(WINDOW, [tmp_path]) if item.natural] == ["x.wav"]


@pytest.mark.parametrize("window", [WindowSpec(48_000, 3.0), WindowSpec(24_000, 2.5)])
def test_windows_are_of_the_models_length(window: WindowSpec, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", np.linspace(0, 0.5, 10 * 32_000), 32_000, subtype="FLOAT")
    for item in (*check_inputs(window), *check_inputs(window, [tmp_path])):
        assert item.waveforms.dtype == np.float32
        assert item.waveforms.shape[1] == window.samples
    last = check_inputs(window, [tmp_path])[0].waveforms[0, -1]
    assert last == pytest.approx(0.5 * window.window_s / 10, abs=2e-3)

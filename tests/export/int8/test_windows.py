"""Calibration windows: where they come from, that the groups share nothing, and what is refused or said."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support.tiny_bundle import RATE, WINDOW_S

from bce.engine.errors import AudioError, OptionsError
from bce.engine.frontends.waveform import Waveform
from bce.engine.geometry import WindowSpec
from bce.export.int8 import windows as windows_module
from bce.export.int8.windows import GROUP_WINDOWS, Group, Windows, calibration_cuts

WINDOW = WindowSpec(RATE, WINDOW_S)


def write(path: Path, seconds: int, level: float = 0.1, seed: int = 0, rate: int = RATE) -> np.ndarray:
    samples = level * np.random.default_rng(seed).uniform(-1, 1, seconds * rate)
    soundfile.write(path, samples, rate, subtype="FLOAT")
    return samples.astype(np.float32)


def cut(*paths: Path) -> Windows:
    said: list[str] = []
    windows = calibration_cuts(paths, WINDOW, said.append).windows(Waveform(WINDOW))
    assert tuple(said) == windows.notes
    return windows


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight recordings of 20 s."""
    for number in range(8):
        write(tmp_path / f"{number}.wav", 20, seed=number)
    return tmp_path


def natural(group: Group) -> np.ndarray:
    """The windows of the group that are cut out of recordings as they are."""
    return group.inputs[~group.quiet]


def windows_of(samples: np.ndarray) -> set[bytes]:
    return {one.tobytes() for one in samples.reshape(-1, WINDOW.samples)}


def test_recordings_go_to_the_groups_in_turn(folder: Path) -> None:
    windows = cut(folder)
    assert windows.recordings == 8
    assert windows.independent
    assert windows.notes == ()
    audio = [windows_of(soundfile.read(folder / f"{number}.wav", dtype="float32")[0]) for number in range(8)]
    for group, first in ((windows.calibrate, 0), (windows.judge, 1)):
        counts = [sum(one.tobytes() in recording for one in natural(group)) for recording in audio]
        assert counts == [20 if number % 2 == first else 0 for number in range(8)]


def test_a_fourth_is_repeated_more_quietly_and_silence_is_there(folder: Path) -> None:
    for group in (cut(folder).calibrate, cut(folder).judge):
        loud, quiet = natural(group), group.inputs[group.quiet]
        assert len(loud) == 80  # of all that sound
        assert len(group.inputs) == 80 + 80 // 4 + 2
        assert (group.made == group.quiet).all()
        for place, one in enumerate(quiet[:-2]):
            assert np.allclose(one, loud[4 * place] * (0.01, 0.001)[place % 2], rtol=1e-6)
        assert -91 < 20 * np.log10(quiet[-2].std()) < -89
        assert not quiet[-1].any()
        wanted = [20 * np.log10(max(one.astype(float).std(), 1e-10)) for one in group.inputs]
        assert np.allclose(group.level_db, wanted)
    assert not np.array_equal(cut(folder).calibrate.inputs[-2], cut(folder).judge.inputs[-2])


def test_it_is_the_same_every_time(folder: Path) -> None:
    assert np.array_equal(cut(folder).judge.inputs, cut(folder).judge.inputs)


def test_windows_are_of_all_the_audio_and_the_quietest_are_among_them(tmp_path: Path) -> None:
    for number in range(2):
        samples = 0.1 * np.random.default_rng(number).uniform(-1, 1, (300, RATE)).astype(np.float32)
        samples[[77, 78, 203]] *= 0.015
        soundfile.write(tmp_path / f"{number}.wav", samples.ravel(), RATE, subtype="FLOAT")
        (tmp_path / f"{number}.npy").write_bytes(samples.tobytes())
    for number, group in enumerate((cut(tmp_path).calibrate, cut(tmp_path).judge)):
        samples = np.frombuffer((tmp_path / f"{number}.npy").read_bytes(), np.float32).reshape(300, RATE)
        places = [row for one in group.inputs for row in range(300) if np.array_equal(samples[row], one)]
        assert len(places) == GROUP_WINDOWS
        assert {77, 78, 203} <= set(places)
        assert all(any(first <= place < first + 30 for place in places) for first in range(0, 300, 30))
        quiet = [place for place, one in enumerate(group.inputs) if one.tobytes() == samples[77].tobytes()]
        assert group.quiet[quiet].all()  # at -61 dB


def test_short_recordings_leave_room_for_more_of_long_ones(tmp_path: Path) -> None:
    for number in range(10):
        write(tmp_path / f"{number}.wav", 2 if number > 1 else 30, seed=number)
    for group in (cut(tmp_path).calibrate, cut(tmp_path).judge):
        # an equal share would be 13 of the long one
        assert 13 + 4 * 2 < len(natural(group)) <= 30 + 4 * 2


def test_at_most_so_many_recordings_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows_module, "MOST_RECORDINGS", 20)
    for number in range(27):
        write(tmp_path / f"{number}.wav", 3, seed=number)
    assert cut(tmp_path).recordings == 20


def test_one_recording_is_judged_on_its_second_half(tmp_path: Path) -> None:
    samples = write(tmp_path / "only.wav", 60).reshape(60, -1)
    write(tmp_path / "short.wav", 2, seed=1)
    windows = cut(tmp_path)
    assert not windows.independent
    assert windows.recordings == 1
    assert "one recording" in windows.notes[0]
    assert "not independent" in windows.notes[0]
    for group, half in ((windows.calibrate, samples[:30]), (windows.judge, samples[30:])):
        assert {one.tobytes() for one in natural(group)} == {one.tobytes() for one in half}


def test_copies_count_once(folder: Path) -> None:
    alone = cut(folder)
    for number in range(3):
        shutil.copy(folder / "0.wav", folder / f"copy of 0, {number}.wav")
    windows = cut(folder)
    assert windows.notes == ("3 recordings left out: copies of others",)
    assert np.array_equal(windows.calibrate.inputs, alone.calibrate.inputs)
    twice = cut(folder, folder)
    assert twice.notes == ("14 recordings left out: copies of others",)
    assert np.array_equal(twice.judge.inputs, alone.judge.inputs)


def test_of_low_sample_rate(folder: Path) -> None:
    write(folder / "9.wav", 20, seed=9, rate=RATE // 2)
    (line,) = cut(folder).notes
    assert line.startswith("recordings with a sample rate below 8000 Hz: 1 of 9, the lowest 4000 Hz;")


def test_silent_windows_are_passed_over(folder: Path) -> None:
    samples = np.zeros((20, RATE), np.float32)
    samples[:10] = 0.25  # constant: nothing varies
    samples[-1] = 1e-5  # below -80 dB, were it not constant as well
    soundfile.write(folder / "9.wav", samples.ravel(), RATE, subtype="FLOAT")
    windows = cut(folder)
    assert windows.recordings == 8
    assert windows.notes == ("20 of 180 windows (11%) are silent, and were passed over",)
    assert sum(not one.any() for group in (windows.calibrate, windows.judge) for one in group.inputs) == 2


def test_damaged_recordings_are_left_out(folder: Path) -> None:
    (folder / "9.wav").write_bytes(b"RIFF and nothing")
    write(folder / "cut.wav", 20, seed=10)
    whole = (folder / "cut.wav").read_bytes()
    (folder / "cut.wav").write_bytes(whole[: len(whole) // 2])
    windows = cut(folder)
    assert windows.recordings == 8
    assert len(windows.notes) == 2
    for line, name in zip(windows.notes, ("9.wav", "cut.wav"), strict=True):
        assert line.startswith("left out: ")
        assert name in line


def test_long_recordings_are_not_read_to_their_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bce.export.int8.windows.MOST_AUDIO_S", 40)
    monkeypatch.setattr("bce.export.int8.windows.LEAST_AUDIO_S", 5)
    for number in range(2):
        write(tmp_path / f"{number}.wav", 60, seed=number)
    windows = cut(tmp_path)
    assert windows.notes == ("of 2 recordings only about the first 20 s were read",)
    assert 20 <= len(natural(windows.judge)) < 40


# refused --------------------------------------------------------------------------------------------------------------


def test_no_recordings(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=f"{tmp_path}: holds no recordings to calibrate int8 on: give audio files"):
        cut(tmp_path)
    with pytest.raises(OptionsError, match="no recordings to calibrate int8 on: give audio files"):
        cut()
    with pytest.raises(OptionsError, match="nowhere: does not exist"):
        cut(tmp_path / "nowhere")


@pytest.mark.parametrize("samples", [np.zeros(20 * RATE), np.full(20 * RATE, 0.3), 1e-5 * np.ones(20 * RATE)])
def test_nothing_sounds(tmp_path: Path, samples: np.ndarray) -> None:
    soundfile.write(tmp_path / "flat.wav", samples, RATE, subtype="FLOAT")
    with pytest.raises(OptionsError, match=r"all 20 windows of 1 s are silent \(below -80 dB") as caught:
        cut(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_too_little_sounds(tmp_path: Path) -> None:
    write(tmp_path / "0.wav", 10)
    write(tmp_path / "1.wav", 5, seed=1)
    with pytest.raises(OptionsError, match=r"15 windows of 1 s that sound in 2 recordings: .* at least 16") as caught:
        cut(tmp_path)
    assert str(tmp_path) in str(caught.value)
    write(tmp_path / "2.wav", 1, seed=2)
    assert len(natural(cut(tmp_path).judge)) == 5


def test_nothing_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF and nothing")
    with pytest.raises(AudioError, match="none of 1 recording can be read"):
        cut(tmp_path)


def test_halves_of_a_group_share_nothing(folder: Path) -> None:
    """Windows that were recorded and windows that were made are in both, in the order of the recordings."""
    group = cut(folder).judge
    one, other = group.halves()
    both = one.joined(other)
    assert sorted(both.level_db) == sorted(group.level_db)
    assert {window.tobytes() for window in both.inputs} == {window.tobytes() for window in group.inputs}
    for half in (one, other):
        assert (~half.made).sum() == 40
        assert half.made.sum() == 11
    assert np.array_equal(natural(group), np.concatenate([natural(one), natural(other)]))

"""BirdNET v2.4's spectrograms of windows, against the definition per window in float64."""

from __future__ import annotations

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st
from support.second_family import write_bundle

from bce.engine.errors import BundleError
from bce.engine.frontends.base import FrontendSpec, make_frontend
from bce.engine.frontends.birdnet import (
    ARRAYS,
    SHAPE,
    WINDOW,
    BirdnetFrontend,
    Branch,
    normalised,
    read_arrays,
    spec,
    write_arrays,
)
from bce.engine.geometry import ChunkGrid, WindowSpec
from bce.engine.network.bundle import Bundle

RATE = 48_000
LENGTH = 3 * RATE
PROMISED = 1e-6  # relative L2 of each branch


def mel_weights(length: int, lowest: float, highest: float) -> np.ndarray:
    """TensorFlow's ``linear_to_mel_weight_matrix``, band by band and bin by bin: float32 [96, bins]."""
    mel = lambda hertz: 1127 * np.log(1 + hertz / 700)  # noqa: E731
    edges = np.linspace(mel(lowest), mel(highest), 98)
    weights = np.zeros((96, length // 2 + 1))
    for band in range(96):
        left, centre, right = edges[band : band + 3]
        for k in range(1, length // 2 + 1):
            at = mel(k * RATE / length)
            weights[band, k] = max(0, min((at - left) / (centre - left), (right - at) / (right - centre)))
    return weights.astype(np.float32)


def branch(length: int, step: int, hertz: tuple[float, float], learnt: float, scale: float, shift: float) -> Branch:
    hann = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)).astype(np.float32)
    return Branch(length, step, hann, mel_weights(length, *hertz), 1 / (1 + np.exp(learnt)), scale, shift)


BRANCHES = (
    branch(2048, 278, (0, 3000), 1.21, 0.2, -0.65),
    branch(1024, 280, (500, 15_000), 1.45, 3.2, -0.35),
)
FRONTEND = BirdnetFrontend(BRANCHES)


def definition(window: np.ndarray, branches: tuple[Branch, ...] = BRANCHES) -> np.ndarray:
    """The published frontend: float32 up to the frames, float64 behind them."""
    x = window - window.min()
    x = np.float32(2) * (x / (x.max() + np.float32(1e-6)) - np.float32(0.5))
    pictures = []
    for b in branches:
        frames = np.stack([x[t * b.step : t * b.step + b.length] * b.window for t in range(511)])
        assert frames.dtype == np.float32
        mel = np.fft.rfft(frames.astype(np.float64)).real @ b.mel.T.astype(np.float64)
        pictures.append((b.scale * (mel**2) ** b.exponent + b.shift).T[::-1])
    return np.stack(pictures)


def spectrogram(window: np.ndarray, frontend: BirdnetFrontend = FRONTEND) -> np.ndarray:
    out = np.full(SHAPE, np.nan, np.float32)
    frontend.open(window).window(0, out)
    return out


def check(window: np.ndarray, branches: tuple[Branch, ...] = BRANCHES) -> None:
    frontend = FRONTEND if branches is BRANCHES else BirdnetFrontend(branches)
    for got, expected in zip(spectrogram(window, frontend), definition(window, branches), strict=True):
        assert np.linalg.norm(got - expected) <= PROMISED * np.linalg.norm(expected)


def sounds() -> dict[str, np.ndarray]:
    random = np.random.default_rng(7)
    time = np.arange(LENGTH) / RATE
    noise = random.standard_normal(LENGTH)
    band_limited = scipy.signal.resample(random.standard_normal(LENGTH // 4), LENGTH)  # nothing above 6 kHz
    calls = np.sin(2 * np.pi * 4000 * time + 400 * np.sin(2 * np.pi * 4 * time)) * (np.sin(2 * np.pi * time) > 0.5)
    return {
        "noise": 0.1 * noise,
        "calls over noise": 0.01 * scipy.signal.lfilter([0.03], [1, -0.97], noise) + 0.3 * calls,
        "empty upper bands": 0.1 * band_limited,
        "empty upper bands, quiet": 1e-4 * band_limited,
        "empty lower bands": scipy.signal.sosfilt(
            scipy.signal.butter(10, 8000, "high", fs=RATE, output="sos"), 0.1 * noise
        ),
        "silence": np.zeros(LENGTH),
        "direct current": np.full(LENGTH, 0.3),
        "square wave": np.sign(np.sin(2 * np.pi * 440 * time)),
        "square wave of 16 samples": np.where(np.arange(LENGTH) // 8 % 2, 1, -1),
        "low tone": np.sin(2 * np.pi * 50 * time),
        "tone at a bin": np.sin(2 * np.pi * 1500 * time),
        "impulse": np.eye(1, LENGTH, 70_000)[0],
        "first and last sample": np.eye(1, LENGTH)[0] - np.eye(1, LENGTH, LENGTH - 1)[0],
        "half silent": np.where(time < 1.5, 0.1 * noise, 0),
        "last bits of 16": random.integers(-1, 2, LENGTH) / 32_768,
        "integer scale": 20_000 * noise,
        "below the divisor's 1e-6": 1e-8 * noise,
    }


SOUNDS = {name: samples.astype(np.float32) for name, samples in sounds().items()}


@pytest.mark.parametrize("name", SOUNDS)
def test_spectrograms_equal_the_definition(name: str) -> None:
    check(SOUNDS[name])


def test_real_recordings(shared: Path) -> None:
    from bce.engine.audio.reader import AudioReader

    for name in ("misc/birdnet_soundscape.flac", "misc/perchv2_pytorch_sample.wav", "scikit_maad/spinetail.wav"):
        with AudioReader(shared / "data/audio" / name, RATE, ChunkGrid(3.0), 2.0) as reader:
            for block in reader:
                check(block.samples[:LENGTH])
                check(block.samples[-LENGTH:])


@pytest.mark.parametrize("name", SOUNDS)
def test_samples_are_rounded_as_in_the_source(name: str) -> None:
    x = SOUNDS[name]
    x1 = x - x.min()
    expected = np.float32(2) * (x1 / (x1.max() + np.float32(1e-6)) - np.float32(0.5))
    assert expected.dtype == np.float32
    np.testing.assert_array_equal(normalised(x), expected)


def test_silence_is_minus_one() -> None:
    assert (normalised(SOUNDS["silence"]) == -1).all()
    assert (normalised(SOUNDS["direct current"]) == -1).all()


def test_an_empty_band_is_the_shift_exactly() -> None:
    mel = BRANCHES[0].mel.copy()
    mel[5] = 0
    out = spectrogram(SOUNDS["noise"], BirdnetFrontend((dataclasses.replace(BRANCHES[0], mel=mel), BRANCHES[1])))
    assert (out[0, 95 - 5] == np.float32(-0.65)).all()
    assert (out[0, 95 - 6] > np.float32(-0.65)).all()


@pytest.mark.parametrize("length", [1024, 3072, 4096])
def test_windows_and_bands_of_any_form(length: int) -> None:
    """No Hann window, and bands with gaps, that overlap, that reach from the lowest bin to the highest."""
    random = np.random.default_rng(length)
    window = random.uniform(0.1, 1, length).astype(np.float32)
    mel = random.uniform(-1, 1, (96, length // 2 + 1)).astype(np.float32)
    mel[:90] *= random.uniform(size=(90, length // 2 + 1)) < 0.01
    check(SOUNDS["noise"], (Branch(length, 200, window, mel, 0.7, 1, 0), BRANCHES[1]))


@settings(max_examples=10, deadline=None)
@given(start=st.integers(0, LENGTH), first_sample=st.integers(0, 10**9))
def test_a_window_lies_anywhere_in_a_block(start: int, first_sample: int) -> None:
    samples = np.concatenate([SOUNDS["calls over noise"], SOUNDS["noise"]])
    out = np.full((3, *SHAPE), np.nan, np.float32)
    FRONTEND.open(samples, first_sample).window(first_sample + start, out[1])
    np.testing.assert_array_equal(out[1], spectrogram(samples[start : start + LENGTH]))
    assert np.isnan(out[[0, 2]]).all()


def test_threads_do_not_meet() -> None:
    block = FRONTEND.open(np.concatenate([SOUNDS["noise"], SOUNDS["calls over noise"]]))
    starts = range(0, LENGTH, LENGTH // 20)

    def of(start: int) -> np.ndarray:
        out = np.empty(SHAPE, np.float32)
        block.window(start, out)
        return out

    with ThreadPoolExecutor(4) as pool:
        for together, alone in zip(pool.map(of, starts), map(of, starts), strict=True):
            np.testing.assert_array_equal(together, alone)


def test_windows_outside_and_other_outputs_are_refused() -> None:
    block = FRONTEND.open(np.zeros(LENGTH + 1, np.float32), 100)
    out = np.zeros(SHAPE, np.float32)
    for start in (99, 102):
        with pytest.raises(ValueError, match=f"a window at sample {start} is outside the block"):
            block.window(start, out)
    for wrong in (out[:, :, ::-1], out[:1], out.astype(np.float64)):
        with pytest.raises(ValueError, match="expected dense float32"):
            block.window(100, wrong)
    with pytest.raises(ValueError, match="a block of 143999 samples"):
        FRONTEND.open(np.zeros(LENGTH - 1, np.float32))
    with pytest.raises(ValueError, match="1 branches, expected 2"):
        BirdnetFrontend(BRANCHES[:1])


# the arrays and their file --------------------------------------------------------------------------------------------

NAMES = ("length", "step", "window", "mel", "exponent", "scale", "shift")


def assert_same(read: tuple[Branch, ...], written: tuple[Branch, ...]) -> None:
    for one, other in zip(read, written, strict=True):
        for name in NAMES:
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), strict=True)


@settings(max_examples=20, deadline=None)
@given(
    lengths=st.tuples(*[st.integers(1, 4)] * 2),
    step=st.integers(1, 273),
    exponent=st.floats(0, 1, exclude_min=True, exclude_max=True),
    scale=st.floats(allow_nan=False, allow_infinity=False),
    seed=st.integers(0, 100),
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, lengths, step: int, exponent: float, scale: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    written = tuple(
        Branch(
            1024 * n,
            step,
            random.standard_normal(1024 * n).astype(np.float32),
            random.standard_normal((96, 512 * n + 1)).astype(np.float32),
            exponent,
            scale,
            -scale,
        )
        for n in lengths
    )
    folder = tmp_path_factory.mktemp("arrays")
    write_arrays(written, folder / "a.npz")
    assert_same(read_arrays(folder / "a.npz"), written)
    write_arrays(read_arrays(folder / "a.npz"), folder / "b.npz")
    assert (folder / "a.npz").read_bytes() == (folder / "b.npz").read_bytes()


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("bundle") / ARRAYS
    write_arrays(BRANCHES, file)
    return file


@settings(max_examples=60, deadline=None)
@given(data=st.data(), kind=st.sampled_from(["cut", "changed", "dropped"]))
def test_a_damaged_file_is_refused(
    tmp_path_factory: pytest.TempPathFactory, arrays: Path, data: st.DataObject, kind: str
) -> None:
    content = arrays.read_bytes()
    near_an_end = st.integers(0, 300) | st.integers(len(content) - 900, len(content) - 1)
    at = data.draw(near_an_end | st.integers(0, len(content) - 1))
    rest = {
        "cut": b"",
        "dropped": content[at + 1 :],
        "changed": bytes([content[at] ^ data.draw(st.integers(1, 255))]) + content[at + 1 :],
    }[kind]
    file = tmp_path_factory.mktemp("damaged") / ARRAYS
    file.write_bytes(content[:at] + rest)
    try:
        read = read_arrays(file)
    except BundleError as error:
        said = error.path, str(error).count("\n")
    else:  # a date, say
        assert_same(read, BRANCHES)
        return
    assert said == (str(file), 0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"mel_3": np.zeros(1)}, "is not a file of BirdNET's two spectrograms: expected the arrays mel_1, mel_2"),
        ({"numbers_1": np.zeros(3)}, "'numbers_1' is not four finite float64"),
        ({"numbers_1": np.full(4, np.nan)}, "'numbers_1' is not four finite float64"),
        ({"numbers_2": np.array([2.5, 0.5, 1, 0])}, "'numbers_2' has the step 2.5, expected a whole number"),
        (
            {"mel_1": np.zeros((96, 3), np.float32)},
            "spectrogram 1: 'mel' is float32 [96, 3], expected float32 [96, 1025]",
        ),
        ({"window_2": np.zeros(0, np.float32)}, "spectrogram 2: frames of 0 samples, expected a multiple of 1024"),
        ({"window_2": np.array([{}])}, "is not a file of BirdNET's two spectrograms, or damaged (Object arrays"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, arrays: Path, change: dict, reason: str) -> None:
    with np.load(arrays) as found:
        content = {**found, **change}
    np.savez(tmp_path / "other.npz", **content)
    with pytest.raises(BundleError) as caught:
        read_arrays(tmp_path / "other.npz")
    assert str(caught.value).startswith(f"{tmp_path / 'other.npz'}: {reason}")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"length": 1000}, "frames of 1000 samples, expected a multiple of 1024"),
        ({"length": 142 * 1024}, "expected a multiple of 1024 up to 143490"),
        ({"step": 0}, "every 0, expected every 1 to 278"),
        ({"step": 279}, "every 279, expected every 1 to 278"),
        ({"window": np.zeros(2048)}, r"'window' is float64 \[2048\], expected float32 \[2048\]"),
        ({"window": np.full(2048, np.inf, np.float32)}, "'window' holds numbers that are not finite"),
        ({"mel": np.zeros((96, 1024), np.float32)}, r"expected float32 \[96, 1025\]"),
        ({"exponent": 0.0}, "the exponent 0 is not between 0 and 1"),
        ({"exponent": float("nan")}, "the exponent nan is not between 0 and 1"),
        ({"scale": float("inf")}, "'scale' is inf, expected a finite number"),
        ({"shift": float("nan")}, "'shift' is nan, expected a finite number"),
    ],
)
def test_impossible_branches_are_refused(change: dict, reason: str) -> None:
    with pytest.raises(BundleError, match=reason):
        dataclasses.replace(BRANCHES[0], **change)


def test_one_branch_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="1 spectrograms, expected 2"):
        write_arrays(BRANCHES[:1], tmp_path / ARRAYS)
    assert not any(tmp_path.iterdir())


# in a bundle ----------------------------------------------------------------------------------------------------------


def test_the_frontend_of_a_folder(arrays: Path) -> None:
    found = spec(arrays)
    assert found == FrontendSpec("birdnet_v24", {"arrays": sha256(arrays.read_bytes()).hexdigest()})
    out = np.empty(SHAPE, np.float32)
    frontend = make_frontend(found, WINDOW, arrays.parent)
    assert frontend.shape == SHAPE
    frontend.open(SOUNDS["noise"]).window(0, out)
    np.testing.assert_array_equal(out, spectrogram(SOUNDS["noise"]))


def test_other_windows_settings_and_folders_are_refused(arrays: Path, tmp_path: Path) -> None:
    right = spec(arrays).settings
    for given_settings, window, folder, reason in (
        (right, WindowSpec(32_000, 3), arrays.parent, "field 'window' is 3 s at 32000 Hz"),
        ({}, WINDOW, arrays.parent, "lacks the field 'frontend.arrays'"),
        ({**right, "more": 1}, WINDOW, arrays.parent, "has the unknown field 'frontend.more'"),
        ({"arrays": ["0"]}, WINDOW, arrays.parent, "'frontend.arrays' names: its SHA-256 is .*, expected a list"),
        ({"arrays": "0" * 64}, WINDOW, arrays.parent, f"{ARRAYS}: is not the file that field 'frontend.arrays' names"),
        (right, WINDOW, None, "needs the folder of its bundle"),
        (right, WINDOW, tmp_path, f"{ARRAYS}: cannot be read"),
    ):
        with pytest.raises(BundleError, match=reason):
            make_frontend(FrontendSpec("birdnet_v24", given_settings), window, folder)


def test_a_bundle_finds_its_arrays(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    write_bundle(folder)
    write_arrays(BRANCHES, folder / ARRAYS)
    manifest = json.loads((folder / "bundle.json").read_text())
    found = spec(folder / ARRAYS)
    manifest["frontend"] = {"kind": found.kind, **found.settings}
    manifest["input"]["shape"] = list(SHAPE)
    manifest["files"][ARRAYS] = found.settings["arrays"]
    (folder / "bundle.json").write_text(json.dumps(manifest))
    assert Bundle.load(folder).frontend().shape == SHAPE
    write_arrays(BRANCHES[::-1], folder / ARRAYS)
    with pytest.raises(BundleError, match=f"{ARRAYS}: is not the file"):
        Bundle.load(folder, verify=False).frontend()

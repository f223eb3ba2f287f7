"""The log-mel of windows cut from a block, against the definition per window in float64."""

from __future__ import annotations

import re

import numpy as np
import pytest
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st

from bce.engine.errors import BundleError
from bce.engine.frontends.base import FrontendSpec, make_frontend
from bce.engine.frontends.melbank import mel_levels, mel_matrix
from bce.engine.frontends.perch import WINDOW as SPEC
from bce.engine.frontends.perch import LogMelBlock, PerchFrontend, log_mel, log_mel_reference, spec
from bce.engine.geometry import ChunkGrid, WindowSpec

RATE = 32_000
WINDOW = 5 * RATE
PREPARATIONS = ("none", "peak", "hoplite")
NATURAL = 1e-5  # promised for natural audio
EXTREME = 2e-4  # promised for full-scale tones and large DC


def mel_weights() -> np.ndarray:
    """Triangles on the HTK mel scale, bin by bin and band by band."""
    mel = lambda hertz: 1127 * np.log(1 + hertz / 700)  # noqa: E731
    edges = np.linspace(mel(60), mel(16_000), 130)
    weights = np.zeros((513, 128))
    for k in range(1, 513):
        at = mel(k * 31.25)
        for band in range(128):
            left, centre, right = edges[band : band + 3]
            if left < at < right:
                weights[k, band] = (at - left) / (centre - left) if at < centre else (right - at) / (right - centre)
    return weights


WEIGHTS = mel_weights()


def levels_by_numpy(samples: np.ndarray) -> np.ndarray:
    """0.1 ln of the mel magnitudes of whole frames, in float64."""
    hann = np.hanning(640) / np.hanning(640).sum()
    frames = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64), 640)[::320]
    return 0.1 * np.log(np.maximum(np.abs(np.fft.rfft(frames * hann, 1024)) @ WEIGHTS, 1e-30))


def definition(window: np.ndarray, preparation: str) -> np.ndarray:
    """The published frontend on one window, by scipy's short-time Fourier transform in float64."""
    x = window.astype(np.float64)
    if preparation == "hoplite":
        x = x - x.mean()
    if preparation != "none" and np.abs(x).max() > 0:
        x = x / np.abs(x).max() * 0.25
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(640) / 639)
    hann /= 319.5
    padded = np.concatenate([np.zeros(160), x, np.zeros(160)])
    _, _, spectra = scipy.signal.stft(
        padded, window=hann, nperseg=640, noverlap=320, nfft=1024, boundary=None, padded=False, scaling="spectrum"
    )
    magnitudes = np.abs(spectra.T) * hann.sum()  # scipy divides by the window's sum, which is 1 up to rounding
    assert magnitudes.shape == (500, 513)
    return 0.1 * np.log(np.maximum(magnitudes @ WEIGHTS, 1e-5))


def natural(seconds: float = 20, seed: int = 0) -> np.ndarray:
    """Calls over coloured noise, with quiet and loud stretches."""
    random = np.random.default_rng(seed)
    count = round(seconds * RATE)
    time = np.arange(count) / RATE
    noise = scipy.signal.lfilter([0.03], [1, -0.97], random.standard_normal(count))
    level = np.exp(1.5 * np.sin(2 * np.pi * time / 7))
    calls = np.sin(2 * np.pi * 3000 * time + 400 * np.sin(2 * np.pi * 4 * time)) * (np.sin(2 * np.pi * time) > 0.5)
    return (0.05 * level * (noise + 0.5 * calls)).astype(np.float32)


def check(samples: np.ndarray, preparation: str, starts, tolerance: float, first_sample: int = 0) -> None:
    block = PerchFrontend(preparation).open(samples, first_sample)
    for start in starts:
        window = samples[start - first_sample :][:WINDOW]
        got = np.full((500, 128), np.nan, np.float32)
        block.window(int(start), got)
        np.testing.assert_allclose(got, definition(window, preparation), atol=tolerance, rtol=0)


def grid(samples: np.ndarray) -> list[int]:
    """First, last and some windows between, on the 320-sample grid."""
    last = len(samples) - WINDOW
    return [0, 320, last // 2 // 320 * 320, last // 320 * 320]


def test_mel_matrix_is_the_published_one():
    matrix = mel_matrix()
    np.testing.assert_allclose(matrix, WEIGHTS, atol=1e-12)
    assert np.count_nonzero(matrix) == 1007
    assert not matrix[[0, 512]].any()
    assert matrix.any(axis=0).all()


@pytest.mark.parametrize("preparation", PREPARATIONS)
def test_the_reference_equals_the_definition(preparation):
    window = natural(5, seed=3)
    reference = log_mel_reference(window, preparation)
    assert reference.dtype == np.float64
    np.testing.assert_allclose(reference, definition(window, preparation), atol=1e-9)


@pytest.mark.parametrize("preparation", PREPARATIONS)
def test_natural_audio(preparation):
    samples = natural(20)
    check(samples, preparation, grid(samples), NATURAL)


@settings(max_examples=15, deadline=None)
@given(step=st.integers(0, 699), first=st.integers(0, 10_000), seed=st.integers(0, 100), ragged=st.integers(0, 319))
@pytest.mark.parametrize("preparation", PREPARATIONS)
def test_any_window_of_any_block(preparation, step, first, seed, ragged):
    samples = natural(12, seed)
    samples = samples[: len(samples) - ragged]
    check(samples, preparation, [(first + step) * 320], NATURAL, first * 320)


@pytest.mark.parametrize("preparation", PREPARATIONS)
def test_real_recordings(shared, preparation):
    from bce.engine.audio.reader import AudioReader

    for name in ("opensoundscape_1min.wav", "birdnet_soundscape.ogg", "perchv2_pytorch_sample.wav"):
        with AudioReader(shared / "data/audio/misc" / name, RATE, ChunkGrid(5.0), 2.0) as reader:
            for block in reader:
                starts = [block.start_sample + start for start in grid(block.samples)]
                check(block.samples, preparation, starts, NATURAL, block.start_sample)


def extremes() -> dict[str, np.ndarray]:
    random = np.random.default_rng(5)
    time = np.arange(8 * RATE) / RATE
    impulses = np.zeros(8 * RATE)
    for edge in (0, 159, 160, 479, 480, WINDOW - 1, WINDOW, WINDOW + 319, WINDOW + 320, 8 * RATE - 1):
        impulses[edge] = 1
    half_silent = natural(8, 1)
    half_silent[4 * RATE :] = 0
    dc_step = 0.9 + 1e-3 * random.standard_normal(8 * RATE)
    dc_step[4 * RATE :] = 0
    return {
        "tone": np.sin(2 * np.pi * 1000 * time),
        "tone at a bin": np.sin(2 * np.pi * 8000 * time),
        "tone near the top": np.sin(2 * np.pi * 15_990 * time),
        "two tones 90 dB apart": np.sin(2 * np.pi * 500 * time) + 3e-5 * np.sin(2 * np.pi * 9000 * time),
        "direct current": np.ones(8 * RATE),
        "noise on direct current": 0.9 + 1e-3 * random.standard_normal(8 * RATE),
        "direct current that stops": dc_step,
        "drift": np.linspace(-1, 1, 8 * RATE) + 1e-2 * random.standard_normal(8 * RATE),
        "clipped noise": np.clip(3 * random.standard_normal(8 * RATE), -1, 1),
        "square wave": np.sign(np.sin(2 * np.pi * 440 * time)),
        "impulses at the edges": impulses,
        "one sample": np.eye(1, 8 * RATE, 5 * RATE)[0],
        "negative peak": -np.abs(natural(8)),
        "half silent": half_silent,
        "16-bit dither": np.round(random.standard_normal(8 * RATE)) / 32_768,
        "quiet": 1e-7 * random.standard_normal(8 * RATE),
        "integer scale": 20_000 * random.standard_normal(8 * RATE),
    }


@pytest.mark.parametrize("preparation", PREPARATIONS)
@pytest.mark.parametrize("kind", extremes())
def test_extremes(preparation, kind):
    samples = extremes()[kind].astype(np.float32)
    check(samples, preparation, grid(samples), EXTREME)


@pytest.mark.parametrize("preparation", PREPARATIONS)
def test_silence_stays_silent(preparation):
    samples = np.zeros(6 * RATE, np.float32)
    np.testing.assert_array_equal(
        log_mel(samples[320 : 320 + WINDOW], preparation), np.full((500, 128), 0.1 * np.log(1e-5), np.float32)
    )


def test_constant_samples_are_silent_without_their_mean():
    samples = np.full(6 * RATE, 0.3, np.float32)
    assert (log_mel(samples[:WINDOW], "hoplite") == np.float32(0.1 * np.log(1e-5))).all()


def test_windows_are_written_into_the_array_given():
    samples = natural(6)
    batch = np.full((2, 500, 128), np.nan, np.float32)
    LogMelBlock(samples, "none").window(320, batch[1])
    np.testing.assert_allclose(batch[1], log_mel(samples[320 : 320 + WINDOW], "none"), atol=1e-6)
    assert np.isnan(batch[0]).all()


@pytest.mark.parametrize("start", [-320, 1, 160, 32_320, 10**9])
def test_windows_off_the_grid_or_outside_are_refused(start):
    with pytest.raises(ValueError, match="off the 320-sample grid or outside"):
        LogMelBlock(np.zeros(6 * RATE, np.float32), "none").window(start, np.empty((500, 128), np.float32))


def test_impossible_blocks_and_preparations_are_refused():
    samples = np.zeros(6 * RATE, np.float32)
    with pytest.raises(ValueError, match="at least 160000"):
        LogMelBlock(samples[: WINDOW - 1], "none")
    with pytest.raises(ValueError, match="multiple of 320"):
        LogMelBlock(samples, "none", 100)
    with pytest.raises(ValueError, match="expected one of none, peak, hoplite"):
        PerchFrontend("loud")  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None)
@given(
    frames=st.integers(1, 300),
    extra=st.integers(0, 319),
    seed=st.integers(0, 1000),
    scale=st.sampled_from([1e-12, 1e-4, 1.0, 1e6]),
)
def test_levels_of_any_number_of_frames(frames, extra, seed, scale):
    samples = (scale * np.random.default_rng(seed).uniform(-1, 1, 320 * (frames + 1) + extra)).astype(np.float32)
    # 1e-6 of a magnitude is 1e-7 of a level; the rest is the rounding of the level itself
    np.testing.assert_allclose(mel_levels(samples), levels_by_numpy(samples), atol=1e-7, rtol=2**-23)


@settings(max_examples=30, deadline=None)
@given(
    kind=st.sampled_from(["silence", "impulse", "constant", "tone", "quiet", "two tones"]),
    at=st.integers(0, WINDOW + 63_999),
    hertz=st.floats(1, 16_000),
    level=st.sampled_from([1.0, 1e-2, 1e-4, 1e-6]),
    first=st.integers(0, 200),
)
@pytest.mark.parametrize("preparation", PREPARATIONS)
def test_any_window_of_signals_that_are_no_recordings(preparation, kind, at, hertz, level, first):
    time = np.arange(WINDOW + 64_000) / RATE
    samples = {
        "silence": np.zeros_like(time),
        "impulse": np.eye(1, len(time), at)[0],
        "constant": np.ones_like(time),
        "tone": np.sin(2 * np.pi * hertz * time),
        "quiet": np.random.default_rng(at).normal(0, 1e-3, len(time)),
        "two tones": np.sin(2 * np.pi * hertz * time) + 1e-4 * np.sin(2 * np.pi * (16_000 - hertz) * time),
    }[kind]
    check((level * samples).astype(np.float32), preparation, [first * 320], EXTREME)


@pytest.mark.parametrize("preparation", PREPARATIONS)
def test_windows_do_not_depend_on_those_asked_for_before(preparation):
    samples = natural(20)
    starts = [320 * hop for hop in (0, 7, 500, 501, 1100, 300, 1499, 0)]
    together, alone = LogMelBlock(samples, preparation), np.empty((500, 128), np.float32)
    for start in starts:
        got = np.empty((500, 128), np.float32)
        together.window(start, got)
        LogMelBlock(samples, preparation).window(start, alone)
        np.testing.assert_array_equal(got, alone)


@settings(max_examples=15, deadline=None)
@given(cut=st.integers(0, 200), hop=st.integers(200, 500))
@pytest.mark.parametrize("preparation", PREPARATIONS)
def test_windows_are_the_same_in_another_block(preparation, cut, hop):
    """To the byte, unless a mean is removed: of that, a part goes before the FFT and the rest behind it."""
    samples, (one, other) = natural(12), np.empty((2, 500, 128), np.float32)
    LogMelBlock(samples, preparation).window(320 * hop, one)
    LogMelBlock(samples[320 * cut :], preparation, 320 * cut).window(320 * hop, other)
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-6 if preparation == "hoplite" else 0)


def test_a_manifest_makes_it_and_what_does_not_fit_is_named():
    assert make_frontend(spec("peak"), SPEC).shape == (500, 128)
    for given_settings, window, says in [
        ({}, SPEC, "lacks the field 'frontend.preparation'"),
        ({"preparation": "loud"}, SPEC, "field 'frontend.preparation' is 'loud', expected one of none, peak, hoplite"),
        ({"preparation": "none", "bands": 64}, SPEC, "has the unknown field 'frontend.bands'"),
        ({"preparation": "none"}, WindowSpec(48_000, 5.0), "field 'window' is 5 s at 48000 Hz"),
        ({"preparation": "none"}, WindowSpec(32_000, 3.0), "field 'window' is 3 s at 32000 Hz"),
    ]:
        with pytest.raises(BundleError, match=re.escape(says)):
            make_frontend(FrontendSpec("perch_log_mel", given_settings), window)
    with pytest.raises(BundleError, match="'cochlea', expected one of perch_log_mel, birdnet_v24, waveform"):
        make_frontend(FrontendSpec("cochlea"), SPEC)

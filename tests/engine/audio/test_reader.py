"""Decoding in blocks: against whole files decoded and resampled in one piece, and with damaged files."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from bce.engine.audio.containers import ogg_is_whole, wav_duration_s
from bce.engine.audio.reader import AudioReader
from bce.engine.errors import AudioError, OptionsError
from bce.engine.geometry import ChunkGrid

RATE = 32_000
CHUNK = 5 * RATE
GRID = ChunkGrid(5.0)


def sweep(duration_s: float, rate: int = RATE, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Samples [frames, channels]: a wandering tone in noise, different in every channel."""
    random = np.random.default_rng(seed)
    time = np.arange(round(duration_s * rate)) / rate
    tone = 0.2 * np.sin(2 * np.pi * 700 * time + 60 * np.sin(3 * time))
    return (tone[:, None] + 0.02 * random.standard_normal((len(time), channels))).astype(np.float32)


def write(path: Path, samples: np.ndarray, rate: int = RATE, **options: str) -> Path:
    soundfile.write(path, samples, rate, **options)
    return path


def read(path: Path, context_s: float = 0.0, block_chunks: int = 12):
    with AudioReader(path, RATE, GRID, context_s, block_chunks) as reader:
        return list(reader), reader


def joined(blocks) -> np.ndarray:
    """The padded recording, put together from blocks that may overlap."""
    whole = np.full(blocks[-1].total_samples, np.nan, np.float32)
    for block in blocks:
        part = whole[block.start_sample : block.start_sample + len(block.samples)]
        known = ~np.isnan(part)
        np.testing.assert_array_equal(part[known], block.samples[known])
        part[:] = block.samples
    assert not np.isnan(whole).any()
    return whole


@given(st.integers(0, 10_000))
def test_chunks_are_whole_5_s_and_a_tail_of_at_least_1_s(hundredths):
    chunks = 0
    while (hundredths - 500 * chunks) >= 500:
        chunks += 1
    if hundredths - 500 * chunks >= 100:
        chunks += 1
    assert GRID.chunks(hundredths / 100) == chunks


@pytest.mark.parametrize(("duration_s", "chunks"), [(1, 1), (3, 1), (5.9, 1), (6, 2), (60, 12), (60.9, 12), (61.2, 13)])
@pytest.mark.parametrize("rate", [32_000, 22_050])
def test_a_recording_is_padded_to_whole_chunks(tmp_path, duration_s, chunks, rate):
    samples = sweep(duration_s, rate)
    blocks, reader = read(write(tmp_path / "a.wav", samples, rate, subtype="FLOAT"))
    assert sum(block.chunks for block in blocks) == chunks == GRID.chunks(duration_s)
    whole = joined(blocks)
    assert len(whole) == chunks * CHUNK
    source = samples[:, 0] if rate == RATE else soxr.resample(samples[:, 0], rate, RATE, quality="HQ")
    kept = min(len(source), len(whole))
    np.testing.assert_allclose(whole[:kept], source[:kept], atol=1e-6)
    assert not whole[kept:].any()
    assert reader.problem is None
    assert reader.promised_s == reader.delivered_s == pytest.approx(duration_s)


@pytest.mark.parametrize("duration_s", [0.4, 0.99])
def test_under_a_second_is_too_short(tmp_path, duration_s):
    with pytest.raises(AudioError, match="too short") as error:
        read(write(tmp_path / "a.wav", sweep(duration_s)))
    assert f"{duration_s:.2f} s" in str(error.value)


@pytest.mark.parametrize(("rate", "channels"), [(32_000, 1), (32_000, 5), (44_100, 1), (48_000, 2), (22_000, 1)])
def test_blocks_of_any_size_equal_the_whole_file(tmp_path, rate, channels):
    samples = sweep(23.3, rate, channels)
    path = write(tmp_path / "a.wav", samples, rate, subtype="FLOAT")
    mono = samples.mean(axis=1, dtype=np.float64).astype(np.float32)
    source = mono if rate == RATE else soxr.resample(mono, rate, RATE, quality="HQ")
    for block_chunks, context_s in ((1, 0), (1, 2.5), (2, 0.01), (3, 5), (12, 2)):
        blocks, reader = read(path, context_s, block_chunks)
        assert (reader.source_rate, reader.channels) == (rate, channels)
        whole = joined(blocks)
        assert len(whole) == 25 * RATE
        np.testing.assert_allclose(whole[: len(source)], source[: 25 * RATE], atol=2e-6)


@settings(max_examples=30, deadline=None)
@given(
    halves=st.integers(2, 70),
    context=st.sampled_from([0.0, 0.5, 2.0, 5.0]),
    block_chunks=st.integers(1, 5),
)
def test_every_window_is_in_its_block_and_the_end_is_known_in_time(tmp_path_factory, halves, context, block_chunks):
    path = tmp_path_factory.mktemp("audio") / "a.wav"
    write(path, np.full((halves * RATE // 2, 1), 0.1, np.float32))
    total = GRID.chunks(halves / 2) * CHUNK
    blocks, _ = read(path, context, block_chunks)
    reach = round(context * RATE)
    next_chunk = 0
    for block in blocks:
        assert block.first_chunk == next_chunk
        next_chunk += block.chunks
        first, end = block.first_chunk * CHUNK, next_chunk * CHUNK
        assert block.start_sample == max(0, first - reach)
        assert block.start_sample + len(block.samples) == min(total, end + reach)
        assert block.total_samples == total or (block.total_samples is None and end + reach <= total - (end == total))
        assert block.chunks == block_chunks or block is blocks[-1]
    assert next_chunk * CHUNK == total == blocks[-1].total_samples


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.flac", {}),
        ("a.ogg", {}),
        ("a.mp3", {}),
        ("a.opus", {"format": "OGG", "subtype": "OPUS"}),
        ("a.aiff", {}),
        ("a.w64", {}),
        ("a.rf64", {"format": "RF64"}),
        ("a.caf", {}),
    ],
)
def test_formats_equal_soundfile_reading_the_whole_file(tmp_path, name, options):
    path = write(tmp_path / name, sweep(21, 48_000), 48_000, **options)
    source, _ = soundfile.read(path, dtype="float32")
    blocks, reader = read(path, 2.0, 2)
    assert reader.problem is None
    assert reader.promised_s == reader.delivered_s == 21
    whole = joined(blocks)
    np.testing.assert_allclose(whole[: 21 * RATE], soxr.resample(source, 48_000, RATE, quality="HQ"), atol=2e-6)


def test_real_recordings_give_the_same_in_two_codecs(shared):
    folder = shared / "data/audio/misc"
    for name in (
        "birdnet_soundscape.ogg",
        "birdnet_soundscape.flac",
        "perchv2_pytorch_sample.wav",
        "opensoundscape_1min.wav",
    ):
        blocks, reader = read(folder / name, 2.0)
        assert reader.problem is None
        source, rate = soundfile.read(folder / name, dtype="float32")
        source = source if rate == RATE else soxr.resample(source, rate, RATE, quality="HQ")
        whole = joined(blocks)
        np.testing.assert_allclose(whole[: len(source)], source[: len(whole)], atol=2e-6)


@pytest.mark.parametrize(("rate", "chunk_s"), [(48_000, 3.0), (22_050, 2.0), (16_000, 0.96), (32_000, 10.0)])
def test_any_rate_and_any_chunk(tmp_path, rate, chunk_s):
    """What a reader gives at another rate and grid is the whole file resampled, cut into those chunks."""
    samples = sweep(23.3, 44_100)
    path = write(tmp_path / "a.wav", samples, 44_100, subtype="FLOAT")
    source = soxr.resample(samples[:, 0], 44_100, rate, quality="HQ")
    grid, chunk = ChunkGrid(chunk_s), round(chunk_s * rate)
    with AudioReader(path, rate, grid, 0.5, 2) as reader:
        blocks = list(reader)
        assert reader.promised_chunks == grid.chunks(23.3)
    whole = joined(blocks)
    tail = 23.3 % chunk_s
    assert len(whole) == (int(23.3 // chunk_s) + (tail >= min(1, chunk_s))) * chunk
    assert [block.chunk_samples for block in blocks] == [chunk] * len(blocks)
    assert blocks[-1].is_last
    kept = min(len(source), len(whole))
    np.testing.assert_allclose(whole[:kept], source[:kept], atol=2e-6)


def test_chunks_that_are_no_whole_samples_are_refused(tmp_path):
    path = write(tmp_path / "a.wav", sweep(3))
    with pytest.raises(OptionsError, match=r"chunks of 0\.33 s are not a whole number of samples at 22050 Hz"):
        AudioReader(path, 22_050, ChunkGrid(0.33))


# --- damage -----------------------------------------------------------------------------------------------------------

FORMS = {"wav": {}, "flac": {}, "ogg": {}, "mp3": {}, "opus": {"format": "OGG", "subtype": "OPUS"}}


def damaged(tmp_path: Path, form: str, how: str) -> tuple[Path, np.ndarray]:
    """A minute with its second half missing, or with 4 kB of noise in the middle; and the samples before that."""
    rate = 48_000 if form == "opus" else RATE
    whole = write(tmp_path / f"whole.{form}", sweep(60, rate), rate, **FORMS[form])
    samples, _ = soundfile.read(whole, dtype="float32")
    content = whole.read_bytes()
    middle = len(content) // 2
    noise = np.random.default_rng(1).bytes(4096)
    path = tmp_path / f"damaged.{form}"
    path.write_bytes(content[:middle] + (b"" if how == "cut" else noise + content[middle + 4096 :]))
    return path, samples if rate == RATE else soxr.resample(samples, rate, RATE, quality="HQ")


@pytest.mark.parametrize("form", FORMS)
def test_a_missing_second_half_is_noticed_and_the_first_is_kept(tmp_path, form):
    path, samples = damaged(tmp_path, form, "cut")
    blocks, reader = read(path, 2.0, 3)
    assert reader.problem is not None
    if form in ("ogg", "opus"):
        assert "no end-of-stream page" in reader.problem
        assert reader.promised_s is None
    else:
        assert reader.promised_s == 60
        assert "of the promised 60.000 s" in reader.problem
    assert 25 < reader.delivered_s < 32
    assert f"{reader.delivered_s:.3f} s" in reader.problem
    whole = joined(blocks)
    assert len(whole) == GRID.chunks(reader.delivered_s) * CHUNK
    np.testing.assert_allclose(whole[: 25 * RATE], samples[: 25 * RATE], atol=2e-6)


@pytest.mark.parametrize("form", ["flac", "ogg", "mp3", "opus"])
def test_noise_in_the_middle_is_noticed(tmp_path, form):
    path, samples = damaged(tmp_path, form, "noise")
    blocks, reader = read(path, 2.0, 3)
    assert reader.problem is not None
    assert reader.promised_s == 60
    assert reader.delivered_s < 59.9
    np.testing.assert_allclose(joined(blocks)[: 25 * RATE], samples[: 25 * RATE], atol=2e-6)


def test_a_decoder_error_keeps_the_samples_before_it(tmp_path):
    path, samples = damaged(tmp_path, "flac", "noise")
    blocks, reader = read(path)
    assert "the decoder failed" in reader.problem
    kept = round(reader.delivered_s * RATE)
    np.testing.assert_array_equal(joined(blocks)[:kept], samples[:kept])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_sample_that_is_no_number_ends_the_recording_there(tmp_path, bad, channels):
    samples = sweep(30, RATE, channels)
    at = 17 * RATE + 8000
    samples[at, -1] = bad
    blocks, reader = read(write(tmp_path / "a.wav", samples, subtype="FLOAT"))
    assert reader.problem == (
        "the sample at 17.250 s is not a finite number; 17.250 s of the promised 30.000 s were read"
    )
    whole = joined(blocks)
    assert len(whole) == 4 * CHUNK
    np.testing.assert_allclose(whole[:at], samples[:at].mean(axis=1), atol=1e-7)
    assert not whole[at:].any()


def test_a_tail_under_a_second_before_the_damage_makes_no_chunk(tmp_path):
    samples = sweep(30)
    samples[round(15.9 * RATE)] = np.nan
    blocks, _ = read(write(tmp_path / "a.wav", samples, subtype="FLOAT"))
    assert blocks[-1].total_samples == 3 * CHUNK


def test_damage_in_the_first_second_is_an_error_that_says_so(tmp_path):
    samples = sweep(30)
    samples[16_000] = np.nan
    with pytest.raises(AudioError, match=r"too short.*the sample at 0\.500 s"):
        read(write(tmp_path / "a.wav", samples, subtype="FLOAT"))


def test_what_is_no_audio_is_refused_on_opening(tmp_path):
    (tmp_path / "empty.ogg").write_bytes(b"")
    (tmp_path / "text.ogg").write_text("species,count\n" * 100)
    (tmp_path / "samples.raw").write_bytes(b"\0" * 1000)
    write(tmp_path / "none.wav", np.zeros((0, 1), np.float32))
    for name, says in {
        "empty.ogg": "is empty",
        "text.ogg": "cannot be read as audio",
        "samples.raw": "cannot be read as audio",
        "none.wav": "holds no audio",
        "missing.ogg": "cannot be opened: No such file",
        ".": "is a folder",
    }.items():
        with pytest.raises(AudioError, match=says) as error:
            AudioReader(tmp_path / name, RATE, GRID)
        assert error.value.path == str(tmp_path / name)


# --- what headers say -------------------------------------------------------------------------------------------------


def riff(data_size: int, *, form: bytes = b"RIFF", coding: int = 1, extra: bytes = b"", rate: int = RATE) -> bytes:
    order = ">" if form == b"RIFX" else "<"
    fmt = struct.pack(f"{order}4sIHHIIHH", b"fmt ", 16, coding, 2, rate, rate * 4, 4, 16)
    return struct.pack(f"{order}4sI4s", form, 0, b"WAVE") + extra + fmt + struct.pack(f"{order}4sI", b"data", data_size)


@pytest.mark.parametrize(
    ("content", "seconds"),
    [
        (riff(RATE * 4 * 7), 7.0),
        (riff(RATE * 4 * 7, form=b"RIFX"), 7.0),
        (riff(RATE * 4, extra=b"LIST" + struct.pack("<I", 3) + b"abc\0"), 1.0),  # chunks start at even positions
        (riff(RATE * 4, extra=b"JUNK" + struct.pack("<I", 90) + bytes(90)), 1.0),
        (riff(0xFFFFFFFF), None),
        (riff(0), None),
        (riff(0xFFFFFFFF, form=b"RF64", extra=struct.pack("<4sIQQQI", b"ds64", 28, 0, RATE * 4 * 100_000, 0, 0)), 1e5),
        (riff(RATE * 4, coding=0x11), None),  # ADPCM: no fixed bytes a frame
        (b"RIFF\0\0\0\0AVI ", None),
        (b"fLaC", None),
        (riff(RATE)[:30], None),
    ],
)
def test_stated_duration_of_wav_headers(tmp_path, content, seconds):
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    assert wav_duration_s(path) == seconds


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_header_breaks_the_parsers(tmp_path_factory, noise):
    path = tmp_path_factory.getbasetemp() / "noise"
    for content in (noise, b"RIFF\0\0\0\0WAVE" + noise, b"OggS" + noise, riff(8) + noise):
        path.write_bytes(content)
        assert wav_duration_s(path) is None or wav_duration_s(path) >= 0
        assert ogg_is_whole(path) in (True, False)


def test_an_ogg_is_whole_only_with_all_its_bytes(tmp_path):
    content = write(tmp_path / "whole.ogg", sweep(3)).read_bytes()
    assert ogg_is_whole(tmp_path / "whole.ogg")
    cut = tmp_path / "cut.ogg"
    for missing in (1, 10, 100, 1000, len(content) - 100, len(content)):
        cut.write_bytes(content[: len(content) - missing])
        assert not ogg_is_whole(cut)
    cut.write_bytes(content + b"OggS in the middle of something else")
    assert ogg_is_whole(cut)

"""Decoding in blocks: against whole files decoded and resampled in one piece, and with damaged files."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from support.decoding import CHUNK, GRID, RATE, joined, read, sweep, write

from bce.engine.audio.reader import AudioReader
from bce.engine.errors import AudioError, OptionsError
from bce.engine.geometry import ChunkGrid


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

"""FLAC files of which frames are missing: nothing behind the first missing one is taken for what it was."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from support.decoding import decoded, write

from bce.engine.audio.decoder import Decoder
from bce.engine.audio.flac import stream_info
from bce.engine.audio.flac_frames import FrameWalk, frame_header

RATE = 32_000
FORMS = [("PCM_16", 1), ("PCM_16", 2), ("PCM_24", 1), ("PCM_S8", 1)]


def noise(path: Path, subtype: str = "PCM_16", channels: int = 1, seconds: float = 4.0) -> Path:
    frames = np.random.default_rng(5).uniform(-0.9, 0.9, (round(seconds * RATE), channels)).astype(np.float32)
    return write(path, frames, RATE, subtype=subtype)


def begins(path: Path) -> list[int]:
    """Of the frames, the last one's end behind them; found by their sync code and number."""
    content = path.read_bytes()
    at = stream_info(path).audio_at
    found = []
    while at >= 0:
        header = frame_header(content, at)
        if header is not None and header.number == len(found):
            found.append(at)
        at = content.find(content[found[0] : found[0] + 2], at + 1)
    return [*found, len(content)]


@pytest.mark.parametrize(("subtype", "channels"), FORMS)
@pytest.mark.parametrize(("first", "count"), [(0, 2), (1, 1), (9, 6), (20, 1)])
def test_what_follows_on_missing_frames_is_not_delivered(tmp_path, subtype, channels, first, count):
    path = noise(tmp_path / "a.flac", subtype, channels)
    whole = decoded(path)[0]
    ends, content, block = begins(path), path.read_bytes(), stream_info(path).block_frames
    assert len(ends) - 1 == -(-len(whole) // block)
    path.write_bytes(content[: ends[first]] + content[ends[first + count] :])
    frames, problem = decoded(path)
    np.testing.assert_array_equal(frames, whole[: first * block])
    assert "frames are missing before byte" in str(problem)


def test_a_repeated_frame_ends_the_recording(tmp_path):
    path = noise(tmp_path / "a.flac")
    ends, content, block = begins(path), path.read_bytes(), stream_info(path).block_frames
    path.write_bytes(content[: ends[6]] + content[ends[5] :])
    frames, problem = decoded(path)
    assert len(frames) == 6 * block
    assert problem is not None


@pytest.mark.parametrize(("subtype", "channels"), FORMS)
@pytest.mark.parametrize("frames", [1, 4095, 4096, 4097, 70_001])
def test_all_frames_of_a_whole_file_follow_on_each_other(tmp_path, subtype, channels, frames):
    path = noise(tmp_path / "a.flac", subtype, channels, frames / RATE)
    walk = FrameWalk(path, stream_info(path).audio_at)
    walk.walk_to(math.inf)
    walk.close()
    assert (walk.frames, walk.gap) == (frames, None)


def test_a_tag_before_a_flac_hides_neither_its_md5_nor_its_frames(tmp_path):
    path = noise(tmp_path / "a.flac")
    content = path.read_bytes()
    tag = b"ID3\4\0\0" + bytes([0, 0, 1, 2]) + bytes(130)  # 1 * 128 + 2 bytes
    path.write_bytes(tag + content)
    whole, problem = decoded(path)
    assert problem is None
    assert len(whole) == 4 * RATE
    other = content[:26] + bytes([content[26] ^ 1]) + content[27:]  # in the MD5
    path.write_bytes(tag + other)
    assert "MD5" in str(decoded(path)[1])


def test_a_flipped_bit_in_the_first_frame_s_header_states_no_other_rate(tmp_path):
    path = noise(tmp_path / "a.flac")
    content = bytearray(path.read_bytes())
    content[stream_info(path).audio_at + 2] ^= 1
    path.write_bytes(content)
    assert stream_info(path).frame_rate is None
    with Decoder(path) as decoder:
        assert not sum(len(frames) for frames in decoder.mono())
        assert decoder.problem is not None

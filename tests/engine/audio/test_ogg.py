"""Ogg pages, against pages put together here by RFC 3533 with a checksum of one bit at a time."""

from __future__ import annotations

import math
import struct
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.decoding import decoded, sweep, write

from bce.engine.audio.decoder import Decoder
from bce.engine.audio.ogg import Gap, PageWalk, is_whole


def checksum(content: bytes) -> int:
    """Of RFC 3533: polynomial 0x04C11DB7, from 0, the highest bit first."""
    register = 0
    for byte in content:
        register ^= byte << 24
        for _ in range(8):
            register = (register << 1 ^ (0x04C11DB7 if register >> 31 else 0)) & 0xFFFFFFFF
    return register


def page(body: bytes, number: int, flags: int = 0, stream: int = 1, position: int = 0) -> bytes:
    lacing = bytes([255] * (len(body) // 255) + [len(body) % 255])
    head = struct.pack("<4sBBqII", b"OggS", 0, flags, position, stream, number)
    rest = bytes([len(lacing)]) + lacing + body
    return head + struct.pack("<I", checksum(head + bytes(4) + rest)) + rest


def pages(content: bytes) -> list[bytes]:
    """Those of a healthy file."""
    found, at = [], 0
    while at < len(content):
        lacing = content[at + 27 : at + 27 + content[at + 26]]
        end = at + 27 + len(lacing) + sum(lacing)
        found.append(content[at:end])
        at = end
    return found


def first_gap(path: Path) -> Gap | None:
    with closing(PageWalk(path)) as walk:
        return walk.gap_before(math.inf)


def gap(tmp_path: Path, *parts: bytes):
    path = tmp_path / "a.ogg"
    path.write_bytes(b"".join(parts))
    return first_gap(path)


FIRST, SECOND, LAST = page(b"head", 0, 2), page(b"x" * 1000, 1), page(b"tail", 2, 4)
FAR = page(b"x" * 1000, 1, position=800)
"""As SECOND, and says that the stream reaches to its 800th sample there."""


def test_pages_that_follow_on_each_other_have_no_gap(tmp_path):
    assert gap(tmp_path, FIRST, SECOND, LAST) is None
    assert gap(tmp_path, page(b"head", 7, 2), page(b"x", 8, 4)) is None
    assert gap(tmp_path, page(b"head", 0xFFFFFFFF, 2), page(b"", 0, 4)) is None
    other = page(b"head", 0, 2, stream=9), page(b"tail", 1, 4, stream=9)
    assert gap(tmp_path, FIRST, other[0], SECOND, other[1], LAST) is None
    assert gap(tmp_path, FIRST, SECOND, LAST, b"TAG" + bytes(125)) is None
    # no packet ends on a page of whole segments; a last page may cut all that is on it
    inner = page(b"x" * 255, 2, position=-1)
    inner = inner[:26] + bytes([1, 255]) + inner[29:]
    inner = inner[:22] + struct.pack("<I", checksum(inner[:22] + bytes(4) + inner[26:])) + inner[26:]
    assert gap(tmp_path, FIRST, FAR, inner, page(b"tail", 3, 4, position=800)) is None


@pytest.mark.parametrize(
    ("parts", "at", "what"),
    [
        ((FIRST, SECOND), len(FIRST + SECOND), "no end-of-stream page"),
        ((FIRST, SECOND, LAST[:-1]), len(FIRST + SECOND), "cut in the page at byte"),
        ((FIRST, SECOND[:20]), len(FIRST), "cut in the page at byte"),
        ((FIRST, LAST), len(FIRST), "pages are missing before byte"),
        ((FIRST, SECOND, SECOND, LAST), len(FIRST + SECOND), "pages are missing before byte"),
        ((FIRST, b"x", SECOND, LAST), len(FIRST), "damaged in the page at byte"),
        ((SECOND, LAST), 0, "pages are missing before byte"),
        ((FIRST, page(b"stray", 1, stream=5), SECOND, LAST), len(FIRST), "pages are missing before byte"),
        ((FIRST, FAR, page(b"tail", 2, 4, position=799)), len(FIRST + FAR), "states an end before its begin"),
        ((FIRST, FAR, page(b"tail", 2, 4, position=-1)), len(FIRST + FAR), "states an end before its begin"),
        ((FIRST, SECOND, LAST, FIRST), len(FIRST + SECOND + LAST), "another stream begins at byte"),
    ],
)
def test_the_first_gap_is_found(tmp_path, parts, at, what):
    found = gap(tmp_path, *parts)
    assert found.at == at
    assert what in found.what


def test_pages_are_walked_as_far_as_is_asked(tmp_path):
    path = tmp_path / "a.ogg"
    path.write_bytes(FIRST + SECOND + b"x" + LAST)
    with closing(PageWalk(path)) as walk:
        for end in (0, 1, len(FIRST), len(FIRST + SECOND)):
            assert walk.gap_before(end) is None
        assert walk.gap_before(len(FIRST + SECOND) + 1).at == len(FIRST + SECOND)
        assert walk.gap_before(0).at == len(FIRST + SECOND)


def test_no_changed_byte_of_a_page_is_missed(tmp_path):
    short = page(b"y" * 40, 1)
    for at in range(len(short)):
        changed = bytearray(short)
        changed[at] ^= 1 << at % 8
        assert gap(tmp_path, FIRST, changed, LAST).at == len(FIRST)


def test_an_encoder_s_checksums_are_those_of_the_definition(tmp_path):
    found = pages(write(tmp_path / "a.ogg", sweep(1.0, 8000), 8000).read_bytes())
    for content in found:
        assert checksum(content[:22] + bytes(4) + content[26:]) == int.from_bytes(content[22:26], "little")
    assert first_gap(tmp_path / "a.ogg") is None


@settings(deadline=None, max_examples=40)
@given(st.binary(max_size=200))
def test_no_content_breaks_the_walk(tmp_path_factory, noise):
    path = tmp_path_factory.getbasetemp() / "noise.ogg"
    for content in (noise, b"OggS" + noise, b"OggS\0" + noise, FIRST + noise):
        path.write_bytes(content)
        found = first_gap(path)
        assert found is None or 0 <= found.at <= len(content)
        assert is_whole(path) in (True, False)


def test_an_ogg_is_whole_only_with_all_its_bytes(tmp_path):
    content = write(tmp_path / "whole.ogg", sweep(3)).read_bytes()
    assert is_whole(tmp_path / "whole.ogg")
    cut = tmp_path / "cut.ogg"
    for missing in (1, 10, 100, 1000, len(content) - 100, len(content)):
        cut.write_bytes(content[: len(content) - missing])
        assert not is_whole(cut)
    cut.write_bytes(content + b"OggS in the middle of something else")
    assert is_whole(cut)


# --- what becomes of the recording ------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["vorbis", "opus"])
def recording(request, tmp_path_factory) -> tuple[Path, list[bytes], np.ndarray]:
    """Of some seconds; its pages; its samples."""
    path = tmp_path_factory.mktemp(request.param) / "a.ogg"
    write(path, sweep(6.0, 16_000), 16_000, format="OGG", subtype=request.param.upper())
    samples, problem = decoded(path)
    assert problem is None
    return path, pages(path.read_bytes()), samples


def rewritten(recording, content: list[bytes]) -> Path:
    path = recording[0].with_name("changed.ogg")
    path.write_bytes(b"".join(content))
    return path


@pytest.mark.parametrize("how", ["lost", "twice", "swapped", "other bytes"])
def test_what_follows_on_a_gap_is_left_out(recording, how):
    """A decoder passes over it: all that follows would be earlier than it was, and with some of them without a word."""
    _, found, samples = recording
    middle = len(found) // 2
    content = list(found)
    if how == "lost":
        del content[middle]
    elif how == "twice":
        content.insert(middle, found[middle])
    elif how == "swapped":
        content[middle : middle + 2] = content[middle + 1], content[middle]
    else:
        content[middle] = bytes(255 - byte for byte in content[middle])
    got, problem = decoded(rewritten(recording, content))
    assert "page" in (problem or "")
    assert f"{len(got) / 16_000:.3f} s of the promised 6.000 s were read" in problem
    assert 0.5 * len(samples) * middle / len(found) < len(got) < len(samples)
    np.testing.assert_array_equal(got, samples[: len(got)])


def test_with_damaged_heads_nothing_is_delivered(recording):
    _, found, _ = recording
    content = list(found)
    content[1] = content[1][:-1] + bytes([content[1][-1] ^ 1])
    got, problem = decoded(rewritten(recording, content))
    assert problem is not None
    assert not len(got)


def test_a_second_stream_is_not_passed_over_in_silence(recording):
    _, found, samples = recording
    path = rewritten(recording, found + found)
    with Decoder(path) as decoder:
        got = np.concatenate(list(decoder.mono()))
        assert f"another stream begins at byte {sum(map(len, found))}, which is not read" in decoder.problem
    np.testing.assert_array_equal(got, samples)


def test_a_position_that_the_last_page_cannot_reach_promises_nothing(recording):
    """The last page of a stream tells its length."""
    _, found, samples = recording
    last = bytearray(found[-1])
    whole = struct.unpack_from("<q", last, 6)[0]
    for position, believed in ((whole + 1000, True), (whole + 50_000_000, False), (1 << 50, False)):
        last[6:14] = struct.pack("<q", position)
        last[22:26] = bytes(4)
        last[22:26] = struct.pack("<I", checksum(last))
        path = rewritten(recording, [*found[:-1], bytes(last)])
        with Decoder(path) as decoder:
            assert (decoder.promised_s is not None) == believed
        got, problem = decoded(path)
        assert ("audio is missing" if believed else "which its size cannot bear") in problem
        kept = min(len(got), len(samples))
        np.testing.assert_array_equal(got[:kept], samples[:kept])

"""Headers that were never finished, that lie, or that are noise."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from support.decoding import GRID, RATE, decoded, read, sweep, write

from bce.engine.audio.containers import Layout, layout
from bce.engine.audio.decoder import Decoder
from bce.engine.audio.flac import stream_info
from bce.engine.audio.flat import FlatStretches
from bce.engine.audio.reader import AudioReader
from bce.engine.errors import AudioError


def riff(
    size: int, *, form: bytes = b"RIFF", coding: int = 1, extra: bytes = b"", behind: bytes = b"", rate: int = RATE
) -> bytes:
    """A WAV header of two channels of 16 bits, then what lies behind it."""
    order = ">" if form == b"RIFX" else "<"
    fmt = struct.pack(f"{order}4sIHHIIHHHH", b"fmt ", 20, coding, 2, rate, rate * 4, 4, 16, 2, 505)
    head = struct.pack(f"{order}4sI4s", form, 0, b"WAVE") + extra + fmt
    return head + struct.pack(f"{order}4sI", b"data", size) + behind


def ds64(size: int) -> bytes:
    return struct.pack("<4sIQQQI", b"ds64", 28, 0, size, 0, 0)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (riff(8, behind=bytes(8)), Layout(48, 8, 8, "<")),
        (riff(8, form=b"RIFX", behind=bytes(8)), Layout(48, 8, 8, ">")),
        (riff(9000, behind=bytes(8)), Layout(48, 9000, 8, "<")),
        # chunks start at even positions
        (riff(8, extra=b"LIST" + struct.pack("<I", 3) + b"abc\0", behind=bytes(8)), Layout(60, 8, 8, "<")),
        (riff(8, extra=b"JUNK" + struct.pack("<I", 90) + bytes(90), behind=bytes(8)), Layout(146, 8, 8, "<")),
        (riff(7, behind=bytes(8) + b"LIST\4\0\0\0abcd"), Layout(48, 7, 20, "<")),
        # bytes behind the audio that are no chunks
        (riff(8, behind=bytes(30)), Layout(48, 8, 30, "<", loose=22)),
        # sizes that are left by who never came back
        (riff(0, behind=bytes(8)), Layout(48, None, 8, "<", loose=8)),
        (riff(0xFFFFFFFF, behind=bytes(8)), Layout(48, None, 8, "<")),
        (riff(0xFFFFFFF0, behind=bytes(8)), Layout(48, None, 8, "<")),
        (riff(0x7FFFF000, behind=bytes(8)), Layout(48, None, 8, "<")),
        (riff(0), Layout(48, 0, 0, "<")),
        (riff(0, behind=b"LIST\4\0\0\0abcd"), Layout(48, 0, 12, "<")),
        (riff(0xFFFFFFFF, form=b"RF64", extra=ds64(1 << 40), behind=b"x"), Layout(84, 1 << 40, 1, "<")),
        (riff(0xFFFFFFFF, form=b"RF64", extra=ds64(0), behind=b"\xff" * 9), Layout(84, None, 9, "<", loose=9)),
        (riff(8, coding=0x11, behind=bytes(8)), Layout(48, 8, 8, "<", block=(4, 505))),
        (b"RIFF\0\0\0\0AVI ", None),
        (b"fLaC", None),
        (b"", None),
        (riff(8)[:30], None),
    ],
)
def test_the_layout_of_wav_headers(tmp_path, content, expected):
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    assert layout(path) == expected


@pytest.mark.parametrize("form", ["AIFF", "AU", "CAF", "W64", "RF64", "WAV", "WAVEX"])
@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT", "PCM_24"])
def test_the_layout_of_files_that_libsndfile_writes(tmp_path, form, subtype):
    samples = sweep(1.0, 8000, 3)
    path = write(tmp_path / "a", samples, 8000, format=form, subtype=subtype)
    found = layout(path)
    width = {"PCM_16": 2, "PCM_24": 3, "FLOAT": 4}[subtype]
    assert found.stated == 8000 * 3 * width
    assert found.stated <= found.size
    if subtype == "PCM_16":
        raw = np.frombuffer(path.read_bytes(), f"{found.order}i2", 24_000, found.start)
        np.testing.assert_array_equal(raw.reshape(-1, 3), soundfile.read(path, dtype="int16")[0])


@settings(deadline=None, max_examples=25)
@given(st.binary(max_size=120), st.binary(max_size=12), st.integers(0, 120))
def test_no_header_breaks_the_parsers(tmp_path_factory, noise, change, at):
    folder = tmp_path_factory.getbasetemp()
    path = folder / "noise"
    contents = [noise, riff(8) + noise, b"fLaC" + noise]
    forms = (b"RIFF\0\0\0\0WAVE", b"RIFX\0\0\0\0WAVE", b"FORM\0\0\0\0AIFC", b".snd", b"caff", b"riff" + bytes(36))
    contents += [form + noise for form in forms]
    contents += [head[:at] + change + head[at + len(change) :] for head in healthy_heads(folder)]
    for content in contents:
        path.write_bytes(content)
        found = layout(path)
        assert found is None or (found.size >= 0 and (found.stated is None or found.stated >= 0))
        info = stream_info(path)
        assert info is None or info.most_frames(1000) >= 0


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_no_changed_header_breaks_the_decoder(tmp_path_factory, data):
    """Whatever a header says, a recording fails, ends early, or is read; its promise is one that its size can bear."""
    folder = tmp_path_factory.getbasetemp()
    content = bytearray(data.draw(st.sampled_from(healthy_heads(folder))))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, 100))
        change = data.draw(st.sampled_from([b"\xff\xff\xff\xff", bytes(4), b"\x7f", b"\1", bytes(8), b"\xff" * 8]))
        content[at : at + len(change)] = change
    path = folder / "changed"
    path.write_bytes(content)
    try:
        decoder = Decoder(path)
    except AudioError:
        return
    with decoder:
        assert decoder.promised_s is None or decoder.promised_s < 60 * 3600
        for piece in decoder.mono():
            assert np.isfinite(piece).all()


_HEADS: list[bytes] = []


def healthy_heads(folder: Path) -> list[bytes]:
    """Small files of all containers."""
    if not _HEADS:
        for form in ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC"):
            path = write(folder / "healthy", sweep(0.1, 8000), 8000, format=form)
            _HEADS.append(path.read_bytes())
    return _HEADS


def test_a_file_of_empty_chunks_is_given_up_soon(tmp_path):
    path = tmp_path / "a.wav"
    for head in (b"RIFF\0\0\0\0WAVE", b"FORM\0\0\0\0AIFF", b"caff\0\0\0\0", b"fLaC"):
        path.write_bytes(head)
        with path.open("r+b") as file:
            file.truncate(1 << 36)  # a hole: it takes no room
        assert layout(path) is None
        assert stream_info(path) is None or stream_info(path).frame_rate is None


# --- never finished ---------------------------------------------------------------------------------------------------

SIZE_AT = {"WAV": 4, "WAVEX": 4, "RF64": None, "W64": 16, "AIFF": 4, "AU": None}
"""Bytes from a data chunk's name to its size."""


def with_size(path: Path, form: str, size: int) -> Path:
    """The file with another size of its samples in the header; its form's size is 0, as at the begin of a recording."""
    content = bytearray(path.read_bytes())
    if form == "AU":
        struct.pack_into(">I", content, 8, size)
    elif form == "RF64":
        struct.pack_into("<Q", content, content.index(b"ds64") + 16, size)
    elif form == "AIFF":
        struct.pack_into(">I", content, content.index(b"SSND") + 4, size)
    elif form == "W64":
        struct.pack_into("<Q", content, content.index(b"data") + 16, size)
    else:
        struct.pack_into("<I", content, content.index(b"data") + 4, size)
        struct.pack_into("<I", content, 4, 0)
    other = path.with_stem("changed")
    other.write_bytes(content)
    return other


@pytest.mark.parametrize(
    ("form", "subtype", "size"),
    [
        *(
            ("WAV", subtype, 0)
            for subtype in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW")
        ),
        *(("WAV", "PCM_16", size) for size in (0xFFFFFFFF, 0xFFFFFFF0, 0xFFFFFFDB, 0x7FFFF000, 0x80000000)),
        *((form, "PCM_16", 0) for form in ("WAVEX", "RF64", "W64", "AIFF", "AU")),
        ("AU", "PCM_16", 0xFFFFFFFF),
    ],
)
def test_audio_behind_a_header_that_was_never_finished_is_read(tmp_path, form, subtype, size):
    path = write(tmp_path / "a.wav", sweep(3.0, 16_000, 2), 16_000, format=form, subtype=subtype)
    samples, problem = decoded(path)
    assert problem is None
    changed = with_size(path, form, size)
    with Decoder(changed) as decoder:
        got = np.concatenate(list(decoder.mono()))
        assert decoder.problem is None
        assert decoder.promised_s == decoder.delivered_s == 3.0
        (note,) = decoder.notes
        assert "its header was never finished" in note
    np.testing.assert_array_equal(got, samples)


def test_blocks_behind_a_header_that_was_never_finished_are_refused(tmp_path):
    path = write(tmp_path / "a.wav", sweep(3.0), subtype="IMA_ADPCM")
    with pytest.raises(AudioError, match="bytes behind it cannot be read in this coding"):
        Decoder(with_size(path, "WAV", 0))


def test_bytes_behind_the_audio_that_could_be_audio_are_noted(tmp_path):
    """A recorder that brings its header up to date now and then lost its power."""
    path = write(tmp_path / "a.wav", sweep(5.0, 8000), 8000)
    for size, noted in ((8000 * 2 * 2, True), (8000 * 2 * 5 - 100, False)):
        with Decoder(with_size(path, "WAV", size)) as decoder:
            assert ("that its header does not count" in " ".join(decoder.notes)) == noted
            assert sum(map(len, decoder.mono())) == size // 2
            assert decoder.problem is None


# --- lies -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["WAV", "RF64", "W64", "AIFF", "AU"])
def test_a_length_is_believed_as_far_as_the_size_can_bear_it(tmp_path, form):
    path = write(tmp_path / "a.wav", sweep(6.0, 8000), 8000, format=form)
    samples, _ = decoded(path)
    for times, believed in ((9, True), (100, False), (10_000, False)):
        changed = with_size(path, form, 2 * len(samples) * times)
        blocks, reader = read(changed)
        assert reader.promised_chunks == (GRID.chunks(6.0 * times) if believed else None)
        assert sum(block.chunks for block in blocks) == 2
        assert ("audio is missing" if believed else "which its size cannot bear; 6.000 s were read") in reader.problem


def test_a_flac_s_length_is_believed_as_far_as_its_frames_can_bear_it(tmp_path):
    path = write(tmp_path / "a.flac", sweep(4.0, 8000), 8000)
    content = bytearray(path.read_bytes())
    packed = struct.unpack_from(">Q", content, 18)[0]
    for frames, believed in ((48_000, True), ((1 << 36) - 1, False)):
        struct.pack_into(">Q", content, 18, packed >> 36 << 36 | frames)
        path.write_bytes(content)
        with Decoder(path) as decoder:
            assert decoder.promised_s == (frames / 8000 if believed else None)
            assert sum(map(len, decoder.mono())) == 32_000
            assert decoder.problem is not None


def test_silence_at_its_begin_lets_no_flac_state_any_length(tmp_path):
    audio = np.random.default_rng(0).uniform(-0.5, 0.5, (60_000, 1)).astype(np.float32)
    audio[:9000] = 0  # two frames of 14 bytes at most
    path = write(tmp_path / "a.flac", audio, 8000)
    content = bytearray(path.read_bytes())
    packed = struct.unpack_from(">Q", content, 18)[0]
    for frames, believed in ((590_000, True), (6_000_000, False)):
        struct.pack_into(">Q", content, 18, packed >> 36 << 36 | frames)
        path.write_bytes(content)
        with Decoder(path) as decoder:
            assert decoder.promised_s == (frames / 8000 if believed else None)


@pytest.mark.parametrize("subtype", ["PCM_16", "VORBIS", "OPUS", "MPEG_LAYER_III"])
@pytest.mark.parametrize("channels", [1, 2])
def test_the_length_of_digital_silence_is_believed(tmp_path, subtype, channels):
    form = {"PCM_16": "FLAC", "MPEG_LAYER_III": "MP3"}.get(subtype, "OGG")
    path = write(tmp_path / "a", np.zeros((160_000, channels), np.float32), 8000, format=form, subtype=subtype)
    with Decoder(path) as decoder:
        assert decoder.promised_s == 20.0


@pytest.mark.parametrize(("rate", "read"), [(1, False), (8, False), (999, False), (1000, True), (1_000_000, True)])
def test_rates_that_no_recorder_has_are_refused(tmp_path, rate, read):
    path = tmp_path / "a.wav"
    path.write_bytes(riff(400, rate=rate, behind=bytes(400)))
    if read:
        with AudioReader(path, RATE, GRID) as reader:
            assert reader.source_rate == rate
    else:
        with pytest.raises(AudioError, match=f"states a sample rate of {rate} Hz, which no recorder has"):
            AudioReader(path, RATE, GRID)


# --- flat stretches ---------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(
    runs=st.lists(st.tuples(st.sampled_from([0.0, 0.5, -0.25, 1.0]), st.integers(1, 90)), min_size=1, max_size=12),
    cuts=st.lists(st.integers(0, 500), max_size=6),
)
def test_flat_stretches_are_those_that_are_repeated(runs, cuts):
    samples = np.concatenate([np.full(length, value, np.float32) for value, length in runs])
    expected, at = [], 0
    while at < len(samples):
        end = at
        while end < len(samples) and samples[end] == samples[at]:
            end += 1
        if end - at >= 5 * 10:
            expected.append((at, end - at, float(samples[at])))
        at = end
    flat = FlatStretches(10)
    for piece in np.split(samples, sorted(cut for cut in cuts if cut <= len(samples))):
        flat.add(piece)
    note = flat.note()
    assert flat.found == expected
    assert (note is None) == (not expected)


def test_a_flat_stretch_is_noted(tmp_path):
    samples = sweep(30.0, 8000)
    samples[8 * 8000 : 14 * 8000] = 0
    with Decoder(write(tmp_path / "a.wav", samples, 8000)) as decoder:
        list(decoder.mono())
        assert decoder.notes == ("the value 0 is repeated for 6.000 s from 8.000 s on",)
    samples[20 * 8000 :] = -0.5
    with Decoder(write(tmp_path / "a.wav", samples, 8000)) as decoder:
        list(decoder.mono())
        assert decoder.notes == (
            "the value -0.5 is repeated for 10.000 s from 20.000 s on,"
            " the longest of 2 flat stretches of 16.000 s together",
        )
        assert decoder.problem is None

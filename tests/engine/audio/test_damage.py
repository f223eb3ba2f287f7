"""Damaged files: rows before the damage are those of the intact file, and no damage that a checksum tells is "ok"."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from support.decoding import CHUNK, GRID, RATE, decoded, joined, read, sweep, write

from bce.engine.audio.decoder import Decoder
from bce.engine.audio.flac import AudioDigest, stream_info
from bce.engine.audio.reader import AudioReader
from bce.engine.errors import AudioError

OPUS = {"format": "OGG", "subtype": "OPUS"}
FORMS: dict[str, tuple[str, dict[str, str]]] = {
    "wav": ("wav", {}),
    "flac": ("flac", {}),
    "flac24": ("flac", {"subtype": "PCM_24"}),
    "ogg": ("ogg", {}),
    "opus": ("opus", OPUS),
    "mp3": ("mp3", {}),
    "aiff": ("aiff", {}),
    "au": ("au", {}),
    "w64": ("w64", {}),
    "rf64": ("rf64", {"format": "RF64"}),
    "caf": ("caf", {}),
    "alac": ("caf", {"subtype": "ALAC_16"}),
    "ima": ("wav", {"subtype": "IMA_ADPCM"}),
    "msadpcm": ("wav", {"subtype": "MS_ADPCM"}),
    "gsm": ("wav", {"subtype": "GSM610"}),
    "aiff-ima": ("aiff", {"subtype": "IMA_ADPCM"}),
    "float": ("wav", {"subtype": "FLOAT"}),
}


def intact(tmp_path: Path, form: str, seconds: float = 5.0, rate: int = 16_000) -> Path:
    suffix, options = FORMS[form]
    return write(tmp_path / f"intact.{suffix}", sweep(seconds, rate), rate, **options)


def changed(path: Path, content: bytes) -> Path:
    """The file with another content, beside it."""
    other = path.with_stem("changed")
    other.write_bytes(content)
    return other


# --- cut --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("share", [0.35, 0.6001])
def test_what_is_missing_at_the_end_is_noticed_and_the_rest_is_kept(tmp_path, form, share):
    path = intact(tmp_path, form)
    content = path.read_bytes()
    samples, _ = decoded(path)
    got, problem = decoded(changed(path, content[: round(len(content) * share)]))
    assert problem is not None
    assert len(samples) * share / 3 < len(got) < len(samples) * (share + 0.05)
    np.testing.assert_array_equal(got, samples[: len(got)])
    with Decoder(path.with_stem("changed")) as decoder:
        if form in ("ogg", "opus"):
            assert decoder.promised_s is None
        else:
            assert decoder.promised_s == pytest.approx(len(samples) / 16_000, abs=4096 / 16_000)  # ALAC: whole packets
            assert f" of the promised {decoder.promised_s:.3f} s were read" in problem


def test_chunks_before_a_cut_are_those_of_the_whole_file(tmp_path):
    path = intact(tmp_path, "ogg", 24.0, 24_000)
    samples, _ = soundfile.read(path, dtype="float32")
    content = path.read_bytes()
    blocks, reader = read(changed(path, content[: len(content) // 2]), 2.0, 2)
    assert reader.problem is not None
    assert f"{reader.delivered_s:.3f} s" in reader.problem
    whole = joined(blocks)
    assert len(whole) == GRID.chunks(reader.delivered_s) * CHUNK
    kept = 9 * RATE
    np.testing.assert_allclose(whole[:kept], soxr.resample(samples, 24_000, RATE, quality="HQ")[:kept], atol=2e-6)


@pytest.mark.parametrize("form", ["flac", "flac24", "ogg", "opus", "mp3", "wav", "aiff", "w64"])
@pytest.mark.parametrize("tail", [b"\0", b"TAG" + bytes(125), bytes(3000)])
def test_bytes_behind_the_audio_are_no_damage(tmp_path, form, tail):
    path = intact(tmp_path, form, 2.0)
    samples, problem = decoded(path)
    assert problem is None
    got, problem = decoded(changed(path, path.read_bytes() + tail))
    assert problem is None
    np.testing.assert_array_equal(got, samples)


# --- changed bytes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["flac", "flac24", "ogg", "opus"])
def test_no_flipped_bit_gives_other_samples(tmp_path, form):
    """Formats with checksums: what is delivered is the intact file's, and ok only if nothing is missing."""
    path = intact(tmp_path, form, 3.0)
    samples, problem = decoded(path)
    assert problem is None
    content = bytearray(path.read_bytes())
    random = np.random.default_rng(7)
    bits = {*random.integers(0, 8 * len(content), 60).tolist(), *random.integers(0, 8 * 300, 30).tolist()}
    for bit in sorted(bits):
        content[bit // 8] ^= 1 << bit % 8
        got, problem = decoded(changed(path, content))
        content[bit // 8] ^= 1 << bit % 8
        np.testing.assert_array_equal(got, samples[: len(got)], err_msg=f"bit {bit}")
        assert problem is not None or len(got) == len(samples), f"bit {bit}"


def test_no_flipped_bit_of_a_flac_s_head_gives_another_recording(tmp_path):
    """The head has no checksum: its rate stands in the frames too, its length and depth show in the audio's MD5."""
    path = intact(tmp_path, "flac", 0.5)
    samples, _ = decoded(path)
    content = bytearray(path.read_bytes())
    for bit in range(8 * 4, 8 * 42):
        content[bit // 8] ^= 1 << bit % 8
        other = changed(path, content)
        got, problem = decoded(other)
        content[bit // 8] ^= 1 << bit % 8
        if problem is None:
            np.testing.assert_array_equal(got, samples, err_msg=f"bit {bit}")
            assert soundfile.info(other).samplerate == 16_000, f"bit {bit}"


@pytest.mark.parametrize("form", ["flac", "ogg", "mp3", "opus"])
def test_noise_in_the_middle_is_noticed(tmp_path, form):
    path = intact(tmp_path, form, 12.0)
    samples, _ = decoded(path)
    content = path.read_bytes()
    middle = len(content) // 2
    noise = np.random.default_rng(1).bytes(4096)
    got, problem = decoded(changed(path, content[:middle] + noise + content[middle + 4096 :]))
    assert problem is not None
    assert problem.endswith(f"{len(got) / 16_000:.3f} s of the promised 12.000 s were read")
    kept = len(got) if form != "mp3" else len(got) // 3  # which has no checksum
    assert kept >= 16_000
    np.testing.assert_array_equal(got[:kept], samples[:kept])


def test_a_decoder_error_keeps_the_samples_before_it(tmp_path):
    path = intact(tmp_path, "flac", 12.0)
    samples, _ = decoded(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    got, problem = decoded(changed(path, content))
    assert "the decoder failed" in (problem or "")
    assert len(samples) // 3 < len(got) < len(samples)
    np.testing.assert_array_equal(got, samples[: len(got)])


@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_16", "PCM_24"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_digest_is_the_md5_that_flac_encoders_write(tmp_path, subtype, channels):
    path = write(tmp_path / "a.flac", sweep(1.5, 16_000, channels), 16_000, subtype=subtype)
    info = stream_info(path)
    bits = {"PCM_S8": 8, "PCM_16": 16, "PCM_24": 24}[subtype]
    assert (info.rate, info.frame_rate, info.bits) == (16_000, 16_000, bits)
    integers, _ = soundfile.read(path, dtype="int32")
    octets = (integers >> (32 - bits)).astype("<i4").reshape(-1, 1).view(np.uint8)[:, : bits // 8]
    digest = AudioDigest(bits)
    frames, _ = soundfile.read(path, dtype="float32", always_2d=True)
    digest.add(frames[:1000])
    digest.add(frames[1000:])
    assert digest.value == hashlib.md5(octets.tobytes()).digest() == info.md5


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 44_100, 96_000, 125_000, 250_000, 384_000, 655_350])
def test_the_rate_of_a_flac_s_first_frame(tmp_path, rate):
    path = write(tmp_path / "a.flac", np.zeros((9000, 1), np.float32), rate)
    assert stream_info(path).rate == stream_info(path).frame_rate == rate


# --- samples ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (np.nan, "not a finite number"),
        (np.inf, "not a finite number"),
        (-np.inf, "not a finite number"),
        (1e8, "1e+08 times full scale"),
        (-3e38, "3e+38 times full scale"),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_a_sample_that_no_microphone_gives_ends_the_recording_there(tmp_path, bad, says, channels):
    samples = sweep(30, RATE, channels)
    at = 17 * RATE + 8000
    samples[at, -1] = bad
    if channels == 2 and says.endswith("scale"):
        samples[at, 0] = -bad  # their mean is 0
    blocks, reader = read(write(tmp_path / "a.wav", samples, subtype="FLOAT"))
    assert reader.problem == f"the sample at 17.250 s is {says}; 17.250 s of the promised 30.000 s were read"
    whole = joined(blocks)
    assert len(whole) == 4 * CHUNK
    np.testing.assert_allclose(whole[:at], samples[:at].mean(axis=1), atol=1e-7)
    assert not whole[at:].any()


def test_counts_of_a_converter_written_as_floats_are_read(tmp_path):
    samples = sweep(2.0) * (1 << 23)
    got, problem = decoded(write(tmp_path / "a.wav", samples, subtype="FLOAT"))
    assert problem is None
    np.testing.assert_array_equal(got, samples[:, 0])


def test_a_double_that_no_float_holds_is_not_finite(tmp_path):
    samples = sweep(2.0).astype(np.float64)
    samples[40_000] = 1e300
    got, problem = decoded(write(tmp_path / "a.wav", samples, subtype="DOUBLE"))
    assert len(got) == 40_000
    assert "the sample at 1.250 s is not a finite number" in problem


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


# --- no audio ---------------------------------------------------------------------------------------------------------


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


def test_a_name_that_is_no_text_is_read(tmp_path):
    path = Path(f"{tmp_path}/caf\udce9.wav")
    try:
        path.touch()
    except OSError:
        pytest.skip("this file system takes names that are text only")
    write(tmp_path / "a.wav", sweep(2.0)).rename(path)
    got, problem = decoded(path)
    assert problem is None
    assert len(got) == 2 * RATE

"""Damages: reproducible, felt, and doing what they say to files that libsndfile wrote."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("psutil", reason="benchmarks need the extra bce[bench]")

from support.sounds import sound

from bce.bench import damage
from bce.bench.attack_recordings import FORMS, Form, rng_of

RATE, SECONDS = 24_000, 1.5


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A short file of every format."""
    folder, found = tmp_path_factory.mktemp("files"), {}
    for form in FORMS.values():
        path = folder / f"{form.name}{form.suffix}"
        with soundfile.SoundFile(path, "w", RATE, 1, form.coding, format=form.container) as file:
            for _ in range(6):  # an Ogg page about every second
                file.write(sound(SECONDS, 1, RATE))
        found[form.name] = path.read_bytes()
    return found


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_damage_is_felt_and_the_same_for_the_same_seed(form: Form, files: dict[str, bytes]) -> None:
    whole = files[form.name]
    assert len(form.damages) >= 12
    for name, harm in form.damages.items():
        for seed in range(5):
            once, again, other = (harm(whole, rng_of(number, name)) for number in (seed, seed, seed + 1000))
            assert once == again, name
            assert once != whole, name
            if name not in ("beheaded", "trailing", "lying", "pages_lost"):  # these have few ways to go
                assert once != other, name


def test_damages_do_what_they_say(files: dict[str, bytes]) -> None:
    whole = files["wav"]
    for seed in range(6):

        def after(name: str, seed: int = seed) -> bytes:
            return damage.DAMAGES[name](whole, rng_of(seed, name))

        assert whole.startswith(after("cut"))
        assert len(after("beheaded")) <= 1000
        assert len(after("removed")) < len(whole) < len(after("inserted"))
        assert len(after("repeated")) > len(whole)
        assert after("trailing").startswith(whole)
        assert sorted(after("swapped")) == sorted(whole)
        assert len(after("zeroed")) == len(after("noise")) == len(after("flipped")) == len(whole)
        start, end = damage.touched(whole, after("header"))
        assert end <= 128
        start, end = damage.touched(whole, after("removed"))
        assert end - start >= len(whole) - len(after("removed"))


@given(st.binary(max_size=50), st.binary(max_size=5), st.binary(max_size=5), st.binary(max_size=50))
def test_what_was_touched_is_all_that_differs(head: bytes, old: bytes, new: bytes, tail: bytes) -> None:
    before, after = head + old + tail, head + new + tail
    start, end = damage.touched(before, after)
    assert after.startswith(before[:start])
    assert after.endswith(before[end:])
    assert (start, end) == (len(before), len(before)) or before != after
    assert end <= max(len(head + old), start)


@pytest.mark.parametrize(
    ("form", "fields", "rate"),
    [
        ("wav", damage.RIFF_FIELDS, "rate"),
        ("float", damage.RIFF_FIELDS, "rate"),
        ("adpcm", damage.RIFF_FIELDS, "rate"),
        ("w64", damage.W64_FIELDS, "rate"),
        ("au", damage.AU_FIELDS, "rate"),
        ("flac", damage.FLAC_FIELDS, "rate"),
        ("aiff", damage.AIFF_FIELDS, None),  # it is a long double there
        ("mp3", damage.MP3_FIELDS, None),
    ],
)
def test_fields_are_where_the_format_has_them(
    form: str, fields: tuple[damage.Field, ...], rate: str | None, files: dict[str, bytes]
) -> None:
    whole, by_name = files[form], {field.name: field for field in fields}
    if rate is not None:
        assert by_name[rate].read(whole) == RATE
    if "channels" in by_name:
        assert by_name["channels"].read(whole) == (0 if form == "flac" else 1)  # FLAC counts from none
    for field in fields:
        assert field.read(field.written(whole, 5)) == 5
        assert field.written(field.written(whole, 5), field.read(whole)) == whole
    with pytest.raises(ValueError, match="no b'"):
        fields[0].read(b"nothing of the kind")


def crcs(content: bytes) -> list[tuple[int, int]]:
    """Of each page, the checksum that it states and the one that it has."""
    found = []
    for start, end in damage.ogg_pages(content):
        page = bytearray(content[start:end])
        stated = struct.unpack_from("<I", page, 22)[0]
        page[22:26] = bytes(4)
        found.append((stated, damage.ogg_crc(bytes(page))))
    return found


@pytest.mark.parametrize("name", ["vorbis", "opus"])
def test_ogg_pages_keep_their_checksums(name: str, files: dict[str, bytes]) -> None:
    """libogg wrote the intact ones."""
    whole = files[name]
    pages = crcs(whole)
    assert len(pages) > 6
    for content in (whole, damage.ogg_lying(whole, rng_of(1, name)), damage.ogg_page_lost(whole, rng_of(1, name))):
        assert all(stated == found for stated, found in crcs(content))
    assert len(crcs(damage.ogg_page_lost(whole, rng_of(1, name)))) < len(pages)


def test_wild_floats_are_wild(files: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    for seed in range(5):
        path.write_bytes(damage.wild_floats(files["float"], rng_of(seed, "x")))
        samples, _ = soundfile.read(path)
        assert not (np.abs(samples) < 1e9).all()

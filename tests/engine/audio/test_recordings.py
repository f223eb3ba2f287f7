"""Names, order and folders of recordings."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bce.engine.audio.names import BIRDCLEF, NameRule
from bce.engine.audio.recordings import NoRecordingsError, find_recordings
from bce.engine.errors import OptionsError

AUDIOMOTH = r"^(?P<date>\d{8})_(?P<time>\d{6})$"
SM4 = r"^(?P<site>S4A\d+)_(?P<date>\d{8})_(?P<time>\d{6})$"


def lay(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


@given(
    number=st.integers(0, 99_999),
    site=st.integers(1, 23),
    when=st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1)),
    part=st.sampled_from(["Train", "Test"]),
)
def test_birdclef_names_are_read(number, site, when, part):
    name = f"BC2026_{part}_{number:04d}_S{site:02d}_{when:%Y%m%d_%H%M%S}"
    found = BIRDCLEF.read(Path("folder", f"{name}.ogg"))
    assert (found.stem, found.file_id, found.site) == (name, number, f"S{site:02d}")
    assert found.start_time == when.replace(microsecond=0, tzinfo=UTC)


@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=40))
def test_any_other_name_gives_no_error_and_no_facts(name):
    found = BIRDCLEF.read(Path(f"x{name}.ogg"))
    assert (found.file_id, found.site, found.start_time) == (None, None, None)


def test_all_real_names_are_read(shared):
    names = (shared / "data/official_csv/train_soundscapes_filenames.txt").read_text().split()
    found = [BIRDCLEF.read(Path(name)) for name in names]
    assert len(found) == 10_658
    for name, recording in zip(names, found, strict=True):
        _, _, number, site, date, time = name.removesuffix(".ogg").split("_")
        assert recording.file_id == int(number)
        assert recording.site == site
        assert f"{recording.start_time:%Y%m%d%H%M%S}" == date + time
    assert {len(name.split("_")[2]) for name in names} == {4, 5}
    assert len({recording.site for recording in found}) == 23


@pytest.mark.parametrize(
    ("pattern", "offset", "stem", "site", "start"),
    [
        (AUDIOMOTH, 0, "20190522_060000", None, datetime(2019, 5, 22, 6, tzinfo=UTC)),
        (AUDIOMOTH, 2, "20190522_000000", None, datetime(2019, 5, 21, 22, tzinfo=UTC)),
        (SM4, -4, "S4A03895_20190522_230000", "S4A03895", datetime(2019, 5, 23, 3, tzinfo=UTC)),
        (SM4, 5.5, "S4A03895_20190522_060000", "S4A03895", datetime(2019, 5, 22, 0, 30, tzinfo=UTC)),
        (
            r"(?P<date>[\d-]+)T(?P<time>[\d.]+)",
            0,
            "a 2019-05-22T06.30 b",
            None,
            datetime(2019, 5, 22, 6, 30, tzinfo=UTC),
        ),
        (AUDIOMOTH, 0, "20191322_060000", None, None),  # month 13
        (AUDIOMOTH, 0, "20190522_250000", None, None),  # hour 25
        (AUDIOMOTH, 14, "00010101_060000", None, None),  # before the first year
        (r"(?P<date>\d{8})", 0, "20190522", None, None),  # no time of day
        (r"(?P<site>[a-z]+)(?P<id>\d+)?", 0, "meadow", "meadow", None),
    ],
)
def test_names_of_other_recorders(pattern, offset, stem, site, start):
    found = NameRule(pattern, offset).read(Path(f"{stem}.wav"))
    assert (found.site, found.start_time) == (site, start)


@pytest.mark.parametrize(
    ("pattern", "offset", "says"),
    [
        ("(?P<site>", 0, "is not a regular expression"),
        (r"\d+", 0, "(none)"),
        (r"(?P<place>\d+)", 0, "place"),
        (AUDIOMOTH, 15, "UTC offset 15"),
        (AUDIOMOTH, float("nan"), "UTC offset nan"),
    ],
)
def test_bad_rules_are_refused(pattern, offset, says):
    with pytest.raises(OptionsError) as error:
        NameRule(pattern, offset)
    assert says in str(error.value)


def test_folders_are_walked_for_audio_in_natural_order(tmp_path):
    lay(
        tmp_path,
        "b/rec10.wav",
        "b/rec2.WAV",
        "a/x/rec1.flac",
        "rec30.ogg",
        "notes.txt",
        ".hidden.wav",
        ".trash/rec4.wav",
    )
    found = find_recordings([tmp_path])
    assert [str(r.path.relative_to(tmp_path)) for r in found] == [
        "a/x/rec1.flac",
        "b/rec2.WAV",
        "b/rec10.wav",
        "rec30.ogg",
    ]
    assert [r.stem for r in found] == ["rec1", "rec2", "rec10", "rec30"]


def test_order_is_by_number_then_time(tmp_path):
    names = [
        "BC2026_Test_9999_S09_20250101_000000.ogg",
        "BC2026_Test_10000_S01_20240101_000000.ogg",
        "BC2026_Test_0002_S05_20250301_000000.ogg",
        "BC2026_Test_0002_S06_20250227_000000.ogg",
        "another.ogg",
    ]
    lay(tmp_path, *names)
    assert [r.path.name for r in find_recordings([tmp_path])] == [names[3], names[2], names[0], names[1], names[4]]


def test_a_named_file_is_taken_whatever_its_suffix_and_once(tmp_path):
    lay(tmp_path, "a.dat", "b.wav")
    paths = [tmp_path / "a.dat", tmp_path, tmp_path / "b.wav", os.path.join(tmp_path, ".", "b.wav")]
    assert [r.path.name for r in find_recordings(paths)] == ["a.dat", "b.wav"]


def test_two_recordings_of_one_name_are_refused_with_both_paths(tmp_path):
    lay(tmp_path, "a/x.wav", "b/x.ogg")
    with pytest.raises(OptionsError) as error:
        find_recordings([tmp_path])
    assert str(tmp_path / "a/x.wav") in str(error.value)
    assert str(tmp_path / "b/x.ogg") in str(error.value)


def test_missing_paths_and_empty_folders_are_refused(tmp_path):
    lay(tmp_path, "notes.txt")
    with pytest.raises(OptionsError, match="does not exist") as error:
        find_recordings([tmp_path / "nowhere"])
    assert error.value.path == str(tmp_path / "nowhere")
    with pytest.raises(NoRecordingsError, match="no recordings found"):
        find_recordings([tmp_path])
    with pytest.raises(NoRecordingsError, match="nothing was given"):
        find_recordings([])

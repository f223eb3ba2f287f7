"""Names, order and folders of recordings."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bce.engine.audio.names import BIRDCLEF, NameRule
from bce.engine.audio.recordings import NoRecordingsError, audio_files, find_recordings
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


# what a walk meets ---------------------------------------------------------------------------------------------------


def walk(*roots: Path) -> tuple[list[str], list[str]]:
    """Found files and what was passed over, both relative to the first root."""
    told: list[OptionsError] = []
    found = find_recordings(roots, passed_over=told.append)
    return [os.path.relpath(r.path, roots[0]) for r in found], [
        f"{os.path.relpath(str(t.path), roots[0])}: {t.reason}" for t in told
    ]


def test_a_folder_whose_listing_fails_is_named_and_passed_over(tmp_path, monkeypatch):
    lay(tmp_path, "a.wav", "lost+found/b.wav", "z/c.wav")
    real = os.scandir

    def refusing(path):
        if "lost+found" in os.fspath(path):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refusing)
    check_the_unlisted(tmp_path)


def check_the_unlisted(root: Path) -> None:
    assert walk(root) == (["a.wav", "z/c.wav"], ["lost+found: cannot be listed (Permission denied)"])
    with pytest.raises(OptionsError, match=r"lost\+found: cannot be listed"):  # where nobody listens
        list(audio_files(root))
    with pytest.raises(OptionsError, match="cannot be listed"):  # the root itself is what was asked for
        walk(root / "lost+found")


def test_linked_folders_are_followed_once(tmp_path):
    """As ``find -L`` finds them: links to folders outside, to one that is walked anyway, to each other, to a parent."""
    lay(tmp_path, "root/own/a.wav", "root/b.wav", "archive/deep/c.wav", "archive/d.flac", "other/e.wav")
    root = tmp_path / "root"
    (root / "a_link").symlink_to(tmp_path / "archive")
    (root / "again").symlink_to(tmp_path / "archive" / "deep")
    (root / "0_own").symlink_to(root / "own")
    (root / "own" / "up").symlink_to(root)
    (tmp_path / "archive" / "on").symlink_to(tmp_path / "other")
    (tmp_path / "other" / "back").symlink_to(tmp_path / "archive")
    found, passed = walk(root)
    assert found == ["a_link/d.flac", "a_link/deep/c.wav", "a_link/on/e.wav", "b.wav", "own/a.wav"]
    assert passed == ["own/up: is a link to a folder that it lies in"]


def test_links_that_lead_nowhere_and_pipes_are_named_and_passed_over(tmp_path):
    lay(tmp_path, "a.wav")
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "gone.wav").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "p.wav")
    found, passed = walk(tmp_path)
    assert found == ["a.wav"]
    assert passed == [
        "p.wav: is a pipe or a device: recordings are read from files",
        "x/gone.wav: is a link that leads nowhere",
        "y/gone.wav: is a link that leads nowhere",
    ]
    for named, says in (("x/gone.wav", "leads nowhere"), ("p.wav", "is a pipe or a device"), ("/dev/zero", "pipe")):
        with pytest.raises(OptionsError, match=says):
            find_recordings([tmp_path / named])


def test_a_linked_recording_is_the_recording_and_equal_names_are_still_refused(tmp_path):
    lay(tmp_path, "x/a.wav", "y/b.wav")
    (tmp_path / "y" / "a.wav").symlink_to(tmp_path / "x" / "a.wav")
    assert walk(tmp_path)[0] == ["x/a.wav", "y/b.wav"]
    lay(tmp_path, "z/b.ogg")
    with pytest.raises(OptionsError, match="has the same name as"):
        walk(tmp_path)


def test_a_name_that_is_not_utf_8_has_a_stem_that_a_table_can_hold(tmp_path):
    try:
        os.close(os.open(os.fsencode(tmp_path) + b"/caf\xe9.wav", os.O_CREAT))
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    lay(tmp_path, "café.wav")
    whole, escaped = find_recordings([tmp_path])
    assert (whole.stem, escaped.stem) == ("café", r"caf\udce9")
    assert escaped.path.exists()  # the path is the file's
    assert escaped.path_text.encode("utf-8").endswith(rb"/caf\udce9.wav")
    lay(tmp_path, r"caf\udce9.flac")
    with pytest.raises(OptionsError, match="has the same name as"):
        find_recordings([tmp_path])


# patterns and names from outside -------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["(?P<site>(a+)+)$", "(?P<site>(a|aa)+)$"])
def test_a_pattern_that_would_take_for_ever_is_refused(tmp_path, monkeypatch, pattern):
    monkeypatch.setattr("bce.engine.audio.names.MATCHING_S", 0.3)
    lay(tmp_path, "a" * 60 + "!.wav")
    with pytest.raises(OptionsError, match="takes more than"):
        find_recordings([tmp_path], NameRule(pattern))


def test_a_pattern_of_ones_own_reads_all_names_after_its_trial(tmp_path):
    lay(tmp_path, "S1_20200101_0600.wav", "other.wav")
    found = find_recordings([tmp_path], NameRule(r"^(?P<site>S\d)_(?P<date>\d+)_(?P<time>\d+)"))
    assert [r.site for r in found] == ["S1", None]


@pytest.mark.parametrize("pattern", ["(?P<id>a{99999999999})", "(" * 5000 + "(?P<id>a)" + ")" * 5000])
def test_patterns_that_python_cannot_take_are_refused(pattern):
    with pytest.raises(OptionsError, match="is not a regular expression"):
        NameRule(pattern)


DIGITS = st.text(st.characters(categories=["Nd"]), min_size=1, max_size=30)


@settings(max_examples=60)
@given(st.one_of(st.text(max_size=60), st.tuples(DIGITS, DIGITS, DIGITS).map("_".join)), st.floats(-14, 14))
def test_whatever_a_name_says_it_is_read_or_not(stem, offset):
    rule = NameRule(r"(?P<date>\d*)_?(?P<time>[^_]*)_?(?P<id>.*)", offset)
    found = rule.read(Path(f"x{stem}.wav".replace("/", "").replace("\0", "")))
    assert found.stem.encode("utf-8")
    assert found.file_id is None or 0 <= found.file_id < 10**18


def test_a_number_of_thousands_of_digits_is_no_number():
    found = NameRule(r"(?P<id>\d+)").read(Path("9" * 5000 + ".wav"))
    assert found.file_id is None

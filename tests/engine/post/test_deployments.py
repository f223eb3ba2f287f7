"""Tables of deployments: where a recording was made, and what is said of tables that are none."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bce.engine.errors import OptionsError, TableError
from bce.engine.post.deployments import Deployment, Deployments, Place, parse_place
from bce.engine.recording import Recording


def recording(site: str | None, time: datetime | None = None) -> Recording:
    return Recording(Path("r.ogg"), "r", 1, site, time)


def read(tmp_path: Path, text: str) -> Deployments:
    path = tmp_path / "deployments.csv"
    path.write_text(text, encoding="utf-8")
    return Deployments.read(path)


def test_a_site_has_its_place(tmp_path: Path) -> None:
    table = read(tmp_path, "\ufeffhabitat,longitude, latitude,site\nbog,6.2,46.5,S01\nwood, -56.5,-19.5, S02 \n\n")
    assert table.place_of(recording("S01")) == Place(46.5, 6.2)
    assert table.place_of(recording("S02", datetime(2025, 1, 1, tzinfo=UTC))) == Place(-19.5, -56.5)
    assert table.place_of(recording("S03")) is None
    assert table.place_of(recording(None)) is None
    assert str(table) == "2 sites of deployments.csv"


MOVED = """site,latitude,longitude,start,end,utc_offset,recorder
S01,1,2,,2025-03-31,-4,AM 17
S01,3,4,2025-04-02,2025-04-30,,
S02,5,6,2025-05-01,,5.5,
"""


def test_a_recorder_that_was_moved(tmp_path: Path) -> None:
    table = read(tmp_path, MOVED)
    assert table.deployments[0] == Deployment("S01", Place(1, 2), None, date(2025, 3, 31))
    for day, place in [
        (date(2020, 1, 1), Place(1, 2)),
        (date(2025, 3, 31), Place(1, 2)),
        (date(2025, 4, 1), None),
        (date(2025, 4, 2), Place(3, 4)),
        (date(2025, 4, 30), Place(3, 4)),
        (date(2025, 5, 1), None),
    ]:
        time = datetime(day.year, day.month, day.day, 23, 59, tzinfo=UTC)
        assert table.place_of(recording("S01", time)) == place, day
    # days are those of UTC, whatever zone a time is told in
    late = datetime(2025, 3, 31, 23, tzinfo=timezone(timedelta(hours=-4)))
    assert table.place_of(recording("S01", late)) is None
    # without a time: a site's one place, and none of several
    assert table.place_of(recording("S02")) == Place(5, 6)
    assert table.place_of(recording("S01")) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", r"lacks the column 'site': expected site, latitude, longitude, found nothing"),
        ("site,lat,lon\n", "lacks the column 'latitude': expected site, latitude, longitude, found site, lat, lon"),
        ("site,latitude,longitude,site\n", "has the column 'site' twice"),
        ("site,latitude,longitude\n", "has no deployments"),
        ("site,latitude,longitude\nS1,2\n", "line 2 has 2 fields, expected 3"),
        ("site,latitude,longitude\nS1,46,5,6,2\n", "line 2 has 5 fields"),
        ("site,latitude,longitude\n,46.5,6.2\n", "line 2: has no site"),
        ("site,latitude,longitude\nS1,46.5N,6.2\n", "line 2: latitude is '46.5N', expected a number"),
        ("site,latitude,longitude\nS1,46.5,\n", "line 2: longitude is '', expected a number"),
        ("site,latitude,longitude\nS0,1,1\nS1,96.5,6.2\n", "line 3: latitude is 96.5, expected -90 to 90 degrees"),
        ("site,latitude,longitude\nS1,nan,6.2\n", "line 2: latitude is nan"),
        ("site,latitude,longitude,start\nS1,1,2,31.12.2025\n", "line 2: start is '31.12.2025', expected a day"),
        ("site,latitude,longitude,end\nS1,1,2,2025-02-30\n", "line 2: end is '2025-02-30'"),
        (
            "site,latitude,longitude,start,end\nS1,1,2,2025-02-02,2025-02-01\n",
            "line 2: the end 2025-02-01 comes before the start 2025-02-02",
        ),
        ("site,latitude,longitude\nS1,1,2\nS2,1,2\nS1,3,4\n", "lines 2 and 4 both tell of site 'S1'"),
        ('site,latitude,longitude\n"S1,1,2\n', "is not CSV"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(TableError, match=says) as caught:
        read(tmp_path, text)
    assert "deployments.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_day_that_two_lines_tell_of_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="lines 2 and 3 both tell of site 'S01'"):
        read(tmp_path, MOVED.replace("2025-04-02", "2025-03-31"))


@settings(max_examples=60, deadline=None)
@given(st.floats(-90, 90), st.floats(-180, 180))
def test_a_place_is_read_as_it_is_written(latitude: float, longitude: float) -> None:
    assert parse_place(f"{latitude!r}, {longitude!r}") == Place(latitude, longitude)
    assert parse_place(f"{latitude!r},{longitude!r}").place_of(recording(None)) == Place(latitude, longitude)


@pytest.mark.parametrize("text", ["", "46.5", "46.5;6.2", "46,5,6,2", "46.5,", "nan,1", "1,inf", "N46.5,E6.2"])
def test_what_is_no_place_is_named(text: str) -> None:
    with pytest.raises(OptionsError, match=r"is not LAT,LON: expected degrees such as 46\.5,6\.2"):
        parse_place(text)
    with pytest.raises(OptionsError, match="latitude is 91"):
        parse_place("91,0")

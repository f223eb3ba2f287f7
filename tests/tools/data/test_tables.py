"""Tables of labels that are not what they should be: refused in one line with the line's number, whatever they hold."""

from __future__ import annotations

import csv
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.labels import HEADER

from bce.engine.errors import TableError
from bce.tools.data.datasets import read_clips
from bce.tools.data.labels import read_labels
from bce.tools.data.tables import read_table

FIRST = "a.ogg,0,5,x\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            HEADER + FIRST + "a.ogg,5,10,x,y\n",
            "line 3 has 5 fields, the header has 4: several labels go into one field",
        ),
        (HEADER + "\n" + FIRST + "a.ogg,5,10\n", "line 4 has 3 fields, the header has 4$"),
        ("filename,start,end,primary_label,primary_label\na.ogg,0,5,x,y\n", "names the column 'primary_label' 2 times"),
        ("filename,start,end,start,primary_label\na.ogg,0,5,0,y\n", "names the column 'start' 2 times"),
        (HEADER + FIRST + 'a.ogg,5,10,"x\n' + FIRST, r"line 3 is not CSV \(unexpected end of data\)"),
        (HEADER + "a.ogg,0,5," + "x" * (csv.field_size_limit() + 1) + "\n", r"line 2 is not CSV \(field larger than"),
        (HEADER + f"a.ogg,0,{'9' * 5000},x\n", "line 2 has the time '9+[.]{3}', which no recording is as long as"),
        (HEADER + "a.ogg,0,1e308,x\n", "line 2 has the time '1e308', expected HH:MM:SS"),
        (HEADER + "a.ogg,nan,5,x\n", "line 2 has the time 'nan', expected HH:MM:SS"),
        (HEADER + "a.ogg,-5,0,x\n", "line 2 has the time '-5', expected HH:MM:SS"),
        (HEADER + "a.ogg,5,0,x\n", "line 2 is about 5 to 0, expected a window that ends after its start"),
        (HEADER + ",0,5,x\n", "line 2 names no recording"),
        (HEADER + '"a\nb.ogg",0,5,x\n', "line 3 names a recording with a line break"),
        ("", "has no column 'filename'"),
    ],
)
def test_bad_labels_name_their_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(TableError, match=message) as caught:
        read_labels(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "primary_label,filename,secondary_labels\nx,1.ogg,['a', 'b']\n",
            "line 2 has 4 fields, the header has 3: a fi",
        ),
        ("primary_label,filename,secondary_labels,secondary_labels\nx,1.ogg,[],['a']\n", "names the column 'secondary"),
        ("primary_label,filename,secondary_labels\nx,1.ogg," + "[" * 5000 + "\n", "line 2 has the secondary labels"),
        ("primary_label,filename,secondary_labels\nx,1.ogg,{[]: 1}\n", "expected a list such as"),
    ],
)
def test_bad_clip_tables_name_their_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "train.csv").write_text(text)
    with pytest.raises(TableError, match=message):
        read_clips(tmp_path)


def test_other_columns_may_hold_anything(tmp_path: Path) -> None:
    """A byte order mark, Windows' line ends, columns without a name, fields over two lines."""
    path = tmp_path / "t.csv"
    path.write_bytes('\ufeffa,,b,\r\n1,x,2,"y\r\nz"\r\n\r\n3,,4,\r\n'.encode())
    assert [(line, row["a"], row["b"]) for line, row in read_table(path, ("a", "b"), "things")] == [
        (3, "1", "2"),
        (5, "3", "4"),
    ]


FIELDS = st.one_of(
    st.sampled_from(["a.ogg", "0", "5", "10", "00:00:05", "x;y", "", "9" * 5000, "nan", "1e308", "-5", "\0", '"', "٣"]),
    st.text(max_size=8),
)
TABLES = st.lists(st.lists(FIELDS, min_size=3, max_size=5).map(",".join), max_size=5).map("\n".join)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(st.binary(max_size=60), TABLES.map(str.encode), TABLES.map(lambda text: (HEADER + text).encode())),
    st.sampled_from([read_labels, lambda path: read_clips(path.parent)]),
)
def test_whatever_a_table_holds_it_is_read_or_refused(
    tmp_path: Path, content: bytes, read: Callable[[Path], object]
) -> None:
    path = tmp_path / "train.csv"
    path.write_bytes(content)
    with suppress(TableError):
        read(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text("aé 1-_,;[]", max_size=5), max_size=4))
def test_secondary_labels_are_pythons_lists(tmp_path: Path, labels: list[str]) -> None:
    """Against Python's own way to write them."""
    (tmp_path / "train_audio").mkdir(exist_ok=True)
    (tmp_path / "train_audio" / "1.ogg").write_bytes(b"")
    with open(tmp_path / "train.csv", "w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([["primary_label", "filename", "secondary_labels"], ["x", "1.ogg", labels]])
    assert read_clips(tmp_path).secondary == (frozenset(labels) - {""},)

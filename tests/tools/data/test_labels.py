"""Tables of labelled windows as they are: repeated rows, other recorders, other lengths, damage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.labels import HEADER, A, B

from bce.engine.audio.names import name_rule
from bce.engine.errors import TableError
from bce.engine.tables.scores import ScoreTable
from bce.tools.data.labels import read_labels
from bce.tools.judge.matching import match

FIRST = "a.ogg,00:00:05,00:00:10,x\n"


def test_labels_as_they_are(labels: Path) -> None:
    found = read_labels(labels)
    assert found.row_ids == (f"{A}_5", f"{A}_10", f"{A}_15", f"{B}_5", f"{B}_65")
    assert found.repeated == 5
    assert found.sites == ("S08", "S08", "S08", "S22", "S22")
    assert found.hours == (23, 0, 0, 4, 4)
    np.testing.assert_array_equal(found.present(("y", "x")), [[1, 1], [1, 0], [0, 0], [0, 1], [0, 0]])
    assert found.unknown(("y", "x")) == ["z"]


def test_labels_of_other_recorders(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(HEADER + "SM4-A_20190522_060000.wav,0:00,0:05,x\n")
    assert read_labels(path).hours == (None,)
    found = read_labels(path, name_rule(r"(?P<site>[^_]+)_(?P<date>\d{8})_(?P<time>\d{6})", 2))
    assert (found.sites, found.hours) == (("SM4-A",), (4,))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("filename,start,end\na.ogg,0,5\n", "has no column 'primary_label'"),
        (HEADER, "has no rows"),
        (
            HEADER + FIRST + "a.ogg,00:00:00,00:00:10,x\n",
            "line 3 is about 00:00:00 to 00:00:10, expected a window of 5 s as",
        ),
        (HEADER + "a.ogg,00:00:02,00:00:07,x\n", "expected a window of 5 s"),
        (
            HEADER + "a.ogg,00:00:05,00:00:05,x\n",
            "line 2 is about 00:00:05 to 00:00:05, expected a window that ends after",
        ),
        (HEADER + "a.ogg,noon,00:00:05,x\n", "line 2 has the time 'noon', expected HH:MM:SS"),
        (HEADER + "a.ogg,00:00:00\n", "line 2 has 2 fields, the header has 4"),
    ],
)
def test_bad_labels(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(TableError, match=message):
        read_labels(path)


def test_windows_are_as_long_as_the_rows_say(tmp_path: Path) -> None:
    """Windows of 3 s, as surveys with other networks have them: row ids end where the windows do."""
    path = tmp_path / "labels.csv"
    path.write_text(HEADER + f"{A}.ogg,00:00:00,00:00:03,x\n{A}.ogg,00:00:09,00:00:12,y\n")
    found = read_labels(path)
    assert found.chunk_s == 3
    assert found.start_s.tolist() == [0, 9]
    assert found.chunks.tolist() == [0, 3]
    assert found.row_ids == (f"{A}_3", f"{A}_12")
    assert found.hours == (23, 0)
    matched = match(ScoreTable((f"{A}_12", f"{A}_9"), ("x", "y"), np.eye(2)), found)
    assert matched.present.tolist() == [[False, True]]
    assert matched.start_s.tolist() == [9]


def test_mixed_lengths_are_refused_with_the_row(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    rows = "".join(f"a.ogg,00:00:{3 * i:02},00:00:{3 * i + 3:02},x\n" for i in range(5))
    path.write_text(HEADER + rows + "b.ogg,00:00:00,00:00:05,y\n")
    with pytest.raises(TableError, match="line 7 is about 00:00:00 to 00:00:05, expected a window of 3 s as in line 2"):
        read_labels(path)

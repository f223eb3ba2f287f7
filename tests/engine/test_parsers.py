"""Every parser of the engine on random and on damaged bytes: what it was made for, or one line that names the file."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bce.engine.arrays import read_arrays
from bce.engine.errors import BceError, BundleError, TableError
from bce.engine.network.default import DEFAULT_BUNDLE
from bce.engine.network.manifest import Manifest
from bce.engine.network.onnx_file import check_self_contained
from bce.engine.network.onnx_graph import read_graph
from bce.engine.post.options import tuned_options
from bce.engine.post.priors import Priors
from bce.engine.tables.scores import read_scores
from bce.engine.tables.submissions import SampleSubmission
from bce.engine.taxonomy import Taxonomy

CSV = b'row_id,a,"b,c"\nx_5,0.1,1e-3\n"y_10",0.25,0\nz_5,1,.5\n'
CLASSES = b'primary_label,scientific_name,class_name\n1,Aus bus,Aves\n2,"Cus, dus",Amphibia\n'


def parquet(**columns: pa.Array) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


def table(rows: int = 3) -> bytes:
    scores = np.linspace(0.1, 0.9, rows)
    return parquet(row_id=pa.array([f"x_{5 * i + 5}" for i in range(rows)]), a=pa.array(scores), b=pa.array(scores))


def priors() -> bytes:
    return (DEFAULT_BUNDLE / "priors.npz").read_bytes()


def plain_npz() -> bytes:
    """Not compressed, so that a changed byte is one of a header or of a number."""
    out = io.BytesIO()
    with np.load(DEFAULT_BUNDLE / "priors.npz") as content:
        np.savez(out, **{name: content[name] for name in content.files})
    return out.getvalue()


def graph() -> bytes:
    """A model with a node and a tensor of 64 numbers, in protobuf's wire format: no package is needed to write it."""
    tensor = b"\x08\x40\x10\x01\x42\x01w\x4a\x80\x02" + bytes(256)
    node = b"\x0a\x01w\x12\x01y\x22\x08Identity"
    content = b"\x0a" + bytes([len(node)]) + node + b"\x2a\x8a\x02" + tensor
    return b"\x08\x08\x3a" + bytes([len(content) & 127 | 128, len(content) >> 7]) + content


def manifest(path: Path) -> None:
    read = Manifest.from_json(path.read_bytes(), path)
    with suppress(BundleError):
        tuned_options(read.post)


@dataclass(frozen=True)
class Parser:
    read: Callable[[Path], object]
    ending: str
    healthy: Callable[[], bytes]


PARSERS = {
    "scores": Parser(read_scores, "csv", lambda: CSV),
    "parquet": Parser(read_scores, "parquet", table),
    "sample submission": Parser(SampleSubmission.read, "csv", lambda: CSV),
    "taxonomy": Parser(Taxonomy.read, "csv", lambda: CLASSES),
    "priors": Parser(Priors.load, "npz", priors),
    "priors that are not packed": Parser(Priors.load, "npz", plain_npz),
    "arrays": Parser(lambda path: read_arrays(path, "arrays"), "npz", plain_npz),
    "manifest": Parser(manifest, "json", (DEFAULT_BUNDLE / "bundle.json").read_bytes),
    "graph": Parser(check_self_contained, "onnx", graph),
    "nodes of a graph": Parser(read_graph, "onnx", graph),
}
LONG = [b"9" * 5000, b"a" * 140_000]
BITS = st.lists(st.sampled_from([*LONG, b",", b'"', b"\n", b"_", b"\0", b"\xff", b"nan", b"(", b"1"]))


def reads_or_says_why_not(parser: Parser, path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        parser.read(path)
    except BceError as error:
        line = str(error)
        if not (line.startswith(str(path)) and line.isprintable()):
            raise AssertionError(f"not one line that names the file: {line!r}") from error


@pytest.mark.parametrize("name", PARSERS)
def test_the_healthy_are_read(name: str, tmp_path: Path) -> None:
    parser = PARSERS[name]
    path = tmp_path / f"x.{parser.ending}"
    path.write_bytes(parser.healthy())
    parser.read(path)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300) | BITS.map(b"".join))
@pytest.mark.parametrize("name", PARSERS)
def test_random_bytes(name: str, tmp_path: Path, content: bytes) -> None:
    reads_or_says_why_not(PARSERS[name], tmp_path / f"x.{PARSERS[name].ending}", content)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.parametrize("name", PARSERS)
def test_damaged_bytes(name: str, tmp_path: Path, data: st.DataObject) -> None:
    """Some bytes changed, a piece cut out or put in, the end gone."""
    parser = PARSERS[name]
    content = bytearray(parser.healthy())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, len(content) - 1)))
        how = data.draw(st.sampled_from(["change", "cut", "insert", "end"]))
        if how == "change" and content:
            content[at] = data.draw(st.integers(0, 255))
        elif how == "cut":
            del content[at : at + data.draw(st.integers(1, 30))]
        elif how == "insert":
            content[at:at] = data.draw(st.binary(max_size=10) | st.sampled_from([*LONG, b'"']))
        else:
            del content[at:]
    reads_or_says_why_not(parser, tmp_path / f"x.{parser.ending}", bytes(content))


NUMBERS = st.integers() | st.floats() | st.text(max_size=3) | st.none() | st.booleans()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.sampled_from(["row_id", "a", "b", "path", "\x1b", ""]), st.lists(NUMBERS, min_size=2, max_size=2)
    )
)
def test_tables_of_other_columns(tmp_path: Path, columns: dict[str, list]) -> None:
    for kind in ("csv", "parquet"):
        path = tmp_path / f"x.{kind}"
        if kind == "csv":
            rows = [list(columns), *zip(*columns.values(), strict=True)]
            content = "\n".join(",".join(map(str, row)) for row in rows).encode("utf-8", "replace")
        else:
            with suppress(pa.ArrowException, OverflowError, UnicodeError):
                content = parquet(**{name: pa.array(values) for name, values in columns.items()})
        reads_or_says_why_not(PARSERS["parquet"], path, content)


@pytest.mark.parametrize(
    ("kind", "content", "says"),
    [
        ("csv", b"row_id,a\nx_5," + b"9" * 200_000 + b"\n", "no finite number|not a score table"),
        ("csv", b"row_id," + b"a" * 200_000 + b"\nx_5,1\n", r"is not CSV \(field larger than field limit"),
        ("csv", b"row_id,a,a\nx_5,1,1\n", "has the column 'a' twice"),
        ("csv", b"row_id,a,\nx_5,1,1\n", "has a column called '': expected the label of a class"),
        ("csv", b'row_id,"a\nb"\nx_5,1\n', r"has a column called 'a\\nb'"),
        ("csv", b"row_id,a\nx_5,1\nx_5,2\n", "has the row id 'x_5' more than once"),
        ("csv", b"row_id,a\nx_5,nan\n", "data row 1 has no finite number for class 'a'"),
        ("csv", b"row_id,a\nx_5,1\ny_5,-inf\n", "data row 2 has no finite number for class 'a'"),
        ("csv", b"row_id,a\nx_5,1,2\n", "is not a score table, or damaged"),
        ("csv", b"row_id,a\nx_5,one\n", "is not a score table, or damaged"),
        ("csv", b"row_id,a\n\xff_5,1\n", "is not a score table, or damaged|is not CSV text"),
        ("parquet", parquet(row_id=pa.array([1, 2]), a=pa.array([1.0, 2.0])), "'row_id' holds int64, expected row ids"),
        ("parquet", parquet(row_id=pa.array(["x_5"]), a=pa.array(["1"])), "column 'a' holds string, expected scores"),
        ("parquet", parquet(row_id=pa.array(["x_5"]), a=pa.array([1 << 60])), "has a score that is not a number"),
        ("parquet", parquet(row_id=pa.array(["x_5", None]), a=pa.array([1.0, 1.0])), "has a row without a row id"),
        ("parquet", table().replace(b"x_5", b"\xff_5"), "has a row id that is no text"),
        ("parquet", table()[:-20], "is not a parquet file, or damaged"),
    ],
)
def test_scores_that_are_refused(tmp_path: Path, kind: str, content: bytes, says: str) -> None:
    path = tmp_path / f"x.{kind}"
    path.write_bytes(content)
    with pytest.raises(TableError, match=says) as error:
        read_scores(path)
    assert str(error.value).startswith(str(path))
    assert str(error.value).isprintable()
    assert len(error.value.reason) < 300


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_row_ids_of_every_kind_of_text_are_read(tmp_path: Path, kind: pa.DataType) -> None:
    """As pandas writes them, polars, and pandas' categories."""
    ids = pa.array(["x_5", "y_5"]).cast(kind)
    (tmp_path / "x.parquet").write_bytes(parquet(row_id=ids, a=pa.array([0.5, 1.0])))
    assert read_scores(tmp_path / "x.parquet").row_ids == ("x_5", "y_5")


@pytest.mark.parametrize("end", ["9" * 5000, "1" * 20, "-5", "0", "\u0665", "5.0", ""])
def test_ends_that_are_no_seconds(tmp_path: Path, end: str) -> None:
    (tmp_path / "s.csv").write_text(f"row_id,a\nx_{end},1\n", encoding="utf-8")
    with pytest.raises(TableError, match=r"s\.csv: row id 'x_.*' is not <stem>_<end second>"):
        SampleSubmission.read(tmp_path / "s.csv")


def test_a_manifest_may_have_everything_json_has(tmp_path: Path) -> None:
    for value in (float("nan"), 1e400, 10**400, "\ud800", [[[]]], {"": {}}):
        path = tmp_path / "bundle.json"
        path.write_text(json.dumps({"schema": 2, "name": value}))
        reads_or_says_why_not(PARSERS["manifest"], path, path.read_bytes())

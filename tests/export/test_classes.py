"""Class mapping against the published result on real tables and against hand-made cases."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bce.engine.errors import TableError
from bce.engine.taxonomy import Taxonomy
from bce.export.classes import NO_SIGNAL, ClassMap, all_classes, map_classes, numbered_names, read_perch_labels

NAMES = ("Aus bus", "Aus cus", "Dus eus", "Insect", "Bark", "Fus gus", "Fus hus")


def taxonomy(*rows: tuple[str, str]) -> Taxonomy:
    return Taxonomy.from_columns(
        {
            "primary_label": [f"c{i}" for i in range(len(rows))],
            "scientific_name": [name for name, _ in rows],
            "class_name": [kind for _, kind in rows],
        }
    )


def test_real_tables_map_as_published(shared: Path) -> None:
    with open(shared / "data/perch_v2_labels/birdclef2026_to_perch_v2.csv", newline="") as stream:
        expected = list(csv.DictReader(stream))
    names = read_perch_labels(shared / "data/perch_v2_labels/labels.csv", 14_795)
    found = map_classes(Taxonomy.read(shared / "data/official_csv/taxonomy.csv"), names)
    assert found.counts == (203, 3, 28)
    assert list(found.taxonomy.labels) == [row["primary_label"] for row in expected]
    for row, members in zip(expected, found.members, strict=True):
        indices = row["perch_idx"] or row["genus_proxy_idxs"]
        assert members == tuple(int(index) for index in indices.split(";") if index), row


def test_a_genus_is_borrowed_whatever_the_column_of_taxon_classes_is_called() -> None:
    columns = {"primary_label": ["a", "b"], "scientific_name": ["Aus xus", "Fus xus"], "class": ["Aves", "Mammalia"]}
    assert map_classes(Taxonomy.from_columns(columns), NAMES).members == ((0, 1), ())


@pytest.mark.parametrize(
    ("name", "kind", "members"),
    [
        ("Aus cus", "Aves", (1,)),
        ("Aus xus", "Aves", (0, 1)),
        ("Fus xus", "Amphibia", (5, 6)),
        ("Dus xus", "Insecta", (2,)),
        ("Aus xus", "Mammalia", ()),
        ("Aus xus", "", ()),
        ("Insect son01", "Insecta", ()),
        ("Xus yus", "Aves", ()),
        ("Bark", "Aves", (4,)),
        ("", "Aves", ()),
    ],
)
def test_one_class(name: str, kind: str, members: tuple[int, ...]) -> None:
    assert map_classes(taxonomy((name, kind)), NAMES).members == (members,)


def test_apply_takes_the_largest_of_the_members() -> None:
    class_map = ClassMap(taxonomy(*[("x", "")] * 3), ((2,), (), (0, 1)))
    logits = np.array([[1, 2, 3], [5, -4, 0]], np.float32)
    assert class_map.apply(logits).tolist() == [[3, NO_SIGNAL, 2], [0, NO_SIGNAL, 5]]
    assert class_map.needed.tolist() == [0, 1, 2]
    assert class_map.silent.tolist() == [False, True, False]
    assert class_map.counts == (1, 1, 1)


@given(st.lists(st.tuples(st.sampled_from("ABCD"), st.sampled_from("abc"), st.sampled_from(("Aves", "Reptilia")))))
def test_members_are_the_name_or_the_genus(rows: list[tuple[str, str, str]]) -> None:
    names = ("A a", "A b", "B a", "C c")
    if not rows:
        return
    class_map = map_classes(taxonomy(*[(f"{genus} {species}", kind) for genus, species, kind in rows]), names)
    for (genus, species, kind), members in zip(rows, class_map.members, strict=True):
        found = [names[index] for index in members]
        if f"{genus} {species}" in names:
            assert found == [f"{genus} {species}"]
        else:
            assert found == ([name for name in names if name.startswith(genus)] if kind == "Aves" else [])


def test_labels_are_read_as_published(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(b'\xef\xbb\xbfinat2024_fsd50k\r\nAus bus\r\n"Gus, hus"\r\nBark\r\n\r\n')
    assert read_perch_labels(path, 3) == ("Aus bus", "Gus, hus", "Bark")


@pytest.mark.parametrize(
    ("text", "count", "message"),
    [
        ("header\na\nb\n", 3, "names 2 classes after its header, the model has 3"),
        ("header\na\n\nb\n", 3, "line 3 is empty"),
        ("header\na\nb\na\n", 3, "names the class 'a' twice"),
        ("", 1, "names 0 classes"),
    ],
)
def test_bad_labels_are_refused(tmp_path: Path, text: str, count: int, message: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(TableError, match=message) as raised:
        read_perch_labels(path, count)
    assert raised.value.path == str(path)


def test_missing_and_binary_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="cannot be read"):
        read_perch_labels(tmp_path / "none.csv", 3)
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(TableError, match="UTF-8"):
        read_perch_labels(tmp_path / "binary.csv", 3)


def test_classes_without_a_taxonomy() -> None:
    assert all_classes(numbered_names(3)).labels == ("perch_0", "perch_1", "perch_2")
    assert all_classes(NAMES).scientific_names == NAMES

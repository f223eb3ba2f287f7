"""BirdNET's labels and where a taxonomy's classes are among them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bce.engine.errors import TableError
from bce.engine.taxonomy import Taxonomy
from bce.export.birdnet.classes import SYNONYMS, map_to_labels, read_labels

LINES = [
    "Turdus merula_Eurasian Blackbird",
    "Tyto alba_Barn Owl",
    "Dog_Dog",
    "Hydropsalis maculicaudus_Spot-tailed Nightjar",
]


@pytest.fixture
def labels(tmp_path: Path) -> Taxonomy:
    path = tmp_path / "labels.txt"
    path.write_text("\n".join(LINES), encoding="utf-8")  # as published: no newline at the end
    return read_labels(path, len(LINES))


def test_labels_are_scientific_and_common_names(labels: Taxonomy) -> None:
    assert labels.labels == ("Turdus merula", "Tyto alba", "Dog", "Hydropsalis maculicaudus")
    assert labels.columns["common_name"] == ("Eurasian Blackbird", "Barn Owl", "Dog", "Spot-tailed Nightjar")


@pytest.mark.parametrize(
    ("content", "count", "message"),
    [
        (b"a_b\nc_d", 3, "names 2 classes, the network has 3"),
        (b"a_b\nTurdus merula", 2, r"line 2 is 'Turdus merula', expected Scientific name_Common name"),
        (b"a_b\n_d", 2, "line 2 is '_d'"),
        (b"a_b\na_c", 2, "names the class 'a' twice"),
        (b"\xff\xfe", 1, "not UTF-8"),
    ],
)
def test_bad_labels_are_named(tmp_path: Path, content: bytes, count: int, message: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    with pytest.raises(TableError, match=message) as caught:
        read_labels(path, count)
    assert "labels.txt" in str(caught.value)


def test_no_labels_are_named(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="cannot be read"):
        read_labels(tmp_path / "none.txt", 1)


def test_classes_are_found_by_name_then_by_synonym_and_the_rest_are_constant(labels: Taxonomy) -> None:
    names = ["Dog", "Tyto furcata", "Turdus merula", "Turdus sp", "Canis familiaris", "Astur cooperii"]
    taxonomy = Taxonomy.from_columns({"primary_label": [str(n) for n in range(6)], "scientific_name": names})
    found = map_to_labels(taxonomy, labels)
    # Astur cooperii has a synonym, which these labels do not have; a genus stands for nothing
    assert found.members == ((2,), (1,), (0,), (), (2,), ())
    assert found.silent.tolist() == [False, False, False, True, False, True]
    columns = found.taxonomy.columns
    assert columns["source_class"] == ("Dog", "Tyto alba", "Turdus merula", "", "Dog", "")
    assert [bool(why) for why in columns["source_why"]] == [False, True, False, False, True, False]
    assert columns["source_why"][1].startswith("split: eBird taxonomy update 2024")
    logits = np.arange(8.0).reshape(2, 4)
    assert found.apply(logits).tolist() == [[2, 1, 0, -10, 2, -10], [6, 5, 4, -10, 6, -10]]


def test_synonyms_are_told_once_and_with_a_source() -> None:
    assert len({synonym.name for synonym in SYNONYMS}) == len(SYNONYMS)
    assert all(synonym.source and synonym.name != synonym.label for synonym in SYNONYMS)

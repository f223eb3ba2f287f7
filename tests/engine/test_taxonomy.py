from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bce.engine.errors import TableError
from bce.engine.taxonomy import Taxonomy

TEXT = """primary_label,inat_taxon_id,scientific_name,common_name,class_name
frog1,11,Rana alba,"Frog, white",Amphibia
frog2,12,Rana nigra,Frog,Amphibia
bird1,21,Avis alba,Bird,Aves
son01,31,Insect son01,Insect son01,Insecta
son02,31,Insect son02,Insect son02,Insecta
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "taxonomy.csv"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_reads_and_writes_the_same_file(file: Path, tmp_path: Path) -> None:
    table = Taxonomy.read(file)
    assert table.labels == ("frog1", "frog2", "bird1", "son01", "son02")
    assert table.scientific_names[2] == "Avis alba"
    assert table.class_names[0] == "Amphibia"
    assert table.index["bird1"] == 2
    table.write(tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == file.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.csv", "taxonomy.csv"]


def test_groups(file: Path) -> None:
    table = Taxonomy.read(file)
    assert table.groups("genus").tolist() == [0, 0, 1, 2, 2]
    assert table.groups("class").tolist() == [0, 0, 1, 2, 2]
    assert table.groups("genus", ["Insect"]).tolist() == [0, 0, 1, -1, -1]
    assert table.groups("genus").dtype == np.int32
    assert table.has_level("genus")
    assert not table.has_level("family")
    with pytest.raises(TableError, match=r"taxonomy\.csv: has no column 'family'"):
        table.groups("family")


def test_family_column_is_a_level() -> None:
    columns = {"primary_label": ["a", "b"], "scientific_name": ["X a", "Y b"], "family": ["F", "F"]}
    assert Taxonomy.from_columns(columns).groups("family").tolist() == [0, 0]


@pytest.mark.parametrize("name", ["class_name", "class"])
def test_class_names_are_those_that_smoothing_groups_by(name: str) -> None:
    columns = {"primary_label": ["a", "b", "c"], "scientific_name": ["X a", "Y b", "Z c"], name: ["Aves", "", "Aves"]}
    table = Taxonomy.from_columns(columns)
    assert table.class_names == table.group_names("class") == ("Aves", "", "Aves")
    assert Taxonomy.from_columns({key: columns[key] for key in list(columns)[:2]}).class_names == ("", "", "")


def test_select_orders_and_refuses(file: Path) -> None:
    table = Taxonomy.read(file)
    assert table.select(["bird1", "frog1"]).scientific_names == ("Avis alba", "Rana alba")
    with pytest.raises(TableError, match="lacks the class 'nobody'"):
        table.select(["nobody"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("primary_label,class_name\na,Aves\n", "has no column 'scientific_name', it has primary_label, class_name"),
        ("label,scientific_name\na,A b\n", "has no column 'primary_label'"),
        ("primary_label,scientific_name\n", "has no classes"),
        ("primary_label,scientific_name\na,A b\na,A c\n", "names the class 'a' twice"),
        ("primary_label,scientific_name\n,A b\n", "row 1 has an empty primary_label"),
        ("primary_label,scientific_name\na\n", "line 2 has 1 fields, the header has 2"),
        ('primary_label,scientific_name\na,A b\nb,"A c\nc,A d\n', "line 3 is not CSV"),
        ("primary_label,primary_label\na,b\n", "names a column twice"),
        (f"primary_label,scientific_name\na,{'b' * (1 << 18)}\n", r"is not CSV \(field larger than field limit"),
        ('primary_label,scientific_name\n"a\nb",c\n', r"row 1 has a control character in its primary_label: 'a\\nb'"),
    ],
)
def test_bad_tables(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(TableError, match=message) as caught:
        Taxonomy.read(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_unreadable(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="cannot be read"):
        Taxonomy.read(tmp_path / "absent.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(TableError, match="is not UTF-8 text"):
        Taxonomy.read(tmp_path / "binary.csv")


def test_real_taxonomy(shared: Path) -> None:
    table = Taxonomy.read(shared / "data/official_csv/taxonomy.csv")
    assert len(table) == 234
    genera = np.bincount(table.groups("genus"))
    assert (genera > 1).sum() == 29
    assert genera.max() == 25
    assert sorted(np.bincount(table.groups("class"))) == [1, 8, 28, 35, 162]

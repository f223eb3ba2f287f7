"""BirdNET's classes: its labels, and where a taxonomy's classes are among them.

The labels follow the Clements checklist of 2021. What has another scientific name since then is found by
:data:`SYNONYMS`, a small table with its sources; what is not found is told by name and gets a constant.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bce.engine.errors import TableError
from bce.engine.taxonomy import COMMON_NAME, LABEL, SCIENTIFIC_NAME, Taxonomy
from bce.export.classes import ClassMap

SOURCE_CLASS = "source_class"
"""Column of a bundle's class table: the scientific name that the source has for the class; empty where it has none."""
SOURCE_WHY = "source_why"
"""Column: why that is another name than the table's own; empty where it is the same."""

Change = Literal["renamed", "split", "other name"]
_EBIRD_2024 = "eBird taxonomy update 2024 (ebird.org/region/CR-P/post/taxonomy-update-2024-is-here)"
_SAME_NAME = "the same common name in iNaturalist's taxonomy and in BirdNET's labels"


@dataclass(frozen=True)
class Synonym:
    """A species under another name.

    Attributes:
        name: scientific name in newer lists.
        label: the one that BirdNET has.
        change: "renamed"; "split": BirdNET's class holds more than this species; or "other name".
        source: where that is said.
    """

    name: str
    label: str
    change: Change
    source: str

    @property
    def why(self) -> str:
        return f"{self.change}: {self.source}"


SYNONYMS = (
    Synonym("Antiurus maculicaudus", "Hydropsalis maculicaudus", "renamed", _SAME_NAME),
    Synonym("Daptrius chimachima", "Milvago chimachima", "renamed", _SAME_NAME),
    Synonym("Rufirallus schomburgkii", "Micropygia schomburgkii", "renamed", _SAME_NAME),
    Synonym("Astur bicolor", "Accipiter bicolor", "renamed", _EBIRD_2024),
    Synonym("Astur cooperii", "Accipiter cooperii", "renamed", _EBIRD_2024),
    Synonym("Tyto furcata", "Tyto alba", "split", _EBIRD_2024),
    Synonym("Troglodytes musculus", "Troglodytes aedon", "split", _EBIRD_2024),
    Synonym("Larus smithsonianus", "Larus argentatus", "split", _EBIRD_2024),
    Synonym(
        "Accipiter atricapillus",
        "Accipiter gentilis",
        "split",
        "eBird/Clements checklist 2023 (inaturalist.org/taxon_changes/133052)",
    ),
    Synonym("Canis familiaris", "Dog", "other name", "BirdNET's label for dogs, which is no scientific name"),
)


def read_labels(path: str | os.PathLike[str], count: int) -> Taxonomy:
    """Read BirdNET's labels, a line for each class: ``Turdus merula_Eurasian Blackbird``.

    Args:
        path: the file.
        count: the number of classes of the network.

    Returns:
        the classes in the order of the logits, with the scientific name as the label.

    Raises:
        TableError: the file cannot be read, or has another number of lines or a line of another form.
    """
    file = Path(path)
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise TableError(f"cannot be read ({error.strerror})", file) from None
    except UnicodeDecodeError:
        raise TableError(
            "is not UTF-8 text: expected a line for each class, Scientific name_Common name", file
        ) from None
    if len(lines) != count:
        raise TableError(f"names {len(lines)} classes, the network has {count}", file)
    pairs = [line.strip().partition("_") for line in lines]
    for number, (scientific, underscore, common) in enumerate(pairs, start=1):
        if not (scientific and underscore and common):
            raise TableError(f"line {number} is '{lines[number - 1][:60]}', expected Scientific name_Common name", file)
    names = [scientific for scientific, _, _ in pairs]
    columns = {LABEL: names, SCIENTIFIC_NAME: names, COMMON_NAME: [common for _, _, common in pairs]}
    return Taxonomy.from_columns(columns, file)


def map_to_labels(taxonomy: Taxonomy, labels: Taxonomy) -> ClassMap:
    """Find a taxonomy's classes among BirdNET's: by scientific name, then by :data:`SYNONYMS`; the rest have no signal.

    Returns:
        the map; its taxonomy has the columns :data:`SOURCE_CLASS` and :data:`SOURCE_WHY` besides.
    """
    synonyms = {synonym.name: synonym for synonym in SYNONYMS}
    found: list[tuple[str, str]] = []
    for name in taxonomy.scientific_names:
        synonym = synonyms.get(name)
        if name in labels.index:
            found.append((name, ""))
        elif synonym is not None and synonym.label in labels.index:
            found.append((synonym.label, synonym.why))
        else:
            found.append(("", ""))
    told = {SOURCE_CLASS: [label for label, _ in found], SOURCE_WHY: [why for _, why in found]}
    members = tuple((labels.index[label],) if label else () for label, _ in found)
    return ClassMap(Taxonomy.from_columns({**taxonomy.columns, **told}, taxonomy.path), members)

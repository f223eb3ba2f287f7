"""The classes of a bundle and the groups they form: BirdCLEF's ``taxonomy.csv``, read, checked and written.

One row is one class, in output order. ``primary_label`` and ``scientific_name`` are needed; columns of
:data:`LEVEL_COLUMNS` serve smoothing and exports where they are there, and every other column is kept as it is.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from bce.engine.csv_files import read_rows
from bce.engine.errors import TableError, has_controls, one_line, shown
from bce.engine.files import beside

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Level = Literal["genus", "family", "class"]

LABEL = "primary_label"
SCIENTIFIC_NAME = "scientific_name"
COMMON_NAME = "common_name"
LEVEL_COLUMNS: dict[str, tuple[str, ...]] = {
    "genus": ("genus",),
    "family": ("family", "family_name"),
    "class": ("class_name", "class"),
}


@dataclass(frozen=True, eq=False)
class Taxonomy:
    """The table of classes. Build it with :meth:`read` or :meth:`from_columns`, which check it.

    Attributes:
        columns: every column by name, in the table's order; each holds one string per class.
        path: the file it came from, for messages; None when it was built in memory.
    """

    columns: Mapping[str, tuple[str, ...]]
    path: Path | None = None

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Read a taxonomy from a CSV file with a header line.

        Raises:
            TableError: the file is missing, is not a table, lacks a column, has no rows, or names a class twice.
        """
        file = Path(path)
        rows = list(read_rows(file, "a taxonomy"))
        if not rows:
            raise TableError("is empty: expected a taxonomy with a header and one row per class", file)
        header = rows[0][1]
        if len(set(header)) != len(header):
            raise TableError("names a column twice in its header", file)
        for line, row in rows[1:]:
            if len(row) != len(header):
                raise TableError(f"line {line} has {len(row)} fields, the header has {len(header)}", file)
        body = [row for _, row in rows[1:]]
        columns = dict(zip(header, zip(*body, strict=True), strict=True)) if body else dict.fromkeys(header, ())
        return cls.from_columns(columns, file)

    @classmethod
    def from_columns(cls, columns: Mapping[str, Sequence[str]], path: str | os.PathLike[str] | None = None) -> Self:
        """Build a taxonomy from its columns.

        Args:
            columns: at least ``primary_label`` and ``scientific_name``, all of one length.
            path: what messages name.

        Raises:
            TableError: a column is missing, there are no classes, or a label is empty or there twice.
        """
        for needed in (LABEL, SCIENTIFIC_NAME):
            if needed not in columns:
                raise TableError(f"has no column '{needed}', it has {one_line(', '.join(columns))}", path)
        labels = columns[LABEL]
        if not labels:
            raise TableError("has no classes: expected one row per class", path)
        if any(len(column) != len(labels) for column in columns.values()):
            raise TableError("has columns of different lengths", path)
        seen: set[str] = set()
        for number, label in enumerate(labels, start=1):
            if not label:
                raise TableError(f"row {number} has an empty {LABEL}", path)
            if has_controls(label):
                raise TableError(f"row {number} has a control character in its {LABEL}: {shown(label)}", path)
            if label in seen:
                raise TableError(f"names the class '{one_line(label)}' twice", path)
            seen.add(label)
        return cls({name: tuple(column) for name, column in columns.items()}, None if path is None else Path(path))

    @property
    def labels(self) -> tuple[str, ...]:
        """The class labels (eBird codes, iNaturalist ids) in output order."""
        return self.columns[LABEL]

    @property
    def scientific_names(self) -> tuple[str, ...]:
        """The scientific name of each class."""
        return self.columns[SCIENTIFIC_NAME]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The taxon class of each class (Aves, Amphibia, ...); empty strings where the table does not say."""
        return self._column("class") or ("",) * len(self)

    @cached_property
    def index(self) -> dict[str, int]:
        """The place of each label in the output."""
        return {label: i for i, label in enumerate(self.labels)}

    def __len__(self) -> int:
        return len(self.labels)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Taxonomy) and dict(self.columns) == dict(other.columns)

    __hash__ = None  # type: ignore[assignment]

    def has_level(self, level: Level) -> bool:
        """Whether the table knows the groups of a level. Genera are always known, from the scientific names."""
        return level == "genus" or self._column(level) is not None

    def group_names(self, level: Level) -> tuple[str, ...]:
        """The name of each class' group at a level: its genus, family or taxon class.

        The genus is the column ``genus`` where there is one, else the first word of the scientific name. BirdCLEF's
        sonotypes ("Insect son01") so form a genus "Insect" of their own.

        Raises:
            TableError: the table has no column for the level.
        """
        column = self._column(level)
        if column is not None:
            return column
        if level == "genus":
            return tuple(name.split()[0] if name.strip() else "" for name in self.scientific_names)
        raise TableError(f"has no column '{LEVEL_COLUMNS[level][0]}', which the level '{level}' needs", self.path)

    def _column(self, level: Level) -> tuple[str, ...] | None:
        """What the table says of a level: its first column that has one of the level's names."""
        return next((self.columns[name] for name in LEVEL_COLUMNS[level] if name in self.columns), None)

    def groups(self, level: Level, exclude: Collection[str] = ()) -> NDArray[np.int32]:
        """Group ids of a level, for smoothing.

        Args:
            level: "genus", "family" or "class".
            exclude: names of groups to leave out, such as "Insect". Names that are no group here are ignored.

        Returns:
            int32 [classes]: 0, 1, ... in the order in which groups first appear; -1 for a class in no group.

        Raises:
            TableError: the table has no column for the level.
        """
        import numpy as np

        ids: dict[str, int] = {}
        left_out = {"", *exclude}
        return np.array(
            [-1 if name in left_out else ids.setdefault(name, len(ids)) for name in self.group_names(level)],
            dtype=np.int32,
        )

    def select(self, labels: Sequence[str]) -> Self:
        """The rows of these classes, in this order.

        Raises:
            TableError: naming the first class that the table does not have.
        """
        for label in labels:
            if label not in self.index:
                raise TableError(f"lacks the class '{one_line(label)}'", self.path)
        rows = [self.index[label] for label in labels]
        return type(self)({name: tuple(column[r] for r in rows) for name, column in self.columns.items()}, self.path)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the table as CSV, all columns in their order, beside and then renamed."""
        with beside(path) as partial, open(partial, "w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(self.columns)
            writer.writerows(zip(*self.columns.values(), strict=True))

"""Which of the source's classes make up each class of a taxonomy.

The published classifier knows 14,795 names: species by scientific name and FSD50K's sound events. A competition or
a project wants a few hundred classes of its own; this module says where their logits come from.
"""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bce.engine.errors import TableError
from bce.engine.taxonomy import LABEL, SCIENTIFIC_NAME, Taxonomy

NO_SIGNAL = -10.0
"""The constant logit of a class that the source cannot hear: a probability of 5e-5."""

PROXY_CLASS_NAMES = frozenset({"Aves", "Amphibia", "Insecta"})
"""Taxon classes whose unmapped species borrow their genus: they call, and relatives call alike."""


@dataclass(frozen=True)
class ClassMap:
    """Where each output class' logit comes from.

    Attributes:
        taxonomy: the output classes.
        members: for each output class the indices of the source's classes whose largest logit it takes: one for a
            class found by name, several for a genus proxy, none for a class without signal.
    """

    taxonomy: Taxonomy
    members: tuple[tuple[int, ...], ...]

    @cached_property
    def needed(self) -> NDArray[np.int64]:
        """The source's classes that any output class takes, rising."""
        return np.unique([index for members in self.members for index in members]).astype(np.int64)

    @cached_property
    def silent(self) -> NDArray[np.bool_]:
        """bool [classes]: the output classes without signal."""
        return np.array([not members for members in self.members])

    @property
    def counts(self) -> tuple[int, int, int]:
        """How many output classes are (found by name, genus proxies, without signal)."""
        sizes = [len(members) for members in self.members]
        return sum(n == 1 for n in sizes), sum(n > 1 for n in sizes), sum(n == 0 for n in sizes)

    def apply(self, logits: NDArray[np.floating]) -> NDArray[np.floating]:
        """Map the source's logits [n, source classes] to the output's [n, classes], one class at a time."""
        columns = [
            logits[:, list(members)].max(axis=1) if members else np.full(len(logits), NO_SIGNAL, logits.dtype)
            for members in self.members
        ]
        return np.stack(columns, axis=1)


def map_classes(taxonomy: Taxonomy, names: tuple[str, ...]) -> ClassMap:
    """Find a taxonomy's classes among the source's.

    A class is found by its exact scientific name. Where that fails, a bird, amphibian or insect takes the largest
    logit of its genus (the way of the public BirdCLEF 2026 notebooks); the rest are without signal.

    Args:
        taxonomy: the wanted classes.
        names: the source's class names by index, see :func:`read_perch_labels`.
    """
    by_name: dict[str, int] = {}
    by_genus: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        by_name.setdefault(name, index)
        # a single word is a sound event of FSD50K, not a species: "Insect" must not stand for "Insect son01"
        if " " in name:
            by_genus.setdefault(name.split()[0], []).append(index)

    def members(scientific_name: str, class_name: str) -> tuple[int, ...]:
        if scientific_name in by_name:
            return (by_name[scientific_name],)
        if class_name in PROXY_CLASS_NAMES and scientific_name.strip():
            return tuple(by_genus.get(scientific_name.split()[0], ()))
        return ()

    pairs = zip(taxonomy.scientific_names, taxonomy.class_names, strict=True)
    return ClassMap(taxonomy, tuple(members(*pair) for pair in pairs))


def all_classes(names: tuple[str, ...]) -> Taxonomy:
    """The source's own classes as a taxonomy, for an export without one."""
    return Taxonomy.from_columns({LABEL: names, SCIENTIFIC_NAME: names})


def numbered_names(count: int) -> tuple[str, ...]:
    """Names for a source whose labels are not at hand: perch_0, perch_1, ..."""
    return tuple(f"perch_{index}" for index in range(count))


def read_perch_labels(path: str | os.PathLike[str], count: int) -> tuple[str, ...]:
    """Read the class names that are published beside the model (``labels.csv``).

    The file has a header line (``inat2024_fsd50k``) and one name per line; a name's index is its line number after
    the header, from 0.

    Args:
        path: the file.
        count: the number of classes of the source.

    Raises:
        TableError: the file cannot be read, has another number of names than the source, or an empty or double one.
    """
    file = Path(path)
    try:
        with open(file, encoding="utf-8-sig", newline="") as stream:
            rows = [row[0].strip() if row else "" for row in csv.reader(stream)]
    except OSError as error:
        raise TableError(f"cannot be read ({error.strerror})", file) from None
    except UnicodeDecodeError:
        raise TableError("is not UTF-8 text: expected class names, one per line after a header", file) from None
    except csv.Error as error:
        raise TableError(f"is not CSV ({error}): expected class names, one per line after a header", file) from None
    while rows and not rows[-1]:
        rows.pop()
    names = tuple(rows[1:])
    if len(names) != count:
        raise TableError(f"names {len(names)} classes after its header, the model has {count}", file)
    if "" in names:
        raise TableError(f"line {names.index('') + 2} is empty: expected a class name", file)
    if len(set(names)) != count:
        double = next(name for index, name in enumerate(names) if name in names[:index])
        raise TableError(f"names the class '{double}' twice", file)
    return names

"""Blends: weighted means of score tables, as probabilities, as logits, or as ranks within each class.

Tables may be larger than memory. They are read in batches; sums lie in one scratch file of the size of the table (two
if rows are missing), class by class. In ``rank`` mode each table in turn lies in another one, because ranks need all
rows of a class at once. Memory holds a few batches, one class, and the row ids. Scratch files lie beside the output,
without a name, so that they are gone whatever happens.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import rankdata

from bce.engine.errors import OptionsError, TableError, one_line
from bce.engine.files import check_apart, check_place
from bce.engine.post.options import PostprocessOptions
from bce.engine.post.steps import Groups, smooth_taxonomy, taxonomy_groups
from bce.engine.scales import to_logits
from bce.engine.tables.schema import batch_rows, check_format
from bce.engine.tables.score_files import ScoreFile, ScoreFileWriter
from bce.engine.taxonomy import Taxonomy

Mode = Literal["direct", "logit", "rank"]


@dataclass(frozen=True)
class BlendOptions:
    """How tables are blended.

    Attributes:
        mode: "direct" averages scores as they are; "logit" averages the logits of probabilities and returns
            probabilities; "rank" averages each class' percentile ranks over all rows, ties averaged, within (0, 1].
        allow_missing: rows or classes that a table lacks take the mean of the tables that have them.
        taxonomy_smoothing: what :class:`PostprocessOptions` calls taxonomy: level and amount.
        exclude: groups that smoothing leaves alone.
        safe_csv: see :class:`bce.engine.tables.score_files.ScoreFileWriter`.

    Raises:
        OptionsError: a value is out of range.
    """

    mode: Mode = "direct"
    allow_missing: bool = False
    taxonomy_smoothing: tuple[tuple[Literal["genus", "family", "class"], float], ...] = ()
    exclude: tuple[str, ...] = ()
    safe_csv: bool = False

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise OptionsError(f"mode is '{self.mode}', expected one of {', '.join(get_args(Mode))}")
        _ = self.smoothing

    @property
    def smoothing(self) -> PostprocessOptions:
        return PostprocessOptions(taxonomy=self.taxonomy_smoothing, exclude=self.exclude)


@dataclass(frozen=True)
class BlendSummary:
    """What was written: rows, classes, the weights as they were used, and table cells that were filled from others."""

    rows: int
    classes: int
    weights: tuple[float, ...]
    filled: int


def parse_input(text: str) -> tuple[Path, float]:
    """A path and its weight out of ``table.csv:0.93``; without a weight it is 1.

    Raises:
        OptionsError: the weight is negative or infinite.
    """
    name, colon, number = text.rpartition(":")
    try:
        weight = float(number) if colon else 1.0
    except ValueError:
        return Path(text), 1.0
    if not colon:
        name = text
    if not (weight >= 0 and math.isfinite(weight)):
        raise OptionsError(f"weight {number} is not a number of 0 or more", name)
    return Path(name), weight


def blend(
    inputs: Sequence[tuple[str | os.PathLike[str], float]],
    out: str | os.PathLike[str],
    options: BlendOptions | None = None,
    taxonomy: Taxonomy | None = None,
) -> BlendSummary:
    """Blend score tables into one, with the rows and classes of the first in their order.

    With ``allow_missing``, rows and classes that only later tables have come after them.

    Args:
        inputs: tables (.csv or .parquet) and weights, which are normalised to a sum of 1.
        out: the table to write, .csv or .parquet.
        options: mode, taxonomy smoothing, and whether tables may lack rows or classes.
        taxonomy: the class table for smoothing.

    Raises:
        OptionsError: no inputs, weights that are all 0, smoothing without a taxonomy, a place that cannot be written
            or that is one of the inputs.
        TableError: an input is not a score table; tables differ in rows or classes; logit mode meets a score outside
            0..1; the taxonomy lacks a class or a level.
    """
    options = options or BlendOptions()
    target = check_format(out)
    check_place(target)
    read = [path for path, _ in inputs]
    check_apart([target], read if taxonomy is None or taxonomy.path is None else [*read, taxonomy.path])
    if not inputs:
        raise OptionsError("nothing to blend: give at least one score table")
    given = [weight for _, weight in inputs]
    if any(not (weight >= 0 and math.isfinite(weight)) for weight in given) or not 0 < sum(given) < math.inf:
        raise OptionsError(
            f"weights {', '.join(f'{w:g}' for w in given)} must be 0 or more and not all 0, with a finite sum"
        )
    weights = [weight / sum(given) for weight in given]
    if options.smoothing.levels and taxonomy is None:
        raise OptionsError("taxonomy smoothing needs a taxonomy: give --taxonomy taxonomy.csv")

    files = [ScoreFile.open(path) for path, _ in inputs]
    ids = [file.row_ids() for file in files]
    if not options.allow_missing:
        for file, own in zip(files[1:], ids[1:], strict=True):
            _require_same("classes", files[0], pa.array(files[0].classes), file, pa.array(file.classes))
            _require_same("rows", files[0], ids[0], file, own)
    classes = _union([pa.array(file.classes) for file in files]).to_pylist()
    column_of = {name: column for column, name in enumerate(classes)}
    rows = _union(ids)
    groups: list[Groups] = []
    if taxonomy is not None and options.smoothing.levels:
        groups = taxonomy_groups(taxonomy.select(classes), options.smoothing)

    filled = 0
    total = _scratch(target.parent, len(classes), len(rows))
    gaps = any(len(own) < len(rows) or len(file.classes) < len(classes) for file, own in zip(files, ids, strict=True))
    share = _scratch(target.parent, len(classes), len(rows)) if gaps else None
    for file, own, weight in zip(files, ids, weights, strict=True):
        place = None if own.equals(rows) else pc.index_in(own, value_set=rows).to_numpy()
        columns = [column_of[name] for name in file.classes]
        filled += total.size - len(own) * len(columns)
        for column, where, values in _columns(file, place, len(own), options.mode, target.parent):
            total[columns[column], where] += weight * values
            if share is not None:
                share[columns[column], where] += weight
    with ScoreFileWriter(target, classes, safe=options.safe_csv) as sink:
        for start, scores in _means(total, share):
            if options.mode == "logit":
                scores = expit(scores)
            if groups:
                scores = smooth_taxonomy(scores, groups)
            sink.write(rows.slice(start, len(scores)), scores)
    return BlendSummary(len(rows), len(classes), tuple(weights), filled)


def _columns(
    file: ScoreFile, place: NDArray[np.int64] | None, n_rows: int, mode: Mode, folder: Path
) -> Iterator[tuple[int, slice | NDArray[np.int64], NDArray[np.float64]]]:
    """The table's values in parts of one class each: its number, the rows of the blend, what is averaged there."""
    ranked = _scratch(folder, len(file.classes), n_rows) if mode == "rank" else None
    start = 0
    for scores in file.batches():
        end = start + len(scores)
        if ranked is not None:
            ranked[:, start:end] = scores.T
        else:
            if mode == "logit":
                if scores.min(initial=0.0) < 0 or scores.max(initial=0.0) > 1:
                    raise TableError("has scores outside 0..1: mode logit blends probabilities", file.path)
                scores = to_logits(scores)
            where = slice(start, end) if place is None else place[start:end]
            yield from ((column, where, values) for column, values in enumerate(scores.T))
        start = end
    if ranked is not None:
        where = slice(None) if place is None else place
        yield from ((column, where, rankdata(values) / n_rows) for column, values in enumerate(ranked))


def _means(total: NDArray[np.float64], share: NDArray[np.float64] | None) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Batches of float64 [rows, classes] with their first row; cells that no table with a weight has are refused."""
    step = batch_rows(len(total))
    for start in range(0, total.shape[1], step):
        scores = np.array(total[:, start : start + step].T, order="C")
        if share is not None:
            known = np.array(share[:, start : start + step].T, order="C")
            if (known <= 0).any():
                raise TableError("some rows lack some classes in every table that has a weight: they cannot be filled")
            scores /= known
        yield start, scores


def _union(parts: Sequence[pa.Array]) -> pa.Array:
    """What the parts hold, once each, in the order in which it first appears."""
    whole = parts[0]
    for part in parts[1:]:
        new = part.filter(pc.is_null(pc.index_in(part, value_set=whole)))
        if len(new):
            whole = pa.concat_arrays([whole, new])
    return whole


def _require_same(what: str, first: ScoreFile, expected: pa.Array, other: ScoreFile, found: pa.Array) -> None:
    lacking = expected.filter(pc.is_null(pc.index_in(expected, value_set=found)))
    unknown = found.filter(pc.is_null(pc.index_in(found, value_set=expected)))
    parts = [
        f"{verb} {len(names)} {what} ({_first_of(names)})"
        for verb, names in (("lacks", lacking), ("adds", unknown))
        if len(names)
    ]
    if parts:
        raise TableError(f"differs from {first.path}: it {' and '.join(parts)}; --allow-missing fills", other.path)


def _first_of(names: pa.Array) -> str:
    first = ", ".join(map(one_line, names.slice(0, 3).to_pylist()))
    return f"{first}, ..." if len(names) > 3 else first


def _scratch(folder: Path, classes: int, rows: int) -> NDArray[np.float64]:
    """Zeros [classes, rows] in a file without a name, so that it is gone whatever happens."""
    if 0 in (classes, rows):
        return np.zeros((classes, rows))
    with tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):  # a disk that fills under a memory map kills the process
            os.posix_fallocate(file.fileno(), 0, 8 * classes * rows)
        return np.memmap(file, np.float64, "w+", shape=(classes, rows))

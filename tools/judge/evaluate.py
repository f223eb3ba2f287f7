"""``bce-tools evaluate``: macro ROC-AUC of a score table, per class, taxon class and site, with bootstrap intervals."""

from __future__ import annotations

import argparse
import csv
import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bce.engine.audio.names import name_rule
from bce.engine.errors import OptionsError, TableError
from bce.engine.recording import Recording
from bce.engine.tables.scores import ScoreTable, read_scores
from bce.engine.taxonomy import Taxonomy
from bce.tools.data.labels import WindowLabels, read_labels
from bce.tools.metrics import Ranking, Resamples, Ties, count_ties, interval, mean

DEFAULT_RESAMPLES = 1000


@dataclass(frozen=True, eq=False)
class Matched:
    """The rows that scores and labels both have.

    Attributes:
        classes: class labels, in the scores' order.
        scores: float64 [rows, classes].
        present: bool [rows, classes].
        recordings: the recording of each row.
        start_s: start of each row's chunk, int64 [rows].
        only_scores: rows of the scores without labels.
        only_labels: labelled windows without scores.
        unknown: labels that are no class of the scores.
    """

    classes: tuple[str, ...]
    scores: NDArray[np.float64]
    present: NDArray[np.bool_]
    recordings: tuple[Recording, ...]
    start_s: NDArray[np.int64]
    only_scores: int
    only_labels: int
    unknown: tuple[str, ...]

    @property
    def stems(self) -> tuple[str, ...]:
        return tuple(recording.stem for recording in self.recordings)

    @property
    def sites(self) -> tuple[str, ...]:
        """The site of each row; "?" where the name does not tell."""
        return tuple(recording.site or "?" for recording in self.recordings)

    def take(self, rows: NDArray[np.int64]) -> Matched:
        """The same rows in another order."""
        recordings = tuple(self.recordings[row] for row in rows)
        return replace(
            self,
            scores=self.scores[rows],
            present=self.present[rows],
            recordings=recordings,
            start_s=self.start_s[rows],
        )


def match(table: ScoreTable, labels: WindowLabels) -> Matched:
    """Bring scores and labels together by row id, in the order of the scores.

    Raises:
        TableError: they have no row in common.
    """
    place = {name: i for i, name in enumerate(labels.row_ids)}
    pairs = [(row, place[name]) for row, name in enumerate(table.row_ids) if name in place]
    if not pairs:
        raise TableError(f"has no row in common with {labels.path}, e.g. '{labels.row_ids[0]}'", table.path)
    rows, windows = (list(column) for column in zip(*pairs, strict=True))
    return Matched(
        table.classes,
        table.scores[rows],
        labels.present(table.classes)[windows],
        tuple(labels.recordings[w] for w in windows),
        labels.start_s[windows],
        len(table.row_ids) - len(rows),
        len(labels.row_ids) - len(rows),
        tuple(labels.unknown(table.classes)),
    )


def read_table(text: str) -> ScoreTable:
    """A score table from ``.csv``, ``.parquet``, or ``FILE.npz:ARRAY`` with arrays ``row_ids`` and ``classes`` beside.

    Raises:
        TableError: it is not a table of scores, an id is there twice, or a score is NaN or infinite.
    """
    name, colon, array = text.rpartition(":")
    if not (colon and name.lower().endswith(".npz")):
        if text.lower().endswith(".npz"):
            raise OptionsError("is a .npz file: name the array of scores too, as FILE.npz:ARRAY", text)
        return read_scores(text)
    path = Path(name)
    try:
        with np.load(path, allow_pickle=False) as content:
            for needed in ("row_ids", "classes", array):
                if needed not in content:
                    raise TableError(f"has no array '{needed}', it has {', '.join(content.files)}", path)
            ids, classes = tuple(content["row_ids"].tolist()), tuple(content["classes"].tolist())
            scores = content[array].astype(np.float64)
    except OSError as error:
        raise TableError(f"cannot be read ({error.strerror or error})", path) from None
    except (ValueError, EOFError, zipfile.BadZipFile, TypeError):
        raise TableError("is not a .npz file of plain arrays", path) from None
    if scores.shape != (len(ids), len(classes)):
        raise TableError(f"array '{array}' has shape {scores.shape}, expected ({len(ids)}, {len(classes)})", path)
    if len(set(ids)) != len(ids):
        raise TableError("has a row id more than once", path)
    if not np.isfinite(scores).all():
        raise TableError(f"array '{array}' holds NaN or infinite values", path)
    return ScoreTable(ids, classes, scores, path)


@dataclass(frozen=True)
class Score:
    """A macro AUC, its 95 % bootstrap interval over recordings, and what it rests on."""

    auc: float
    low: float
    high: float
    classes: int
    rows: int
    recordings: int

    def __str__(self) -> str:
        return f"{self.auc:.4f}  [{self.low:.4f}, {self.high:.4f}]"


@dataclass(frozen=True)
class Evaluation:
    """What ``bce-tools evaluate`` finds."""

    macro: Score
    per_class: dict[str, float]
    positives: dict[str, int]
    taxon_classes: dict[str, Score]
    sites: dict[str, Score]
    site_groups: dict[str, Score]
    ties: Ties
    only_scores: int
    only_labels: int
    unknown: tuple[str, ...] = field(default=())


def evaluate(
    matched: Matched,
    taxonomy: Taxonomy | None = None,
    resamples: int = DEFAULT_RESAMPLES,
    unseen_sites: Sequence[str] = (),
) -> Evaluation:
    """Score matched rows.

    Args:
        matched: scores and truth.
        taxonomy: gives each class' taxon class; without it there is no breakdown by taxon class.
        resamples: bootstrap resamples over recordings for the intervals.
        unseen_sites: sites that nothing was learnt from; gives one AUC over them and one over the others.

    Raises:
        TableError: no class has both positives and negatives, or the taxonomy lacks a class.
    """
    aucs = Ranking.of(matched.present, matched.scores).auc()
    if np.isnan(aucs).all():
        raise TableError("no class has both positives and negatives in the rows that scores and labels share")
    taxa: dict[str, NDArray[np.bool_]] = {}
    if taxonomy is not None:
        names = np.array(taxonomy.select(matched.classes).class_names)
        taxa = {name: names == name for name in sorted(set(names.tolist()))}
    site = np.array(matched.sites)
    every_row, every_class = np.ones(len(site), dtype=bool), np.ones(len(aucs), dtype=bool)
    found = ((name, _score(matched, every_row, chosen, resamples)) for name, chosen in taxa.items())
    groups = {"seen": ~np.isin(site, list(unseen_sites)), "unseen": np.isin(site, list(unseen_sites))}
    return Evaluation(
        _score(matched, every_row, every_class, resamples),
        {name: float(auc) for name, auc in zip(matched.classes, aucs, strict=True) if not np.isnan(auc)},
        dict(zip(matched.classes, matched.present.sum(axis=0).tolist(), strict=True)),
        {name: score for name, score in found if score.classes},
        {name: _score(matched, site == name, every_class, resamples) for name in sorted(set(matched.sites))},
        {name: _score(matched, rows, every_class, resamples) for name, rows in groups.items() if unseen_sites},
        count_ties(matched.present, matched.scores),
        matched.only_scores,
        matched.only_labels,
        matched.unknown,
    )


def _score(matched: Matched, rows: NDArray[np.bool_], classes: NDArray[np.bool_], resamples: int) -> Score:
    ranking = Ranking.of(matched.present[rows][:, classes], matched.scores[rows][:, classes])
    stems = [stem for stem, chosen in zip(matched.stems, rows, strict=True) if chosen]
    aucs = ranking.auc()
    low, high = interval(Resamples.draw(stems, resamples).macro_auc(ranking))
    return Score(mean(aucs), low, high, int((~np.isnan(aucs)).sum()), int(rows.sum()), len(set(stems)))


def describe(evaluation: Evaluation) -> list[str]:
    """The evaluation as lines of text."""
    e = evaluation
    lines = [
        f"macro ROC-AUC  {e.macro}  over {e.macro.classes} classes, {e.macro.rows} rows of {e.macro.recordings} "
        "recordings (95 % bootstrap over recordings)",
        f"exactly        {e.macro.auc:.10f}",
        f"left out       {e.only_scores} rows without labels, {e.only_labels} labelled windows without scores, "
        f"{len(e.positives) - e.macro.classes} classes without a positive or a negative",
    ]
    if e.unknown:
        lines.append(f"warning        {len(e.unknown)} labels are no class of the scores: {', '.join(e.unknown[:5])}")
    if e.ties.constant:
        lines.append(f"constant       {e.ties.constant} scored classes have one score in every row (AUC 0.5)")
    if e.ties.tied and e.ties.rounded:
        lines.append(
            f"warning        scores are rounded to 6 decimals or fewer, and {e.ties.tied} scored classes have ties "
            "between positives and negatives, which count half: write more digits"
        )
    elif e.ties.tied:
        lines.append(f"ties           {e.ties.tied} scored classes have ties between positives and negatives")
    for title, part in (("taxon class", e.taxon_classes), ("site", e.sites), ("sites", e.site_groups)):
        if part:
            lines += ["", f"{title:<14} AUC     95 %              classes   rows  recordings"]
            lines += [
                f"{name:<14} {s}  {s.classes:>7}  {s.rows:>5}  {s.recordings:>10}"
                if s.classes
                else f"{name:<14} -       no class with positives and negatives  {s.rows:>5}  {s.recordings:>10}"
                for name, s in part.items()
            ]
    return lines


def write_per_class(path: str | os.PathLike[str], evaluation: Evaluation, taxonomy: Taxonomy | None) -> None:
    """Write class, positives and AUC (empty where there is none) as CSV, beside and then renamed."""
    file = Path(path)
    partial = file.with_name(file.name + ".partial")
    with open(partial, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["primary_label", "scientific_name", "positives", "auc"])
        for name, positives in evaluation.positives.items():
            scientific = "" if taxonomy is None else taxonomy.scientific_names[taxonomy.index[name]]
            writer.writerow([name, scientific, positives, evaluation.per_class.get(name, "")])
    os.replace(partial, file)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register ``bce-tools evaluate``."""
    parser = subparsers.add_parser(
        "evaluate",
        help="macro ROC-AUC of a score table against labelled windows",
        description="Macro ROC-AUC over the classes with a positive, in all, per taxon class and per site, with "
        "bootstrap intervals over recordings. Rows are matched by id.",
    )
    parser.add_argument("scores", help="score table: .csv, .parquet, or FILE.npz:ARRAY beside row_ids and classes")
    parser.add_argument("labels", type=Path, help="train_soundscapes_labels.csv: filename, start, end, primary_label")
    parser.add_argument("--taxonomy", type=Path, metavar="CSV", help="adds the breakdown by taxon class")
    parser.add_argument(
        "--unseen-sites", metavar="LIST", help="such as S09,S10: judge these sites and the others apart"
    )
    parser.add_argument("--per-class", type=Path, metavar="CSV", help="write the AUC of every class")
    parser.add_argument("--json", type=Path, metavar="JSON", help="write everything")
    parser.add_argument(
        "--resamples", type=resample_count, default=DEFAULT_RESAMPLES, metavar="N", help="(default: 1000)"
    )
    add_name_options(parser)
    parser.set_defaults(run=_run)


def resample_count(text: str) -> int:
    """A number of bootstrap resamples, 1 to 100,000."""
    value = int(text)
    if not 1 <= value <= 100_000:
        raise argparse.ArgumentTypeError(f"{value} is not within 1..100000")
    return value


def add_name_options(parser: argparse.ArgumentParser) -> None:
    """Options that say how recordings are named."""
    parser.add_argument(
        "--name-pattern", metavar="REGEX", help="named groups site, date, time, id (default: BirdCLEF's)"
    )
    parser.add_argument("--utc-offset", type=float, default=0.0, metavar="H", help="the recorder's clock ahead of UTC")


def _run(arguments: argparse.Namespace) -> list[str]:
    taxonomy = None if arguments.taxonomy is None else Taxonomy.read(arguments.taxonomy)
    labels = read_labels(arguments.labels, name_rule(arguments.name_pattern, arguments.utc_offset))
    unseen = tuple(name.strip() for name in (arguments.unseen_sites or "").split(",") if name.strip())
    evaluation = evaluate(match(read_table(arguments.scores), labels), taxonomy, arguments.resamples, unseen)
    if arguments.per_class is not None:
        write_per_class(arguments.per_class, evaluation, taxonomy)
    if arguments.json is not None:
        partial = arguments.json.with_name(arguments.json.name + ".partial")
        partial.write_text(json.dumps(_without_nan(asdict(evaluation)), indent=2) + "\n", encoding="utf-8")
        os.replace(partial, arguments.json)
    return describe(evaluation)


def _without_nan(value: Any) -> Any:
    """The same with None for NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    return None if isinstance(value, float) and np.isnan(value) else value

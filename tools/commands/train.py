"""``bce-tools train``: heads on cached block features, judged out of fold and on sites held out."""

from __future__ import annotations

import argparse
import io
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from bce.engine.audio.names import name_rule
from bce.engine.errors import OptionsError
from bce.engine.network.bundle import Bundle
from bce.engine.network.default import bundle_path
from bce.engine.tables.score_files import row_id
from bce.export.heads.checkpoints import PRESETS, HeadCheckpoint, save_checkpoint
from bce.tools.data.datasets import TAXONOMY, Clips, Soundscapes, read_clips, read_dataset
from bce.tools.judge.evaluate import add_name_options
from bce.tools.learn.features import CHUNK_S, FeatureOptions, FeatureTable, add_feature_options, read_features
from bce.tools.learn.training import Examples, GroupBy, TrainOptions, block_weights, split, train_folds
from bce.tools.metrics import Ranking, Resamples, interval, macro_auc, mean
from bce.tools.plots import curves

CLIP_CHUNKS = 6
"""Chunks of a focal clip that are learnt from: its first 30 s; the species named may be silent later."""
RESAMPLES = 500
CLEAR = 0.01
"""A difference between out-of-fold and held-out-site AUC under this is not worth a warning."""


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """What a folder gives to learn from.

    Attributes:
        examples: the rows.
        classes: in output order.
        row_ids: of each row: stem and end second.
        failed: recordings that could not be read, and why.
    """

    examples: Examples
    classes: tuple[str, ...]
    row_ids: tuple[str, ...]
    failed: dict[Path, str]


def read_training_set(
    root: Path,
    bundle: Bundle,
    cache: Path | None = None,
    threads: int = 1,
    *,
    rule: Any = None,
    quiet: bool = True,
) -> TrainingSet:
    """Labels and features of a data set in BirdCLEF layout, or of a folder of class folders.

    Raises:
        OptionsError: nothing there is labelled.
    """
    clips: Clips | None
    train: Soundscapes | None
    if (root / TAXONOMY).is_file():
        data = read_dataset(root) if rule is None else read_dataset(root, rule)
        clips, train, classes = data.clips, data.train, data.taxonomy.labels
    else:
        clips, train = read_clips(root), None
        classes = clips.classes
    parts: list[Examples] = []
    ids: list[str] = []
    failed: dict[Path, str] = {}
    for source in (clips, train):
        if source is None:
            continue
        table = read_features(source.paths, bundle, cache, FeatureOptions(threads), quiet=quiet)
        examples = (
            _of_clips(source, table, classes) if isinstance(source, Clips) else _of_windows(source, table, classes)
        )
        parts.append(examples[0])
        ids += examples[1]
        failed |= table.failed
    if not parts:
        raise OptionsError("has neither focal clips nor labelled soundscapes to train on", root)
    return TrainingSet(Examples.join(parts), classes, tuple(ids), failed)


def _of_clips(clips: Clips, table: FeatureTable, classes: tuple[str, ...]) -> tuple[Examples, list[str]]:
    rows = np.flatnonzero(table.chunk < CLIP_CHUNKS)
    of = table.recording[rows]
    main, heard = clips.present(classes), clips.present(classes, secondary=True)
    examples = Examples(
        {name: x[rows] for name, x in table.features.items()},
        main[of],
        (~heard | main)[of],
        of,
        np.full(len(rows), "", np.str_),
        np.zeros(len(rows), bool),
    )
    return examples, [
        row_id(clips.paths[r].stem, CHUNK_S * (c + 1)) for r, c in zip(of, table.chunk[rows], strict=True)
    ]


def _of_windows(soundscapes: Soundscapes, table: FeatureTable, classes: tuple[str, ...]) -> tuple[Examples, list[str]]:
    place = {(int(r), int(c)): row for row, (r, c) in enumerate(zip(table.recording, table.chunk, strict=True))}
    chunk = soundscapes.windows.start_s // CHUNK_S
    wanted = [place.get((int(r), int(c))) for r, c in zip(soundscapes.recording, chunk, strict=True)]
    windows = np.array([window for window, row in enumerate(wanted) if row is not None], dtype=np.int64)
    rows = np.array([row for row in wanted if row is not None], dtype=np.int64)
    present = soundscapes.windows.present(classes)[windows]
    examples = Examples(
        {name: x[rows] for name, x in table.features.items()},
        present,
        np.ones_like(present),
        soundscapes.recording[windows],
        np.array(soundscapes.windows.named_sites)[windows],
        np.ones(len(rows), bool),
    )
    return examples, [soundscapes.windows.row_ids[window] for window in windows]


def out_of_fold(
    examples: Examples, options: TrainOptions, log: Callable[[dict[str, Any]], None], after: Callable[[Any], None]
) -> NDArray[np.float32]:
    """Logits of every row by the head that has not seen it, float32 [rows, classes]."""
    logits = np.zeros(examples.present.shape, np.float32)
    for result in train_folds(examples, options, log):
        logits[result.rows] = result.logits
        after(result)
    return logits


def logistic_out_of_fold(examples: Examples, options: TrainOptions, block: str) -> NDArray[np.float64]:
    """The same with one logistic regression per class on one block's features, in the same folds."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    fold = split(examples, options.folds, options.group_by, options.seed)
    x = examples.features[block]
    out = np.zeros((len(examples), examples.present.shape[1]))
    for number in range(options.folds):
        kept, held = fold != number, fold == number
        for c in range(examples.present.shape[1]):
            rows = kept & examples.known[:, c]
            if 0 < examples.present[rows, c].sum() < rows.sum():
                model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
                out[held, c] = model.fit(x[rows], examples.present[rows, c]).decision_function(x[held])
    return out


def accuracy(examples: Examples, logits: NDArray[np.floating]) -> float:
    """Share of focal clips whose class has the largest mean logit over the clip; NaN without clips."""
    clips = np.flatnonzero(~examples.soundscape)
    if not len(clips):
        return float("nan")
    _, first, of = np.unique(examples.recording[clips], return_index=True, return_inverse=True)
    total = np.zeros((len(first), logits.shape[1]))
    np.add.at(total, of, logits[clips] / np.bincount(of)[of][:, None])
    return float((total.argmax(axis=1) == examples.present[clips][first].argmax(axis=1)).mean())


def fold_count(examples: Examples, options: TrainOptions, by: GroupBy) -> int:
    """The folds of the options, but no more than there are sites to hold out."""
    sites = len(set(examples.site[examples.soundscape].tolist()))
    return min(options.folds, sites) if by == "site" and sites else options.folds


def disagreement(examples: Examples, oof: NDArray[np.floating], by_site: NDArray[np.floating]) -> tuple[float, float]:
    """95 % bootstrap interval over recordings of how much higher the first AUC is than the second."""
    rows = examples.judged
    resamples = Resamples.draw([str(r) for r in examples.recording[rows]], RESAMPLES)
    first, second = (resamples.macro_auc(Ranking.of(examples.present[rows], x[rows])) for x in (oof, by_site))
    return interval(first - second)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register ``bce-tools train``."""
    defaults = TrainOptions()
    parser = subparsers.add_parser(
        "train",
        help="train a head on block features",
        description="Train the folds of a head on the block features of labelled recordings, for bce-export --head. "
        "Writes fold_1.safetensors, ..., report.md, training.jsonl, curves.png and out_of_fold.npz.",
    )
    add: Callable[..., argparse.Action] = parser.add_argument
    add("data", type=Path, metavar="DIR", help="a data set in BirdCLEF layout, or a folder of class folders")
    add("--out", type=Path, required=True, metavar="DIR", help="new or empty folder for the folds and the report")
    add("--head", choices=tuple(PRESETS), default="attention", help="(default: %(default)s)")
    add("--d", type=int, help="the head's width (default: the preset's)")
    add("--ffn", type=int, help="width of its feed-forward layer (default: the preset's)")
    add("--dropout", type=float, help="(default: the preset's)")
    add("--folds", type=int, default=defaults.folds, help="(default: %(default)s)")
    add("--group-by", choices=("recording", "site"), default="recording", help="what stays in one fold")
    add("--epochs", type=int, default=defaults.epochs, help="at most (default: %(default)s)")
    add("--patience", type=int, default=defaults.patience, help="epochs without gain (default: %(default)s)")
    add("--batch", type=int, default=defaults.batch, help="rows (default: %(default)s)")
    add("--soundscape-share", type=float, default=defaults.soundscape_share, help="of a batch (default: %(default)s)")
    add("--mixup", type=float, default=defaults.mixup, metavar="ALPHA", help="0 for none (default: %(default)s)")
    add("--unbalanced", action="store_true", help="draw focal clips as they come, not class by class")
    add("--learning-rate", type=float, default=defaults.learning_rate, help="(default: %(default)s)")
    add("--weight-decay", type=float, default=defaults.weight_decay, help="(default: %(default)s)")
    add("--seed", type=int, default=defaults.seed, help="(default: %(default)s)")
    add("--no-site-check", action="store_true", help="do not train again with sites held out")
    add("--baseline", action="store_true", help="compare with logistic regression on the last block")
    add("--force", action="store_true", help="replace the folds that are in --out")
    add_feature_options(parser)
    add_name_options(parser)
    parser.set_defaults(run=_run)


def _options(arguments: argparse.Namespace) -> TrainOptions:
    given = {name: getattr(arguments, name) for name in ("d", "ffn", "dropout")}
    head = replace(PRESETS[arguments.head], **{name: value for name, value in given.items() if value is not None})
    return TrainOptions(
        head=head,
        folds=arguments.folds,
        group_by=arguments.group_by,
        epochs=arguments.epochs,
        patience=arguments.patience,
        batch=arguments.batch,
        soundscape_share=arguments.soundscape_share,
        balanced=not arguments.unbalanced,
        mixup=arguments.mixup,
        learning_rate=arguments.learning_rate,
        weight_decay=arguments.weight_decay,
        seed=arguments.seed,
        threads=arguments.threads,
    )


def _run(arguments: argparse.Namespace) -> list[str]:
    options = _options(arguments)
    out: Path = arguments.out
    if out.exists() and any(out.iterdir()) and not arguments.force:
        raise OptionsError("is not empty: give another folder, or --force to replace what is there", out)
    bundle = Bundle.load(bundle_path(arguments.bundle))
    rule = name_rule(arguments.name_pattern, arguments.utc_offset)
    data = read_training_set(
        arguments.data, bundle, arguments.cache, arguments.threads, rule=rule, quiet=arguments.quiet
    )
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("fold_*.safetensors"):
        old.unlink()
    examples = data.examples
    log: list[dict[str, Any]] = []
    results: list[Any] = []
    sites = sorted(set(examples.site[examples.soundscape].tolist()))
    other: GroupBy = "site" if options.group_by == "recording" else "recording"
    twice = len(sites) > 1 and not arguments.no_site_check
    with tqdm(total=options.folds * options.epochs, unit="epoch", disable=True if arguments.quiet else None) as bar:

        def note(line: dict[str, Any]) -> None:
            log.append(line)
            write_text(out / "training.jsonl", "".join(json.dumps(entry) + "\n" for entry in log))
            bar.set_postfix(fold=line["fold"] + 1, auc=line["auc"])
            bar.update()

        def keep(result: Any) -> None:
            results.append(result)
            facts = {
                "auc": result.auc, "epoch": result.epoch, "fold": len(results), "data": arguments.data.resolve().name,
                "options": asdict(options), "bundle": bundle.sha256,
                "block_weights": block_weights(result.head, examples.take(result.rows)),
            }  # fmt: skip
            checkpoint = HeadCheckpoint(
                result.head, data.classes, examples.blocks, bundle.manifest.preparation, bundle.manifest.notice, facts
            )
            save_checkpoint(out / f"fold_{len(results)}.safetensors", checkpoint)

        logits = out_of_fold(examples, options, note, keep)
        second = None
        if twice:
            again = replace(options, group_by=other, folds=fold_count(examples, options, other))
            bar.reset(again.folds * options.epochs)
            second = out_of_fold(examples, again, lambda line: bar.update() and None, lambda result: None)
    _write_npz(out / "out_of_fold.npz", row_ids=np.array(data.row_ids), classes=np.array(data.classes), logits=logits)
    curves(out / "curves.png", log, f"{options.head.kind} head, {arguments.data.resolve().name}")
    by = {options.group_by: logits, other: second}
    weights = [block_weights(result.head, examples) for result in results]
    baseline = None
    if arguments.baseline:
        last = list(examples.blocks)[-1]
        baseline = (last, logistic_out_of_fold(examples, options, last))
    lines = report_lines(data, options, by["recording"], by["site"], [r.auc for r in results], weights, baseline)
    write_text(out / "report.md", "\n".join(lines) + "\n")
    return [
        *lines,
        "",
        f"wrote {len(results)} folds, report.md, training.jsonl, curves.png and out_of_fold.npz to {out}",
    ]


def report_lines(
    data: TrainingSet,
    options: TrainOptions,
    by_recording: NDArray[np.floating] | None,
    by_site: NDArray[np.floating] | None,
    fold_auc: Sequence[float],
    weights: Sequence[dict[str, float]],
    baseline: tuple[str, NDArray[np.floating]] | None,
) -> list[str]:
    """The report as markdown: AUC out of fold and on held-out sites, a warning where they part, block weights."""
    examples = data.examples
    rows = examples.judged
    sites = len(set(examples.site[examples.soundscape].tolist()))
    what = "soundscape windows" if examples.soundscape.any() else "chunks of focal clips"

    def auc(logits: NDArray[np.floating]) -> float:
        return macro_auc(examples.present[rows], logits[rows])

    lines = [
        f"# {options.head.kind} head, {len(data.classes)} classes, {options.folds} folds by {options.group_by}",
        "",
        f"{int((~examples.soundscape).sum())} chunks of focal clips, {int(examples.soundscape.sum())} soundscape "
        f"windows of {sites} sites; judged on {int(rows.sum())} {what}.",
        "",
        "| held out | macro ROC-AUC | mean of the folds' own | accuracy on clips |",
        "|---|---|---|---|",
    ]

    def row(title: str, logits: NDArray[np.floating], by: GroupBy) -> str:
        right = accuracy(examples, logits)
        fold = split(examples, fold_count(examples, options, by), by, options.seed)
        own = [rows & (fold == number) for number in range(fold.max() + 1)]
        folds = mean(np.array([macro_auc(examples.present[of], logits[of]) for of in own if of.any()]))
        return f"| {title} | {auc(logits):.4f} | {folds:.4f} | {'-' if np.isnan(right) else f'{right:.4f}'} |"

    if by_recording is not None:
        lines.append(row("recordings (out of fold)", by_recording, "recording"))
    if by_site is not None:
        lines.append(row("sites", by_site, "site"))
    if baseline is not None:
        title = f"{options.group_by}s, logistic regression on {baseline[0]}"
        lines.append(row(title, baseline[1], options.group_by))
    lines += ["", f"Folds: {', '.join(f'{value:.4f}' for value in fold_auc)}.", ""]
    if by_recording is not None and by_site is not None:
        gap = auc(by_recording) - auc(by_site)
        low, high = disagreement(examples, by_recording, by_site)
        lines.append(f"Out of fold minus held-out site: {gap:+.4f} [{low:+.4f}, {high:+.4f}] (95 % over recordings).")
        if gap > CLEAR and low > 0:
            lines.append(
                "**Warning:** the out-of-fold AUC does not carry over to new sites: believe the lower figure, and do "
                "not choose between models by the higher one."
            )
    elif examples.soundscape.any():
        lines.append("No held-out-site AUC: it was not asked for, or there is one site only.")
    lines += ["", "| block | weight (mean of folds) | range |", "|---|---|---|"]
    for name in weights[0]:
        values = [weight[name] for weight in weights]
        lines.append(f"| {name} | {np.mean(values):.3f} | {min(values):.3f} to {max(values):.3f} |")
    lines += ["", *(f"Left out: {path}: {reason}" for path, reason in data.failed.items())]
    return lines


def write_text(path: Path, text: str) -> None:
    """Write beside, then rename."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def _write_npz(path: Path, **arrays: NDArray[Any]) -> None:
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content.getvalue())
    os.replace(partial, path)

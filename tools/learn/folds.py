"""The heads of all folds, with what each says of the rows that it has not seen, and the files that hold them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from bce.engine.errors import OptionsError
from bce.engine.files import beside, write_text
from bce.engine.network.bundle import Bundle
from bce.export.heads.checkpoints import HeadCheckpoint, save_checkpoint
from bce.export.heads.trained_on import sample_features
from bce.tools.learn.examples import Examples, fold_count, split
from bce.tools.learn.options import GroupBy, TrainOptions
from bce.tools.learn.torch_settings import torch_set_to
from bce.tools.learn.training import FoldResult, Log, block_weights, logits_of, train_folds
from bce.tools.learn.training_set import TrainingSet


@dataclass(frozen=True, eq=False)
class TrainedFolds:
    """What training gives.

    Attributes:
        results: of each fold, with what stayed in one fold as the options said.
        log: a line per fold and epoch, see :func:`bce.tools.learn.training.train_folds`.
        logits: of every row by heads that have not seen it, float32 [rows, classes], by what stayed in one fold; one of
            the two may be missing.
    """

    results: tuple[FoldResult, ...]
    log: tuple[dict[str, Any], ...]
    logits: dict[GroupBy, NDArray[np.float32]]


def check_folder(out: Path, *, force: bool = False) -> None:
    """Refuse a folder that holds something, unless that is to be replaced.

    Raises:
        OptionsError: it is not empty.
    """
    if out.exists() and any(out.iterdir()) and not force:
        raise OptionsError("is not empty: give another folder, or --force to replace what is there", out)


def train_heads(
    data: TrainingSet,
    bundle: Bundle,
    options: TrainOptions,
    out: Path,
    name: str,
    *,
    site_check: bool = True,
    quiet: bool = True,
) -> TrainedFolds:
    """Train the folds, and write ``fold_1.safetensors``, ..., ``training.jsonl`` and ``out_of_fold.npz``.

    The last has ``row_ids``, ``classes``, the logits by what stayed in one fold (``by_recording``, ``by_site``), and as
    ``logits`` those of the folds that are kept.

    Args:
        data: to learn from.
        bundle: that gave the features.
        options: how.
        out: the folder; folds that are there are removed.
        name: of the data, kept in each fold.
        site_check: where there is more than one site, train again with the other grouping, for its logits alone.
        quiet: show no progress.

    Raises:
        OptionsError: the bundle's frontend has no preparation for a head to name.
    """
    frontend = bundle.manifest.frontend
    preparation = frontend.settings.get("preparation")
    if preparation is None:
        raise OptionsError(f"has the frontend '{frontend.kind}', which heads cannot be trained for yet", bundle.path)
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("fold_*.safetensors"):
        old.unlink()
    examples = data.examples
    sample = sample_features(bundle.backbone(), bundle.frontend(), bundle.manifest.window, list(examples.blocks))
    log: list[dict[str, Any]] = []
    results: list[FoldResult] = []
    epochs = options.folds * options.epochs * options.score_heads
    with tqdm(total=epochs, unit="epoch", disable=True if quiet else None) as bar:

        def note(line: dict[str, Any]) -> None:
            log.append(line)
            write_text(out / "training.jsonl", "".join(json.dumps(entry) + "\n" for entry in log))
            bar.set_postfix(fold=line["fold"] + 1, auc=line["auc"])
            bar.update()

        def tick(line: dict[str, Any]) -> None:
            bar.update()

        def keep(result: FoldResult) -> None:
            results.append(result)
            facts = {
                "auc": result.auc, "epoch": result.epoch, "fold": len(results), "data": name,
                "options": asdict(options), "bundle": bundle.identity,
                "block_weights": block_weights(result.head, examples.take(result.rows)),
            }  # fmt: skip
            notice = bundle.manifest.notice
            checkpoint = HeadCheckpoint(
                result.head, data.classes, examples.blocks, preparation, notice, facts, sample=sample
            )
            save_checkpoint(out / f"fold_{len(results)}.safetensors", checkpoint)

        logits: dict[GroupBy, NDArray[np.float32]] = {}
        logits[options.group_by] = mean_out_of_fold(examples, options, note, keep, data.shifted, tick)
        if site_check and len(examples.sites) > 1:
            other: GroupBy = "site" if options.group_by == "recording" else "recording"
            again = replace(options, group_by=other, folds=fold_count(examples, options.folds, other))
            bar.reset(again.folds * again.epochs * again.score_heads)
            logits[other] = mean_out_of_fold(examples, again, tick, lambda result: None, data.shifted, tick)
    with beside(out / "out_of_fold.npz") as partial, open(partial, "wb") as stream:
        arrays: dict[str, Any] = {f"by_{unit}": values for unit, values in logits.items()}
        arrays |= {"row_ids": np.array(data.row_ids), "classes": np.array(data.classes)}
        np.savez_compressed(stream, logits=logits[options.group_by], **arrays)
    return TrainedFolds(tuple(results), tuple(log), logits)


def mean_out_of_fold(
    examples: Examples,
    options: TrainOptions,
    log: Log,
    after: Callable[[FoldResult], None],
    shifted: Sequence[Examples] = (),
    others: Log = lambda line: None,
) -> NDArray[np.float32]:
    """The mean of the logits of :func:`out_of_fold` over ``options.score_heads`` trainings, float32 [rows, classes].

    A bundle averages its folds' heads, and the mean is less noisy than one head: what is chosen for a bundle should be
    chosen on such scores. Each training has its own seeds, ``options.folds`` after those before.

    Args:
        examples, options, shifted: as there.
        log, after: as there, of the first training.
        others: in place of ``log`` in the further ones.
    """
    runs = [out_of_fold(examples, options, log, after, shifted)]
    for number in range(1, options.score_heads):
        again = options.seeded(number * options.folds)
        runs.append(out_of_fold(examples, again, others, lambda result: None, shifted))
    return np.asarray(np.mean(runs, axis=0, dtype=np.float64), np.float32)


def out_of_fold(
    examples: Examples,
    options: TrainOptions,
    log: Log,
    after: Callable[[FoldResult], None],
    shifted: Sequence[Examples] = (),
) -> NDArray[np.float32]:
    """Logits of every row by the head that has not seen it, float32 [rows, classes].

    Args:
        examples: to learn from.
        options: how.
        log: as :func:`bce.tools.learn.training.train_folds` takes it.
        after: called with each fold.
        shifted: the same rows at the shifts that the logits are a mean over; none for the rows as they were learnt.
    """
    logits = np.zeros(examples.present.shape, np.float32)
    with torch_set_to(options.threads):
        for result in train_folds(examples, options, log):
            each = [logits_of(result.head, rows.take(result.rows)) for rows in shifted] or [result.logits]
            logits[result.rows] = np.mean(each, axis=0, dtype=np.float64)
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

"""``bce-tools train``: parses, calls :func:`bce.tools.learn.folds.train_heads`, reports."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from bce.engine.commands import flags
from bce.tools.commands.inputs import add_features, cache_of, check_out_folder, feature_options, read_bundle, threads_of
from bce.tools.learn.options import TrainOptions

HEADS = ("attention", "small", "scalar_mix")
"""The names of :data:`bce.export.heads.modules.PRESETS`, which cannot be asked without loading torch."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of ``bce-tools train``."""
    parser.description = (
        "Train the folds of a head on the block features of labelled recordings, for bce-export --head. "
        "Writes fold_1.safetensors, ..., report.md, training.jsonl, curves.png and out_of_fold.npz."
    )
    defaults = TrainOptions
    add = parser.add_argument
    add("data", type=Path, metavar="DIR", help="a data set in BirdCLEF layout, or a folder of class folders")
    add("--out", type=Path, required=True, metavar="DIR", help="new or empty folder for the folds and the report")
    add("--head", choices=HEADS, default="attention", help="(default: %(default)s)")
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
    about = "out-of-fold scores are a mean over these shifts of a window: "
    flags.add_shifts(parser, "1", "1", "--score-shifts", about)
    add(
        "--score-heads",
        type=int,
        default=defaults.score_heads,
        metavar="N",
        help="out-of-fold scores are a mean over so many heads, as bundles average their folds (default: %(default)s)",
    )
    add("--baseline", action="store_true", help="compare with logistic regression on the last block")
    add("--force", action="store_true", help="replace the folds that are in --out")
    add_features(parser)
    flags.add_names(parser)


def _options(args: argparse.Namespace) -> TrainOptions:
    from bce.export.heads.modules import PRESETS

    given = {name: getattr(args, name) for name in ("d", "ffn", "dropout")}
    return TrainOptions(
        head=replace(PRESETS[args.head], **{name: value for name, value in given.items() if value is not None}),
        folds=args.folds,
        group_by=args.group_by,
        epochs=args.epochs,
        patience=args.patience,
        batch=args.batch,
        soundscape_share=args.soundscape_share,
        balanced=not args.unbalanced,
        mixup=args.mixup,
        learning_rate=args.learning_rate,
        weight_decay=args.weight_decay,
        score_heads=args.score_heads,
        seed=args.seed,
        threads=threads_of(args),
    )


def run(args: argparse.Namespace) -> list[str]:
    """Run the command; returns what to print."""
    from bce.engine.files import write_text
    from bce.engine.geometry import parse_shifts
    from bce.tools.judge.head_report import report_lines
    from bce.tools.learn.folds import check_folder, logistic_out_of_fold, train_heads
    from bce.tools.learn.training import block_weights
    from bce.tools.learn.training_set import read_training_set
    from bce.tools.plots import curves

    options, out, name = _options(args), args.out, args.data.resolve().name
    shifts = parse_shifts(args.score_shifts)
    check_out_folder(out)
    cache = cache_of(args)
    check_folder(out, force=args.force)
    bundle = read_bundle(args)
    data = read_training_set(
        args.data,
        bundle,
        cache,
        feature_options(args),
        score_shifts=shifts,
        rule=flags.name_rule(args),
        quiet=args.quiet,
    )
    trained = train_heads(data, bundle, options, out, name, site_check=not args.no_site_check, quiet=args.quiet)
    curves(out / "curves.png", trained.log, f"{options.head.kind} head, {name}")
    baseline = None
    if args.baseline:
        last = list(data.examples.blocks)[-1]
        baseline = (last, logistic_out_of_fold(data.examples, options, last))
    weights = [block_weights(result.head, data.examples) for result in trained.results]
    lines = report_lines(data, options, trained.logits, [result.auc for result in trained.results], weights, baseline)
    write_text(out / "report.md", "\n".join(lines) + "\n")
    folds = len(trained.results)
    return [*lines, "", f"wrote {folds} folds, report.md, training.jsonl, curves.png and out_of_fold.npz to {out}"]

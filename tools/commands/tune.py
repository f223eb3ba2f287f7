"""``bce-tools tune``: parses, calls :func:`bce.tools.judge.tuning.tune`, writes what a bundle takes, prints."""

from __future__ import annotations

import argparse
from pathlib import Path

from bce.engine.commands import flags
from bce.tools.commands.inputs import (
    add_labels,
    add_resamples,
    add_shrinkage,
    check_files,
    numbers_of,
    parse_shrinkage,
)
from bce.tools.judge.options import TuneOptions

LISTS = {
    "strengths": "of the prior, besides none",
    "unknown_shares": "of the strength at sites without labels",
    "sigmas": "of the Gaussian in chunks, besides none",
    "amounts": "of taxonomy smoothing, besides none",
}


def _joined(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of ``bce-tools tune``."""
    parser.description = (
        "Choose values of post-processing on the raw scores of labelled recordings that no head has learnt from "
        "(out_of_fold.npz:by_site of bce-tools train), with each site in turn as the one without labels. Writes them "
        "for bce-export --post."
    )
    add_labels(parser)
    add = parser.add_argument
    add("--scores", required=True, help="raw: .csv, .parquet, or FILE.npz:ARRAY; logits or probabilities")
    add("--taxonomy", type=Path, required=True, metavar="CSV", help="the classes")
    add("--out", type=Path, required=True, metavar="JSON", help="write the values")
    for name, about in LISTS.items():
        default = _joined(getattr(TuneOptions, name))
        add(f"--{name.replace('_', '-')}", default=default, metavar="LIST", help=f"{about} (default: %(default)s)")
    add_shrinkage(parser)
    add_resamples(parser, TuneOptions.resamples)


def run(args: argparse.Namespace) -> list[str]:
    """Run the command; returns what to print."""
    strengths, shares, sigmas, amounts = (
        numbers_of(getattr(args, name), name.replace("_", " "), _joined(getattr(TuneOptions, name))) for name in LISTS
    )
    options = TuneOptions(
        strengths=strengths,
        unknown_shares=shares,
        sigmas=sigmas,
        amounts=amounts,
        shrinkage=parse_shrinkage(args.shrinkage),
        resamples=args.resamples,
    )

    from bce.engine.files import write_json
    from bce.engine.taxonomy import Taxonomy
    from bce.tools.data.labels import read_labels
    from bce.tools.judge.matching import match, read_table
    from bce.tools.judge.prior_study import Judge
    from bce.tools.judge.tuning import as_post, describe, tune

    check_files([args.out], [args.labels, args.taxonomy, args.scores])
    taxonomy = Taxonomy.read(args.taxonomy)
    labels = read_labels(args.labels, flags.name_rule(args))
    matched = match(read_table(args.scores), labels)
    judge = Judge.of(matched, options.resamples)
    tuned = tune(judge, labels, taxonomy.select(matched.classes), options)
    write_json(args.out, as_post(tuned.chosen))
    return [
        f"{len(matched.stems)} rows of {len(set(matched.stems))} recordings at {len(set(matched.sites))} sites",
        *describe(tuned),
        f"wrote {args.out}",
    ]

"""``bce-tools evaluate``: parses, calls :func:`bce.tools.judge.evaluate.evaluate`, prints."""

from __future__ import annotations

import argparse
from pathlib import Path

from bce.engine.commands import flags
from bce.tools.commands.inputs import add_labels, add_resamples, check_files
from bce.tools.judge.options import EvaluateOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of ``bce-tools evaluate``."""
    parser.description = (
        "Macro ROC-AUC over the classes with a positive, in all, per taxon class and per site, with "
        "bootstrap intervals over recordings. Rows are matched by id."
    )
    add = parser.add_argument
    add("scores", help="score table: .csv, .parquet, or FILE.npz:ARRAY beside row_ids and classes")
    add_labels(parser)
    add("--taxonomy", type=Path, metavar="CSV", help="adds the breakdown by taxon class")
    add("--unseen-sites", metavar="LIST", default="", help="such as S09,S10: judge these sites and the others apart")
    add("--against", metavar="SCORES", help="other scores of the same rows: say how much better the first ones are")
    add("--per-class", type=Path, metavar="CSV", help="write the AUC of every class")
    add("--json", type=Path, metavar="JSON", help="write everything")
    add_resamples(parser, EvaluateOptions.resamples)


def run(args: argparse.Namespace) -> list[str]:
    """Run the command; returns what to print."""
    options = EvaluateOptions(args.resamples, flags.names_of([args.unseen_sites]))

    from bce.engine.taxonomy import Taxonomy
    from bce.tools.data.labels import read_labels
    from bce.tools.judge.evaluate import describe, evaluate, write_evaluation, write_per_class
    from bce.tools.judge.gain import aligned
    from bce.tools.judge.matching import match, read_table

    check_files([args.per_class, args.json], [args.scores, args.labels, args.taxonomy, args.against])
    taxonomy = None if args.taxonomy is None else Taxonomy.read(args.taxonomy)
    labels = read_labels(args.labels, flags.name_rule(args))
    table = read_table(args.scores)
    against = None if args.against is None else match(aligned(read_table(args.against), table), labels)
    evaluation = evaluate(match(table, labels), taxonomy, options, against)
    if args.per_class is not None:
        write_per_class(args.per_class, evaluation, taxonomy)
    if args.json is not None:
        write_evaluation(args.json, evaluation)
    return describe(evaluation, args.against)

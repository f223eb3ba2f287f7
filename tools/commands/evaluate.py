"""``bce-tools evaluate``: parses, calls :mod:`bce.tools.judge.evaluate` and :mod:`bce.tools.judge.nearness`, prints."""

from __future__ import annotations

import argparse
from pathlib import Path

from bce.engine.commands import flags
from bce.engine.errors import OptionsError
from bce.tools.commands.inputs import add_labels, add_resamples, check_files
from bce.tools.judge.options import EvaluateOptions

AGAINST = "other scores of the same rows and classes: say how near the first are, and by the labels how much better"
OF_LABELS = ("name_pattern", "utc_offset", "taxonomy", "unseen_sites", "per_class", "resamples")
"""Options that say nothing where there are no labels."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of ``bce-tools evaluate``."""
    parser.description = (
        "Macro ROC-AUC over the classes with a positive, in all, per taxon class and per site, with "
        "bootstrap intervals over recordings. Rows are matched by id. --against also compares the scores with others: "
        "how far the logits are, whether each class ranks the rows alike, and whether a row's best class is the same. "
        "That takes no labels."
    )
    add = parser.add_argument
    add("scores", help="score table: .csv, .parquet, or FILE.npz:ARRAY beside row_ids and classes")
    add_labels(parser, unless="--against")
    add("--taxonomy", type=Path, metavar="CSV", help="adds the breakdown by taxon class")
    add("--unseen-sites", metavar="LIST", default="", help="such as S09,S10: judge these sites and the others apart")
    add("--against", metavar="SCORES", help=AGAINST)
    add("--per-class", type=Path, metavar="CSV", help="write the AUC of every class")
    add("--json", type=Path, metavar="JSON", help="write everything")
    add_resamples(parser, EvaluateOptions.resamples)


def run(args: argparse.Namespace) -> list[str]:
    """Run the command; returns what to print."""
    if args.labels is None:
        _check_without_labels(args)
    options = EvaluateOptions(args.resamples, flags.names_of([args.unseen_sites]))

    from bce.engine.taxonomy import Taxonomy
    from bce.tools.data.labels import read_labels
    from bce.tools.judge.evaluate import describe, evaluate, write_evaluation, write_per_class
    from bce.tools.judge.gain import aligned
    from bce.tools.judge.matching import match, read_table
    from bce.tools.judge.nearness import describe_nearness, near

    check_files([args.per_class, args.json], [args.scores, args.labels, args.taxonomy, args.against])
    taxonomy = None if args.taxonomy is None else Taxonomy.read(args.taxonomy)
    labels = None if args.labels is None else read_labels(args.labels, flags.name_rule(args))
    table = read_table(args.scores)
    other = None if args.against is None else aligned(read_table(args.against), table)
    evaluation, nearness, lines = None, None, []
    if labels is not None:
        against = None if other is None else match(other, labels)
        evaluation = evaluate(match(table, labels), taxonomy, options, against)
        lines += describe(evaluation, args.against)
    if other is not None:
        nearness = near(table, other)
        lines += [*([""] if lines else []), *describe_nearness(nearness, args.scores, args.against)]
    if args.per_class is not None and evaluation is not None:
        write_per_class(args.per_class, evaluation, taxonomy)
    if args.json is not None:
        write_evaluation(args.json, evaluation, nearness)
    return lines


def _check_without_labels(args: argparse.Namespace) -> None:
    """Refuse what asks for labels.

    Raises:
        OptionsError: there is nothing to compare with either, or an option is about labels.
    """
    if args.against is None:
        raise OptionsError("there is nothing to judge it by: give labels, or --against SCORES", args.scores)
    unset = argparse.ArgumentParser(add_help=False)
    add_arguments(unset)
    if given := [name for name in OF_LABELS if getattr(args, name) != unset.get_default(name)]:
        named = ", ".join("--" + name.replace("_", "-") for name in given)
        raise OptionsError(f"without labels there is no AUC: give labels, or leave out {named}")

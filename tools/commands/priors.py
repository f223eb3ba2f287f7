"""``bce-tools priors``: parses, counts priors or calls :mod:`bce.tools.judge.prior_study`, prints."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from bce.engine.commands import flags
from bce.engine.errors import OptionsError
from bce.tools.commands.inputs import (
    add_labels,
    add_resamples,
    add_shrinkage,
    check_files,
    numbers_of,
    parse_shrinkage,
)
from bce.tools.judge.options import StudyOptions

if TYPE_CHECKING:
    from bce.engine.post.priors import Shrinkage
    from bce.engine.taxonomy import Taxonomy
    from bce.tools.data.labels import WindowLabels

STRENGTHS = ",".join(f"{strength:g}" for strength in StudyOptions.strengths)
TAXONOMY = ",".join(f"{level}={amount:g}" for level, amount in StudyOptions.taxonomy)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of ``bce-tools priors``."""
    parser.description = (
        "Count a site x hour prior out of labelled windows (--out), or judge prior, Gaussian and taxonomy "
        "smoothing on the scores of labelled recordings, with tables that have not seen the recording or its site "
        "(--evaluate)."
    )
    add_labels(parser)
    add = parser.add_argument
    add("--out", type=Path, metavar="NPZ", help="write the priors")
    add(
        "--evaluate",
        metavar="SCORES",
        help="judge on these: .csv, .parquet, or FILE.npz:ARRAY; logits or probabilities",
    )
    add("--taxonomy", type=Path, metavar="CSV", help="the classes (needed for --out); its groups for --evaluate")
    add_shrinkage(parser)
    add("--strengths", default=STRENGTHS, help="prior strengths to judge (default: %(default)s)")
    add("--sigma", default=str(StudyOptions.sigma), help="of the Gaussian, in chunks (default: %(default)s)")
    flags.add_taxonomy_smoothing(parser, TAXONOMY)
    add_resamples(parser, StudyOptions.resamples)


def run(args: argparse.Namespace) -> list[str]:
    """Run the command; returns what to print."""
    from bce.engine.taxonomy import Taxonomy
    from bce.tools.data.labels import read_labels

    if (args.out is None) == (args.evaluate is None):
        raise OptionsError("give either --out to write priors or --evaluate SCORES to judge them")
    shrinkage = parse_shrinkage(args.shrinkage)
    options = None if args.evaluate is None else _study_options(args, shrinkage)
    check_files([args.out], [args.labels, args.taxonomy])
    labels = read_labels(args.labels, flags.name_rule(args))
    taxonomy = None if args.taxonomy is None else Taxonomy.read(args.taxonomy)
    if options is None:
        return _write(args.out, labels, taxonomy, shrinkage)
    return _evaluate(args.evaluate, labels, taxonomy, options)


def _write(out: Path, labels: WindowLabels, taxonomy: Taxonomy | None, shrinkage: Shrinkage) -> list[str]:
    from bce.tools.judge.prior_study import fit_priors

    if taxonomy is None:
        raise OptionsError("--out needs --taxonomy: the priors are of its classes")
    if unknown := labels.unknown(taxonomy.labels):
        raise OptionsError(f"has the label '{unknown[0]}', which is no class of {taxonomy.path}", labels.path)
    priors = fit_priors(labels, taxonomy.labels, shrinkage)
    priors.save(out)
    nowhere = sum(site is None for site in labels.sites)
    never = sum(hour is None for hour in labels.hours)
    lines = [
        f"{len(labels.labels)} labelled windows ({labels.repeated} repeated rows), {len(priors.sites)} sites, "
        f"{len(set(labels.hours) - {None})} hours, {int(priors.positives.any(axis=(0, 1)).sum())} of "
        f"{len(taxonomy)} classes with a positive",
    ]
    if nowhere or never:
        lines.append(f"{nowhere} windows without a site and {never} without an hour count for the coarser rates only")
    return [*lines, f"wrote {out}"]


def _study_options(args: argparse.Namespace, shrinkage: Shrinkage) -> StudyOptions:
    from bce.engine.post.options import parse_sigma, parse_taxonomy_smoothing

    return StudyOptions(
        strengths=numbers_of(args.strengths, "strengths", STRENGTHS),
        sigma=parse_sigma(args.sigma),
        taxonomy=parse_taxonomy_smoothing(TAXONOMY if args.taxonomy_smoothing is None else args.taxonomy_smoothing),
        exclude=flags.names_of(args.taxonomy_exclude),
        shrinkage=shrinkage,
        resamples=args.resamples,
    )


def _evaluate(scores: str, labels: WindowLabels, taxonomy: Taxonomy | None, options: StudyOptions) -> list[str]:
    from bce.engine.post.steps import taxonomy_groups
    from bce.tools.judge.matching import match, read_table
    from bce.tools.judge.prior_study import Judge, as_logits, as_markdown, study, study_unseen

    matched = match(read_table(scores), labels)
    steps = options.steps()
    groups = [] if taxonomy is None else taxonomy_groups(taxonomy.select(matched.classes), steps)
    kind = "probabilities, taken to logits" if as_logits(matched.scores)[1] else "logits"
    judge = Judge.of(matched, options.resamples)
    smoothing = ", ".join(f"{level} {amount:g}" for level, amount in steps.levels) if groups else "none"
    every = study(judge, labels, groups, options)
    unseen = study_unseen(judge, labels, groups, options)
    return [
        f"{len(matched.stems)} rows of {len(set(matched.stems))} recordings at {len(set(matched.sites))} sites; scores "
        f"are {kind}; tables from {len(labels.labels)} labelled windows less those held out",
        f"Gaussian sigma {options.sigma:g}; taxonomy {smoothing}; macro ROC-AUC [95 % bootstrap over recordings] "
        f"(interval of the gain over raw), {options.resamples} resamples",
        "",
        *as_markdown("steps", ("one recording out", "one site out", "one site out, within sites"), every),
        "",
        *as_markdown("prior strength, one site unseen", ("prior", "all steps"), unseen),
    ]

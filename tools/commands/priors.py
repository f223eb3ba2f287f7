"""``bce-tools priors``: count a site x hour prior out of labelled windows, or judge post-processing on scores."""

from __future__ import annotations

import argparse
from pathlib import Path

from bce.engine.audio.names import name_rule
from bce.engine.errors import OptionsError
from bce.engine.post.postprocess import PostprocessOptions, parse_sigma, parse_taxonomy_smoothing, taxonomy_groups
from bce.engine.post.priors import Shrinkage
from bce.engine.taxonomy import Taxonomy
from bce.tools.data.labels import WindowLabels, read_labels
from bce.tools.judge.evaluate import add_name_options, match, read_table, resample_count
from bce.tools.judge.prior_study import Judge, as_logits, as_markdown, fit_priors, study, study_unseen

STRENGTHS = "0.1,0.3,0.5"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register ``bce-tools priors``."""
    parser = subparsers.add_parser(
        "priors",
        help="count a site x hour prior out of labelled windows, or judge one",
        description="Count a site x hour prior out of labelled windows (--out), or judge prior, Gaussian and taxonomy "
        "smoothing on the scores of labelled recordings, with tables that have not seen the recording or its site "
        "(--evaluate).",
    )
    add = parser.add_argument
    add("labels", type=Path, help="train_soundscapes_labels.csv: filename, start, end, primary_label")
    add("--out", type=Path, metavar="NPZ", help="write the priors")
    add(
        "--evaluate",
        metavar="SCORES",
        help="judge on these: .csv, .parquet, or FILE.npz:ARRAY; logits or probabilities",
    )
    add("--taxonomy", type=Path, metavar="CSV", help="the classes (needed for --out); its groups for --evaluate")
    add(
        "--shrinkage",
        default="hour=8,site=8,site-hour=4",
        help="windows that outweigh a coarser rate (default: %(default)s)",
    )
    add("--strengths", default=STRENGTHS, help="prior strengths to judge (default: %(default)s)")
    add("--sigma", default="1.0", help="of the Gaussian, in chunks (default: %(default)s)")
    add("--taxonomy-smoothing", default="genus=0.15,class=0.05", help="amounts (default: %(default)s)")
    add("--taxonomy-exclude", default="", metavar="NAMES", help="groups to leave alone, comma-separated, e.g. Insect")
    add("--resamples", type=resample_count, default=1000, metavar="N", help="for the intervals (default: %(default)s)")
    add_name_options(parser)
    parser.set_defaults(run=_run)


def parse_shrinkage(text: str) -> Shrinkage:
    """The weights of the formula out of ``hour=8,site=8,site-hour=4``.

    Raises:
        OptionsError: the text is not of this form, or a weight is not above 0.
    """
    pairs = dict(item.strip().partition("=")[::2] for item in text.split(","))
    try:
        return Shrinkage(**{name.replace("-", "_"): float(value) for name, value in pairs.items()})
    except (TypeError, ValueError):
        raise OptionsError(f"shrinkage '{text}' is not like hour=8,site=8,site-hour=4") from None


def _run(arguments: argparse.Namespace) -> list[str]:
    if (arguments.out is None) == (arguments.evaluate is None):
        raise OptionsError("give either --out to write priors or --evaluate SCORES to judge them")
    labels = read_labels(arguments.labels, name_rule(arguments.name_pattern, arguments.utc_offset))
    taxonomy = None if arguments.taxonomy is None else Taxonomy.read(arguments.taxonomy)
    shrinkage = parse_shrinkage(arguments.shrinkage)
    if arguments.out is not None:
        return _write(arguments.out, labels, taxonomy, shrinkage)
    return _evaluate(arguments, labels, taxonomy, shrinkage)


def _write(out: Path, labels: WindowLabels, taxonomy: Taxonomy | None, shrinkage: Shrinkage) -> list[str]:
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


def _evaluate(
    arguments: argparse.Namespace, labels: WindowLabels, taxonomy: Taxonomy | None, shrinkage: Shrinkage
) -> list[str]:
    try:
        strengths = [float(text) for text in arguments.strengths.split(",")]
    except ValueError:
        raise OptionsError(f"strengths '{arguments.strengths}' is not a list of numbers such as {STRENGTHS}") from None
    options = [
        PostprocessOptions(
            prior_known=strength,
            prior_unknown=strength,
            sigma=parse_sigma(arguments.sigma),
            taxonomy=parse_taxonomy_smoothing(arguments.taxonomy_smoothing),
            exclude=tuple(name.strip() for name in arguments.taxonomy_exclude.split(",") if name.strip()),
        )
        for strength in strengths
    ]
    matched = match(read_table(arguments.evaluate), labels)
    groups = []
    if taxonomy is not None:
        groups = taxonomy_groups(taxonomy.select(matched.classes), options[0])
    kind = "probabilities, taken to logits" if as_logits(matched.scores)[1] else "logits"
    judge = Judge.of(matched, arguments.resamples)
    smoothing = ", ".join(f"{level} {amount:g}" for level, amount in options[0].levels) if groups else "none"
    every = study(judge, labels, groups, strengths, options[0].sigma, shrinkage)
    unseen = study_unseen(judge, labels, groups, strengths, options[0].sigma, shrinkage)
    return [
        f"{len(matched.stems)} rows of {len(set(matched.stems))} recordings at {len(set(matched.sites))} sites; scores "
        f"are {kind}; tables from {len(labels.labels)} labelled windows less those held out",
        f"Gaussian sigma {options[0].sigma:g}; taxonomy {smoothing}; macro ROC-AUC [95 % bootstrap over recordings] "
        f"(interval of the gain over raw), {arguments.resamples} resamples",
        "",
        *as_markdown("steps", ("one recording out", "one site out", "one site out, within sites"), every),
        "",
        *as_markdown("prior strength, one site unseen", ("prior", "all steps"), unseen),
    ]

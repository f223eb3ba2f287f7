"""``bce-blend``: parses, calls :func:`bce.engine.tables.blend.blend`, prints."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bce.engine.commands import flags
from bce.engine.commands.main import run_command
from bce.engine.screen import Screen

NAME = "bce-blend"


def parser() -> argparse.ArgumentParser:
    """The command line of ``bce-blend``."""
    parser = argparse.ArgumentParser(
        prog=NAME,
        description="Blend score tables with the same rows and classes into one.",
        epilog="Example: bce-blend one.csv:0.93 other.csv:0.07 --taxonomy taxonomy.csv "
        "--taxonomy-smoothing genus=0.15,class=0.05 --out submission.csv",
    )
    add = parser.add_argument
    add("tables", nargs="+", metavar="TABLE[:WEIGHT]", help="score tables, .csv or .parquet; weights are normalised")
    add(
        "--out",
        type=Path,
        default=Path("submission.csv"),
        help="table to write, .csv or .parquet (default: %(default)s)",
    )
    add(
        "--mode",
        choices=("direct", "logit", "rank"),
        default="direct",
        help="average probabilities, their logits, or percentile ranks of each class over all rows (default: direct)",
    )
    add("--allow-missing", action="store_true", help="fill rows and classes that a table lacks from the others")
    add("--taxonomy", type=Path, metavar="CSV", help="class table for --taxonomy-smoothing")
    flags.add_taxonomy_smoothing(parser, "none")
    flags.add_safe_csv(parser)
    flags.add_quiet(parser, "no summary")
    flags.add_version(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the return value is the exit code."""
    return run_command(NAME, lambda: _run(parser().parse_args(arguments)))


def _run(args: argparse.Namespace) -> None:
    # slow imports come after everything that can be said without them
    from bce.engine.post.options import parse_taxonomy_smoothing
    from bce.engine.tables.blend import BlendOptions, blend, parse_input
    from bce.engine.taxonomy import Taxonomy

    smoothing = args.taxonomy_smoothing
    inputs = [parse_input(text) for text in args.tables]
    options = BlendOptions(
        mode=args.mode,
        allow_missing=args.allow_missing,
        taxonomy_smoothing=() if smoothing is None else parse_taxonomy_smoothing(smoothing),
        exclude=flags.names_of(args.taxonomy_exclude),
        safe_csv=args.safe_csv,
    )
    taxonomy = None if args.taxonomy is None else Taxonomy.read(args.taxonomy)
    summary = blend(inputs, args.out, options, taxonomy)
    if not args.quiet:
        screen = Screen(sys.stderr)
        for (path, _), weight in zip(inputs, summary.weights, strict=True):
            screen.say(f"{weight:.4g}  {path}")
        filled = f", {summary.filled} cells filled from other tables" if summary.filled else ""
        screen.say(f"wrote {args.out}: {summary.rows} rows, {summary.classes} classes, {args.mode}{filled}")

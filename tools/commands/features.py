"""``bce-tools features``: parses, calls :func:`bce.tools.learn.features.read_features`, prints."""

from __future__ import annotations

import argparse
from pathlib import Path

from bce.engine.commands import flags
from bce.tools.commands.inputs import add_features, cache_of, notice_of, read_bundle, threads_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of ``bce-tools features``."""
    parser.description = (
        "Compute the block features of recordings through the engine and keep them, so that probe and "
        "train need not. May be interrupted and goes on where it stopped."
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="RECORDING_OR_FOLDER")
    flags.add_shifts(parser, "1", "1")
    add_features(parser)


def run(args: argparse.Namespace) -> list[str]:
    """Run the command; returns what to print."""
    from bce.engine.geometry import parse_shifts
    from bce.tools.learn.features import FeatureOptions, cache_key, default_cache, find_audio, read_features

    given = cache_of(args)
    bundle = read_bundle(args)
    options = FeatureOptions(threads_of(args), parse_shifts(args.shifts))
    paths = find_audio(args.paths)
    table = read_features(paths, bundle, given, options, quiet=args.quiet)
    cache = Path(default_cache() if given is None else given)
    widths = ", ".join(f"{name} [{width}]" for name, width in table.widths.items())
    return [
        *notice_of(bundle),
        f"{len(paths)} recordings, {len(table)} chunks: {widths}",
        *([f"backbone: {table.backbone}"] if table.backbone else []),
        f"{table.computed} computed, {len(paths) - table.computed - len(table.failed)} from the cache",
        *(f"{path}: {reason}" for path, reason in table.failed.items()),
        f"in {cache / cache_key(bundle, options)}",
    ]

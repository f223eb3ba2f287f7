"""Flags and readers that several of these commands share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from bce.engine.commands import flags

if TYPE_CHECKING:
    from bce.engine.network.bundle import Bundle
    from bce.tools.learn.features import FeatureOptions


def add_labels(parser: argparse.ArgumentParser) -> None:
    """The table of labelled windows, and how its file names are read."""
    parser.add_argument("labels", type=Path, help="train_soundscapes_labels.csv: filename, start, end, primary_label")
    flags.add_names(parser)


def add_resamples(parser: argparse.ArgumentParser, default: int) -> None:
    """``--resamples``."""
    parser.add_argument(
        "--resamples", type=int, default=default, metavar="N", help="for the intervals (default: %(default)s)"
    )


def add_features(parser: argparse.ArgumentParser) -> None:
    """``--bundle``, ``--cache``, ``--threads`` and ``--quiet``, as every command on features has them."""
    flags.add_bundle(parser)
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", help="where features are kept (default: ~/.cache/bce/features)"
    )
    flags.add_threads(parser)
    flags.add_quiet(parser, "no progress")


def threads_of(args: argparse.Namespace) -> int:
    """What ``--threads`` asks for."""
    from bce.engine.run.engine import usable_cpus

    return usable_cpus() if args.threads is None else args.threads


def feature_options(args: argparse.Namespace) -> FeatureOptions:
    """Features of every chunk's own window, on as many threads as were asked for."""
    from bce.tools.learn.features import FeatureOptions

    return FeatureOptions(threads_of(args))


def read_bundle(args: argparse.Namespace) -> Bundle:
    """The bundle that ``--bundle`` or its defaults name, checked."""
    from bce.engine.network.bundle import Bundle
    from bce.engine.network.default import bundle_path

    return Bundle.load(bundle_path(args.bundle))


def notice_of(bundle: Bundle) -> list[str]:
    """What must be said wherever numbers of a bundle are."""
    return [f"{bundle.manifest.name}: {bundle.manifest.notice}"] if bundle.manifest.notice else []

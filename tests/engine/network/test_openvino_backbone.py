"""The other runtime: the same numbers as ONNX Runtime's, or a refusal."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bce.engine.commands.infer import main
from bce.engine.errors import BundleError, OptionsError
from bce.engine.network import reference
from bce.engine.network.bundle import Bundle
from bce.engine.network.checking import check_inputs
from bce.engine.network.default import DEFAULT_BUNDLE
from bce.engine.network.model import Model
from bce.engine.network.openvino_backbone import OpenVinoBackbone, load_openvino, openvino_core
from bce.engine.tables.scores import read_scores


@pytest.fixture(scope="module")
def openvino() -> Any:
    try:
        return load_openvino()
    except OptionsError:
        pytest.skip("needs the extra bce[openvino]")


@pytest.fixture(scope="module")
def bfloat16(openvino: Any) -> None:
    if "BF16" not in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no bfloat16 arithmetic")


def log_mels(count: int) -> np.ndarray:
    """Windows that are not those of the check: noise of the log-mel's own range."""
    return np.random.default_rng(7).normal(-0.8, 0.4, (count, 500, 128)).astype(np.float32)


def relative_l2(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def test_float32_is_onnx_runtimes_from_several_threads(openvino: Any, small_bundle: Bundle) -> None:
    windows = log_mels(12)
    trusted = Model(small_bundle, backend="onnxruntime")
    expected = trusted.features(windows)
    model = Model(small_bundle, backend="openvino", threads=2)
    with ThreadPoolExecutor(4) as pool:  # more callers than requests: they wait for their turn
        found = list(pool.map(lambda index: model.features(windows[index : index + 1]), range(len(windows))))
    for name, want in expected.items():
        assert relative_l2(np.concatenate([one[name] for one in found]), want) < 1e-3
    whole = model.features(windows)
    assert all(relative_l2(whole[name], want) < 1e-3 for name, want in expected.items())
    np.testing.assert_array_equal(model.logits(expected), trusted.logits(expected), "the head stays with ONNX Runtime")


def test_bfloat16_is_near_for_trained_weights(bfloat16: None) -> None:
    bundle = Bundle.load(DEFAULT_BUNDLE)
    windows = check_inputs(bundle)
    expected = Model(bundle, backend="onnxruntime").features(windows)
    found = Model(bundle, "bf16", "openvino").features(windows)
    errors = [relative_l2(found[name], want) for name, want in expected.items()]
    assert max(errors) < 0.03
    assert min(errors) > 1e-4, "this was not computed in bfloat16"


@pytest.mark.parametrize("spoil", [np.zeros_like, lambda x: np.full_like(x, np.nan), lambda x: 1.01 * x])
def test_wrong_numbers_are_refused(
    openvino: Any, small_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[np.ndarray], np.ndarray]
) -> None:
    infer, calls = OpenVinoBackbone._infer, []

    def sometimes(self: OpenVinoBackbone, request: Any, window: np.ndarray) -> list[np.ndarray]:
        calls.append(request)
        rows = infer(self, request, window)
        return [spoil(row) for row in rows] if len(calls) == 10 else rows  # only the second round of one request

    monkeypatch.setattr(OpenVinoBackbone, "_infer", sometimes)
    with pytest.raises(BundleError, match=r"off ONNX Runtime's .* run without --backend openvino"):
        Model(small_bundle, backend="openvino", threads=2)
    assert len(calls) == 10


def test_wrong_numbers_of_an_earlier_start_are_computed_anew(
    openvino: Any, small_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    pack = reference._pack
    with monkeypatch.context() as patched:
        patched.setattr(reference, "_pack", lambda numbers, key: pack({n: 2 * v for n, v in numbers.items()}, key))
        Model(small_bundle, backend="openvino")
    (kept,) = tmp_path.rglob("*.numbers")
    wrong = kept.read_bytes()
    Model(small_bundle, backend="openvino")
    assert kept.read_bytes() != wrong


SIGNAL_AFTER_TWO = """
import gc, os, signal, sys
from bce.engine import Bundle
from bce.engine.network.model import Model

heard = []
signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
for _ in range(2):
    Model(Bundle.load(sys.argv[1]), backend="openvino")
    gc.collect()
os.kill(os.getpid(), signal.SIGUSR1)
print(len(heard))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="there are no such signals here")
def test_signals_are_survived_after_two_were_freed(openvino: Any, small_bundle: Bundle) -> None:
    """What becomes of a process whose memory for signals is gone can be seen in another one only."""
    command = [sys.executable, "-c", SIGNAL_AFTER_TWO, str(small_bundle.path)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (found.returncode, found.stdout) == (0, "1\n"), found.stderr


def test_a_graph_that_cannot_be_compiled(openvino: Any, small_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(BundleError, match=r"broken\.onnx: cannot be compiled by OpenVINO"):
        OpenVinoBackbone(tmp_path / "broken.onnx", small_bundle.manifest.input, "fp32", 1, {})


def test_a_whole_run_has_the_same_scores(
    openvino: Any, small_bundle: Bundle, soundscapes: Path, tmp_path: Path
) -> None:
    common = ["--bundle", str(small_bundle.path), "--threads", "2", "--shifts", "1", "--quiet", "--out"]
    tables = []
    for backend in ("onnxruntime", "openvino"):
        out = tmp_path / f"{backend}.csv"
        assert main([*common, str(out), "--backend", backend, str(soundscapes)]) == 0
        tables.append(read_scores(out))
    assert tables[0].row_ids == tables[1].row_ids
    np.testing.assert_allclose(tables[0].scores, tables[1].scores, atol=1e-4)


def test_without_openvino_one_line_says_how_to_get_it(
    small_bundle: Bundle, soundscapes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    openvino_core.cache_clear()
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert main(["--bundle", str(small_bundle.path), "--backend", "openvino", str(soundscapes)]) == 2
    assert "openvino is not installed: pip install 'bce[openvino]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--precision", "bf16", "--backend", "onnxruntime"], "the onnxruntime backend runs fp32 and int8, not bf16"),
        (["--precision", "int8", "--backend", "compiled"], "has no int8 backbone, only fp32"),
        (["--precision", "int8", "--backend", "openvino"], "the openvino backend runs fp32 and bf16, not int8"),
    ],
)
def test_what_a_backend_cannot_run(
    small_bundle: Bundle,
    soundscapes: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert main(["--bundle", str(small_bundle.path), *arguments, str(soundscapes)]) == 2
    assert message in capsys.readouterr().err


def test_bfloat16_wants_a_cpu_that_has_it(openvino: Any, small_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino.Core, "get_property", lambda self, device, name: ["FP32", "INT8"])
    with pytest.raises(OptionsError, match="this CPU has no bfloat16"):
        OpenVinoBackbone(small_bundle.backbone(), small_bundle.manifest.input, "bf16", 1, {})

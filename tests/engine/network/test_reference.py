"""ONNX Runtime's numbers, which all else is held to: computed once, and believed only where they are right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("onnx", reason="the tiny bundle's graphs are written with onnx")

from support import tiny_bundle as tiny

from bce.engine import cache
from bce.engine.errors import BundleError
from bce.engine.network import reference as module
from bce.engine.network.bundle import Bundle
from bce.engine.network.checking import check_inputs
from bce.engine.network.onnx_backbone import OnnxRuntimeBackbone
from bce.engine.network.reference import reference
from bce.engine.results import Features


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    tiny.write_files(tmp_path / "bundle")
    tiny.seal(tmp_path / "bundle")
    return Bundle.load(tmp_path / "bundle")


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the cache, which is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    cache._say_once.cache_clear()
    return tmp_path / "home" / "bce" / "kernels"


def sessions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What ONNX Runtime opens from now on."""
    opened: list[str] = []

    def opening(bundle: Bundle, precision: str) -> OnnxRuntimeBackbone:
        opened.append(precision)
        return OnnxRuntimeBackbone(bundle, precision)

    monkeypatch.setattr(module, "OnnxRuntimeBackbone", opening)
    return opened


def right(found: Features, bundle: Bundle) -> bool:
    """Whether they are the numbers of the matrix, computed here."""
    want = np.tanh(check_inputs(bundle).astype(float) @ tiny.weights(tiny.RATE * tiny.WINDOW_S, tiny.FEATURES))
    assert list(found) == ["block_1"]
    return found["block_1"].dtype == np.float32 and np.allclose(found["block_1"], want, atol=1e-5)


def test_computed_once(bundle: Bundle, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, opened = check_inputs(bundle), sessions(monkeypatch)
    first, second = reference(bundle, inputs), reference(bundle, inputs)
    assert opened == ["fp32"]
    assert [path.suffix for path in kept.iterdir()] == [".numbers"]
    np.testing.assert_array_equal(first["block_1"], second["block_1"])
    assert right(first, bundle)


def test_anew_for_all_that_they_depend_on(bundle: Bundle, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, opened = check_inputs(bundle), sessions(monkeypatch)
    manifest = bundle.manifest
    graph = manifest.variants["fp32"]
    reference(bundle, inputs)
    reference(bundle, np.nextafter(inputs, np.float32(1)))
    reference(Bundle(bundle.path, replace(manifest, files={**manifest.files, graph: 64 * "0"})), inputs)
    with monkeypatch.context() as patched:
        patched.setattr(module.ort, "__version__", "0.0")
        reference(bundle, inputs)
    assert len(opened) == 4
    # a manifest that says other things of the same graph is refused as if nothing was kept
    other = replace(manifest, outputs=tuple(replace(output, width=5) for output in manifest.outputs))
    with pytest.raises(BundleError, match="but the manifest says 5 numbers"):
        reference(Bundle(bundle.path, other), inputs)
    with pytest.raises(BundleError, match="the manifest names elsewhere"):
        reference(Bundle(bundle.path, replace(manifest, input=replace(manifest.input, name="elsewhere"))), inputs)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10_000), flip=st.integers(1, 255), cut=st.booleans())
def test_a_damaged_file_is_replaced(bundle: Bundle, kept: Path, place: int, flip: int, cut: bool) -> None:
    inputs = check_inputs(bundle)
    reference(bundle, inputs)
    (file,) = kept.iterdir()
    whole = file.read_bytes()
    place %= len(whole)
    file.write_bytes(whole[:place] if cut else whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :])
    assert right(reference(bundle, inputs), bundle)
    assert file.read_bytes() == whole


def test_a_file_of_other_numbers_is_replaced(bundle: Bundle, kept: Path) -> None:
    inputs = check_inputs(bundle)
    reference(bundle, inputs)
    (file,) = kept.iterdir()
    reference(bundle, 0 * inputs)
    (other,) = set(kept.iterdir()) - {file}
    other.replace(file)
    assert right(reference(bundle, inputs), bundle)


def test_of_a_graph_that_was_replaced_nothing_is_kept(bundle: Bundle, kept: Path) -> None:
    graph = bundle.backbone()
    graph.write_bytes(graph.read_bytes() + b"\x72\x00")  # another field of metadata, which says nothing
    assert right(reference(bundle, check_inputs(bundle)), bundle)
    assert not kept.exists()


def test_a_file_that_others_can_write_is_replaced(bundle: Bundle, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, opened = check_inputs(bundle), sessions(monkeypatch)
    reference(bundle, inputs)
    (file,) = kept.iterdir()
    file.chmod(0o666)
    assert right(reference(bundle, inputs), bundle)
    assert len(opened) == 2


def test_where_nothing_can_be_kept(
    bundle: Bundle, kept: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept.parent.mkdir(parents=True)
    kept.touch()
    inputs, opened = check_inputs(bundle), sessions(monkeypatch)
    for _ in range(2):
        assert right(reference(bundle, inputs), bundle)
    assert len(opened) == 2
    assert len(caplog.messages) == 1

"""The one room that opens ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bce.engine.errors import BundleError
from bce.engine.network.bundle import Bundle
from bce.engine.network.sessions import open_session, open_stock


def test_the_engine_has_one_thread_inside_and_stock_has_what_is_asked_for(small_bundle: Bundle) -> None:
    path = small_bundle.backbone()
    ours, same, stock = open_session(path), open_session(path.read_bytes()), open_stock(path, 2)
    for session, threads in ((ours, 1), (same, 1), (stock, 2)):
        options = session.get_session_options()
        assert options.intra_op_num_threads == threads
        assert session.get_providers() == ["CPUExecutionProvider"]
    assert np.float64(1e-310) * np.float64(1) > 0, "opening a session must not change the caller's arithmetic"
    inputs = np.random.default_rng(0).uniform(-1, 0.2, (1, *small_bundle.manifest.input.shape)).astype(np.float32)
    feed = {small_bundle.manifest.input.name: inputs}
    for one, other, third in zip(*(session.run(None, feed) for session in (ours, same, stock)), strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_allclose(one, third, rtol=1e-4, atol=1e-5)


def test_what_is_no_graph_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no graph")
    for graph, where in ((path, str(path)), (path.read_bytes(), None)):
        with pytest.raises(BundleError, match="cannot be loaded by ONNX Runtime") as error:
            open_session(graph)
        assert error.value.path == where
        assert "\n" not in str(error.value)

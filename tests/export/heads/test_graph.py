"""Exported heads, run by ONNX Runtime, against the folds they were made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="exports need the extra bce[export]")

import onnxruntime as ort  # noqa: E402

from bce.export.heads import graph  # noqa: E402
from bce.export.heads.checkpoints import HeadCheckpoint  # noqa: E402
from bce.export.heads.modules import HeadConfig, build_head  # noqa: E402


@pytest.mark.parametrize("kind", ["attention", "scalar_mix"])
def test_head_is_the_mean_of_its_folds(tmp_path: Path, kind: str) -> None:
    blocks = {"block_24": 12, "block_21": 8}
    folds = []
    for seed in range(3):
        torch.manual_seed(seed)
        head = build_head(HeadConfig(kind=kind, d=16, ffn=24), tuple(blocks.values()), 5)
        head.fit([torch.randn(20, width) for width in blocks.values()])
        folds.append(HeadCheckpoint(head.eval(), tuple("abcde"), blocks, "none"))
    graph.export_head(folds, tmp_path / "head.onnx")
    session = ort.InferenceSession(tmp_path / "head.onnx")
    assert [(i.name, i.shape) for i in session.get_inputs()] == [(n, ["batch", w]) for n, w in blocks.items()]
    assert [(o.name, o.shape) for o in session.get_outputs()] == [("logits", ["batch", 5])]
    for batch in (1, 4):
        x = {
            name: np.random.default_rng(batch).standard_normal((batch, w)).astype(np.float32)
            for name, w in blocks.items()
        }
        with torch.no_grad():
            expected = np.mean([f.head([torch.from_numpy(v) for v in x.values()]).numpy() for f in folds], axis=0)
        np.testing.assert_allclose(session.run(None, x)[0], expected, atol=1e-5)

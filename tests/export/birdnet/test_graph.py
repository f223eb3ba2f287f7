"""The exported graph against plain numpy and torch in float64, on seeded weights of the published structure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

import onnxruntime
import torch
from support.birdnet_weights import seeded_weights

from bce.engine.errors import ExportError
from bce.engine.taxonomy import Taxonomy
from bce.export.birdnet.exact import Exact
from bce.export.birdnet.graph import export_backbone
from bce.export.birdnet.weights import Weights, check
from bce.export.classes import ClassMap

CLASSES = 20


@pytest.fixture(scope="module")
def weights() -> Weights:
    return check(seeded_weights(CLASSES))


@pytest.fixture(scope="module")
def inputs() -> np.ndarray:
    rng = np.random.default_rng(1)
    return (rng.uniform(0, 1, (3, 1, 1, 1)) * rng.normal(0.5, 1, (3, 2, 96, 511))).astype(np.float32)


@pytest.fixture(scope="module")
def whole(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network with all its classes."""
    path = tmp_path_factory.mktemp("whole") / "backbone.onnx"
    assert export_backbone(weights, path) == {"embedding": 1024, "logits": CLASSES}
    return path


def run(path: Path, inputs: np.ndarray) -> list[np.ndarray]:
    return onnxruntime.InferenceSession(str(path)).run(None, {"spectrogram": inputs})


def test_the_graph_is_the_definition(weights: Weights, inputs: np.ndarray, whole: Path) -> None:
    exact = Exact(weights)(inputs)
    for found, expected in zip(run(whole, inputs), exact.values(), strict=True):
        assert found.shape == expected.shape
        assert np.linalg.norm(found - expected) < 2e-5 * np.linalg.norm(expected)


def test_the_definition_is_the_published_one_in_numpy(weights: Weights, inputs: np.ndarray) -> None:
    """Stem, pooling and head, which other networks do not have, written out."""
    from scipy.signal import correlate

    from bce.export.birdnet.backbone import Backbone

    seen: dict[str, np.ndarray] = {}
    backbone = Backbone(weights).double().eval()
    for name in ("pool", "head"):
        backbone.get_submodule(name).register_forward_hook(
            lambda _, given, out, name=name: seen.update({name: out.numpy()})
        )
    backbone.blocks[-1].register_forward_hook(lambda _, given, out: seen.update({"last": out.numpy()}))
    with torch.no_grad():
        embedding, logits = (out.numpy() for out in backbone(torch.from_numpy(inputs[:1]).double()))

    padded = np.pad(inputs[0].astype(float), ((0, 0), (1, 1), (3, 4)))  # SAME for 4x8 and stride 2
    kernel, bias = weights.stem.kernel.astype(float), weights.stem.bias
    stem = np.stack([correlate(padded, k, "valid")[0, ::2, ::2] + b for k, b in zip(kernel, bias, strict=True)])
    stem = np.maximum(stem, 0).reshape(24, 48, 128, 2)
    both = np.concatenate([stem.max(axis=3), stem.mean(axis=3)])
    pool = np.einsum("oi,ihw->ohw", weights.pool.kernel[:, :, 0, 0], both) + weights.pool.bias[:, None, None]
    np.testing.assert_allclose(seen["pool"][0], pool, rtol=1e-9, atol=1e-9)

    last = np.maximum(seen["last"][0] * weights.scale[:, None, None] + weights.shift[:, None, None], 0)
    kernel, bias = weights.head.kernel.astype(float), weights.head.bias
    head = np.stack([correlate(last, k, "valid")[0] + b for k, b in zip(kernel, bias, strict=True)])
    mean = np.maximum(head, 0).mean(axis=(1, 2))
    np.testing.assert_allclose(embedding[0], mean, rtol=1e-9)
    np.testing.assert_allclose(logits[0], weights.dense.kernel[:, :, 0, 0] @ mean + weights.dense.bias, rtol=1e-9)


def test_slices_are_the_rows_of_the_whole(weights: Weights, inputs: np.ndarray, whole: Path, tmp_path: Path) -> None:
    names = [str(n) for n in range(4)]
    taxonomy = Taxonomy.from_columns({"primary_label": names, "scientific_name": names})
    class_map = ClassMap(taxonomy, ((7,), (), (0,), (7,)))
    assert export_backbone(weights, tmp_path / "some.onnx", class_map)["logits"] == 4
    every, some = (run(path, inputs)[1] for path in (whole, tmp_path / "some.onnx"))
    np.testing.assert_array_equal(some[:, [0, 2, 3]], every[:, [7, 0, 7]])
    assert (some[:, 1] == -10).all()


def test_weights_that_do_not_fit_are_named(weights: Weights) -> None:
    from dataclasses import replace

    with pytest.raises(ExportError, match=r"behind the blocks, scale: expected shape \(192,\), found \(191,\)"):
        check(replace(weights, scale=weights.scale[1:]))
    block = replace(weights.blocks[3], reduce=None, widen=None)
    with pytest.raises(ExportError, match="block 3, gate reduce kernel: expected one, found none"):
        check(replace(weights, blocks=(*weights.blocks[:3], block, *weights.blocks[4:])))
    bad = weights.head.bias.copy()
    bad[5] = np.nan
    with pytest.raises(ExportError, match="head, conv bias: expected finite numbers"):
        check(replace(weights, head=replace(weights.head, bias=bad)))

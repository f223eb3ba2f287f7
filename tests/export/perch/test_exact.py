"""Perch's definitions in float64 against numpy and the torch modules."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="exports need the extra bce[export]")

from bce.engine.taxonomy import Taxonomy  # noqa: E402
from bce.export.classes import ClassMap  # noqa: E402
from bce.export.perch import exact  # noqa: E402
from bce.export.perch.backbone import ProtoClassifier, build  # noqa: E402
from bce.export.perch.exact import Exact, exact_log_mel, prepared  # noqa: E402
from bce.export.perch.published_graph import log_mel  # noqa: E402
from bce.export.perch.weights import Weights  # noqa: E402
from bce.export.torch_graph import one_thread  # noqa: E402


def test_preparations_as_they_are_defined() -> None:
    x = np.array([[0.0, 0.5, -0.1, 0.2], [0.0, 0.0, 0.0, 0.0], [0.3, 0.3, 0.3, 0.3]], np.float32)
    assert prepared(x, "none") is x
    np.testing.assert_allclose(prepared(x, "peak")[0], x[0] / 2, atol=1e-7)
    assert not prepared(x, "peak")[1].any()
    hoplite = prepared(x, "hoplite")
    np.testing.assert_allclose(hoplite[0], (x[0] - 0.15) * 0.25 / 0.35, atol=1e-7)
    assert not hoplite[1].any()


def test_the_exact_log_mel_is_that_of_the_published_graph() -> None:
    windows = (0.1 * np.random.default_rng(1).standard_normal((2, 160_000))).astype(np.float32)
    found = exact_log_mel(windows)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, log_mel(windows), rtol=0, atol=1e-9)


@pytest.mark.parametrize("members", [None, ((7,), (), (0, 3, 11))])
def test_outputs_are_those_of_the_modules(
    small_weights: Weights, members: tuple[tuple[int, ...], ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exact, "CLASSES_AT_ONCE", 5)
    inputs = np.random.default_rng(2).uniform(-1.15, 0.2, (2, 500, 128)).astype(np.float32)
    class_map = None
    if members is not None:
        labels = ["a", "b", "c"]
        class_map = ClassMap(Taxonomy.from_columns({"primary_label": labels, "scientific_name": labels}), members)
    found = Exact(small_weights, ("block_5", "embedding", "label"), class_map)(inputs)
    assert found.keys() == {"block_5", "embedding", "label"}
    backbone = build(small_weights).double()
    assert small_weights.prototypes is not None
    with one_thread(), torch.no_grad():
        maps = backbone.block_maps(torch.from_numpy(inputs).double())
        spatial = backbone.head(maps[-1])
        logits = ProtoClassifier(small_weights.prototypes).double()(spatial).numpy()
    if class_map is not None:
        logits = np.stack([logits[:, 7], np.full(2, -10.0), logits[:, [0, 3, 11]].max(axis=1)], axis=1)
    expected = {"block_5": maps[5].mean((2, 3)).numpy(), "embedding": spatial.mean((2, 3)).numpy(), "label": logits}
    for name, array in expected.items():
        assert found[name].dtype == np.float64
        np.testing.assert_allclose(found[name], array, rtol=1e-9, atol=1e-12)

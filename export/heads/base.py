"""What a trained head is to everything that exports and proves it. To add a kind, give a class what this says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from bce.engine.network.manifest import HeadKind


class TrainedHead(Protocol):
    """A head in evaluation mode: features of blocks in, logits out."""

    @property
    def kind(self) -> HeadKind:
        """What it is, for manifests."""

    @property
    def runtime(self) -> str:
        """What runs it where it was trained, for reports: "torch", "tensorflow"."""

    @property
    def parameter_count(self) -> int:
        """Trained numbers."""

    def __call__(self, features: Sequence[Tensor], /) -> Tensor:
        """The logits float32 [batch, classes].

        Args:
            features: float32 [batch, width] of each block, in the order that the head was trained with.
        """

    def write_mean(self, heads: Sequence[Any], blocks: Mapping[str, int], path: Path) -> None:
        """Write the graph of some folds: the features by name, float32 [batch, width] -> ``logits``, the folds' mean.

        Args:
            heads: the folds, all of this class, this one first.
            blocks: width of each block's features by name, in the order that the heads take them.
            path: where the ONNX file goes.
        """

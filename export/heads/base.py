"""What a trained head is to everything that exports and proves it. To add a kind, give a class what this says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from bce.engine.network.manifest import HeadKind

LOGITS = "logits"
"""The one output of a head's graph."""


class TrainedHead(Protocol):
    """A head in evaluation mode: features of blocks in, logits out."""

    @property
    def kind(self) -> HeadKind:
        """What it is, for manifests."""

    @property
    def parameter_count(self) -> int:
        """Trained numbers."""

    def __call__(self, features: Sequence[Tensor], /) -> Tensor:
        """The logits float32 [batch, classes].

        Args:
            features: float32 [batch, width] of each block, in the order that the head was trained with.
        """

"""Where in a source's graph the outputs of the network are, and how to make vectors of them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from bce.export.perch.recognise import Recognised
from bce.export.readers.terms import Tensor, Term, Terms

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Tap(Generic[Key]):
    """A value of the graph to look at: what the file calls it, and the axes over which a mean makes it a vector."""

    value: Key
    mean_over: tuple[int, ...] = ()

    def features(self, array: NDArray[np.floating]) -> NDArray[np.float32]:
        """[n, channels], means in float64."""
        pooled = array.mean(axis=self.mean_over, dtype=np.float64) if self.mean_over else array
        return pooled.reshape(len(array), -1).astype(np.float32)


@dataclass(frozen=True)
class Taps(Generic[Key]):
    """The taps of all blocks, of the embedding, and of the label where the source has it."""

    blocks: tuple[Tap[Key], ...]
    embedding: Tap[Key]
    label: Tap[Key] | None

    def wanted(self, blocks: tuple[int, ...], outputs: tuple[str, ...]) -> dict[str, Tap[Key]]:
        """Those of some blocks and of "embedding" and "label" by name."""
        taps = {f"block_{index}": self.blocks[index] for index in blocks}
        taps |= {"embedding": self.embedding} if "embedding" in outputs else {}
        return taps | ({"label": self.label} if "label" in outputs and self.label is not None else {})


def find_taps(network: Recognised, terms: Terms, tensors: Mapping[Key, Tensor]) -> Taps[Key]:
    """The first value of the file's graph that is each of the network's outputs."""
    values: dict[Term, Key] = {}
    for name, tensor in tensors.items():
        term = terms.known(tensor)
        if term is not None:
            values.setdefault(term, name)

    def tap(term: Term) -> Tap[Key]:
        name = values[term]
        space = (i for i, axis in enumerate(tensors[name].layout) if any(label in ("t", "m") for label, _ in axis))
        return Tap(name, tuple(space))

    embedding = network.spatial if network.embedding is None else network.embedding
    label = None if network.label is None else tap(network.label)
    return Taps(tuple(tap(term) for term in network.blocks), tap(embedding), label)

"""The weights of BirdNET v2.4: what the reader fills and everything that is exported is made from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bce.engine.errors import ExportError
from bce.engine.frontends.birdnet import Branch
from bce.export.birdnet.architecture import (
    BLOCKS,
    BRANCH_CHANNELS,
    EMBEDDING_CHANNELS,
    KERNEL,
    LAST_CHANNELS,
    STEM_CHANNELS,
    STEM_KERNEL,
)

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution: kernel [out, in / groups, mel, time], bias [out]."""

    kernel: Array
    bias: Array


@dataclass(frozen=True, eq=False)
class BlockWeights:
    """One MBConv block; ``reduce`` and ``widen`` are its gate's, None where it has none."""

    expand: Layer
    depthwise: Layer
    reduce: Layer | None
    widen: Layer | None
    project: Layer


@dataclass(frozen=True, eq=False)
class Weights:
    """A whole network.

    Attributes:
        branches: of the frontend, in the order of the spectrogram's channels.
        stem: 4x8, stride 2, then ReLU.
        pool: 1x1 on the maxima and the means of pairs of frames.
        blocks: in order.
        scale, shift: [channels] of what stands behind the last block, then ReLU.
        head: 3x3 without padding, then ReLU; its mean over the map is the embedding.
        dense: embedding to logits, 1x1.
    """

    branches: tuple[Branch, ...]
    stem: Layer
    pool: Layer
    blocks: tuple[BlockWeights, ...]
    scale: Array
    shift: Array
    head: Layer
    dense: Layer

    @property
    def classes(self) -> int:
        """How many classes the file knows."""
        return len(self.dense.bias)

    def arrays(self) -> Iterator[tuple[str, Array]]:
        """Every array by its name, in the order of the network: ("block 5, depthwise kernel", ...)."""
        yield from _named("stem, conv", self.stem)
        yield from _named("pool, conv", self.pool)
        for index, block in enumerate(self.blocks):
            for name, layer in (
                ("expand", block.expand),
                ("depthwise", block.depthwise),
                ("gate reduce", block.reduce),
                ("gate expand", block.widen),
                ("project", block.project),
            ):
                if layer is not None:
                    yield from _named(f"block {index}, {name}", layer)
        yield "behind the blocks, scale", self.scale
        yield "behind the blocks, shift", self.shift
        yield from _named("head, conv", self.head)
        yield from _named("classifier, dense", self.dense)


def _named(name: str, layer: Layer) -> Iterator[tuple[str, Array]]:
    yield f"{name} kernel", layer.kernel
    yield f"{name} bias", layer.bias


def expected_shapes(classes: int) -> dict[str, tuple[int, ...]]:
    """The shape that each of :meth:`Weights.arrays` must have, in the same order."""
    kernels: dict[str, tuple[int, ...]] = {
        "stem, conv": (STEM_CHANNELS, BRANCH_CHANNELS, *STEM_KERNEL),
        "pool, conv": (STEM_CHANNELS, 2 * STEM_CHANNELS, 1, 1),
    }
    for block in BLOCKS:
        part = f"block {block.index}"
        kernels[f"{part}, expand"] = (block.expanded, block.in_channels, 1, 1)
        kernels[f"{part}, depthwise"] = (block.expanded, 1, KERNEL, KERNEL)
        if block.squeezed is not None:
            kernels[f"{part}, gate reduce"] = (block.squeezed, block.expanded, 1, 1)
            kernels[f"{part}, gate expand"] = (block.expanded, block.squeezed, 1, 1)
        kernels[f"{part}, project"] = (block.out_channels, block.expanded, 1, 1)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, kernel in kernels.items():
        shapes |= {f"{name} kernel": kernel, f"{name} bias": kernel[:1]}
    shapes |= {"behind the blocks, scale": (LAST_CHANNELS,), "behind the blocks, shift": (LAST_CHANNELS,)}
    for name, kernel in (
        ("head, conv", (EMBEDDING_CHANNELS, LAST_CHANNELS, KERNEL, KERNEL)),
        ("classifier, dense", (classes, EMBEDDING_CHANNELS, 1, 1)),
    ):
        shapes |= {f"{name} kernel": kernel, f"{name} bias": kernel[:1]}
    return shapes


def check(weights: Weights) -> Weights:
    """Return the weights when every array has its shape and holds finite float32 numbers.

    Raises:
        ExportError: naming the first mismatch: what, expected, found.
    """
    expected, found = expected_shapes(weights.classes), dict(weights.arrays())
    for name, shape in expected.items():
        if name not in found:
            raise ExportError(f"{name}: expected one, found none")
        if found[name].shape != shape:
            raise ExportError(f"{name}: expected shape {shape}, found {found[name].shape}")
        if not np.isfinite(found[name]).all():
            raise ExportError(f"{name}: expected finite numbers, found NaN or infinity")
    if more := [name for name in found if name not in expected]:
        raise ExportError(f"{more[0]}: expected none, found one")
    return weights

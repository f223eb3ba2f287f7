"""The weights of a Perch-shaped network: the one object that every reader fills and every writer takes.

A convolution and the normalisation behind it are kept as ``kernel``, ``scale`` and ``shift``:
``y = scale * conv(x, kernel) + shift`` per output channel. A BatchNorm that is still apart, one that is already
folded (scale 1, shift the bias), and a convolution with both a bias and a BatchNorm all have this form.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bce.engine.errors import ExportError
from bce.export.perch.architecture import NORM_EPSILON, PROTOTYPES_PER_CLASS, Architecture

Array = NDArray[np.float32]


@dataclass(frozen=True)
class ConvNorm:
    """A convolution with its normalisation: kernel [out, in / groups, time, mel], scale and shift [out]."""

    kernel: Array
    scale: Array
    shift: Array

    @classmethod
    def from_batch_norm(
        cls, kernel: Array, gamma: Array, beta: Array, mean: Array, variance: Array, bias: Array | None = None
    ) -> ConvNorm:
        """From a BatchNorm with running statistics, in float64 so that nothing is lost on the way."""
        scale = gamma.astype(np.float64) / np.sqrt(variance.astype(np.float64) + NORM_EPSILON)
        shift = beta + ((0.0 if bias is None else bias) - mean.astype(np.float64)) * scale
        return cls(kernel, scale.astype(np.float32), shift.astype(np.float32))

    def folded(self) -> tuple[Array, Array]:
        """The same map as one convolution: (kernel, bias)."""
        kernel = self.kernel.astype(np.float64) * self.scale.astype(np.float64)[:, None, None, None]
        return kernel.astype(np.float32), self.shift


@dataclass(frozen=True)
class SqueezeExcite:
    """The gate of a block: reduce [squeezed, expanded] and expand [expanded, squeezed], with biases."""

    reduce_kernel: Array
    reduce_bias: Array
    expand_kernel: Array
    expand_bias: Array


@dataclass(frozen=True)
class BlockWeights:
    """One MBConv block; ``expand`` is None where the expand ratio is 1."""

    expand: ConvNorm | None
    depthwise: ConvNorm
    gate: SqueezeExcite
    project: ConvNorm


@dataclass(frozen=True)
class Prototypes:
    """The ProtoPNet classifier.

    vectors [channels, classes, 4]: prototypes of unit length along the channels;
    strength [classes, 4]: the weight of each prototype, not negative; bias [classes].
    """

    vectors: Array
    strength: Array
    bias: Array

    @property
    def classes(self) -> int:
        return self.bias.shape[0]

    def sliced(self, classes: NDArray[np.int64]) -> Prototypes:
        """The same classifier for some classes only, by index, in the given order."""
        return Prototypes(np.ascontiguousarray(self.vectors[:, classes]), self.strength[classes], self.bias[classes])


@dataclass(frozen=True)
class Weights:
    """A whole network. ``prototypes`` is None where the source has no classifier."""

    architecture: Architecture
    stem: ConvNorm
    blocks: tuple[BlockWeights, ...]
    head: ConvNorm
    prototypes: Prototypes | None

    def arrays(self) -> Iterator[tuple[str, str, Array]]:
        """Every array as (part, tensor, array), in the order of the network: ("block 5", "depthwise kernel", ...)."""
        yield from _conv_arrays("stem", "conv", self.stem)
        for index, block in enumerate(self.blocks):
            part = f"block {index}"
            if block.expand is not None:
                yield from _conv_arrays(part, "expand", block.expand)
            yield from _conv_arrays(part, "depthwise", block.depthwise)
            gate = block.gate
            yield part, "gate reduce kernel", gate.reduce_kernel
            yield part, "gate reduce bias", gate.reduce_bias
            yield part, "gate expand kernel", gate.expand_kernel
            yield part, "gate expand bias", gate.expand_bias
            yield from _conv_arrays(part, "project", block.project)
        yield from _conv_arrays("head", "conv", self.head)
        if self.prototypes is not None:
            yield "classifier", "prototypes", self.prototypes.vectors
            yield "classifier", "prototype strength", self.prototypes.strength
            yield "classifier", "bias", self.prototypes.bias


def _conv_arrays(part: str, name: str, conv: ConvNorm) -> Iterator[tuple[str, str, Array]]:
    yield part, f"{name} kernel", conv.kernel
    yield part, f"{name} scale", conv.scale
    yield part, f"{name} shift", conv.shift


def expected_shapes(architecture: Architecture, classes: int | None) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """The shape that each of :meth:`Weights.arrays` must have, in the same order."""

    def conv(part: str, name: str, kernel: tuple[int, ...]) -> Iterator[tuple[str, str, tuple[int, ...]]]:
        yield part, f"{name} kernel", kernel
        yield part, f"{name} scale", kernel[:1]
        yield part, f"{name} shift", kernel[:1]

    yield from conv("stem", "conv", (architecture.stem_channels, 1, 3, 3))
    for block in architecture.blocks:
        part = f"block {block.index}"
        if block.expand_ratio > 1:
            yield from conv(part, "expand", (block.expanded, block.in_channels, 1, 1))
        yield from conv(part, "depthwise", (block.expanded, 1, block.kernel, block.kernel))
        yield part, "gate reduce kernel", (block.squeezed, block.expanded)
        yield part, "gate reduce bias", (block.squeezed,)
        yield part, "gate expand kernel", (block.expanded, block.squeezed)
        yield part, "gate expand bias", (block.expanded,)
        yield from conv(part, "project", (block.out_channels, block.expanded, 1, 1))
    yield from conv("head", "conv", (architecture.head_channels, architecture.blocks[-1].out_channels, 1, 1))
    if classes is not None:
        yield "classifier", "prototypes", (architecture.head_channels, classes, PROTOTYPES_PER_CLASS)
        yield "classifier", "prototype strength", (classes, PROTOTYPES_PER_CLASS)
        yield "classifier", "bias", (classes,)


def check(weights: Weights, source: str | None = None) -> Weights:
    """Return the weights when every array has its shape and holds finite float32 numbers.

    Raises:
        ExportError: naming the first mismatch: part, tensor, expected, found.
    """
    classes = None if weights.prototypes is None else weights.prototypes.classes
    expected = list(expected_shapes(weights.architecture, classes))
    found = list(weights.arrays())
    if len(weights.blocks) != len(weights.architecture.blocks):
        raise ExportError(f"expected {len(weights.architecture.blocks)} blocks, found {len(weights.blocks)}", source)
    for (part, name, shape), (found_part, found_name, array) in zip(expected, found, strict=False):
        if (part, name) != (found_part, found_name):
            raise ExportError(f"{part}: expected {name}, found {found_name} of {found_part}", source)
        if array.shape != shape:
            raise ExportError(f"{part}, {name}: expected shape {shape}, found {array.shape}", source)
        if array.dtype != np.float32:
            raise ExportError(f"{part}, {name}: expected float32, found {array.dtype}", source)
        if not np.isfinite(array).all():
            raise ExportError(f"{part}, {name}: expected finite numbers, found NaN or infinity", source)
    if len(expected) != len(found):
        raise ExportError(f"expected {len(expected)} tensors, found {len(found)}", source)
    return weights


MOST_ZEROS = 0.9
"""The largest share of zeros that a kernel or a scale of a trained network may have; rounding to 8 bits makes some."""
FEW_ZEROS = 0.001
"""The share of zeros from which on they are worth a word: a trained kernel in float32 has hardly any."""


def zeroed_arrays(weights: Weights) -> dict[str, float]:
    """The share of zeros of each array with more than a few, by its name: "block 7, expand kernel".

    Kernels and the scales behind them: zeros in either are zeros in their product. A prototype's strength may be 0, all
    of them cannot. Biases and shifts may be zeros.
    """
    shares = {
        (part, name): 1.0 - np.count_nonzero(array) / array.size
        for part, name, array in weights.arrays()
        if name.endswith(("kernel", "scale", "prototypes", "strength"))
    }
    return {
        f"{part}, {name}": share
        for (part, name), share in shares.items()
        if share > FEW_ZEROS and (share == 1 or not name.endswith("strength"))
    }

"""The layers of an MBConv network as arrays: all that the generator knows of a model.

Maps are [channels, height, width]. Every activation is swish, x / (1 + exp(-x)), unless a class says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Padding = tuple[int, int, int, int]
"""Zeros around a map: top, left, bottom, right."""
TapKind = Literal["block", "embedding", "label", "dense"]


@dataclass(frozen=True, eq=False)
class Rounded:
    """Weights of a product as whole numbers: weight ~ values x scale.

    Attributes:
        values: [out, in]; int8, -127..127, or int16.
        scale: [out]; not 0.
    """

    values: NDArray[np.int8] | NDArray[np.int16]
    scale: Array


@dataclass(frozen=True, eq=False)
class Pointwise:
    """A 1x1 convolution: weight [out, in], bias [out].

    Attributes:
        rounded: the weights that take the place of ``weight`` where the product is int8; None for the nearest ones.
    """

    weight: Array
    bias: Array
    rounded: Rounded | None = None


@dataclass(frozen=True, eq=False)
class Spatial:
    """A convolution of one input channel for each output channel: weight [channels, k, k], bias [channels].

    The stem's channels all see the one channel of the input; those of a depthwise convolution each see their own.
    """

    weight: Array
    bias: Array
    stride: int
    padding: Padding

    @property
    def kernel(self) -> int:
        """Its height and width."""
        return int(self.weight.shape[1])

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the output for those of the input."""
        top, left, bottom, right = self.padding
        return (
            (height + top + bottom - self.kernel) // self.stride + 1,
            (width + left + right - self.kernel) // self.stride + 1,
        )


@dataclass(frozen=True, eq=False)
class PooledStem:
    """A convolution of all channels with ReLU; of each two pixels of a row the larger and the mean; a 1x1 convolution.

    Attributes:
        weight: [out, in, height, width] of the first convolution.
        bias: [out].
        stride: along both axes.
        padding: of the input.
        pool: on the maxima of all channels, then their means; no activation follows.
    """

    weight: Array
    bias: Array
    stride: int
    padding: Padding
    pool: Pointwise

    def convolved(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the first convolution's output."""
        top, left, bottom, right = self.padding
        high, wide = self.weight.shape[2:]
        return (height + top + bottom - high) // self.stride + 1, (width + left + right - wide) // self.stride + 1

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the output for those of the input."""
        high, wide = self.convolved(height, width)
        return high, wide // 2


@dataclass(frozen=True, eq=False)
class PatchHead:
    """A factor and an offset for each channel, ReLU, a convolution without zeros around, ReLU.

    Attributes:
        scale, shift: [in].
        weight: [out, in, kernel, kernel].
        bias: [out].
        rounded: as of :class:`Pointwise`, of the product that the convolution is
            (:func:`bce.engine.compiled.products.patch_product`).
    """

    scale: Array
    shift: Array
    weight: Array
    bias: Array
    rounded: Rounded | None = None

    @property
    def kernel(self) -> int:
        """Its height and width."""
        return int(self.weight.shape[2])

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the output for those of the input."""
        return height - self.kernel + 1, width - self.kernel + 1


@dataclass(frozen=True, eq=False)
class Gate:
    """Squeeze and excitation: the map's mean, ``reduce``, swish, ``expand``, sigmoid; a factor for each channel."""

    reduce: Pointwise
    expand: Pointwise


@dataclass(frozen=True, eq=False)
class Block:
    """One MBConv block: expand, swish, depthwise, swish, gate, project; the input is added where ``residual`` says.

    What may be missing is None.
    """

    expand: Pointwise | None
    depthwise: Spatial
    gate: Gate | None
    project: Pointwise
    residual: bool


@dataclass(frozen=True, eq=False)
class Prototypes:
    """A ProtoPNet classifier on the head's map (chirp ``heads.ProtoPNetHead``).

    At every position the channels are divided by their length + ``epsilon``; a prototype's activation is its largest
    product over all positions, a class' logit the sum of its activations times ``strength``, plus ``bias``. An output
    is the largest logit of its ``members``.

    Attributes:
        vectors: [channels, classes * prototypes of a class], the prototypes of a class side by side.
        strength: [classes, prototypes of a class].
        bias: [classes].
        members: int64 [outputs, most members], places of logits; None where the logits are the outputs.
        epsilon: see above.
    """

    vectors: Array
    strength: Array
    bias: Array
    members: NDArray[np.int64] | None
    epsilon: float


@dataclass(frozen=True)
class Tap:
    """One output.

    Attributes:
        name: of the output.
        kind: the features of a block, the embedding (the head's map), the label (the prototypes' logits), or the dense
            layer's logits.
        block: which block, for that kind.
        pooled: the mean over the map, [channels]; else the map itself, [channels, height, width].
    """

    name: str
    kind: TapKind
    block: int = -1
    pooled: bool = True


@dataclass(frozen=True, eq=False)
class Layers:
    """A whole network: one input, the stem, the blocks, perhaps a head.

    Attributes:
        shape: (height, width) of the input.
        stem: a strided convolution of the input's one channel, followed by swish; or one of several.
        blocks: in order.
        taps: the outputs in order.
        head: a 1x1 convolution on the last block's map, followed by swish; or a larger one.
        prototypes: a classifier on the head's map.
        dense: a classifier on the mean of the head's map.
    """

    shape: tuple[int, int]
    stem: Spatial | PooledStem
    blocks: tuple[Block, ...]
    taps: tuple[Tap, ...]
    head: Pointwise | PatchHead | None = None
    prototypes: Prototypes | None = None
    dense: Pointwise | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one input: (height, width), or (channels, height, width) where the stem takes several."""
        return (self.stem.weight.shape[1], *self.shape) if isinstance(self.stem, PooledStem) else self.shape

    def sizes(self) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
        """(height, width) of each block's input and output map."""
        size = self.stem.size(*self.shape)
        for block in self.blocks:
            before, size = size, block.depthwise.size(*size)
            yield before, size

"""A network's layers in float32 on batches of windows, each of its products replaceable by another form of itself.

Maps are [n, channels, height, width] with channels last in memory, so that a product sees [n, pixels, channels] without
a copy. What comes out is what :mod:`bce.engine.compiled.generate` defines, by the names of the taps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from bce.engine.compiled.layers import (
    Block,
    Layers,
    Padding,
    PatchHead,
    Pointwise,
    PooledStem,
    Prototypes,
    Spatial,
    Tap,
)
from bce.engine.compiled.products import products
from bce.export.proof.running import run_each

Array = NDArray[np.float32]
A = TypeVar("A")
B = TypeVar("B")
Product = Callable[[Tensor, Pointwise, Tensor | None], Tensor]
"""From x [n, pixels, in], the layer, and the lowest value that the kernels assume of each window's x, [n] or None where
they look for it, to [n, pixels, out]."""
Take = Callable[[str, Tensor], None]

LABEL = "label"
"""The name of the prototypes' product, which stands behind those of :func:`bce.engine.compiled.products.products`."""
SWISH_MINIMUM = -0.27846455
"""Of x / (1 + exp(-x)), at x = -1.2784645."""
BATCH = 4
"""Windows run together: more do not run faster each, and want more memory."""


class Forward:
    """A network, run from any block on.

    Args:
        layers: the network.

    Attributes:
        names: of the products, in the order in which they run.
        layers: by name, each product as a matrix with its bias.
    """

    def __init__(self, layers: Layers) -> None:
        self._network = layers
        self.layers: dict[str, Pointwise] = products(layers)
        if (prototypes := layers.prototypes) is not None:
            vectors = np.ascontiguousarray(prototypes.vectors.T)
            self.layers[LABEL] = Pointwise(vectors, np.zeros(len(vectors), np.float32))
        self.names = tuple(self.layers)
        self._exact = {name: exact_product(layer) for name, layer in self.layers.items()}
        self._depthwise = [_Depthwise(block.depthwise, len(block.depthwise.bias)) for block in layers.blocks]

    @property
    def blocks(self) -> int:
        """How many there are; the number under which the head is known."""
        return len(self._network.blocks)

    @property
    def taps(self) -> tuple[Tap, ...]:
        """The outputs in order."""
        return self._network.taps

    def block_of(self, name: str) -> int:
        """The block that a product belongs to; :attr:`blocks` for those behind them.

        Raises:
            KeyError: there is no such product.
        """
        if name not in self.layers:
            raise KeyError(name)
        block, _, kind = name.partition(".")
        return int(block) if kind else self.blocks

    def stem(self, inputs: Array) -> Tensor:
        """The input of the first block, for inputs float32 [n, *input_shape]."""
        stem, x = self._network.stem, torch.from_numpy(np.ascontiguousarray(inputs, np.float32))
        with torch.inference_mode():
            y = (
                _pooled_stem(stem, x)
                if isinstance(stem, PooledStem)
                else functional.silu(_Depthwise(stem, 1)(x[:, None]))
            )
            return y.contiguous(memory_format=torch.channels_last)

    def states(self, inputs: Array) -> list[Tensor]:
        """The input of each block, then that of the head, for inputs float32 [n, *input_shape]."""
        with torch.inference_mode():
            found = [self.stem(inputs)]
            for index in range(self.blocks):
                found.append(self._block(index, found[-1], {}))
            return found

    def outputs(self, state: Tensor, start: int, replaced: Mapping[str, Product] | None = None) -> dict[str, Tensor]:
        """The outputs that lie behind the input of a block, float32 [n, width] by name: a map's numbers in one row.

        Args:
            state: the input of the block, of :meth:`states`.
            start: which block; :attr:`blocks` for the head.
            replaced: other forms of products, by name.
        """
        network, given, found = self._network, replaced or {}, dict[str, Tensor]()
        with torch.inference_mode():
            x = state
            for index in range(start, self.blocks):
                x = self._block(index, x, given)
                for tap in network.taps:
                    if tap.kind == "block" and tap.block == index:
                        found[tap.name] = _tapped(tap, x)
            behind = [tap for tap in network.taps if tap.kind != "block"]
            if behind and network.head is not None:
                x = self._head(network.head, x, given)
            for tap in behind:
                if tap.kind == "embedding":
                    found[tap.name] = _tapped(tap, x)
                elif tap.kind == "label" and network.prototypes is not None:
                    found[tap.name] = _logits(network.prototypes, x, partial(self._product, LABEL, replaced=given))
                elif tap.kind == "dense":
                    mean = _rows(x).mean(dim=1, keepdim=True)
                    found[tap.name] = self._product("dense", mean, replaced=given)[:, 0]
        return {tap.name: found[tap.name] for tap in network.taps if tap.name in found}

    def exact(self, name: str) -> Product:
        """A product as it is: float32."""
        return self._exact[name]

    def _product(self, name: str, x: Tensor, bound: Tensor | None = None, *, replaced: Mapping[str, Product]) -> Tensor:
        return replaced.get(name, self._exact[name])(x, self.layers[name], bound)

    def _block(self, index: int, x: Tensor, replaced: Mapping[str, Product]) -> Tensor:
        block, y = self._network.blocks[index], x
        if block.expand is not None:
            expanded = self._product(f"{index}.expand", _rows(x), replaced=replaced)
            y = _map(functional.silu(expanded, inplace=True), *x.shape[2:])
        y = functional.silu(self._depthwise[index](y), inplace=True)
        y, bound = _gated(block, y)
        made = _map(self._product(f"{index}.project", _rows(y), bound, replaced=replaced), *y.shape[2:])
        return x + made if block.residual else made

    def _head(self, head: Pointwise | PatchHead, x: Tensor, replaced: Mapping[str, Product]) -> Tensor:
        if isinstance(head, Pointwise):
            return _map(functional.silu(self._product("head", _rows(x), replaced=replaced)), *x.shape[2:])
        y = x * _channels(head.scale) + _channels(head.shift)
        size = head.size(*x.shape[2:])
        seen = _patches(functional.relu(y), head.kernel)
        return _map(functional.relu(self._product("head", seen, replaced=replaced)), *size)


def exact_product(layer: Pointwise) -> Product:
    """A product as it is: float32."""
    weight, bias = torch.from_numpy(np.array(layer.weight)), torch.from_numpy(np.array(layer.bias))

    def exact(x: Tensor, layer: Pointwise, bound: Tensor | None) -> Tensor:
        return functional.linear(x, weight, bias)

    return exact


def captured(forward: Forward, inputs: Array, take: Take) -> None:
    """Run a network as it is, and hand out the input of every product.

    Args:
        forward: the network.
        inputs: float32 [n, *input_shape].
        take: told each product's name and its input [n, pixels, in], which it must not change.
    """

    def telling(name: str) -> Product:
        def told(x: Tensor, layer: Pointwise, bound: Tensor | None) -> Tensor:
            take(name, x)
            return forward.exact(name)(x, layer, bound)

        return told

    every = {name: telling(name) for name in forward.names}
    for batch in batches(inputs):
        forward.outputs(forward.stem(batch), 0, every)


def batches(inputs: Array, size: int = BATCH) -> Iterator[Array]:
    """Inputs in parts of at most so many windows."""
    for first in range(0, len(inputs), size):
        yield inputs[first : first + size]


def side_by_side(call: Callable[[A], B], items: Iterable[A]) -> list[B]:
    """The results of a call for each item, in their order: on as many threads as there are CPUs, each with one inside.

    Threads inside of torch's operators wait for each other at every one of them, which takes as long as the operators
    do where another process is busy.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return run_each(call, items)
    finally:
        torch.set_num_threads(threads)


def joined(parts: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The outputs of several batches as those of one."""
    found = list(parts)
    return {name: torch.cat([part[name] for part in found]) for name in found[0]}


# layers ---------------------------------------------------------------------------------------------------------------


class _Depthwise:
    """A convolution of one input channel for each output channel, with zeros around the map."""

    def __init__(self, layer: Spatial, groups: int) -> None:
        self._weight = torch.from_numpy(np.array(layer.weight[:, None]))
        self._bias = torch.from_numpy(np.array(layer.bias))
        self._groups = groups
        self._padding, self._stride = layer.padding, layer.stride

    def __call__(self, x: Tensor) -> Tensor:
        even, padding = _even(self._padding)
        x = x if even else functional.pad(x, _around(self._padding))
        return functional.conv2d(x, self._weight, self._bias, self._stride, padding, groups=self._groups)


def _even(padding: Padding) -> tuple[bool, tuple[int, int]]:
    """Whether a convolution can add the zeros itself, and those that are left to it, (rows, columns)."""
    top, left, bottom, right = padding
    even = top == bottom and left == right
    return even, (top, left) if even else (0, 0)


def _around(padding: Padding) -> tuple[int, int, int, int]:
    top, left, bottom, right = padding
    return left, right, top, bottom


def _pooled_stem(stem: PooledStem, x: Tensor) -> Tensor:
    weight, bias = torch.from_numpy(np.array(stem.weight)), torch.from_numpy(np.array(stem.bias))
    y = functional.relu(functional.conv2d(functional.pad(x, _around(stem.padding)), weight, bias, stem.stride))
    both = torch.cat([functional.max_pool2d(y, (1, 2)), functional.avg_pool2d(y, (1, 2))], dim=1)
    return _map(exact_product(stem.pool)(_rows(both), stem.pool, None), *both.shape[2:])


def _gated(block: Block, x: Tensor) -> tuple[Tensor, Tensor]:
    """The input of a projection, and its lowest possible value in each window, [n]."""
    if block.gate is None:
        return x, torch.full((len(x),), SWISH_MINIMUM)
    gate, mean = block.gate, x.mean(dim=(2, 3))[:, None]
    squeezed = functional.silu(exact_product(gate.reduce)(mean, gate.reduce, None))
    factor = torch.sigmoid(exact_product(gate.expand)(squeezed, gate.expand, None))[:, 0]
    return x * factor[:, :, None, None], SWISH_MINIMUM * factor.amax(dim=1)


def _patches(x: Tensor, kernel: int) -> Tensor:
    """What each position of a convolution without zeros around sees: [n, positions, taps x channels]."""
    seen = functional.unfold(x, kernel).reshape(len(x), x.shape[1], kernel * kernel, -1)
    return seen.permute(0, 3, 2, 1).reshape(len(x), seen.shape[3], -1)


def _logits(prototypes: Prototypes, x: Tensor, product: Callable[[Tensor], Tensor]) -> Tensor:
    rows = _rows(x)
    unit = rows / (rows.norm(dim=2, keepdim=True) + prototypes.epsilon)
    best = product(unit).amax(dim=1).reshape(-1, *prototypes.strength.shape)
    logits = (best * torch.from_numpy(np.array(prototypes.strength))).sum(dim=2)
    logits = logits + torch.from_numpy(np.array(prototypes.bias))
    if prototypes.members is None:
        return logits
    return logits[:, torch.from_numpy(np.array(prototypes.members))].amax(dim=2)


def _tapped(tap: Tap, x: Tensor) -> Tensor:
    return x.mean(dim=(2, 3)) if tap.pooled else x.flatten(1)


def _rows(x: Tensor) -> Tensor:
    """A map as [n, pixels, channels]."""
    return x.permute(0, 2, 3, 1).reshape(len(x), -1, x.shape[1])


def _map(rows: Tensor, height: int, width: int) -> Tensor:
    """Rows [n, pixels, channels] as a map."""
    return rows.reshape(len(rows), height, width, -1).permute(0, 3, 1, 2)


def _channels(values: Array) -> Tensor:
    return torch.from_numpy(np.array(values))[:, None, None]

"""Small random networks of given kinds, and their programs: compiled, and run in any memory."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from support.plain_mbconv import random_layers, random_relu_layers

from bce.engine.compiled.compilation import Code, compile_object
from bce.engine.compiled.emitter import ir_for
from bce.engine.compiled.generate import ENTRY, Program, generate
from bce.engine.compiled.lanes import ISAS
from bce.engine.compiled.layers import Block, Layers
from bce.engine.compiled.packing import aligned
from bce.engine.compiled.plan import Precision
from bce.engine.compiled.targets import Target

KINDS: dict[str, tuple[int, Callable[[Layers], object]]] = {
    "no expansion at first": (2, lambda n: n.blocks[0].expand is None and not n.blocks[0].residual),
    "no expansion at first, added to": (2, lambda n: n.blocks[0].expand is None and n.blocks[0].residual),
    "no expansion later": (3, lambda n: n.blocks[0].expand is not None and n.blocks[1].expand is None),
    "no expansion at last": (4, lambda n: n.blocks[3].expand is None),
    "padded stem": (
        1,
        lambda n: any(n.stem.padding) and n.blocks[0].expand is None and n.blocks[0].depthwise.kernel > 3,
    ),
    "many rows": (2, lambda n: n.shape[0] > 30 and of_many_panels(n.blocks[1]) and n.blocks[1].depthwise.padding[0]),
    "maps": (3, lambda n: sum(not tap.pooled for tap in n.taps) > 2 and any(t.kind == "embedding" for t in n.taps)),
    "classes with members": (2, lambda n: n.prototypes is not None and n.prototypes.members is not None),
    "deep": (7, lambda n: n.head is not None and any(block.residual and block.expand for block in n.blocks[4:])),
}
"""Names of networks: how many blocks, and what they have."""
RELU_KINDS: dict[str, tuple[int, Callable[[Layers], object]]] = {
    "pooled stem": (2, lambda n: any(n.stem.padding) and n.stem.stride > 1 and n.stem.weight.shape[1] > 1),
    "pooled stem, padded map": (2, lambda n: n.blocks[0].expand is None and any(n.blocks[0].depthwise.padding)),
    "patches": (4, lambda n: n.head.kernel > 1 and len(n.blocks) == 4 and any(b.gate is None for b in n.blocks[3:])),
}
"""The same with pooled stems, heads of patches and dense classifiers."""


def of_many_panels(block: Block) -> bool:
    """Whether no panel holds its expanded channels."""
    return block.expand is not None and len(block.expand.bias) > 64


@cache
def network(kind: str) -> Layers:
    """The first random network of a kind."""
    make = random_layers if kind in KINDS else random_relu_layers
    blocks, suits = (KINDS | RELU_KINDS)[kind]
    return next(
        layers
        for seed in range(10_000)
        if suits(layers := make(np.random.default_rng(seed), blocks)) and min(last_size(layers)) > 1
    )


def last_size(layers: Layers) -> tuple[int, int]:
    """(height, width) of the last block's map."""
    return list(layers.sizes())[-1][1]


def an_input(layers: Layers, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(layers.input_shape).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Running:
    """A compiled program."""

    program: Program
    code: Code

    def __call__(self, x: NDArray[Any], weights: NDArray[Any], arena: NDArray[Any]) -> list[NDArray[np.float32]]:
        function = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3)(self.code.address(ENTRY))
        function(x.ctypes.data, weights.ctypes.data, arena.ctypes.data)
        return [output.read(output.view(arena)) for output in self.program.outputs]

    def arena(self, byte: int = 0) -> NDArray[np.uint8]:
        found = aligned(self.program.arena_bytes)
        found[:] = byte
        return found


def compiled(layers: Layers, precision: Precision, target: Target) -> Running:
    program = generate(layers, precision, ISAS[target.isa])
    native = compile_object(ir_for(program.text, target.attributes), target)
    return Running(program, Code(native, target, "compiled"))


@cache
def running(kind: str, precision: Precision, target: Target) -> Running:
    """The program of a network of a kind."""
    return compiled(network(kind), precision, target)

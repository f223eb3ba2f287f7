"""What a network's stages have to compute, counted from its shapes, and blocks that are alike in one row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from itertools import groupby
from math import prod
from operator import add

from bce.engine.compiled.lanes import Isa
from bce.engine.compiled.layers import Layers, PatchHead, PooledStem
from bce.engine.compiled.maps import Element
from bce.engine.compiled.plan import Precision, elements
from bce.engine.compiled.swish import swish_for

PARTS = ("expand", "gate", "scale", "project")
"""Of a block, as the generated program names them. The depthwise convolution belongs to the expansion, as do bytes of
its input; bytes of a projection's are made where the gate is multiplied in."""
OUTPUTS = "outputs"


@dataclass(frozen=True)
class Arithmetic:
    """What has to be computed, whoever does it.

    Attributes:
        f32, bf16, i16, i8: multiply-adds, by what is multiplied.
        exact, rough: activations, by how near they are.
    """

    f32: int = 0
    bf16: int = 0
    i16: int = 0
    i8: int = 0
    exact: int = 0
    rough: int = 0

    def __add__(self, other: Arithmetic) -> Arithmetic:
        return Arithmetic(*map(add, astuple(self), astuple(other)))

    @property
    def multiplications(self) -> int:
        """Multiply-adds of all kinds."""
        return self.f32 + self.bf16 + self.i16 + self.i8

    def floor_s(self, peaks: Mapping[str, float]) -> float:
        """Seconds at the machine's peaks, in which nothing is loaded, stored or waited for.

        Args:
            peaks: of each kind, in so many a second; what does not occur need not be there.
        """
        return sum(count / peaks[kind] for kind, count in asdict(self).items() if count)


def arithmetic(
    layers: Layers, precision: Precision, isa: Isa, chosen: Mapping[str, Element] | None = None
) -> dict[str, Arithmetic]:
    """The arithmetic of each stage of a generated program, by the stage's name, such as "3 expand" or "head".

    A gate's scaling, its two small products and the mean of an output count as nothing: they are no more than what the
    memory takes to give their operands; nor do bytes out of maps.

    Args:
        layers: the network.
        precision, chosen: see :func:`bce.engine.compiled.plan.elements`.
        isa: the vector form.
    """
    found: dict[str, Arithmetic] = {}
    operands = elements(layers, precision, chosen)
    of_blocks = [swish_for("i8" if operands.rough else element, isa) for element in operands.project]
    sizes = list(layers.sizes())
    pixels = prod(sizes[0][0])
    if isinstance(layers.stem, PooledStem):
        stem = Arithmetic(layers.stem.weight.size * prod(layers.stem.convolved(*layers.shape)))
        stem += Arithmetic(layers.stem.pool.weight.size * pixels)
    else:
        stem = Arithmetic(layers.stem.weight.size * pixels)
        stem += Arithmetic(**{of_blocks[0]: len(layers.stem.bias) * pixels})
    alone = layers.blocks[0].expand is not None or isinstance(layers.stem, PooledStem)
    if alone:
        found["stem"] = stem
    for index, (block, (size_in, size_out)) in enumerate(zip(layers.blocks, sizes, strict=True)):
        channels = len(block.depthwise.bias)
        pixels_in, pixels = prod(size_in), prod(size_out)
        swish = of_blocks[index]
        made = Arithmetic(block.depthwise.weight.size * pixels) + Arithmetic(**{swish: channels * pixels})
        if block.expand is not None:
            made += _product(block.expand.weight.size * pixels_in, operands.expand[index])
            made += Arithmetic(**{swish: channels * pixels_in})
        elif index == 0 and not alone:
            made += stem
        found[f"{index} expand"] = made
        found[f"{index} project"] = _product(block.project.weight.size * pixels, operands.project[index])
    if isinstance(layers.head, PatchHead):
        found["head"] = _product(layers.head.weight.size * prod(layers.head.size(*sizes[-1][1])), operands.head)
        if layers.dense is not None:
            found["dense"] = _product(layers.dense.weight.size, operands.dense)
    elif layers.head is not None:
        pixels = prod(sizes[-1][1])
        activations = Arithmetic(**{swish_for(operands.head, isa): len(layers.head.bias) * pixels})
        found["head"] = _product(layers.head.weight.size * pixels, operands.head) + activations
        if layers.prototypes is not None and any(tap.kind == "label" for tap in layers.taps):
            found["label"] = Arithmetic(layers.prototypes.vectors.size * pixels)
    return found


def _product(multiplications: int, element: Element) -> Arithmetic:
    return Arithmetic(**{element: multiplications})


def alike(layers: Layers) -> Iterator[range]:
    """Blocks in a row whose expanded maps have the same channels and size."""
    keys = [(len(block.depthwise.bias), size) for block, (size, _) in zip(layers.blocks, layers.sizes(), strict=True)]
    for _, group in groupby(range(len(keys)), key=lambda index: keys[index]):
        members = list(group)
        yield range(members[0], members[-1] + 1)


def rows(layers: Layers, stages: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    """The rows of a table: name of the row, then of its parts, then the stages that count there.

    Args:
        layers: the network.
        stages: the names of the program's stages.

    Returns:
        a row for each group of :func:`alike`, with :data:`PARTS`, and one for each stage that is of no block, with the
        part ""; the means and copies of outputs are one.
    """
    of_block = {f"{index} {part}" for index in range(len(layers.blocks)) for part in PARTS}
    found: dict[str, dict[str, list[str]]] = {}
    for name in stages:
        if name == "stem":
            found[name] = {"": [name]}
    for group in alike(layers):
        name = f"{group[0]}-{group[-1]}" if len(group) > 1 else str(group[0])
        found[name] = {part: [f"{index} {part}" for index in group] for part in PARTS}
    for name in stages:
        if name not in of_block and name != "stem":
            row = OUTPUTS if name.endswith((" mean", " map")) else name
            found.setdefault(row, {"": []})[""].append(name)
    return found

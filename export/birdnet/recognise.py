"""BirdNET's network in a graph of terms: its weights, or the first thing in which it differs.

First the shape of the network is followed from the spectrogram on (what is computed from what), with every kernel's
size, stride and padding; then the sizes of all arrays are compared with :mod:`bce.export.birdnet.architecture`'s table.
Terms call the two axes of a map time and mel, in this order; BirdNET's maps have mel first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from bce.engine.errors import ExportError
from bce.engine.frontends.birdnet import Branch
from bce.export.birdnet.architecture import BLOCKS, KERNEL, POOL, STEM_KERNEL, STEM_PADDING, STEM_STRIDE, Block
from bce.export.birdnet.weights import BlockWeights, Layer, Weights, check
from bce.export.readers.steps import Affine, Binary, Conv, Input, Joined, Pairs, Pool, Reduce, Term
from bce.export.readers.uses import Uses

_SPACE = frozenset("tm")
_NONE: Pairs = ((0, 0), (0, 0))
_ONE: Pairs = ((1, 1), (1, 1))


@dataclass(frozen=True)
class Recognised:
    """The network's weights, and the terms where its outputs are."""

    weights: Weights
    embedding: Term
    logits: Term


def recognise(spectrogram: Input, outputs: Iterable[Term], branches: Sequence[Branch]) -> Recognised:
    """Find BirdNET's network between the spectrogram and the outputs of a file.

    Args:
        spectrogram: the network's input.
        outputs: the file's.
        branches: of the frontend.

    Raises:
        ExportError: something differs; the reason names the part, what is expected and what is found.
    """
    uses = Uses(outputs)
    stem = _conv(uses, spectrogram, "stem", STEM_KERNEL, STEM_STRIDE, STEM_PADDING)
    pool, x = _pooled(uses, uses.function(stem, "ReLU", "stem"))
    blocks: list[BlockWeights] = []
    for block in BLOCKS:
        weights, x = _block(uses, x, block)
        blocks.append(weights)
    ends = uses.of(x, Affine)
    if len(ends) != 1:
        raise uses.refuse(f"behind block {len(BLOCKS) - 1}", "a scaling and an offset", x)
    head = _conv(uses, uses.function(ends[0], "ReLU", "behind the blocks"), "head", (KERNEL, KERNEL), 1, _NONE)
    embedding = _mean(uses, uses.function(head, "ReLU", "head"), "head")
    dense = _conv(uses, embedding, "classifier", (1, 1), 1, _NONE)
    if uses.users[dense]:
        raise uses.refuse("classifier", "logits as the output", dense)
    channels = len(blocks[-1].project.bias)
    scale, shift = (
        np.broadcast_to(values, (channels,)).astype(np.float32) for values in (ends[0].scale, ends[0].shift)
    )
    found = Weights(tuple(branches), _layer(stem), pool, tuple(blocks), scale, shift, _layer(head), _layer(dense))
    return Recognised(check(found), embedding, dense)


def _pooled(uses: Uses, x: Term) -> tuple[Layer, Term]:
    """The convolution behind the stem, of maxima and means of pairs of frames, maxima first."""
    pools = {pool.kind: pool for pool in uses.of(x, Pool) if pool.size == POOL}
    joined = [term for pool in pools.values() for term in uses.of(pool, Joined)]
    if set(pools) != {"max", "mean"} or not joined or joined[0].inputs != (pools["max"], pools["mean"]):
        raise uses.refuse("pool", f"maxima and means of {POOL[0]}x{POOL[1]} positions, joined", x)
    conv = _conv(uses, joined[0], "pool", (1, 1), 1, _NONE)
    return _layer(conv), conv


def _block(uses: Uses, x: Term, block: Block) -> tuple[BlockWeights, Term]:
    """A block's weights and its output."""
    part = f"block {block.index}"
    expand = _conv(uses, x, f"{part}, expand", (1, 1), 1, _NONE)
    inner = uses.swish(expand, f"{part}, expand")
    size = (KERNEL, KERNEL)
    depthwise = _conv(uses, inner, f"{part}, depthwise", size, block.stride, _ONE, groups=len(expand.scale))
    y: Term = uses.swish(depthwise, f"{part}, depthwise")
    reduce = widen = None
    if block.squeezed is not None:
        reduce = _conv(uses, _mean(uses, y, f"{part}, gate"), f"{part}, gate reduce", (1, 1), 1, _NONE)
        widen = _conv(uses, uses.swish(reduce, f"{part}, gate reduce"), f"{part}, gate expand", (1, 1), 1, _NONE)
        opening = uses.function(widen, "sigmoid", f"{part}, gate expand")
        y = _binary(uses, y, opening, "mul", f"{part}, gate")
    project = _conv(uses, y, f"{part}, project", (1, 1), 1, _NONE)
    out: Term = _binary(uses, x, project, "add", f"{part}, residual") if block.residual else project
    gate = [None if conv is None else _layer(conv) for conv in (reduce, widen)]
    return BlockWeights(_layer(expand), _layer(depthwise), gate[0], gate[1], _layer(project)), out


def _conv(
    uses: Uses, x: Term, where: str, kernel: tuple[int, int], stride: int, padding: Pairs, groups: int = 1
) -> Conv:
    """The one convolution of a term, of this form."""
    conv = uses.conv(x, where)
    for what, expected, found in (
        ("kernel size", kernel, tuple(conv.kernel.shape[2:])),
        ("stride", (stride, stride), tuple(conv.stride)),
        ("padding (begin, end) of mel and time", padding, conv.padding),
        ("groups", groups, conv.groups),
    ):
        if expected != found:
            raise ExportError(f"{where}: expected {what} {expected}, found {found}")
    return conv


def _mean(uses: Uses, x: Term, where: str) -> Term:
    means = [term for term in uses.of(x, Reduce) if term.kind == "mean" and term.over == _SPACE]
    if len(means) != 1:
        raise uses.refuse(where, "a mean over mel and time", x)
    return means[0]


def _binary(uses: Uses, a: Term, b: Term, op: str, where: str) -> Term:
    found = [term for term in uses.of(b, Binary) if term.op == op and set(term.inputs) == {a, b}]
    if len(found) != 1:
        raise uses.refuse(where, "a product with it" if op == "mul" else "the block's own input added", b)
    return found[0]


def _layer(conv: Conv) -> Layer:
    kernel = conv.kernel
    if np.any(conv.scale != 1.0):
        kernel = kernel.astype(np.float64) * conv.scale[:, None, None, None]
    return Layer(np.ascontiguousarray(kernel, np.float32), conv.shift.astype(np.float32))

"""Perch's network in a graph of terms: its weights, or the first thing in which it differs.

The graph is read from the log-mel onward. First the shape of the network is followed (what is computed from what),
then every number of it is compared with :mod:`bce.export.perch.architecture`'s table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bce.engine.errors import ExportError
from bce.export.perch.architecture import (
    NORM_EPSILON,
    PROTOTYPES_PER_CLASS,
    Architecture,
    Block,
    architecture,
    candidate_widths,
)
from bce.export.perch.backbone import COSINE_EPSILON
from bce.export.perch.weights import BlockWeights, ConvNorm, Prototypes, SqueezeExcite, Weights, check
from bce.export.readers.functions import GRID, same_function
from bce.export.readers.steps import Affine, Binary, Conv, Func, Input, Pairs, Reduce, Term
from bce.export.readers.uses import Uses

_SPACE = frozenset("tm")


@dataclass(frozen=True)
class Recognised:
    """The network's weights, and the terms where its outputs are: maps of the blocks and of the head, and what is
    computed from the latter, where the source computes it."""

    weights: Weights
    blocks: tuple[Term, ...]
    spatial: Term
    embedding: Term | None
    label: Term | None


@dataclass(frozen=True)
class _FoundBlock:
    expand: Conv | None
    depthwise: Conv
    reduce: Conv
    gate: Conv
    project: Conv
    residual: bool
    output: Term


def recognise(log_mel: Input, outputs: Iterable[Term]) -> Recognised:
    """Find Perch's network between the log-mel and the outputs of a source.

    Raises:
        ExportError: something differs; the reason names the block, the tensor, what is expected and what is found.
    """
    uses = Uses(outputs)
    stem = uses.conv(log_mel, "stem")
    x: Term = uses.swish(stem, "stem")
    found: list[_FoundBlock] = []
    convs: dict[str, Conv] = {}
    try:
        while (head := _head(uses, x)) is None:
            convs = {}
            found.append(_follow_block(uses, x, f"block {len(found)}", convs))
            x = found[-1].output
    except ExportError:
        # a wrong stride or padding makes maps of another size: what breaks behind it would be named in its place
        _check_sizes(stem, found, convs)
        raise
    spatial = uses.swish(head, "head")

    expected = _architecture(stem, found, head)
    if len(found) != len(expected.blocks):
        raise ExportError(f"expected {len(expected.blocks)} blocks, found {len(found)}")
    _check_conv("stem", "conv", stem, 3, 2, ((0, 0), (0, 0)), 1, 1, expected.stem_channels)
    blocks = tuple(_block_weights(block, of) for block, of in zip(expected.blocks, found, strict=True))
    _check_conv(
        "head", "conv", head, 1, 1, ((0, 0), (0, 0)), 1, expected.blocks[-1].out_channels, expected.head_channels
    )
    prototypes, label = _classifier(uses, spatial)
    weights = check(Weights(expected, _conv_norm(stem), blocks, _conv_norm(head), prototypes))
    means = [term for term in uses.of(spatial, Reduce) if term.kind == "mean" and term.over == _SPACE]
    return Recognised(weights, tuple(block.output for block in found), spatial, means[0] if means else None, label)


def _activated_conv(uses: Uses, conv: Conv) -> Conv | None:
    """The one convolution of a convolution's activation, whatever the function."""
    users = [user for function in uses.of(conv, Func) for user in uses.of(function, Conv)]
    return users[0] if len(users) == 1 else None


def _head(uses: Uses, term: Term) -> Conv | None:
    """The head convolution where the blocks end: 1x1 and activated, and no convolution follows it."""
    users = uses.of(term, Conv)
    if len(users) != 1 or not _pointwise(users[0]):
        return None
    head = users[0]
    return head if uses.of(head, Func) and _activated_conv(uses, head) is None else None


def _pointwise(conv: Conv) -> bool:
    return conv.groups == 1 and conv.kernel.shape[2:] == (1, 1)


def _follow_block(uses: Uses, x: Term, part: str, convs: dict[str, Conv]) -> _FoundBlock:
    """A block from its input on; ``convs`` takes its convolutions by name as they are found."""
    first = uses.conv(x, part)
    expand, depthwise, y = None, first, x
    if _pointwise(first):
        convs["expand"] = expand = first
        y = uses.swish(expand, f"{part}, expand")
        depthwise = uses.conv(y, f"{part}, depthwise")
    convs["depthwise"] = depthwise
    y = uses.swish(depthwise, f"{part}, depthwise")

    means = [term for term in uses.of(y, Reduce) if term.kind == "mean" and term.over == _SPACE]
    if len(means) != 1:
        raise uses.refuse(f"{part}, gate", "a mean over time and mel", y)
    reduce = uses.conv(means[0], f"{part}, gate reduce")
    gate = uses.conv(uses.swish(reduce, f"{part}, gate reduce"), f"{part}, gate expand")
    opening = uses.function(gate, "sigmoid", f"{part}, gate expand")
    gated = [term for term in uses.of(opening, Binary) if term.op == "mul" and set(term.inputs) == {y, opening}]
    if len(gated) != 1:
        raise uses.refuse(f"{part}, gate", "the product with the depthwise convolution's output", opening)

    convs["project"] = project = uses.conv(gated[0], f"{part}, project")
    sums = uses.of(project, Binary)
    own = [term for term in sums if term.op == "add" and set(term.inputs) == {x, project}]
    if sums and not own and not uses.of(project, Conv):
        raise ExportError(f"{part}, residual: expected the block's own input, found another term added to its output")
    return _FoundBlock(expand, depthwise, reduce, gate, project, bool(own), own[0] if own else project)


# --- the table --------------------------------------------------------------------------------------------------


def _architecture(stem: Conv, blocks: Sequence[_FoundBlock], head: Conv) -> Architecture:
    """The table at the width that gives the channel counts found, or the longest start of them."""
    found = [len(stem.scale), *(len(block.project.scale) for block in blocks), len(head.scale)]

    def agreement(width: float) -> int:
        table = architecture(width)
        expected = [table.stem_channels, *(block.out_channels for block in table.blocks), table.head_channels]
        same = [a == b for a, b in zip(expected, found, strict=False)]
        return same.index(False) if False in same else len(same)

    return architecture(max(candidate_widths(), key=agreement))


def _block_weights(block: Block, found: _FoundBlock) -> BlockWeights:
    part = f"block {block.index}"
    if (found.expand is not None) != (block.expand_ratio > 1):
        wanted, got = ("an", "no") if found.expand is None else ("no", "an")
        raise ExportError(f"{part}: expected {wanted} expand convolution, found {got} such")
    none = ((0, 0), (0, 0))
    if found.expand is not None:
        _check_conv(part, "expand", found.expand, 1, 1, none, 1, block.in_channels, block.expanded)
    _check_conv(
        *(part, "depthwise", found.depthwise, block.kernel, block.stride, block.padding),
        *(block.expanded, block.expanded, block.expanded),
    )
    _check_conv(part, "gate reduce", found.reduce, 1, 1, none, 1, block.expanded, block.squeezed)
    _check_conv(part, "gate expand", found.gate, 1, 1, none, 1, block.squeezed, block.expanded)
    _check_conv(part, "project", found.project, 1, 1, none, 1, block.expanded, block.out_channels)
    if found.residual != block.residual:
        wanted, got = ("its", "no") if block.residual else ("no", "its")
        raise ExportError(f"{part}, residual: expected {wanted} input added to the output, found {got} input added")
    return BlockWeights(
        expand=None if found.expand is None else _conv_norm(found.expand),
        depthwise=_conv_norm(found.depthwise),
        gate=SqueezeExcite(*_layer(found.reduce), *_layer(found.gate)),
        project=_conv_norm(found.project),
    )


def _check_sizes(stem: Conv, blocks: Sequence[_FoundBlock], convs: Mapping[str, Conv]) -> None:
    """The convolutions as far as the network could be followed, whose sizes are the same at every width."""
    table = architecture().blocks
    whole = ({"expand": b.expand, "depthwise": b.depthwise, "project": b.project} for b in blocks)
    none = ((0, 0), (0, 0))
    _check_size("stem", "conv", stem, 3, 2, none)
    for block, of in zip(table, (*whole, convs), strict=False):
        for name, conv in of.items():
            if conv is not None and name == "depthwise":
                _check_size(f"block {block.index}", name, conv, block.kernel, block.stride, block.padding)
            elif conv is not None:
                _check_size(f"block {block.index}", name, conv, 1, 1, none)


def _check_size(part: str, name: str, conv: Conv, kernel: int, stride: int, padding: Pairs) -> None:
    _expect(
        part,
        name,
        ("kernel size", (kernel, kernel), tuple(conv.kernel.shape[2:])),
        ("stride", (stride, stride), tuple(conv.stride)),
        ("padding (begin, end) of time and mel", padding, conv.padding),
    )


def _expect(part: str, name: str, *compared: tuple[str, object, object]) -> None:
    for what, expected, found in compared:
        if expected != found:
            raise ExportError(f"{part}, {name}: expected {what} {expected}, found {found}")


def _check_conv(
    part: str,
    name: str,
    conv: Conv,
    kernel: int,
    stride: int,
    padding: Pairs,
    groups: int,
    in_channels: int,
    out_channels: int,
) -> None:
    outputs, per_group, *_ = conv.kernel.shape
    _check_size(part, name, conv, kernel, stride, padding)
    _expect(
        part,
        name,
        ("output channels", out_channels, outputs),
        ("input channels", in_channels, per_group * conv.groups),
        ("groups", groups, conv.groups),
    )
    if conv.epsilon is not None and not np.isclose(conv.epsilon, NORM_EPSILON, rtol=1e-4):
        raise ExportError(f"{part}, {name}: expected BatchNorm's epsilon {NORM_EPSILON:g}, found {conv.epsilon:g}")


def _conv_norm(conv: Conv) -> ConvNorm:
    return ConvNorm(np.ascontiguousarray(conv.kernel), conv.scale.astype(np.float32), conv.shift.astype(np.float32))


def _layer(conv: Conv) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """A dense layer as (kernel [out, in], bias)."""
    kernel = conv.kernel[:, :, 0, 0]
    if np.any(conv.scale != 1.0):
        kernel = (kernel * conv.scale[:, None]).astype(kernel.dtype)
    return np.ascontiguousarray(kernel), conv.shift.astype(np.float32)


# --- the classifier ---------------------------------------------------------------------------------------------


def _classifier(uses: Uses, spatial: Func) -> tuple[Prototypes | None, Term | None]:
    """The ProtoPNet classifier behind the spatial embedding, and the term of its logits."""
    unit = [term for term in uses.of(spatial, Binary) if term.op == "mul"]
    if not unit:
        return None, None
    length = next(x for x in unit[0].inputs if x is not spatial)
    if len(unit) > 1 or not _is_one_over_length(length, spatial):
        raise ExportError(
            f"classifier: expected the features divided by their length + {COSINE_EPSILON:g}, found {length}"
        )
    cosines = uses.conv(unit[0], "classifier, prototypes")
    channels = spatial.inputs[0]
    assert isinstance(channels, Conv)
    _check_conv("classifier", "prototypes", cosines, 1, 1, ((0, 0), (0, 0)), 1, len(channels.scale), len(cosines.scale))
    if np.any(cosines.scale != 1.0) or np.any(cosines.shift):
        raise ExportError("classifier, prototypes: expected a plain product, found a scaling or an offset")
    best = _reduction(uses, cosines, "max", _SPACE, "classifier")
    strength, weighed = _factors(uses, best, "classifier, prototype strength")
    total = _reduction(uses, weighed, "sum", frozenset({"c'"}), "classifier")
    classes, rest = divmod(len(cosines.scale), PROTOTYPES_PER_CLASS)
    if rest:
        raise ExportError(
            f"classifier, prototypes: expected {PROTOTYPES_PER_CLASS} for each class, found {len(cosines.scale)} in all"
        )
    ends = uses.of(total, Affine)
    label: Term = ends[0] if ends else total
    bias = ends[0].shift if ends else np.zeros(1)
    if ends and np.any(ends[0].scale != 1.0):
        raise ExportError("classifier, bias: expected an offset only, found a scaling")
    try:
        prototypes = Prototypes(
            cosines.kernel[:, :, 0, 0].T.reshape(-1, classes, PROTOTYPES_PER_CLASS),
            np.ascontiguousarray(np.broadcast_to(strength, (classes, PROTOTYPES_PER_CLASS)), np.float32),
            np.ascontiguousarray(np.broadcast_to(bias, (classes,)), np.float32),
        )
    except ValueError:
        raise ExportError(
            f"classifier: expected strength {(classes, PROTOTYPES_PER_CLASS)} and bias {(classes,)}, "
            f"found {strength.shape} and {bias.shape}"
        ) from None
    return prototypes, label


def _is_one_over_length(term: Term, spatial: Func) -> bool:
    if not isinstance(term, Func):
        return False
    (length,) = term.inputs
    positive = GRID > 0
    expected = GRID
    if isinstance(length, Affine) and isinstance(length.inputs[0], Reduce) and np.all(length.scale == 1.0):
        # the offset was already joined with the length
        with np.errstate(all="ignore"):
            return (
                _is_length(length.inputs[0], spatial)
                and same_function(length.shift, np.asarray(COSINE_EPSILON), ...)
                and same_function(term.samples, 1.0 / GRID, positive)
            )
    if not isinstance(length, Reduce) or not _is_length(length, spatial):
        return False
    with np.errstate(all="ignore"):
        root = expected if length.kind == "l2" else np.sqrt(expected)
        return same_function(term.samples, 1.0 / (root + COSINE_EPSILON), positive)


def _is_length(term: Reduce, spatial: Func) -> bool:
    (x,) = term.inputs
    if term.over != {"c"}:
        return False
    if term.kind == "l2":
        return x is spatial
    squared = isinstance(x, Func) and x.name == "square" and x.inputs[0] is spatial
    # the square may have been collected on the head convolution, together with its swish
    on_conv = isinstance(x, Func) and x.inputs == spatial.inputs and same_function(x.samples, spatial.samples**2)
    return term.kind == "sum" and (squared or on_conv)


def _reduction(uses: Uses, term: Term, kind: str, over: frozenset[str], where: str) -> Reduce:
    users = [user for user in uses.of(term, Reduce) if user.kind == kind and user.over == over]
    if len(users) != 1:
        names = {"t": "time", "m": "mel", "c'": "the prototypes of a class"}
        raise uses.refuse(where, f"a {kind} over {' and '.join(names[label] for label in sorted(over))}", term)
    return users[0]


def _factors(uses: Uses, term: Term, where: str) -> tuple[NDArray[np.float64], Term]:
    """The factors behind a term, and the term to go on from; ones where there are none."""
    users = uses.of(term, Affine)
    if not users:
        return np.ones(1), term
    if len(users) != 1 or np.any(users[0].shift):
        raise uses.refuse(where, "one factor for each prototype", term)
    return users[0].scale, users[0]

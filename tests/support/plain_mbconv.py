"""The definition of an MBConv network in plain numpy, in any float type; and small random networks to test with.

It shares nothing with the engine but the dataclasses of the layers. Maps are [channels, height, width].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from bce.engine.compiled.layers import (
    Block,
    Gate,
    Layers,
    Padding,
    PatchHead,
    Pointwise,
    PooledStem,
    Prototypes,
    Spatial,
    Tap,
)

Floats = NDArray[Any]


def forward(layers: Layers, x: Floats, dtype: DTypeLike = np.float64) -> list[Floats]:
    """The outputs in the order of the taps, for one input of the network's shape, computed in a float type."""
    if x.shape != layers.input_shape:
        raise ValueError(f"an input {x.shape}, expected {layers.input_shape}")
    with np.errstate(over="ignore"):  # exp of a very negative number's negative: the sigmoid is 0 then, which is right
        if isinstance(layers.stem, PooledStem):
            y = pooled_stem(layers.stem, x.astype(dtype))
        else:
            y = swish(spatial(layers.stem, x.astype(dtype)[None]))
        maps = []
        for block in layers.blocks:
            y = mbconv(block, y)
            maps.append(y)
        embedding = None
        if isinstance(layers.head, PatchHead):
            embedding = patch_head(layers.head, y)
        elif layers.head is not None:
            embedding = swish(pointwise(layers.head, y))
        found = []
        for tap in layers.taps:
            if tap.kind == "label":
                assert layers.prototypes is not None
                assert embedding is not None
                found.append(logits(layers.prototypes, embedding))
                continue
            if tap.kind == "dense":
                assert layers.dense is not None
                assert embedding is not None
                found.append(pointwise(layers.dense, embedding.mean(axis=(1, 2))[:, None])[:, 0])
                continue
            tapped = maps[tap.block] if tap.kind == "block" else embedding
            assert tapped is not None
            found.append(tapped.mean(axis=(1, 2)) if tap.pooled else tapped)
    return found


def sigmoid(x: Floats) -> Floats:
    return 1 / (1 + np.exp(-x))


def swish(x: Floats) -> Floats:
    return x * sigmoid(x)


def pointwise(layer: Pointwise, x: Floats) -> Floats:
    """A product with the weights at every position."""
    channels, *size = x.shape
    out = layer.weight.astype(x.dtype) @ x.reshape(channels, -1) + layer.bias.astype(x.dtype)[:, None]
    return out.reshape(-1, *size)


def spatial(layer: Spatial, x: Floats) -> Floats:
    """Every channel with its own kernel; one channel that there is, with all of them."""
    top, left, bottom, right = layer.padding
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right)))
    kernel, stride = layer.weight.shape[1], layer.stride
    height, width = (size - kernel + 1 for size in padded.shape[1:])
    out = np.zeros((len(layer.bias), len(range(0, height, stride)), len(range(0, width, stride))), x.dtype)
    for i in range(kernel):
        for j in range(kernel):
            out += (
                layer.weight[:, i, j, None, None].astype(x.dtype)
                * padded[:, i : i + height : stride, j : j + width : stride]
            )
    return out + layer.bias[:, None, None].astype(x.dtype)


def convolved(weight: Floats, bias: Floats, stride: int, padding: Padding, x: Floats) -> Floats:
    """Every output sees all channels: one product for each position."""
    top, left, bottom, right = padding
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right)))
    seen = np.lib.stride_tricks.sliding_window_view(padded, weight.shape[2:], axis=(1, 2))[:, ::stride, ::stride]
    return np.einsum("chwij,ocij->ohw", seen, weight.astype(x.dtype)) + bias[:, None, None].astype(x.dtype)


def pooled_stem(stem: PooledStem, x: Floats) -> Floats:
    y = np.maximum(convolved(stem.weight, stem.bias, stem.stride, stem.padding, x), 0)
    left, right = y[..., 0::2], y[..., 1::2]
    return pointwise(stem.pool, np.concatenate([np.maximum(left, right), (left + right) / 2]))


def patch_head(head: PatchHead, x: Floats) -> Floats:
    y = np.maximum(x * head.scale[:, None, None].astype(x.dtype) + head.shift[:, None, None].astype(x.dtype), 0)
    return np.maximum(convolved(head.weight, head.bias, 1, (0, 0, 0, 0), y), 0)


def mbconv(block: Block, x: Floats) -> Floats:
    y = x if block.expand is None else swish(pointwise(block.expand, x))
    y = swish(spatial(block.depthwise, y))
    if block.gate is not None:
        mean = y.mean(axis=(1, 2), keepdims=True)
        y = y * sigmoid(pointwise(block.gate.expand, swish(pointwise(block.gate.reduce, mean))))
    y = pointwise(block.project, y)
    return x + y if block.residual else y


def logits(prototypes: Prototypes, embedding: Floats) -> Floats:
    """Every class for itself: the sum of its prototypes' largest products with unit vectors, weighted."""
    dtype = embedding.dtype
    vectors = embedding.reshape(len(embedding), -1)
    unit = vectors / (np.sqrt((vectors**2).sum(axis=0)) + dtype.type(prototypes.epsilon))
    best = (prototypes.vectors.astype(dtype).T @ unit).max(axis=1)
    strength = prototypes.strength.astype(dtype)
    found = (best.reshape(strength.shape) * strength).sum(axis=1) + prototypes.bias.astype(dtype)
    if prototypes.members is None:
        return found
    return np.array([max(found[member] for member in row) for row in prototypes.members], dtype)


# random networks ------------------------------------------------------------------------------------------------------

SWISHED = 1.7
"""Times a product's weights: keeps numbers at about 1 behind a swish, whose mean square of a normal number is 0.35."""
GATED = 3.4
"""The same behind a gate that is about a half."""


def random_layers(
    rng: np.random.Generator,
    blocks: int | None = None,
    *,
    shape: tuple[int, int] | None = None,
    channels: Sequence[int] = (1, 2, 3, 5, 7, 8, 11, 16, 17, 24, 33),
    head: bool | None = None,
    prototypes: bool | None = None,
) -> Layers:
    """A small network whose numbers stay at about 1: odd maps and channels, kernels, strides and paddings of all kinds.

    Args:
        rng: what it is drawn from.
        blocks: how many; None for 1 to 4.
        shape: of the input; None for a few to a few dozen rows and columns.
        channels: the sizes that a map's channels are drawn from.
        head: with a head or without; None for either.
        prototypes: with a classifier, which needs a head, or without; None for either.
    """

    def width() -> int:
        return int(rng.choice(channels))

    def either(wanted: bool | None) -> bool:
        return bool(rng.random() < 0.5) if wanted is None else wanted

    count = int(rng.integers(1, 5)) if blocks is None else blocks
    shape = (int(rng.integers(5, 41)), int(rng.integers(5, 31))) if shape is None else shape
    with_head = either(head if prototypes is None else prototypes or head)
    with_prototypes = with_head and either(prototypes)

    stem = random_spatial(rng, width(), 3, 2, shape, scale=1 / 3, edges=rng.random() < 0.5)
    made: list[Block] = []
    size, inside, of_swish = stem.size(*shape), len(stem.bias), True
    for _ in range(count):
        block = random_block(rng, inside, width(), size, of_swish)
        made.append(block)
        size, inside, of_swish = block.depthwise.size(*size), len(block.project.bias), False
    taps = [Tap(f"block_{index}", "block", index, either(None)) for index in range(count) if rng.random() < 0.5]
    if not taps or taps[-1].block != count - 1:
        taps.append(Tap(f"block_{count - 1}", "block", count - 1, either(None)))
    last = random_pointwise(rng, inside, width(), 1.0) if with_head else None
    classifier = random_prototypes(rng, len(last.bias)) if last is not None and with_prototypes else None
    if last is not None and (classifier is None or either(None)):
        taps.append(Tap("embedding", "embedding", pooled=either(None)))
    if classifier is not None:
        taps.append(Tap("label", "label"))
    order = rng.permutation(len(taps))
    return Layers(shape, stem, tuple(made), tuple(taps[place] for place in order), last, classifier)


def random_relu_layers(rng: np.random.Generator, blocks: int | None = None) -> Layers:
    """A small network with a pooled stem, blocks with and without gates, a head of patches and a dense classifier."""
    planes, channels = int(rng.integers(1, 4)), (2, 3, 5, 8, 11, 16, 17, 24, 33)

    def width() -> int:
        return int(rng.choice(channels))

    high, wide, stride = int(rng.integers(1, 5)), int(rng.integers(1, 9)), int(rng.integers(1, 3))
    stride = min(stride, high, wide)
    padding: Padding = tuple(int(rng.integers(0, n)) for n in (high, wide, high, wide))  # type: ignore[assignment]
    inside, out = width(), width()
    weight = rng.standard_normal((inside, planes, high, wide)) * 1.4 / np.sqrt(planes * high * wide)
    pool = random_pointwise(rng, 2 * inside, out, 1.0)
    bias = (0.3 * rng.standard_normal(inside)).astype(np.float32)
    stem = PooledStem(weight.astype(np.float32), bias, stride, padding, pool)
    while True:
        shape = (int(rng.integers(8, 41)), int(rng.integers(8, 41)))
        if stem.convolved(*shape)[1] % 2 == 0 and min(stem.size(*shape)) > 3:
            break
    size, inside, made = stem.size(*shape), out, []
    for _ in range(int(rng.integers(1, 4)) if blocks is None else blocks):
        block = random_block(rng, inside, width(), size, of_swish=False)
        if rng.random() < 0.5:
            block = replace(block, gate=None)
        after = block.depthwise.size(*size)
        if min(after) < 2:
            break
        made.append(block)
        size, inside = after, len(block.project.bias)
    kernel, out = int(rng.integers(1, min(3, *size) + 1)), width()
    weight = rng.standard_normal((out, inside, kernel, kernel)) * 1.4 / np.sqrt(inside * kernel * kernel)
    head = PatchHead(
        rng.uniform(0.5, 2, inside).astype(np.float32),
        (0.3 * rng.standard_normal(inside)).astype(np.float32),
        weight.astype(np.float32),
        (0.3 * rng.standard_normal(out)).astype(np.float32),
    )
    dense = random_pointwise(rng, out, int(rng.integers(1, 70)), 1.0)
    taps = [Tap("embedding", "embedding", pooled=bool(rng.random() < 0.7)), Tap("logits", "dense")]
    if made and rng.random() < 0.5:
        taps.append(Tap("block", "block", len(made) - 1, pooled=bool(rng.random() < 0.5)))
    if not made:
        return random_relu_layers(rng, blocks)
    order = rng.permutation(len(taps))
    return Layers(shape, stem, tuple(made), tuple(taps[place] for place in order), head, dense=dense)


def random_block(rng: np.random.Generator, inside: int, outside: int, size: tuple[int, int], of_swish: bool) -> Block:
    """A block for a map of ``inside`` channels and this (height, width), which is that of a swish or not."""
    factor = int(rng.integers(1, 7))
    residual = bool(rng.random() < 0.5)
    wide = inside * factor
    expand = random_pointwise(rng, inside, wide, SWISHED if of_swish else 1.0) if factor > 1 else None
    kernel = int(rng.choice([3, 5]))
    stride = 1 if residual else int(rng.choice([1, 2]))
    scale = (SWISHED if expand is not None or of_swish else 1.0) / kernel
    depthwise = random_spatial(rng, wide, kernel, stride, size, scale, edges=residual or bool(rng.random() < 0.5))
    squeezed = max(1, inside // 4)
    gate = Gate(random_pointwise(rng, wide, squeezed, SWISHED), random_pointwise(rng, squeezed, wide, SWISHED))
    project = random_pointwise(rng, wide, inside if residual else outside, GATED)
    return Block(expand, depthwise, gate, project, residual)


def random_pointwise(rng: np.random.Generator, inside: int, outside: int, scale: float) -> Pointwise:
    weight = rng.standard_normal((outside, inside)) * scale / np.sqrt(inside)
    return Pointwise(weight.astype(np.float32), (0.3 * rng.standard_normal(outside)).astype(np.float32))


def random_spatial(
    rng: np.random.Generator,
    channels: int,
    kernel: int,
    stride: int,
    size: tuple[int, int],
    scale: float,
    edges: bool,
) -> Spatial:
    """With ``edges`` a map of as many positions as the input has, over the stride; else any zeros on the four sides."""
    half = kernel // 2
    padding: Padding
    if edges and stride == 1:
        padding = half, half, half, half
    elif edges:
        # as a strided convolution is padded: of an even size the extra zero is at the end
        padding = half - (1 - size[0] % 2), half - (1 - size[1] % 2), half, half
    else:
        top, left, bottom, right = (int(zeros) for zeros in rng.integers(0, half + 1, 4))
        if size[0] + top + bottom < kernel:
            top = bottom = half
        if size[1] + left + right < kernel:
            left = right = half
        padding = top, left, bottom, right
    weight = (rng.standard_normal((channels, kernel, kernel)) * scale).astype(np.float32)
    return Spatial(weight, (0.3 * rng.standard_normal(channels)).astype(np.float32), stride, padding)


def random_prototypes(rng: np.random.Generator, channels: int) -> Prototypes:
    classes, each = int(rng.integers(1, 20)), int(rng.integers(1, 6))
    members = None
    if rng.random() < 0.5:
        members = rng.integers(0, classes, (int(rng.integers(1, 24)), int(rng.integers(1, 4))))
    return Prototypes(
        rng.standard_normal((channels, classes * each)).astype(np.float32),
        rng.standard_normal((classes, each)).astype(np.float32),
        rng.standard_normal(classes).astype(np.float32),
        members,
        float(np.float32(rng.choice([1e-5, 1e-3]))),
    )

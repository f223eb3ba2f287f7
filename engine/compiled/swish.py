"""The activations, x / (1 + exp(-x)) and 1 / (1 + exp(-x)), out of sums that are scaled for them.

Weights and bias of a layer in front of one are multiplied with :data:`SCALES` when they are packed (:func:`scaled`), so
that the sums are what the first instruction wants: swish takes a tenth of a network's time.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal, TypeVar

import numpy as np

from bce.engine.compiled.emitter import Value
from bce.engine.compiled.lanes import AVX512, Isa, Lanes
from bce.engine.compiled.layers import Pointwise, Spatial
from bce.engine.compiled.maps import Element

Layer = TypeVar("Layer", Pointwise, Spatial)
Activation = Literal["exact", "rough", "relu"]
"""A swish by how near it is, or max(x, 0)."""
Swish = Literal["exact", "rough"]
"""How near: "exact" is a few roundings of float32 off; "rough", which 16 lanes have, at most 5e-4 |x|, an eighth of
bfloat16's step, and 0 below -7.6."""

SCALES: dict[Swish, float] = {"exact": -math.log2(math.e), "rough": 0.5}
"""What the sums are scaled with. That of "rough" leaves the rounding of bfloat16 weights as it is."""

POWERS_OF_TWO: dict[tuple[int, int], tuple[float, ...]] = {
    (2, 16): (1.000000006879859, 0.6931878324632759, 0.24021946143801398),
    (3, 16): (0.9999999988535768, 0.6931471823085105, 0.24023589954633542, 0.055502806415010264),
    (3, 8): (0.9999999816665344, 0.6931472085346724, 0.2402640736501085, 0.05549889986285048),
    (4, 8): (0.9999999999971313, 0.693147174204402, 0.2402265121006347, 0.05551061857883423, 0.009617376910732786),
}
"""By degree and lanes: the coefficients, lowest first, of the polynomial nearest to 2^r for |r| <= 1 / (2 lanes).

Nearest by the largest relative error. Numbers and not a computation: kernels are found by their text.
"""

SEGMENTS = 32
"""Of :func:`_rough`, as many as two registers hold."""
SEGMENT = 0.25
"""Width of a segment, a power of two."""


def swish_for(element: Element, isa: Isa) -> Swish:
    """The one whose error stays under that of products of an element."""
    return "exact" if element == "f32" or isa is not AVX512 else "rough"


def scaled(layer: Layer, swish: Swish) -> Layer:
    """A layer in front of a swish with the weights and the bias that give sums as it wants them.

    For "exact" they are rounded once more: features are 5e-6 off ONNX Runtime's (relative L2). Sums that are scaled
    behind the product, a cycle slower for each vector, would leave 3e-6.
    """
    scale = np.float32(SCALES[swish])
    weight, bias = layer.weight * scale, layer.bias * scale
    if isinstance(layer, Spatial):
        return replace(layer, weight=weight, bias=bias)
    rounded = layer.rounded
    if rounded is not None:
        rounded = replace(rounded, scale=rounded.scale * scale)
    return Pointwise(weight, bias, rounded)


def swish_of(lanes: Lanes, z: Value, swish: Swish) -> Value:
    """x / (1 + exp(-x)) for z = scale x."""
    return _rough(lanes, z) if swish == "rough" else z / _denominator(lanes, z, SCALES["exact"], 2)


def activated(lanes: Lanes, z: Value, activation: Activation) -> Value:
    """The activation of x: for a swish z = scale x, else x itself."""
    return lanes.relu(z) if activation == "relu" else swish_of(lanes, z, activation)


def gate_swish(lanes: Lanes, z: Value) -> Value:
    """The same, as "exact", with one degree more: a gate's error goes into a whole channel, and there are few."""
    return z / _denominator(lanes, z, SCALES["exact"], 3)


def gate_sigmoid(lanes: Lanes, z: Value) -> Value:
    """1 / (1 + exp(-x)), likewise."""
    return lanes.constant(1.0) / _denominator(lanes, z, 1.0, 3)


def _denominator(lanes: Lanes, z: Value, factor: float, degree: int) -> Value:
    """factor (1 + 2^z), with 2^z = 2^n 2^(i/lanes) 2^r.

    i looks 2^(i/lanes) up in a register, a polynomial gives 2^r; ``factor`` is in its coefficients. Of 16 lanes
    degree 2 gives a relative error of 4e-7; with 8 lanes one degree more is taken.
    """
    f, isa = lanes.f, lanes.isa
    n = isa.lanes
    if isa is not AVX512:  # no scalef: what the exponent cannot hold is cut off first
        degree += 1
        z = lanes.smallest(lanes.constant(126.0), lanes.largest(lanes.constant(-126.0), z))
    # adding 1.5 2^23 / n rounds to n-ths: their places among the lowest bits are i
    magic = lanes.constant(1.5 * 2**23 / n)
    shifted = z + magic
    whole = shifted - magic
    rest = z - whole
    place = shifted.bitcast(isa.ints)
    roots = [2.0 ** (i / n) for i in range(n)]
    if isa is AVX512:
        root = f.intrinsic(isa.floats, "llvm.x86.avx512.permvar.sf.512", f.lanes(isa.floats, roots), place)
        none = f"{isa.floats} zeroinitializer"
        power = f.intrinsic(isa.floats, "llvm.x86.avx512.mask.scalef.ps.512", root, whole, none, "i16 -1", "i32 4")
    else:  # n to where a float has its exponent; i comes to lie behind it, and is taken off in the table
        shift = 23 - n.bit_length() + 1
        bits = [int(np.float32(number).view(np.int32)) - (i << shift) for i, number in enumerate(roots)]
        root = f.intrinsic(isa.ints, "llvm.x86.avx2.permd", f.lanes(isa.ints, bits), place)
        power = ((place << shift) + root).bitcast(isa.floats)
    *lower, polynomial = (lanes.constant(factor * c) for c in POWERS_OF_TWO[degree, n])
    for coefficient in reversed(lower):
        polynomial = lanes.fma(polynomial, rest, coefficient)
    return lanes.fma(polynomial, power, lanes.constant(factor))


def _rough(lanes: Lanes, z: Value) -> Value:
    """The same for z = x / 2 in seven instructions: z + |z| tanh(|z|), with a line for each segment of tanh."""
    f, isa = lanes.f, lanes.isa
    assert isa is AVX512
    size = f.intrinsic(isa.floats, f"llvm.fabs.v{isa.lanes}f32", z)
    inside = lanes.smallest(lanes.constant((SEGMENTS - 1) * SEGMENT / 2), size)
    place = (inside + 1.5 * 2**23 * SEGMENT / 2).bitcast(isa.ints)

    def looked_up(table: list[float]) -> Value:
        low, high = (f.lanes(isa.floats, half) for half in (table[: isa.lanes], table[isa.lanes :]))
        return f.intrinsic(isa.floats, "llvm.x86.avx512.vpermi2var.ps.512", low, place, high)

    starts, slopes = zip(*tanh_lines(), strict=True)
    return lanes.fma(size, lanes.fma(inside, looked_up(list(slopes)), looked_up(list(starts))), z)


def tanh_lines() -> list[tuple[float, float]]:
    """(value at 0, slope) of the line nearest to tanh over each segment around 0, SEGMENT / 2, SEGMENT, ...

    The first goes through 0, so that a small x keeps its digits; the last is 1. Between, the nearest line to a concave
    function has the slope of its chord, and lies in the middle between chord and tangent. All have ten digits, so that
    another machine's mathematics give the same: kernels are found by their text.
    """
    width = SEGMENT / 2
    lines = [(0.0, (1 + math.tanh(width / 2) / (width / 2)) / 2)]
    for place in range(1, SEGMENTS - 1):
        low, high = (place - 0.5) * width, (place + 0.5) * width
        slope = (math.tanh(high) - math.tanh(low)) / width
        touched = math.sqrt(1 - slope)  # tanh where its derivative, 1 - tanh^2, is the slope
        starts = math.tanh(low) - slope * low, touched - slope * math.atanh(touched)
        lines.append((sum(starts) / 2, slope))
    return [(round(start, 10), round(slope, 10)) for start, slope in [*lines, (1.0, 0.0)]]

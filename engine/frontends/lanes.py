"""Eight numbers side by side, as a value in numba kernels: one vector register, two, or four of them by the CPU.

Whether LLVM makes vectors of a loop hangs on its version, on what it can prove of aliases, and on the CPU's name. Here
the vectors are spelled out: each operation is one instruction of LLVM's, which every CPU has in one form or another,
and every lane is computed alike. Products and sums contract to fused ones where the CPU has them.

Numba's cache on disk does not see a change of this file: touch the kernels' file too.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

LANES = 8


class Lanes(types.Type):  # type: ignore[misc]
    """Numba's type of eight numbers.

    Args:
        element: float32 or float64.
    """

    def __init__(self, element: types.Float) -> None:
        self.element = element
        super().__init__(f"Lanes({element})")


SINGLE, DOUBLE = Lanes(types.float32), Lanes(types.float64)
_VECTORS = {SINGLE: ir.VectorType(ir.FloatType(), LANES), DOUBLE: ir.VectorType(ir.DoubleType(), LANES)}
_INTEGERS = ir.VectorType(ir.IntType(32), LANES)
_HALF_OF_ROOT_2 = 0x3F3504F3  # the bits of float32 sqrt(1/2)


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, lanes: Lanes) -> None:
        super().__init__(manager, lanes, _VECTORS[lanes])


def _splat(builder: ir.IRBuilder, value: Any, vector: ir.VectorType) -> Any:
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), ir.Constant(_INTEGERS, [0] * LANES))


def _arithmetic(operation: Callable[..., Any], instruction: str) -> None:
    """Lanes with lanes, or with one number of the same kind."""

    @type_callable(operation)  # type: ignore[untyped-decorator]
    def _type(context: Any) -> Any:
        def typer(a: Any, b: Any) -> Any:
            for lanes, other in ((a, b), (b, a)):
                if isinstance(lanes, Lanes) and other in (lanes, lanes.element):
                    return lanes
            return None

        return typer

    def lower(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        vector = _VECTORS[signature.return_type]
        a, b = (value if value.type == vector else _splat(builder, value, vector) for value in arguments)
        return getattr(builder, instruction)(a, b, flags=("contract", "nsz"))

    for kinds in ((Lanes, Lanes), (Lanes, types.Float), (types.Float, Lanes)):
        lower_builtin(operation, *kinds)(lower)


_arithmetic(operator.add, "fadd")
_arithmetic(operator.sub, "fsub")
_arithmetic(operator.mul, "fmul")
_arithmetic(operator.truediv, "fdiv")


def _pointer(context: Any, builder: ir.IRBuilder, array_type: Any, array: Any, at: Any, vector: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), vector.as_pointer())


@intrinsic
def load(typing, array, at):  # type: ignore[no-untyped-def]
    """Eight neighbours of a flat array, from an index on; nothing checks it."""
    lanes = {types.float32: SINGLE, types.float64: DOUBLE}[array.dtype]

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        flat, at = arguments
        pointer = _pointer(context, builder, signature.args[0], flat, at, _VECTORS[lanes])
        return builder.load(pointer, align=lanes.element.bitwidth // 8)

    return lanes(array, types.intp), generate


@intrinsic
def store(typing, array, at, lanes):  # type: ignore[no-untyped-def]
    """Write to eight neighbours of a flat array, from an index on, rounded where the array's are float32."""
    stored = {types.float32: SINGLE, types.float64: DOUBLE}[array.dtype]

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        flat, at, value = arguments
        if value.type != _VECTORS[stored]:
            value = builder.fptrunc(value, _VECTORS[stored])
        pointer = _pointer(context, builder, signature.args[0], flat, at, _VECTORS[stored])
        builder.store(value, pointer, align=stored.element.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes), generate


@intrinsic
def load_across(typing, array, first, step, last):  # type: ignore[no-untyped-def]
    """Eight times eight float32 of a flat array, transposed.

    ``result[i]`` has the number at ``first + lane * step + i`` in each lane; lanes behind ``last`` repeat that one.
    """

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        flat, first, step, last = arguments
        vector = _VECTORS[SINGLE]
        rows = []
        for lane in range(LANES):
            number = ir.Constant(last.type, lane)
            number = builder.select(builder.icmp_signed("<", number, last), number, last)
            at = builder.add(first, builder.mul(number, step))
            rows.append(builder.load(_pointer(context, builder, signature.args[0], flat, at, vector), align=4))
        for width in (1, 2, 4):  # swap the blocks off the diagonal, of this width
            low = [lane if not lane & width else lane - width + LANES for lane in range(LANES)]
            high = [lane + width if not lane & width else lane + LANES for lane in range(LANES)]
            for row in range(LANES):
                if not row & width:
                    pair = rows[row], rows[row + width]
                    rows[row] = builder.shuffle_vector(*pair, ir.Constant(_INTEGERS, low))
                    rows[row + width] = builder.shuffle_vector(*pair, ir.Constant(_INTEGERS, high))
        return context.make_tuple(builder, signature.return_type, rows)

    return types.UniTuple(SINGLE, LANES)(array, types.intp, types.intp, types.intp), generate


@intrinsic
def store_across(typing, array, first, step, begin, end, lanes):  # type: ignore[no-untyped-def]
    """Write the lanes from ``begin`` to before ``end`` to ``first + lane * step`` of a flat array."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        flat, first, step, begin, end, value = arguments
        for lane in range(LANES):
            number = ir.Constant(begin.type, lane)
            inside = builder.and_(
                builder.icmp_signed(">=", number, begin),
                builder.icmp_signed("<", number, end),
            )
            with builder.if_then(inside, likely=True):
                at = builder.add(first, builder.mul(number, step))
                data = context.make_array(signature.args[0])(context, builder, flat).data
                builder.store(
                    builder.extract_element(value, ir.Constant(ir.IntType(32), lane)), builder.gep(data, [at])
                )
        return context.get_dummy_value()

    return types.void(array, *[types.intp] * 4, lanes), generate


@intrinsic
def zeros(typing):  # type: ignore[no-untyped-def]
    """Eight float32 zeros."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return ir.Constant(_VECTORS[SINGLE], None)

    return SINGLE(), generate


@intrinsic
def wide(typing, lanes):  # type: ignore[no-untyped-def]
    """Float32 as float64."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.fpext(arguments[0], _VECTORS[DOUBLE])

    return DOUBLE(SINGLE), generate


@intrinsic
def narrow(typing, lanes):  # type: ignore[no-untyped-def]
    """Float64 rounded to float32."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.fptrunc(arguments[0], _VECTORS[SINGLE])

    return SINGLE(DOUBLE), generate


@intrinsic
def rounded_product(typing, lanes, number):  # type: ignore[no-untyped-def]
    """Float32 times one number, rounded by itself: never part of a fused sum."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.fmul(arguments[0], _splat(builder, arguments[1], _VECTORS[SINGLE]))

    return SINGLE(SINGLE, types.float32), generate


@intrinsic
def magnitude(typing, lanes):  # type: ignore[no-untyped-def]
    """Eight float32 without their signs."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        bits = builder.bitcast(arguments[0], _INTEGERS)
        bits = builder.and_(bits, ir.Constant(_INTEGERS, [0x7FFFFFFF] * LANES))
        return builder.bitcast(bits, _VECTORS[SINGLE])

    return SINGLE(SINGLE), generate


@intrinsic
def root(typing, lanes):  # type: ignore[no-untyped-def]
    """Square roots of eight float32."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        vector = _VECTORS[SINGLE]
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector]), f"llvm.sqrt.v{LANES}f32"
        )
        return builder.call(function, arguments)

    return SINGLE(SINGLE), generate


@intrinsic
def at_least(typing, lanes, lowest):  # type: ignore[no-untyped-def]
    """The larger of each float32 and one number."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        value, lowest = arguments[0], _splat(builder, arguments[1], _VECTORS[SINGLE])
        return builder.select(builder.fcmp_ordered(">", value, lowest), value, lowest)

    return SINGLE(SINGLE, types.float32), generate


@intrinsic
def split(typing, lanes):  # type: ignore[no-untyped-def]
    """Positive normal float32 x as (m, e) with x = m 2^e and m in sqrt(1/2) .. sqrt(2)."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        constant = lambda value: ir.Constant(_INTEGERS, [value] * LANES)  # noqa: E731
        bits = builder.bitcast(arguments[0], _INTEGERS)
        exponent = builder.ashr(builder.sub(bits, constant(_HALF_OF_ROOT_2)), constant(23))
        mantissa = builder.sub(bits, builder.shl(exponent, constant(23)))
        parts = builder.bitcast(mantissa, _VECTORS[SINGLE]), builder.sitofp(exponent, _VECTORS[SINGLE])
        return context.make_tuple(builder, signature.return_type, parts)

    return types.UniTuple(SINGLE, 2)(SINGLE), generate


@intrinsic
def scaled(typing, lanes, exponents):  # type: ignore[no-untyped-def]
    """x 2^e of normal float32 x and whole float32 e, where that is normal too."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        exponent = builder.shl(builder.fptosi(arguments[1], _INTEGERS), ir.Constant(_INTEGERS, [23] * LANES))
        return builder.bitcast(builder.add(builder.bitcast(arguments[0], _INTEGERS), exponent), _VECTORS[SINGLE])

    return SINGLE(SINGLE, SINGLE), generate


@intrinsic
def where_at_least(typing, lanes, lowest, values):  # type: ignore[no-untyped-def]
    """The values beside float32 that are at least one number, and 0 beside the others."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        compared, lowest, values = arguments
        enough = builder.fcmp_ordered(">=", compared, _splat(builder, lowest, _VECTORS[SINGLE]))
        return builder.select(enough, values, ir.Constant(_VECTORS[SINGLE], None))

    return SINGLE(SINGLE, types.float32, SINGLE), generate

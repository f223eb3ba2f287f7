"""The two vector forms of the generator, and arithmetic on their vectors: everything that differs between AVX-512 and
AVX2 is here."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bce.engine.compiled.emitter import FLOAT, Function, Value, vector
from bce.engine.compiled.targets import IsaName


@dataclass(frozen=True)
class Isa:
    """A vector form.

    Attributes:
        name: of the instruction set.
        lanes: float32 numbers in a vector.
        registers: how many vectors there are.
        pixels: of a register tile, by how many vectors of channels it is wide.
    """

    name: IsaName
    lanes: int
    registers: int
    pixels: dict[int, int]

    @property
    def bytes(self) -> int:
        """Of a vector."""
        return 4 * self.lanes

    @property
    def floats(self) -> str:
        """The type of a vector of float32."""
        return vector(FLOAT, self.lanes)

    @property
    def ints(self) -> str:
        """The type of a vector of 32-bit integers."""
        return vector("i32", self.lanes)


AVX512 = Isa("avx512", 16, 32, {3: 8, 2: 8, 1: 16})
AVX2 = Isa("avx2", 8, 16, {3: 4, 2: 6, 1: 8})
POWERS_OF_TWO: dict[tuple[int, int], tuple[float, ...]] = {
    (1, 16): (1.0001172875461781, 0.6931200697052949),
    (2, 16): (1.000000006879859, 0.6931878324632759, 0.24021946143801398),
    (3, 16): (0.9999999988535768, 0.6931471823085105, 0.24023589954633542, 0.055502806415010264),
    (2, 8): (1.00000011005553, 0.6933097688544904, 0.24019832598979285),
    (3, 8): (0.9999999816665344, 0.6931472085346724, 0.2402640736501085, 0.05549889986285048),
    (4, 8): (0.9999999999971313, 0.693147174204402, 0.2402265121006347, 0.05551061857883423, 0.009617376910732786),
}
"""By degree and lanes: the coefficients, lowest first, of the polynomial nearest to 2^r for |r| <= 1 / (2 lanes).

Nearest by the largest relative error. Numbers and not a computation: kernels are found by their text.
"""

ISAS: dict[IsaName, Isa] = {isa.name: isa for isa in (AVX512, AVX2)}


class Lanes:
    """Vector arithmetic in one function.

    Args:
        f: the function.
        isa: its vector form.
    """

    def __init__(self, f: Function, isa: Isa) -> None:
        self.f = f
        self.isa = isa
        self._n = isa.lanes

    def load(self, place: Value, element: str = "f32") -> Value:
        """A vector of float32; bfloat16 in memory is widened."""
        if element == "f32":
            return place.load(self.isa.floats, self.isa.bytes)
        halves = place.load(vector("i16", self._n), self.isa.bytes // 2)
        wide = self.f.emit(self.isa.ints, f"zext {halves} to {self.isa.ints}") << 16
        return wide.bitcast(self.isa.floats)

    def store(self, place: Value, value: Value, element: str = "f32") -> None:
        """Put a vector of float32 down; as bfloat16 it is rounded to the nearest."""
        if element == "f32":
            place.store(value, self.isa.bytes)
        else:
            place.store(self.rounded(value), self.isa.bytes // 2)

    def rounded(self, value: Value) -> Value:
        """float32 to bfloat16."""
        kind = vector("bfloat", self._n)
        return self.f.emit(kind, f"fptrunc {value} to {kind}")

    def constant(self, number: float) -> Value:
        """All lanes the same."""
        return self.f.constant(self.isa.floats, number)

    def zero(self) -> Value:
        """All lanes zero."""
        return self.f.zero(self.isa.floats)

    def broadcast(self, place: Value, kind: str = FLOAT) -> Value:
        """One 32-bit number of memory in all lanes."""
        wide = vector(kind, self._n)
        one = self.f.emit(wide, f"insertelement {wide} poison, {place.load(kind, 4)}, i32 0")
        spread = f"shufflevector {one}, {wide} poison, {vector('i32', self._n)} zeroinitializer"
        return self.f.emit(wide, spread)

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """a * b + c, rounded once."""
        return self.f.intrinsic(self.isa.floats, f"llvm.fma.v{self._n}f32", a, b, c)

    def largest(self, a: Value, b: Value) -> Value:
        """The larger of each two numbers; b where either is NaN: one instruction."""
        return self._either("ogt", a, b)

    def smallest(self, a: Value, b: Value) -> Value:
        """The smaller of each two numbers; b where either is NaN."""
        return self._either("olt", a, b)

    def _either(self, relation: str, a: Value, b: Value) -> Value:
        first = self.f.emit(vector("i1", self._n), f"fcmp {relation} {a}, {b.name}")
        return self.f.emit(a.type, f"select {first}, {a}, {b}")

    def sum(self, values: list[Value]) -> Value:
        """The sum of vectors, by pairs: the shortest chain, and the least rounding."""
        while len(values) > 1:
            pairs = [a + b for a, b in zip(values[::2], values[1::2], strict=False)]
            values = pairs + values[2 * len(pairs) :]
        return values[0]

    def swish(self, x: Value, degree: int) -> Value:
        """x / (1 + exp(-x)); see :meth:`exp_of_minus` for the degree.

        A reciprocal of 14 bits in place of the division, where bfloat16 would allow it, saves nothing: measured.
        """
        return x / (self.exp_of_minus(x, degree) + 1.0)

    def sigmoid(self, x: Value, degree: int) -> Value:
        """1 / (1 + exp(-x))."""
        return self.constant(1.0) / (self.exp_of_minus(x, degree) + 1.0)

    def exp_of_minus(self, x: Value, degree: int) -> Value:
        """exp(-x) = 2^n 2^(i/lanes) 2^r: i looks 2^(i/lanes) up in a register, a polynomial gives 2^r.

        Args:
            x: any.
            degree: of the polynomial for |r| <= 1 / (2 lanes): 1 is enough for bfloat16, 2 gives a relative error of
                3e-7 with 16 lanes; with 8 lanes one more is taken.
        """
        n, wide = self._n, self.isa is AVX512
        if not wide:  # no scalef: what the exponent cannot hold is cut off first
            degree += 1
            x = self.smallest(self.constant(87.0), self.largest(self.constant(-87.0), x))
        # adding 1.5 2^23 / n rounds to n-ths: their places among the lowest bits are i
        magic = self.constant(1.5 * 2**23 / n)
        minus_log2e = self.constant(-math.log2(math.e))
        shifted = self.fma(x, minus_log2e, magic)
        whole = shifted - magic
        rest = self.fma(x, minus_log2e, -whole)
        place = shifted.bitcast(self.isa.ints)
        table = self.f.lanes(self.isa.floats, [2.0 ** (i / n) for i in range(n)])
        permute = "llvm.x86.avx512.permvar.sf.512" if wide else "llvm.x86.avx2.permps"
        root = self.f.intrinsic(self.isa.floats, permute, table, place)
        *lower, power = (self.constant(c) for c in POWERS_OF_TWO[degree, n])
        for coefficient in reversed(lower):
            power = self.fma(power, rest, coefficient)
        power = power * root
        if wide:
            none = f"{self.isa.floats} zeroinitializer"
            scale = "llvm.x86.avx512.mask.scalef.ps.512"
            return self.f.intrinsic(self.isa.floats, scale, power, whole, none, "i16 -1", "i32 4")
        exponent = (place & -n) << (23 - n.bit_length() + 1)  # i out, n to where a float has its exponent
        return (exponent + power.bitcast(self.isa.ints)).bitcast(self.isa.floats)

    def pinned(self, values: list[Value]) -> list[Value]:
        """The same values, behind which nothing is moved to before them.

        An empty piece of assembly that claims to change them. Without it LLVM moves all broadcasts of a tile to its
        beginning and runs out of registers: the spills take half of the speed.
        """
        kind, count = values[0].type, len(values)
        joined = kind if count == 1 else "{ " + ", ".join([kind] * count) + " }"
        constraints = "=v," * count + "".join(f"{n}," for n in range(count)) + "~{memory}"
        given = ", ".join(map(str, values))
        both = self.f.emit(joined, f'call {joined} asm sideeffect "", "{constraints}"({given})')
        if count == 1:
            return [both]
        return [self.f.emit(kind, f"extractvalue {both}, {n}") for n in range(count)]

    def prefetch(self, place: Value) -> None:
        """Ask for the cache line of an address."""
        self.f.do("llvm.prefetch.p0", place, "i32 0", "i32 3", "i32 1")

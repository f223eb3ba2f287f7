"""The two vector forms of the generator, and arithmetic on their vectors: everything that differs between AVX-512 and
AVX2 is here and in :mod:`bce.engine.compiled.swish`."""

from __future__ import annotations

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

    def float_of(self, value: Value) -> Value:
        """32-bit integers to float32."""
        return self.f.emit(self.isa.floats, f"sitofp {value} to {self.isa.floats}")

    def store_whole(self, place: Value, value: Value, bits: int, lowest: int, highest: int) -> None:
        """Put a vector of float32 down as whole numbers of so many bits.

        They are the nearest, ties to even, or the end of the range that is given; NaN is the lowest.
        """
        f, isa = self.f, self.isa
        if isa is AVX512:
            none = f"{isa.ints} zeroinitializer"
            whole = f.intrinsic(isa.ints, "llvm.x86.avx512.mask.cvtps2dq.512", value, none, "i16 -1", "i32 4")
        else:
            whole = f.intrinsic(isa.ints, "llvm.x86.avx.cvt.ps2dq.256", value)
        whole = f.intrinsic(isa.ints, f"llvm.smax.v{self._n}i32", whole, f.constant(isa.ints, lowest))
        whole = f.intrinsic(isa.ints, f"llvm.smin.v{self._n}i32", whole, f.constant(isa.ints, highest))
        kind = vector(f"i{bits}", self._n)
        place.store(f.emit(kind, f"trunc {whole} to {kind}"), self._n * bits // 8)

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

    def dot(self, element: str, total: Value, word: Value, row: Value) -> Value:
        """total + the products of each 32 bits: of a float32, two numbers of 16 bits, or four bytes and signed ones.

        Args:
            element: see :data:`bce.engine.compiled.maps.Element`.
            total: float32; 32-bit integers for whole numbers.
            word, row: a map's numbers and weights, as vectors of float32.
        """
        f, bits = self.f, 32 * self._n
        if element == "f32":
            return self.fma(word, row, total)
        if element == "bf16":
            pairs = vector("bfloat", 2 * self._n)
            name = f"llvm.x86.avx512bf16.dpbf16ps.{bits}"
            return f.intrinsic(self.isa.floats, name, total, word.bitcast(pairs), row.bitcast(pairs))
        ints, name = self.isa.ints, {"i8": "vpdpbusd", "i16": "vpdpwssd"}[element]
        return f.intrinsic(ints, f"llvm.x86.avx512.{name}.{bits}", total, word.bitcast(ints), row.bitcast(ints))

    def largest(self, a: Value, b: Value) -> Value:
        """The larger of each two numbers; b where either is NaN: one instruction."""
        return self._either("ogt", a, b)

    def smallest(self, a: Value, b: Value) -> Value:
        """The smaller of each two numbers; b where either is NaN."""
        return self._either("olt", a, b)

    def relu(self, value: Value) -> Value:
        """max(x, 0); NaN stays NaN."""
        return self.largest(self.zero(), value)

    def _either(self, relation: str, a: Value, b: Value) -> Value:
        first = self.f.emit(vector("i1", self._n), f"fcmp {relation} {a}, {b.name}")
        return self.f.emit(a.type, f"select {first}, {a}, {b}")

    def largest_of(self, values: list[Value]) -> Value:
        """The largest of vectors, lane by lane, by pairs."""
        while len(values) > 1:
            pairs = [self.largest(a, b) for a, b in zip(values[::2], values[1::2], strict=False)]
            values = pairs + values[2 * len(pairs) :]
        return values[0]

    def sum(self, values: list[Value]) -> Value:
        """The sum of vectors, by pairs: the shortest chain, and the least rounding."""
        while len(values) > 1:
            pairs = [a + b for a, b in zip(values[::2], values[1::2], strict=False)]
            values = pairs + values[2 * len(pairs) :]
        return values[0]

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

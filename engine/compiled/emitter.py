"""A small writer of LLVM IR: functions, typed values, and loops that read like the loops they become.

Only what the kernels need: 64-bit integers, floats, vectors, pointers and counted loops. Values are immutable (SSA); a
loop that changes a value carries it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

INT, FLOAT, POINTER = "i64", "float", "ptr"
TRIPLE = "x86_64-unknown-linux-gnu"
"""The one system that there is code for; spelled the same by every version of LLVM, as code is found by its text."""


def float_literal(number: float) -> str:
    """A float32 constant, which LLVM writes as the bits of the double that equals it."""
    (single,) = struct.unpack("<f", struct.pack("<f", number))
    (bits,) = struct.unpack("<Q", struct.pack("<d", single))
    return f"0x{bits:016X}"


def vector(element: str, lanes: int) -> str:
    """The type of a vector."""
    return f"<{lanes} x {element}>"


class Value:
    """A typed value of a function; arithmetic on it is emitted. Python numbers become constants of its type.

    There are tens of thousands of them: a plain class is made in a third of a dataclass' time.
    """

    __slots__ = ("_text", "function", "name", "type")

    def __init__(self, function: Function, kind: str, name: str) -> None:
        self.function, self.type, self.name = function, kind, name
        self._text = f"{kind} {name}"

    def __add__(self, other: Value | float) -> Value:
        return self._binary("fadd" if self._floating else "add nsw", other)

    def __sub__(self, other: Value | float) -> Value:
        return self._binary("fsub" if self._floating else "sub nsw", other)

    def __mul__(self, other: Value | float) -> Value:
        if other == 1 and not self._floating:
            return self
        return self._binary("fmul" if self._floating else "mul nsw", other)

    def __truediv__(self, other: Value | float) -> Value:
        return self._binary("fdiv", other)

    def __neg__(self) -> Value:
        return self.function.emit(self.type, f"fneg {self.type} {self.name}")

    def __lshift__(self, bits: int) -> Value:
        return self._binary("shl", bits)

    def __and__(self, mask: int) -> Value:
        return self._binary("and", mask)

    def __or__(self, mask: int) -> Value:
        return self._binary("or", mask)

    def _binary(self, operation: str, other: Value | float) -> Value:
        right = other if isinstance(other, Value) else self.function.constant(self.type, other)
        if right.type != self.type:
            raise TypeError(f"{operation} of {self.type} and {right.type}")
        return self.function.emit(self.type, f"{operation} {self.type} {self.name}, {right.name}")

    @property
    def _floating(self) -> bool:
        return FLOAT in self.type

    def __str__(self) -> str:
        return self._text

    # --- pointers ---

    def at(self, *offsets: Value | int) -> Value:
        """This address and so many bytes."""
        found = self
        for offset in offsets:
            if not isinstance(offset, int) or offset:
                name = offset.name if isinstance(offset, Value) else str(offset)
                found = self.function.emit(POINTER, f"getelementptr i8, ptr {found.name}, i64 {name}")
        return found

    def load(self, kind: str, align: int) -> Value:
        """What lies at this address."""
        return self.function.emit(kind, f"load {kind}, ptr {self.name}, align {align}")

    def store(self, value: Value, align: int) -> None:
        """Put a value at this address."""
        self.function.line(f"store {value}, ptr {self.name}, align {align}")

    def bitcast(self, kind: str) -> Value:
        """The same bits as another type."""
        return self.function.emit(kind, f"bitcast {self} to {kind}")


@dataclass
class Loop:
    """A counted loop while it is written, and what it carried once it is done.

    Attributes:
        index: the counter.
        values: what is carried: at the start of a pass while the loop is open, the results after it.
    """

    index: Value
    values: list[Value]
    _next: list[Value] | None = None

    def carry(self, values: Sequence[Value]) -> None:
        """Say what the carried values are at the end of a pass."""
        self._next = list(values)


class Function:
    """A function while it is written.

    Args:
        module: that it becomes part of.
        name: of the function.
        arguments: names of pointers; a count is called ``#name`` and is a 64-bit integer. ``name!`` is a pointer to
            what nothing else points to.
        exported: callable from outside.
    """

    def __init__(self, module: Module, name: str, arguments: Sequence[str], exported: bool = False) -> None:
        self.module = module
        self.name = name
        self._lines: list[str] = []
        self._names = 0
        self._block = "%entry"
        self.arguments: list[Value] = []
        declared = []
        for argument in arguments:
            plain = argument.strip("#!")
            kind = INT if argument.startswith("#") else POINTER
            self.arguments.append(Value(self, kind, f"%{plain}"))
            declared.append(f"{kind}{' noalias' if argument.endswith('!') else ''} %{plain}")
        linkage = "" if exported else "internal "
        self._head = f"define {linkage}void @{name}({', '.join(declared)}) #0 {{\nentry:"

    def line(self, text: str) -> None:
        """Add a line as it is."""
        self._lines.append("  " + text)

    def emit(self, kind: str, text: str) -> Value:
        """Add an instruction, and give its value."""
        self._names += 1
        name = f"%v{self._names}"
        self._lines.append(f"  {name} = {text}")
        return Value(self, kind, name)

    def constant(self, kind: str, number: float) -> Value:
        """A constant; of a vector, all lanes the same."""
        if kind.startswith("<"):
            return Value(self, kind, f"splat ({self.constant(kind[1:-1].split(' x ')[1], number)})")
        return Value(self, kind, float_literal(number) if kind == FLOAT else str(int(number)))

    def lanes(self, kind: str, numbers: Sequence[float]) -> Value:
        """A vector of constants."""
        element = kind[1:-1].split(" x ")[1]
        return Value(self, kind, "<" + ", ".join(str(self.constant(element, number)) for number in numbers) + ">")

    def zero(self, kind: str) -> Value:
        """All bits zero."""
        return Value(self, kind, "zeroinitializer")

    def intrinsic(self, kind: str, name: str, *arguments: Value | str) -> Value:
        """Call one of LLVM's own functions; a text argument is a constant with its type."""
        given = [str(argument) for argument in arguments]
        if name not in self.module.declared:
            self.module.declare(kind, name, given)
        return self.emit(kind, f"call {kind} @{name}({', '.join(given)})")

    def do(self, name: str, *arguments: Value | str) -> None:
        """Call one of LLVM's own functions that gives nothing."""
        given = [str(argument) for argument in arguments]
        self.module.declare("void", name, given)
        self.line(f"call void @{name}({', '.join(given)})")

    def call(self, name: str, *arguments: Value | int) -> None:
        """Call a function of the module."""
        given = [f"i64 {argument}" if isinstance(argument, int) else str(argument) for argument in arguments]
        self.line(f"call void @{name}({', '.join(given)})")

    def smallest(self, value: Value, most: int) -> Value:
        """The smaller of an integer and a constant."""
        return self.intrinsic(INT, "llvm.smin.i64", value, f"i64 {most}")

    @contextmanager
    def loop(self, count: Value | int, carried: Sequence[Value] = (), step: int = 1) -> Iterator[Loop]:
        """Count from 0 below ``count``, once at least. The body says with :meth:`Loop.carry` what it changed."""
        self._names += 1
        number, before = self._names, self._block
        self.line(f"br label %L{number}")
        self._lines.append(f"L{number}:")
        place = len(self._lines)
        self._block = f"%L{number}"
        index = Value(self, INT, f"%i{number}")
        inside = [Value(self, value.type, f"%c{number}_{n}") for n, value in enumerate(carried)]
        loop = Loop(index, inside)
        yield loop
        following = loop._next if loop._next is not None else []
        if len(following) != len(inside):
            raise ValueError(f"the loop carries {len(inside)} values, {len(following)} were given")
        after = index + step
        end = count.name if isinstance(count, Value) else str(count)
        again = self.emit("i1", f"icmp slt i64 {after.name}, {end}")
        last = self._block
        self.line(f"br i1 {again.name}, label %L{number}, label %E{number}")
        self._lines.append(f"E{number}:")
        self._block = f"%E{number}"
        phis = [f"  {index.name} = phi i64 [ 0, {before} ], [ {after.name}, {last} ]"]
        phis += [
            f"  {value.name} = phi {value.type} [ {first.name}, {before} ], [ {following_.name}, {last} ]"
            for value, first, following_ in zip(inside, carried, following, strict=True)
        ]
        self._lines[place:place] = phis
        loop.values = following

    def done(self) -> None:
        """Put the function into its module."""
        self.module.functions[self.name] = "\n".join([self._head, *self._lines, "  ret void", "}"])


@dataclass
class Module:
    """Functions, and the declarations that they need."""

    functions: dict[str, str] = field(default_factory=dict)
    declared: dict[str, str] = field(default_factory=dict)

    def declare(self, kind: str, name: str, arguments: Sequence[str]) -> None:
        """Note one of LLVM's own functions, by arguments that it is called with."""
        self.declared[name] = f"declare {kind} @{name}({', '.join(map(_type, arguments))})"

    def text(self) -> str:
        """The IR, but for the system and the CPU: see :func:`ir_for`."""
        return "\n\n".join(["\n".join(self.declared.values()), *self.functions.values()]) + "\n"


def ir_for(text: str, attributes: str) -> str:
    """The IR of a module for a CPU.

    Args:
        text: of the module, see :meth:`Module.text`.
        attributes: which instructions the functions may use, see :attr:`bce.engine.compiled.targets.Target.attributes`.
    """
    common = 'nounwind "denormal-fp-math"="preserve-sign"'
    return f'target triple = "{TRIPLE}"\n{text}\nattributes #0 = {{ {common} {attributes} }}\n'


def _type(argument: str) -> str:
    """The type of an argument: up to the name, which follows the last space outside of brackets."""
    if argument.startswith("<"):
        return argument[: argument.index(">") + 1]
    return argument.split()[0]

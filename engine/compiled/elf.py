"""Object code put into memory: sections side by side in one block, the distances between them filled in.

LLVM's own loader maps each section where there is room. In a process with gigabytes of memory that can be farther from
the code than its 32-bit distances reach, which ends the process, as does a function that nobody has. Kernels are code
and constants, so that little of the format is needed: System V ABI, chapter 4, and its supplement for AMD64.
"""

from __future__ import annotations

import ctypes
import mmap
from functools import cache

import numpy as np
from numpy.typing import NDArray

from bce.engine.errors import CompiledError


def _record(fields: str) -> np.dtype:
    """Fields one after the other, each "name:kind"."""
    names, kinds = zip(*(field.split(":") for field in fields.split()), strict=True)
    return np.dtype({"names": names, "formats": kinds})


_HEADER = _record(
    "ident:S7 pad:V9 type:<u2 machine:<u2 version:<u4 entry:<u8 segments:<u8 sections:<u8 flags:<u4 size:<u2 "
    "segment_size:<u2 segment_count:<u2 section_size:<u2 count:<u2 names:<u2"
)
_SECTION = _record(
    "name:<u4 type:<u4 flags:<u8 address:<u8 offset:<u8 size:<u8 link:<u4 info:<u4 align:<u8 entry_size:<u8"
)
_SYMBOL = _record("name:<u4 info:u1 other:u1 section:<u2 value:<u8 size:<u8")
_RELOCATION = _record("offset:<u8 type:<u4 symbol:<u4 addend:<i8")

_RELOCATABLE, _X86_64 = 1, 62
_CONTENT, _SYMBOLS, _RELOCATIONS = 1, 2, 4
_WRITTEN, _LOADED = 1, 2
_UNDEFINED = 0
_FUNCTION = 2
_DISTANCES = 2, 4
"""R_X86_64_PC32 and R_X86_64_PLT32: to a place, and to a function, in 32 bits."""

_LENT = ("memset", "memcpy", "memmove")
"""Functions of the C library to which LLVM makes calls of its own accord."""
_JUMP = b"\xff\x25\0\0\0\0"
"""A jump to the address that follows it: the C library may be farther away than a call reaches."""
_STUB = len(_JUMP) + 8


class NativeMemory:
    """Code and constants in memory that can be read and executed, until this object is freed.

    Attributes:
        functions: the address of each.
    """

    functions: dict[str, int]

    def __init__(self, content: bytes) -> None:
        """Put an object file for x86-64 Linux into memory.

        Raises:
            CompiledError: it is none, it has variables or wants what is not in it, or there is no memory for code.
        """
        try:
            self._place(content)
        except (ValueError, IndexError, OverflowError) as error:
            raise CompiledError(f"the object code is damaged: {error}") from None
        except OSError as error:
            raise CompiledError(f"this system gives no memory to code: {error.strerror}") from None

    def _place(self, content: bytes) -> None:
        sections = _sections(content)
        starts, end = _layout(sections)
        stubs = {name: end + number * _STUB for number, name in enumerate(_LENT)}
        self._memory = mmap.mmap(-1, end + len(_LENT) * _STUB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        for number, start in starts.items():
            offset, size = int(sections[number]["offset"]), int(sections[number]["size"])
            self._memory[start : start + size] = content[offset : offset + size]
        for name, start in stubs.items():
            self._memory[start : start + _STUB] = _JUMP + _address_in_libc(name).to_bytes(8, "little")

        table = sections[sections["type"] == _SYMBOLS][0]
        symbols = _table(content, table, _SYMBOL)
        names = [_text(content, int(sections[table["link"]]["offset"] + symbol["name"])) for symbol in symbols]
        places = [_place_of(symbol, name, starts, stubs) for symbol, name in zip(symbols, names, strict=True)]
        for section in sections[sections["type"] == _RELOCATIONS]:
            if section["info"] in starts:
                self._relocate(_table(content, section, _RELOCATION), starts[section["info"]], places, names)
        self.functions = {
            name: base + place
            for symbol, name, place in zip(symbols, names, places, strict=True)
            if symbol["info"] & 15 == _FUNCTION and place is not None
        }
        _make_executable(base, len(self._memory))

    def _relocate(self, relocations: NDArray, start: int, places: list[int | None], names: list[str]) -> None:
        """Fill in what one section's code or constants say of other places."""
        for offset, kind, number, addend in relocations.tolist():
            place, at = places[number], start + offset
            if place is None:
                raise CompiledError(f"the object code wants '{names[number]}', which is not in it")
            if kind not in _DISTANCES:
                raise CompiledError(f"the object code has relocations of type {kind}, which kernels do not need")
            self._memory[at : at + 4] = (place + addend - at).to_bytes(4, "little", signed=True)


def _sections(content: bytes) -> NDArray:
    header = np.frombuffer(content, _HEADER, count=1)[0]
    if (header["ident"], header["type"], header["machine"]) != (b"\x7fELF\x02\x01\x01", _RELOCATABLE, _X86_64):
        raise ValueError("it is no relocatable ELF file for x86-64")
    return np.frombuffer(content, _SECTION, count=header["count"], offset=header["sections"])


def _layout(sections: NDArray) -> tuple[dict[int, int], int]:
    """Where in one block each section that is to be in memory begins, by its number, and where the last one ends."""
    starts, end = {}, 0
    for number, section in enumerate(sections):
        if not section["flags"] & _LOADED or not section["size"]:
            continue
        if section["flags"] & _WRITTEN:
            raise CompiledError("the object code has variables, which threads would share, or pointers")
        if section["type"] != _CONTENT:  # tables to unwind the stack: nothing is thrown through kernels
            continue
        align = max(1, int(section["align"]))
        starts[number] = end + -end % align
        end = starts[number] + int(section["size"])
    return starts, end


def _place_of(symbol: np.void, name: str, starts: dict[int, int], stubs: dict[str, int]) -> int | None:
    """Where in the block a symbol is; None where it is not there."""
    if symbol["section"] == _UNDEFINED:
        return stubs.get(name)
    start = starts.get(int(symbol["section"]))
    return None if start is None else start + int(symbol["value"])


def _table(content: bytes, section: np.void, kind: np.dtype) -> NDArray:
    return np.frombuffer(content, kind, count=int(section["size"]) // kind.itemsize, offset=int(section["offset"]))


def _text(content: bytes, start: int) -> str:
    return content[start : content.index(b"\0", start)].decode("latin-1")


@cache
def _address_in_libc(name: str) -> int:
    return ctypes.cast(getattr(ctypes.CDLL(None), name), ctypes.c_void_p).value or 0


def _make_executable(base: int, size: int) -> None:
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    if protect(ctypes.c_void_p(base), ctypes.c_size_t(size), mmap.PROT_READ | mmap.PROT_EXEC):
        raise OSError(ctypes.get_errno(), "it refuses to make memory executable")

"""Where a file's samples lie, and how many bytes of them its header states: enough to notice that a file was cut.

libsndfile shortens the stated length of a cut file to what is there. Read here are the containers whose samples lie in
one stretch: WAV (RIFF, RIFX, RF64, BW64), W64, AIFF and AIFC, AU, and CAF.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

STREAMED = ((0x7FFF0000, 0x80000000), (0xFFFF0000, 0xFFFFFFFF))
"""Ranges of sizes that recorders and pipes write before they know better, and leave when they never come back; or 0."""
W64_GUID = bytes.fromhex("f3acd3118cd100c04f8edb8a")
"""The last twelve bytes of the names of a W64 file's chunks."""
BLOCK_CODINGS = (0x0002, 0x0011, 0x0031)
"""Codings of WAV in blocks of fixed size: Microsoft's ADPCM, IMA ADPCM, GSM 6.10."""


MOST_CHUNKS = 1000
"""More are not looked at: a file of zeros is a chain of empty ones."""


@dataclass(frozen=True)
class ChunkForm:
    """How a container's chunks look.

    Attributes:
        head: name and length.
        pad: chunks start at multiples of it.
        counts_itself: the length has the head in it.
    """

    head: struct.Struct
    pad: int
    counts_itself: bool = False


RIFF = ChunkForm(struct.Struct("<4sI"), 2)
IFF = ChunkForm(struct.Struct(">4sI"), 2)
W64 = ChunkForm(struct.Struct("<16sQ"), 8, counts_itself=True)
CAF = ChunkForm(struct.Struct(">4sq"), 1)


@dataclass(frozen=True)
class Layout:
    """Where the samples of a file lie.

    Attributes:
        start: their first byte.
        stated: bytes of samples by the header; None where the header was never finished.
        size: bytes that follow on ``start``.
        loose: how many of them lie behind the samples by the header, and are no chunks either.
        order: "<" or ">", the byte order of the container's samples.
        block: (bytes, frames) of a block, where the header tells of blocks.
    """

    start: int
    stated: int | None
    size: int
    order: str
    loose: int = 0
    block: tuple[int, int] | None = None


def layout(path: Path) -> Layout | None:
    """Where the samples of a file lie by its header; None where the file is none of these containers, or damaged.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        try:
            form, kind = struct.unpack("<4s4x4s", file.read(12))
            if form in (b"RIFF", b"RIFX", b"RF64", b"BW64") and kind == b"WAVE":
                return _wav(file, size, ">" if form == b"RIFX" else "<")
            if form == b"riff":
                return _w64(file, size)
            if form == b"FORM" and kind in (b"AIFF", b"AIFC"):
                return _aiff(file, size)
            if form in (b".snd", b"dns."):
                return _au(file, size, ">" if form == b".snd" else "<")
            if form == b"caff":
                return _caf(file, size)
        except struct.error:  # it ends inside of its header
            pass
    return None


def _chunks(file: BinaryIO, at: int, size: int, form: ChunkForm) -> Iterator[tuple[bytes, int, int]]:
    """Name, first byte and stated length of a container's chunks, as far as the lengths lead."""
    for _ in range(MOST_CHUNKS):
        if at + form.head.size > size:
            return
        file.seek(at)
        name, length = form.head.unpack(file.read(form.head.size))
        length -= form.head.size if form.counts_itself else 0
        yield name, at + form.head.size, length
        if length < 0:
            return
        at += form.head.size + length
        at += -at % form.pad


def _wav(file: BinaryIO, size: int, order: str) -> Layout | None:
    form = IFF if order == ">" else RIFF
    block: tuple[int, int] | None = None
    long_size: int | None = None
    for name, start, length in _chunks(file, 12, size, form):
        if name == b"ds64":
            long_size = struct.unpack("<8xQ", file.read(16))[0]
        elif name == b"fmt ":
            block = _block(file.read(min(length, 20)), order)
        elif name == b"data":
            stated = long_size if length == 0xFFFFFFFF and long_size is not None else length
            return _laid_out(file, start, stated, size, order, form, block)
    return None


def _block(fmt: bytes, order: str) -> tuple[int, int] | None:
    """(bytes, frames) of the blocks that a WAV's format chunk tells of."""
    if len(fmt) < 20:
        return None
    coding, block_bytes, block_frames = struct.unpack(f"{order}H10xH4xH", fmt)
    return (block_bytes, block_frames) if coding in BLOCK_CODINGS and block_bytes and block_frames else None


def _laid_out(
    file: BinaryIO,
    start: int,
    stated: int,
    size: int,
    order: str,
    form: ChunkForm | None = None,
    block: tuple[int, int] | None = None,
) -> Layout:
    """What a header's size and the file's make of each other; ``form`` is that of chunks that may follow."""
    held = max(0, size - start)
    stated = max(0, stated)
    loose = 0 if stated >= held or _only_chunks(file, start + stated, size, form) else held - stated
    unfinished = (loose and not stated) or (stated > held and any(low <= stated <= high for low, high in STREAMED))
    return Layout(start, None if unfinished else stated, held, order, loose, block)


def _only_chunks(file: BinaryIO, at: int, size: int, form: ChunkForm | None) -> bool:
    """Whether nothing but chunks, with names that can be read, leads from here to the file's end."""
    if form is None:
        return at >= size
    at += -at % form.pad
    for name, start, length in _chunks(file, at, size, form):
        if not name[:4].isascii() or not name[:4].decode("ascii").isprintable():
            return False
        at = start + length
    return abs(at - size) <= form.pad


def _w64(file: BinaryIO, size: int) -> Layout | None:
    block: tuple[int, int] | None = None
    for name, start, length in _chunks(file, 40, size, W64):
        if name == b"fmt " + W64_GUID:
            block = _block(file.read(min(max(length, 0), 20)), "<")
        elif name == b"data" + W64_GUID:
            return _laid_out(file, start, length, size, "<", W64, block)
    return None


def _aiff(file: BinaryIO, size: int) -> Layout | None:
    order = ">"
    for name, start, length in _chunks(file, 12, size, IFF):
        if name == b"COMM":
            order = "<" if file.read(22)[18:] == b"sowt" else ">"
        elif name == b"SSND":
            first = start + 8 + struct.unpack(">I4x", file.read(8))[0]
            return _laid_out(file, first, start + length - first, size, order, IFF)
    return None


def _au(file: BinaryIO, size: int, order: str) -> Layout:
    file.seek(4)
    start, stated = struct.unpack(f"{order}II", file.read(8))
    return _laid_out(file, start, stated, size, order)


def _caf(file: BinaryIO, size: int) -> Layout | None:
    order = ">"
    for name, start, length in _chunks(file, 8, size, CAF):
        if name == b"desc":
            order = "<" if struct.unpack(">12xI", file.read(16))[0] & 2 else ">"
        elif name == b"data":
            first = start + 4  # a count of edits comes first
            return _laid_out(file, first, length - 4, size, order, CAF)
    return None

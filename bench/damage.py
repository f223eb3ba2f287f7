"""What can happen to a file of audio: pure functions from its bytes to damaged ones, the same for the same seed."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

Rng = np.random.Generator
Damage = Callable[[bytes, Rng], bytes]

_HEAD = 128
"""Bytes that hold most of a header in every format."""
_BODY = (0.05, 0.95)
"""Between which shares of a file its middle is damaged."""


def cut(content: bytes, rng: Rng) -> bytes:
    """The end is missing: a recorder whose power failed, a download that broke off."""
    return content[: _place(content, rng)]


def beheaded(content: bytes, rng: Rng) -> bytes:
    """Little but the header is there, or nothing at all."""
    return content[: int(rng.choice([0, 1, 4, 12, 27, 40, 44, 58, int(rng.integers(1, 1000))]))]


def removed(content: bytes, rng: Rng) -> bytes:
    """Bytes are missing in the middle."""
    start, end = _stretch(content, rng)
    return content[:start] + content[end:]


def inserted(content: bytes, rng: Rng) -> bytes:
    """Foreign bytes stand in the middle."""
    start, end = _stretch(content, rng)
    return content[:start] + rng.bytes(end - start) + content[start:]


def zeroed(content: bytes, rng: Rng) -> bytes:
    """A stretch reads as zeros, as lost sectors do."""
    start, end = _stretch(content, rng)
    return content[:start] + bytes(end - start) + content[end:]


def noise(content: bytes, rng: Rng) -> bytes:
    """A stretch holds random bytes."""
    start, end = _stretch(content, rng)
    return content[:start] + rng.bytes(end - start) + content[end:]


def flipped(content: bytes, rng: Rng) -> bytes:
    """From one to twenty bits are wrong."""
    return _flip(content, rng, 0, len(content))


def header(content: bytes, rng: Rng) -> bytes:
    """A few bits of the header are wrong."""
    return _flip(content, rng, 0, min(_HEAD, len(content)))


def repeated(content: bytes, rng: Rng) -> bytes:
    """A stretch stands there twice."""
    start, end = _stretch(content, rng)
    return content[:end] + content[start:]


def swapped(content: bytes, rng: Rng) -> bytes:
    """The first half behind the header and the second have changed places."""
    start = max(_HEAD, round(_BODY[0] * len(content)))
    middle = _place(content, rng)
    return content[:start] + content[middle:] + content[start:middle]


def trailing(content: bytes, rng: Rng) -> bytes:
    """Something follows the end: one byte, a sector of zeros, noise, a text."""
    tails = (rng.bytes(1), b"\0" * 4096, rng.bytes(int(rng.integers(2, 5000))), b"TAG" + b"a note" * 20, b"\xff" * 512)
    return content + tails[rng.integers(len(tails))]


DAMAGES: dict[str, Damage] = {
    damage.__name__: damage
    for damage in (
        cut,
        beheaded,
        removed,
        inserted,
        zeroed,
        noise,
        flipped,
        header,
        repeated,
        swapped,
        trailing,
    )
}
"""The damages that know nothing of the format."""


def touched(before: bytes, after: bytes) -> tuple[int, int]:
    """The stretch of the original that a damage touched: all before it and all behind it is as it was."""
    shorter = min(len(before), len(after))
    a, b = np.frombuffer(before, np.uint8), np.frombuffer(after, np.uint8)
    front = np.flatnonzero(a[:shorter] != b[:shorter])
    start = int(front[0]) if len(front) else shorter
    back = np.flatnonzero(a[len(a) - shorter :][::-1] != b[len(b) - shorter :][::-1])
    same = int(back[0]) if len(back) else shorter
    return start, max(start, len(before) - same)


def _place(content: bytes, rng: Rng) -> int:
    low, high = (round(share * len(content)) for share in _BODY)
    return int(rng.integers(low, high))


def _stretch(content: bytes, rng: Rng) -> tuple[int, int]:
    """A stretch in the middle, from a byte to a fifth of the file, all magnitudes alike."""
    start = _place(content, rng)
    length = round(np.exp(rng.uniform(0, np.log(len(content) / 5))))
    return start, min(start + length, len(content) - 1)


def _flip(content: bytes, rng: Rng, start: int, end: int) -> bytes:
    damaged = bytearray(content)
    bits = rng.choice(8 * (end - start), int(rng.integers(1, 21)), replace=False)
    for bit in bits:
        damaged[start + int(bit) // 8] ^= 1 << (int(bit) % 8)
    return bytes(damaged)


# --- headers that lie ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Field:
    """A number in a header.

    Attributes:
        name: what it says.
        tag: bytes that stand before it; the first such place is meant.
        offset: from the tag's first byte.
        form: of :mod:`struct`, one unsigned integer.
        shift, bits: which bits of it; all by default.
    """

    name: str
    tag: bytes
    offset: int
    form: str
    shift: int = 0
    bits: int | None = None

    @property
    def width(self) -> int:
        """Bits of the field."""
        return 8 * struct.calcsize(self.form) if self.bits is None else self.bits

    def read(self, content: bytes) -> int:
        """The number."""
        (whole,) = struct.unpack_from(self.form, content, self._at(content))
        return (int(whole) >> self.shift) & ((1 << self.width) - 1)

    def written(self, content: bytes, value: int) -> bytes:
        """The file with another number."""
        at, mask = self._at(content), ((1 << self.width) - 1) << self.shift
        (whole,) = struct.unpack_from(self.form, content, at)
        changed = bytearray(content)
        struct.pack_into(self.form, changed, at, (int(whole) & ~mask) | (value << self.shift) & mask)
        return bytes(changed)

    def _at(self, content: bytes) -> int:
        at = content.find(self.tag)
        if at < 0:
            raise ValueError(f"there is no {self.tag!r} before the field '{self.name}'")
        return at + self.offset


RIFF_FIELDS = (
    Field("size", b"RIFF", 4, "<I"),
    Field("channels", b"fmt ", 10, "<H"),
    Field("rate", b"fmt ", 12, "<I"),
    Field("bytes a second", b"fmt ", 16, "<I"),
    Field("bytes a frame", b"fmt ", 20, "<H"),
    Field("bits", b"fmt ", 22, "<H"),
    Field("data size", b"data", 4, "<I"),
    Field("data size", b"data", 4, "<I"),  # twice as likely: it is the one that recorders get wrong
)
W64_FIELDS = (
    Field("size", b"riff", 16, "<Q"),
    Field("channels", b"fmt ", 26, "<H"),
    Field("rate", b"fmt ", 28, "<I"),
    Field("bytes a frame", b"fmt ", 36, "<H"),
    Field("data size", b"data", 16, "<Q"),
)
AIFF_FIELDS = (
    Field("size", b"FORM", 4, ">I"),
    Field("channels", b"COMM", 8, ">H"),
    Field("frames", b"COMM", 10, ">I"),
    Field("bits", b"COMM", 14, ">H"),
    Field("rate", b"COMM", 16, ">I"),
    Field("data size", b"SSND", 4, ">I"),
)
AU_FIELDS = (
    Field("data offset", b".snd", 4, ">I"),
    Field("data size", b".snd", 8, ">I"),
    Field("rate", b".snd", 16, ">I"),
    Field("channels", b".snd", 20, ">I"),
)
MP3_FIELDS = (Field("frames", b"Xing", 8, ">I"), Field("bytes", b"Xing", 12, ">I"))
FLAC_FIELDS = (
    Field("block size", b"fLaC", 8, ">I"),
    Field("rate", b"fLaC", 18, ">Q", shift=44, bits=20),
    Field("channels", b"fLaC", 18, ">Q", shift=41, bits=3),
    Field("bits", b"fLaC", 18, ">Q", shift=36, bits=5),
    Field("frames", b"fLaC", 18, ">Q", bits=36),
    Field("frames", b"fLaC", 18, ">Q", bits=36),
)


def lying(fields: tuple[Field, ...]) -> Damage:
    """A damage that makes one field of a header say something else."""

    def lie(content: bytes, rng: Rng) -> bytes:
        field = fields[rng.integers(len(fields))]
        return field.written(content, _other(field.read(content), field.width, rng))

    return lie


def _other(value: int, width: int, rng: Rng) -> int:
    """Another number of so many bits: none, one, all bits, half, double, one off, anything."""
    most = (1 << width) - 1
    wild = int(rng.integers(0, most, endpoint=True, dtype=np.uint64))
    others = {0, 1, 8, most, most >> 1, value // 2, 2 * value, value + 1, value - 1, wild}
    return int(rng.choice(sorted(other for other in others if 0 <= other <= most and other != value)))


# --- Ogg pages (RFC 3533) --------------------------------------------------------------------------------------------

_PAGE = struct.Struct("<4sBBqIIIB")
_CRC_AT = 22


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        rest = byte << 24
        for _ in range(8):
            rest = (rest << 1) ^ (0x04C11DB7 if rest & 0x80000000 else 0)
        table.append(rest & 0xFFFFFFFF)
    return tuple(table)


_CRC = _crc_table()


def ogg_crc(page: bytes) -> int:
    """The checksum of a page whose own checksum field is zero."""
    rest = 0
    for byte in page:
        rest = ((rest << 8) & 0xFFFFFFFF) ^ _CRC[(rest >> 24) ^ byte]
    return rest


def ogg_pages(content: bytes) -> Iterator[tuple[int, int]]:
    """Start and end of each page of an intact file."""
    at = 0
    while at < len(content):
        segments = content[at + _PAGE.size - 1]
        body = at + _PAGE.size + segments
        end = body + sum(content[at + _PAGE.size : body])
        yield at, end
        at = end


def ogg_lying(content: bytes, rng: Rng) -> bytes:
    """A page whose granule position (how many samples there are until here) is wrong, with a right checksum."""
    pages = list(ogg_pages(content))
    index = len(pages) - 1 if rng.random() < 0.5 else int(rng.integers(3, len(pages)))
    start, end = pages[index]
    page = bytearray(content[start:end])
    (granule,) = struct.unpack_from("<q", page, 6)
    struct.pack_into("<q", page, 6, _other(granule, 63, rng) if rng.random() < 0.9 else -1)
    struct.pack_into("<I", page, _CRC_AT, 0)
    struct.pack_into("<I", page, _CRC_AT, ogg_crc(bytes(page)))
    return content[:start] + bytes(page) + content[end:]


def ogg_page_lost(content: bytes, rng: Rng) -> bytes:
    """Whole pages are missing: every checksum that is left is right, only the numbers of the pages tell."""
    pages = list(ogg_pages(content))
    first = int(rng.integers(4, len(pages) - 1))
    last = min(first + int(rng.integers(1, 6)), len(pages) - 1)
    return content[: pages[first][0]] + content[pages[last][0] :]


# --- numbers that no recorder writes ---------------------------------------------------------------------------------

_WILD = (np.nan, np.inf, -np.inf, 3e38, -3e38, 1e30, 1e20, 1e15, 1e10)


def wild_floats(content: bytes, rng: Rng) -> bytes:
    """Samples of a float WAV that are not numbers, or beyond what any recorder can mean; one, or a stretch of them."""
    start = content.index(b"data") + 8
    samples = np.frombuffer(content, "<f4", (len(content) - start) // 4, start).copy()
    first = int(rng.integers(0, len(samples)))
    count = int(rng.choice([1, 2, 100, 10_000]))
    samples[first : first + count] = rng.choice(_WILD)
    return content[:start] + samples.tobytes() + content[start + samples.nbytes :]

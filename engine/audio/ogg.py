"""The pages of Ogg files (RFC 3533): whether the last one is there, and the first that is damaged or missing.

Decoders pass over damaged pages, so that all that follows is earlier than it was.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

HEADER = struct.Struct("<4sBBqIIIB")
LARGEST_PAGE = HEADER.size + 255 + 255 * 255
BEGIN_OF_STREAM = 0x02
END_OF_STREAM = 0x04
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_CHECKSUM = slice(22, 26)


@dataclass(frozen=True)
class Gap:
    """The first place where an Ogg file is not what it was.

    Attributes:
        at: byte up to which its pages are whole and follow on each other.
        what: is there, in a few words.
    """

    at: int
    what: str


def is_whole(path: Path) -> bool:
    """Whether an Ogg file ends with a complete page that carries the end-of-stream flag (RFC 3533, section 6).

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        length = file.seek(0, 2)
        file.seek(max(0, length - 2 * LARGEST_PAGE))
        tail = file.read(2 * LARGEST_PAGE)
    at = len(tail)
    while (at := tail.rfind(b"OggS", 0, at)) >= 0:
        if len(tail) - at < HEADER.size:
            return False
        _, version, flags, *_, segments = HEADER.unpack_from(tail, at)
        body = at + HEADER.size + segments
        if version:  # the letters stand in the middle of a packet
            continue
        return bool(flags & END_OF_STREAM) and body + sum(tail[at + HEADER.size : body]) <= len(tail)
    return False


def end_follows(path: Path, longest_packet: int) -> bool:
    """Whether the last page of an Ogg file ends no later than its packets can reach from the page before.

    Where that one is damaged or missing nothing is known against the last.

    Args:
        path: of a file that is whole.
        longest_packet: of the coding, in units of the positions.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        length = file.seek(0, 2)
        file.seek(max(0, length - 3 * LARGEST_PAGE))
        tail = file.read(3 * LARGEST_PAGE)
    ends: list[tuple[int, int, int, int]] = []  # of the last page and the one before: stream, number, position, packets
    at = len(tail)
    while len(ends) < 2 and (at := tail.rfind(b"OggS\0", 0, at)) >= 0:
        if len(tail) - at < HEADER.size:
            continue
        _, _, _, position, stream, number, _, segments = HEADER.unpack_from(tail, at)
        lacing = tail[at + HEADER.size : at + HEADER.size + segments]
        if not _is_intact(tail[at : at + HEADER.size + segments + sum(lacing)]):
            continue
        if position >= 0 and (not ends or stream == ends[0][0]):
            ends.append((stream, number, position, sum(size < 255 for size in lacing)))
    if len(ends) < 2 or ends[0][1] != ends[1][1] + 1:
        return True
    (*_, last, packets), (*_, before, _) = ends
    return last <= before + packets * longest_packet


class PageWalk:
    """Walks the pages of an Ogg file: their letters, their checksums, their numbers, which rise in each stream, and
    where the last page says that the stream ends.

    What follows on the end of all streams may be anything but another page: a second stream, which is not read.

    Raises:
        OSError: the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._size = os.fstat(self._file.fileno()).st_size
        self._numbers: dict[int, int] = {}
        """Of the next page, by stream."""
        self._positions: dict[int, int] = {}
        """That the last page says it reaches to (its granule position), by stream."""
        self._at = 0
        self._gap: Gap | None = None
        self._ended = False

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def gap_before(self, end: float) -> Gap | None:
        """Walk on over the pages that begin before a byte, ``math.inf`` for all.

        Returns:
            The first place in the file where something is wrong; None where there is none as far as that.

        Raises:
            OSError: the file cannot be read.
        """
        while self._gap is None and not self._ended and self._at < end:
            self._gap = self._step()
        return self._gap

    def _step(self) -> Gap | None:
        page = _page(self._file)
        at = self._at
        if at and not self._numbers:  # all streams have ended
            self._ended = True
            another = page.startswith(b"OggS\0")
            return Gap(at, f"another stream begins at byte {at}, which is not read") if another else None
        if not page:
            self._ended = True
            return Gap(at, "cut: no end-of-stream page")
        if not _is_intact(page):
            ends_here = page.startswith(b"OggS\0") and at + len(page) >= self._size
            return Gap(at, f"{'cut' if ends_here else 'damaged'} in the page at byte {at}")
        _, _, flags, position, stream, number, _, segments = HEADER.unpack_from(page)
        if self._numbers.get(stream, number if flags & BEGIN_OF_STREAM else None) != number:
            return Gap(at, f"pages are missing before byte {at}")
        self._numbers[stream] = number + 1 & 0xFFFFFFFF
        if flags & END_OF_STREAM:
            # decoders cut what they have to the position of the last page, of any other they do not
            packet_ends = any(size < 255 for size in page[HEADER.size : HEADER.size + segments])
            if packet_ends and position < self._positions.get(stream, 0):
                return Gap(at, f"the last page, at byte {at}, states an end before its begin")
            del self._numbers[stream]
        elif position >= 0:  # -1 where no packet ends
            self._positions[stream] = position
        self._at += len(page)
        return None


def _page(file: BinaryIO) -> bytes:
    """The bytes of the next page by its header; fewer where the file ends or there is no header."""
    head = file.read(HEADER.size)
    if len(head) < HEADER.size or not head.startswith(b"OggS\0"):
        return head
    lacing = file.read(head[-1])
    return head + lacing + file.read(sum(lacing))


def _is_intact(page: bytes) -> bool:
    """Whether the bytes are one page with a right checksum (CRC-32 of polynomial 0x04C11DB7, from 0, not reflected).

    zlib's CRC is that of the same polynomial with all bits mirrored, and with all bits inverted before and after.
    """
    if len(page) < HEADER.size or not page.startswith(b"OggS\0"):
        return False
    body = HEADER.size + page[HEADER.size - 1]
    if len(page) != body + sum(page[HEADER.size : body]):
        return False
    mirrored = memoryview(page.translate(_MIRRORED))
    checksum = zlib.crc32(mirrored[: _CHECKSUM.start], 0xFFFFFFFF)
    checksum = zlib.crc32(mirrored[_CHECKSUM.stop :], zlib.crc32(bytes(4), checksum)) ^ 0xFFFFFFFF
    return checksum == int.from_bytes(mirrored[_CHECKSUM], "big")

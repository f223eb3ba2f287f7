"""The frames of FLAC files (RFC 9639, section 9): whether they follow on each other.

Decoders pass over missing frames, so that all that follows is earlier than it was; the MD5 tells it only at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CHUNK_BYTES = 1 << 18
LARGEST_FRAME = 1 << 24
LONGEST_HEADER = 16
MOST_STRANGERS = 3
"""Headers that are not the expected one, after which that is taken for lost. In the middle of a frame, bytes that look
like a header are one in 2**36."""


def _table(polynomial: int, bits: int) -> tuple[int, ...]:
    """Of a CRC of so many bits, by its next byte, highest bit first."""
    entries = []
    for byte in range(256):
        value = byte << (bits - 8)
        for _ in range(8):
            value = value << 1 ^ (polynomial if value >> (bits - 1) else 0)
            value &= (1 << bits) - 1
        entries.append(value)
    return tuple(entries)


_CRC_8 = _table(0x07, 8)
_CRC_16 = _table(0x8005, 16)


@dataclass(frozen=True)
class FrameHeader:
    """Of a frame, with a right checksum.

    Attributes:
        is_variable: whether frames differ in length, so that ``number`` counts sample frames instead of frames.
        number: of the frame, or of its first sample frame.
        frames: sample frames in it.
        rate_code: of its sample rate.
        rate_bytes: what stands behind the header for the rate codes 12 to 14, else empty.
    """

    is_variable: bool
    number: int
    frames: int
    rate_code: int
    rate_bytes: bytes


def frame_header(data: bytes | bytearray, at: int = 0) -> FrameHeader | None:
    """The frame header at a byte; None where there is none, or one with a wrong checksum."""
    head = bytes(data[at : at + LONGEST_HEADER])
    if len(head) < 6 or head[0] != 0xFF or head[1] & 0xFE != 0xF8:
        return None
    block_code, rate_code = head[2] >> 4, head[2] & 0xF
    lead = head[4]  # of the number, coded as in UTF-8
    more = 0 if lead < 0x80 else 7 - (~lead & 0xFF).bit_length()
    if block_code == 0 or rate_code == 15 or head[3] & 1 or 0x80 <= lead < 0xC0 or lead == 0xFF:
        return None
    block_at = 5 + more
    rate_at = block_at + {6: 1, 7: 2}.get(block_code, 0)
    end = rate_at + {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if len(head) <= end or any(octet & 0xC0 != 0x80 for octet in head[5:block_at]):
        return None
    checksum = 0
    for octet in head[:end]:
        checksum = _CRC_8[checksum ^ octet]
    if checksum != head[end]:
        return None
    number = lead & (0x7F if not more else 0x3F >> more)
    for octet in head[5:block_at]:
        number = number << 6 | octet & 0x3F
    if block_code in (6, 7):
        frames = int.from_bytes(head[block_at:rate_at]) + 1
    elif block_code == 1:
        frames = 192
    else:
        frames = 576 << (block_code - 2) if block_code < 6 else 256 << (block_code - 8)
    return FrameHeader(bool(head[1] & 1), number, frames, rate_code, head[rate_at:end])


class FrameWalk:
    """Walks the frames of a FLAC file by the numbers in their headers, which rise.

    Of a damaged frame it tells nothing: decoders see that themselves.

    Args:
        path: of the file.
        at: the byte at which its first frame begins.

    Attributes:
        frames: sample frames in the frames found so far, each of which follows on the one before.
        gap: what is wrong behind them, in a few words; None while nothing is.

    Raises:
        OSError: the file cannot be read.
    """

    def __init__(self, path: Path, at: int) -> None:
        self._file = path.open("rb")
        self._file.seek(at)
        self._data = bytearray()
        """From the last frame on."""
        self._begin = at
        """The byte in the file at which they begin."""
        self._look_at = 0
        self._last: FrameHeader | None = None
        self._strangers = 0
        self._ended = False
        self._sync = b"\xff"
        self._counts_frames = True
        self.frames = 0
        self.gap: str | None = None

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def walk_to(self, frames: float) -> None:
        """Walk on until so many sample frames are found, ``math.inf`` for all, or to the first gap, or to the end.

        Raises:
            OSError: the file cannot be read.
        """
        while self.frames < frames and self.gap is None and not self._ended:
            self._step()

    def _step(self) -> None:
        at = self._data.find(self._sync, self._look_at)
        if at < 0 or len(self._data) - at < LONGEST_HEADER:
            self._look_at = at if at >= 0 else max(self._look_at, len(self._data) - 1)
            more = self._file.read(CHUNK_BYTES)
            self._data += more
            self._ended = len(self._data) > LARGEST_FRAME + CHUNK_BYTES or (at < 0 and not more)
            if more or at < 0:
                return
        self._look_at = at + 1
        header = frame_header(self._data, at)
        if header is None:
            return
        if self._follows(header):
            self._accept(header, at)
        elif self._last is None or self._ends_at(at):
            self.gap = f"frames are missing before byte {self._begin + at}"
        else:
            self._strangers += 1
            if self._strangers >= MOST_STRANGERS:
                self.gap = f"a frame is damaged or missing behind byte {self._begin}"

    def _follows(self, header: FrameHeader) -> bool:
        last = self._last
        if last is None:
            return header.number == 0
        if last.number == 0:  # files of 2006 and before count samples without saying so
            self._counts_frames = not header.is_variable and header.number != last.frames
        return header.number == last.number + (1 if self._counts_frames else last.frames)

    def _accept(self, header: FrameHeader, at: int) -> None:
        self.frames += header.frames
        self._last = header
        self._sync = bytes(self._data[at : at + 2])  # the same in all frames
        self._strangers = 0
        del self._data[:at]
        self._begin += at
        self._look_at = 2

    def _ends_at(self, at: int) -> bool:
        """Whether the last frame ends there by its checksum, a CRC-16 that makes that of the whole frame 0."""
        checksum = 0
        for octet in self._data[:at]:
            checksum = (checksum << 8 & 0xFF00) ^ _CRC_16[checksum >> 8 ^ octet]
        return checksum == 0

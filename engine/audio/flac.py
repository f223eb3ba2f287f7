"""What a FLAC file says of itself beside its audio (RFC 9639): sizes, the rate once more, and the audio's MD5."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from bce.engine.audio.flac_frames import LONGEST_HEADER, frame_header

STREAM_INFO = struct.Struct(">HH3s3sQ16s")
RATES_KHZ = (88.2, 176.4, 192, 8, 16, 22.05, 24, 32, 44.1, 48, 96)
"""By their codes in a frame's header, from 1 on."""
LAST_BLOCK = 0x80
"""Of metadata: a flag in its kind."""
MOST_BLOCKS = 1000
"""Of metadata: more are not looked at, a file of zeros is a chain of empty ones."""
LEAST_FRAME_BYTES = 10
"""Of a frame: its header, one constant subframe, its checksum."""


@dataclass(frozen=True)
class StreamInfo:
    """What the head of a FLAC file says.

    Attributes:
        rate: in Hz.
        frame_rate: the same by the header of the first frame, which has a checksum; None where that does not say it.
        bits: of a sample.
        block_frames: sample frames in the longest FLAC frame.
        frame_bytes: of the shortest FLAC frame.
        md5: of the audio; None where the encoder left it out.
        audio_at: the byte at which the first FLAC frame begins.
    """

    rate: int
    frame_rate: int | None
    bits: int
    block_frames: int
    frame_bytes: int
    md5: bytes | None
    audio_at: int

    def most_frames(self, size: int) -> int:
        """Sample frames that so many bytes can hold at most."""
        return -(-size // self.frame_bytes) * self.block_frames


def stream_info(path: Path) -> StreamInfo | None:
    """Read the head of a FLAC file; None where it does not begin with one.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        begin = _behind_tags(file)
        file.seek(begin)
        if file.read(4) != b"fLaC":
            return None
        try:
            kind, length = _block_head(file)
            _, longest, shortest_bytes, _, packed, md5 = STREAM_INFO.unpack(file.read(STREAM_INFO.size))
            file.seek(begin + 8 + length)
            for _ in range(MOST_BLOCKS):
                if kind & LAST_BLOCK:
                    break
                kind, length = _block_head(file)
                file.seek(length, 1)
        except struct.error:  # it ends inside of its head
            return None
        audio_at = file.tell()
        frame = file.read(LONGEST_HEADER)
    return StreamInfo(
        rate=packed >> 44,
        frame_rate=_frame_rate(frame),
        bits=(packed >> 36 & 0x1F) + 1,
        block_frames=longest,
        frame_bytes=max(LEAST_FRAME_BYTES, int.from_bytes(shortest_bytes)),
        md5=md5 if any(md5) else None,
        audio_at=audio_at,
    )


def _block_head(file: BinaryIO) -> tuple[int, int]:
    kind, high, low = struct.unpack(">BBH", file.read(4))
    return kind, high << 16 | low


def _frame_rate(frame: bytes) -> int | None:
    """The rate that a frame's header states (RFC 9639, section 9.1)."""
    header = frame_header(frame)
    if header is None:
        return None
    if 1 <= header.rate_code <= len(RATES_KHZ):
        return round(1000 * RATES_KHZ[header.rate_code - 1])
    stated = int.from_bytes(header.rate_bytes)
    return {12: 1000 * stated, 13: stated, 14: 10 * stated}.get(header.rate_code)


def _behind_tags(file: BinaryIO) -> int:
    """The byte behind the ID3v2 tags that a file begins with, 0 where there are none."""
    at = 0
    for _ in range(MOST_BLOCKS):
        file.seek(at)
        head = file.read(10)
        if len(head) < 10 or not head.startswith(b"ID3"):
            break
        footer = 10 if head[5] & 0x10 else 0
        at += 10 + footer + sum((octet & 0x7F) << shift for octet, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
    return at


INTEGERS = {8: "<i1", 16: "<i2", 24: "<i4"}
"""By bits of a sample: those of which float32 holds every value."""


class AudioDigest:
    """The MD5 of audio as FLAC takes it: of its integers, interleaved, little-endian, in whole bytes.

    Args:
        bits: of a sample, a key of ``INTEGERS``.
    """

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self._md5 = hashlib.md5(usedforsecurity=False)

    def add(self, frames: NDArray[np.float32]) -> None:
        """Take decoded audio, float32 [frames, channels], full scale +-1."""
        values = (frames * np.float32(1 << (self._bits - 1))).astype(INTEGERS[self._bits])
        octets = values.reshape(-1, 1).view(np.uint8)
        self._md5.update(octets[:, :3].tobytes() if self._bits == 24 else octets.data)

    @property
    def value(self) -> bytes:
        """The MD5 of all that was added, 16 bytes."""
        return self._md5.digest()

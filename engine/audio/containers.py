"""What the headers of WAV and Ogg files say about their length: enough to notice that a file was cut.

libsndfile shortens the length of a cut WAV to what is there, and takes an Ogg stream's from the last page it finds.
"""

from __future__ import annotations

import struct
from pathlib import Path

UNCOMPRESSED = (0x0001, 0x0003, 0x0006, 0x0007, 0xFFFE)  # PCM, float, A-law, mu-law, extensible
STREAMED_SIZES = (0, 0xFFFFFFFF)  # written by recorders and pipes that never came back to fill in the length
OGG_HEADER = struct.Struct("<4sBBqIIIB")
OGG_LARGEST_PAGE = OGG_HEADER.size + 255 + 255 * 255
OGG_END_OF_STREAM = 0x04


def wav_duration_s(path: Path) -> float | None:
    """Duration in seconds that a RIFF, RIFX or RF64 header states.

    Returns:
        None where the header states no length (streamed files), the coding has no fixed frame size, or the file is
        none of these.
    """
    with path.open("rb") as file:
        form, _, kind = struct.unpack("<4sI4s", file.read(12).ljust(12, b"\0"))
        if form not in (b"RIFF", b"RIFX", b"RF64", b"BW64") or kind != b"WAVE":
            return None
        order = ">" if form == b"RIFX" else "<"
        byte_rate = 0
        long_size: int | None = None
        while len(header := file.read(8)) == 8:
            name, size = struct.unpack(f"{order}4sI", header)
            if name == b"data":
                if size == 0xFFFFFFFF and long_size is not None:
                    size = long_size
                return None if size in STREAMED_SIZES or not byte_rate else size / byte_rate
            content = file.read(min(size, 40))
            if name == b"ds64" and len(content) >= 16:
                long_size = struct.unpack("<8xQ", content[:16])[0]
            if name == b"fmt " and len(content) >= 16:
                coding, _, rate, _, frame_bytes = struct.unpack(f"{order}HHIIH", content[:14])
                byte_rate = rate * frame_bytes if coding in UNCOMPRESSED else 0
            file.seek(size + size % 2 - len(content), 1)  # chunks start at even positions
    return None


def ogg_is_whole(path: Path) -> bool:
    """Whether an Ogg file ends with a complete page that carries the end-of-stream flag (RFC 3533, section 6)."""
    with path.open("rb") as file:
        length = file.seek(0, 2)
        file.seek(max(0, length - 2 * OGG_LARGEST_PAGE))
        tail = file.read()
    at = len(tail)
    while (at := tail.rfind(b"OggS", 0, at)) >= 0:
        if len(tail) - at < OGG_HEADER.size:
            return False
        _, version, flags, *_, segments = OGG_HEADER.unpack_from(tail, at)
        body = at + OGG_HEADER.size + segments
        if version:  # the letters stand in the middle of a packet
            continue
        return bool(flags & OGG_END_OF_STREAM) and body + sum(tail[at + OGG_HEADER.size : body]) <= len(tail)
    return False

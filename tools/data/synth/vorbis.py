"""Ogg Vorbis files that are the same bytes whenever they are written."""

from __future__ import annotations

import tempfile
import zlib

import numpy as np
import soundfile
from numpy.typing import NDArray

from bce.tools.data.synth.options import SAMPLE_RATE


def encode_vorbis(samples: NDArray[np.float32]) -> bytes:
    """Ogg Vorbis, 32 kHz mono, with a fixed stream number so that equal samples give equal bytes."""
    # a real file: into a buffer of Python's, libsndfile writes through a callback, which swallows Ctrl-C
    with tempfile.TemporaryFile() as stream:
        options = {"format": "OGG", "subtype": "VORBIS", "closefd": False}
        with soundfile.SoundFile(stream.fileno(), "w", SAMPLE_RATE, 1, **options) as file:
            # libsndfile's Vorbis encoder overflows its stack on long writes
            for start in range(0, len(samples), SAMPLE_RATE):
                file.write(samples[start : start + SAMPLE_RATE])
        stream.seek(0)
        return _with_serial(stream.read(), 0)


_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _with_serial(stream: bytes, serial: int) -> bytes:
    """Give every page of an Ogg stream a serial number, and its checksum anew (RFC 3533, section 6)."""
    pages, at = [], 0
    while at < len(stream):
        lacing = stream[at + 27 : at + 27 + stream[at + 26]]
        end = at + 27 + len(lacing) + sum(lacing)
        page = bytearray(stream[at:end])
        page[14:18] = serial.to_bytes(4, "little")
        page[22:26] = bytes(4)
        # Ogg's CRC is zlib's read from the other end of each byte, without zlib's inversions
        crc = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
        page[22:26] = crc.to_bytes(4, "big").translate(_REVERSED)
        pages.append(page)
        at = end
    return b"".join(pages)

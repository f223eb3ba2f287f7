"""Open sound files with libsndfile, whole or a stretch of their bytes."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import soundfile

from bce.engine.audio.containers import Layout, layout
from bce.engine.errors import AudioError

RATES = (1_000, 1_000_000)
"""Of recorders, in Hz: whales and elephants are recorded from 1 kHz on, bats up to 1 MHz."""
BYTES_A_SAMPLE = {
    "PCM_S8": 1,
    "PCM_U8": 1,
    "PCM_16": 2,
    "PCM_24": 3,
    "PCM_32": 4,
    "FLOAT": 4,
    "DOUBLE": 8,
    "ULAW": 1,
    "ALAW": 1,
}
"""Of the codings that give every sample the same number of bytes, by libsndfile's names."""


class ForwardFile(soundfile.SoundFile):
    """A sound file that is read from front to back.

    soundfile seeks to the current position after every read of a seekable file. In MP3 this changes the audio, and in a
    damaged Ogg it hides the gap.
    """

    def seekable(self) -> bool:
        return False


class Stretch(io.RawIOBase):
    """Some of a file's bytes, as a file of their own.

    Args:
        path: of the file.
        start, end: the first byte, and the one behind the last; None for the file's end.
    """

    def __init__(self, path: Path, start: int = 0, end: int | None = None) -> None:
        self._file = path.open("rb")
        self._start = start
        self._length = (self._file.seek(0, os.SEEK_END) if end is None else end) - start
        self._at = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._length}[whence]
        self._at = min(max(0, origin + offset), self._length)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Read up to the stretch's end. A place that cannot be read ends it: the caller is C and knows no exception."""
        view = memoryview(buffer)[: self._length - self._at]
        try:
            self._file.seek(self._start + self._at)
            got = self._file.readinto(view)
        except (OSError, ValueError):  # the latter for places beyond what a file can have
            return 0
        self._at += got
        return got

    def close(self) -> None:
        self._file.close()
        super().close()


def open_whole(path: Path) -> ForwardFile:
    """Open a sound file.

    Raises:
        AudioError: it is missing, a folder, empty, not audio, or of a sample rate that no recorder has.
    """
    try:
        if path.is_dir():
            raise AudioError("is a folder, expected an audio file", path)
        with path.open("rb") as probe:
            if not probe.read(1):
                raise AudioError("is empty (0 bytes)", path)
    except OSError as error:
        raise AudioError(f"cannot be opened: {error.strerror}", path) from None
    try:
        # a name as the bytes that it is on disk: not every one is text
        file = ForwardFile(os.fspath(path) if os.name == "nt" else os.fsencode(path))
    except soundfile.LibsndfileError as error:
        cut = _open_cut(path)
        if cut is None:
            raise AudioError(f"cannot be read as audio: {reason(error)}", path) from None
        file = cut
    except TypeError:  # soundfile takes .raw files only with the format given
        raise AudioError("cannot be read as audio: raw samples without a header", path) from None
    if not RATES[0] <= file.samplerate <= RATES[1]:
        file.close()
        raise AudioError(
            f"states a sample rate of {file.samplerate:,} Hz, which no recorder has: expected"
            f" {RATES[0]:,} to {RATES[1]:,} Hz",
            path,
        )
    return file


def _open_cut(path: Path) -> ForwardFile | None:
    """A file that libsndfile refuses because it is shorter than its header says (CAF), opened as if it were not."""
    where = layout(path)
    if where is None or where.stated is None or not where.size < where.stated < 1 << 62:
        return None
    try:
        return ForwardFile(Stretch(path, 0, where.start + where.stated))
    except soundfile.LibsndfileError:
        return None


def open_samples(path: Path, where: Layout, header: ForwardFile) -> ForwardFile:
    """Open the samples that follow on a header, up to the file's end, in the coding of the header.

    Raises:
        AudioError: the coding does not give every sample the same number of bytes.
    """
    if header.subtype not in BYTES_A_SAMPLE:
        raise AudioError(
            f"holds no audio by its header, and the {where.size:,} bytes behind it cannot be read in this coding"
            f" ({header.subtype_info})",
            path,
        )
    return ForwardFile(
        Stretch(path, where.start),
        samplerate=header.samplerate,
        channels=header.channels,
        format="RAW",
        subtype=header.subtype,
        endian="LITTLE" if where.order == "<" else "BIG",
    )


def reason(error: soundfile.LibsndfileError) -> str:
    """What libsndfile says, without its trimmings."""
    return error.error_string.removeprefix("Error : ").strip().rstrip(".")

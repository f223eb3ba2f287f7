"""Decode a recording to mono at its own rate, to its end or to the first trouble, and say what was wrong."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
import soundfile
from numpy.typing import NDArray

from bce.engine.audio import ogg
from bce.engine.audio.containers import layout
from bce.engine.audio.flac import INTEGERS, AudioDigest, stream_info
from bce.engine.audio.flac_frames import FrameWalk
from bce.engine.audio.flat import FlatStretches
from bce.engine.audio.lengths import length
from bce.engine.audio.soundfiles import ForwardFile, Stretch, open_samples, open_whole, reason
from bce.engine.errors import AudioError
from bce.engine.geometry import MIN_TAIL_S

READ_FRAMES = 65_536
LOUDEST = 1e7
"""Of samples, in units of full scale: counts of a 24-bit converter that were written as floats stay below it."""


class Decoder:
    """A recording, decoded from front to back.

    Args:
        path: any file that libsndfile reads, of any channel count.

    Attributes:
        rate: sample rate of the file, in Hz.
        channels: of the file.
        promised_s: duration that the file's header states, in seconds; None where it states none, or more than the
            file's size can bear.
        frames_read: sample frames delivered so far.
        problem: why decoding ended early, or what does not fit, in one line; None while nothing is wrong. Final when
            :meth:`mono` has ended.
        notes: what is worth knowing and no error, one line each; final likewise.

    Raises:
        AudioError: the file is missing, empty, not audio, of a sample rate that no recorder has, or without frames.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._file = open_whole(self._path)
        self.rate: int = self._file.samplerate
        self.channels: int = self._file.channels
        self.frames_read = 0
        self.problem: str | None = None
        self.notes: tuple[str, ...] = ()
        self._source: Stretch | None = None
        self._pages: ogg.PageWalk | None = None
        self._flac_frames: FrameWalk | None = None
        self._ending: str | None = None
        """What lies at the end of what can be read."""
        try:
            self._look_at_header()
        except OSError as error:
            self.close()
            raise AudioError(f"cannot be read: {error.strerror}", self._path) from None
        except soundfile.LibsndfileError as error:
            self.close()
            raise AudioError(f"cannot be read as audio: {reason(error)}", self._path) from None
        except AudioError:
            self.close()
            raise

    def _look_at_header(self) -> None:
        where = layout(self._path)
        stream = stream_info(self._path) if self._file.format == "FLAC" else None
        if stream is not None and stream.frame_rate not in (None, self.rate):
            raise AudioError(
                f"states a sample rate of {self.rate:,} Hz, but {stream.frame_rate:,} Hz in its first frame", self._path
            )
        self._length = length(self._file, self._path, where, stream)
        self.promised_s = None if self._length.promised is None else self._length.promised / self.rate
        self._md5 = None if stream is None or stream.bits not in INTEGERS else stream.md5
        self._digest = None if stream is None or self._md5 is None else AudioDigest(stream.bits)
        if where is not None:
            if self._file.frames == 0 and where.stated != 0:
                header = self._file
                self._file = open_samples(self._path, where, header)
                header.close()
            if where.stated is None:
                self.notes = (f"its header was never finished: the {where.size:,} bytes behind it are taken for audio",)
            elif where.stated and where.loose / where.stated * (self.promised_s or 0.0) >= MIN_TAIL_S:
                self.notes = (f"{where.loose:,} bytes that its header does not count lie behind its audio",)
        if self._file.frames == 0:
            raise AudioError("holds no audio (0 frames)", self._path)
        if stream is not None:
            self._flac_frames = FrameWalk(self._path, stream.audio_at)
        if self._file.format == "OGG":
            self._file.close()
            self._source = Stretch(self._path)  # which tells how far the decoder has read
            self._file = ForwardFile(self._source)
            self._pages = ogg.PageWalk(self._path)

    @property
    def delivered_s(self) -> float:
        """Duration decoded so far, in seconds."""
        return self.frames_read / self.rate

    def __enter__(self) -> Decoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        if self._pages is not None:
            self._pages.close()
        if self._flac_frames is not None:
            self._flac_frames.close()

    def mono(self) -> Iterator[NDArray[np.float32]]:
        """Decode to the end or to the first trouble, which ``problem`` then tells.

        Yields:
            float32 [frames], the mean of the channels, full scale +-1, never empty.
        """
        flat = FlatStretches(self.rate)
        stopped: str | None = None
        while stopped is None:
            frames, stopped = self._whole_frames()
            good = _good_frames(frames)
            if good < len(frames):
                stopped = f"the sample at {(self.frames_read + good) / self.rate:.3f} s is {_said(frames[good])}"
                frames = frames[:good]
            if not len(frames):
                break
            if self._digest is not None:
                self._digest.add(frames)
            mono = frames[:, 0] if self.channels == 1 else frames.mean(axis=1, dtype=np.float64).astype(np.float32)
            flat.add(mono)
            self.frames_read += len(mono)
            yield mono
        self.problem = self._verdict(stopped or self._ending)
        note = flat.note()
        self.notes += () if note is None else (note,)

    def _whole_frames(self) -> tuple[NDArray[np.float32], str | None]:
        """What :meth:`_read` gives; of an Ogg or FLAC file only what lies before the first gap."""
        frames, trouble = self._read()
        if self._flac_frames is not None and len(frames):
            return self._before_gap(self._flac_frames, frames, trouble)
        if self._pages is None or self._source is None:
            return frames, trouble
        try:
            gap = self._pages.gap_before(self._source.tell() if len(frames) else math.inf)
        except OSError as error:
            return frames[:0], f"it cannot be read: {error.strerror}"
        if gap is None:
            return frames, trouble
        self._pages.close()
        self._pages = None
        self._ending = gap.what
        self._file.close()
        try:
            self._file = ForwardFile(Stretch(self._path, 0, gap.at))
        except (OSError, soundfile.LibsndfileError):  # not even the headers are whole
            return frames[:0], gap.what
        again = self.frames_read
        try:
            while again and len(passed := self._file.read(out=np.empty((min(again, READ_FRAMES), self.channels)))):
                again -= len(passed)
        except soundfile.LibsndfileError as error:
            return frames[:0], f"the decoder failed: {reason(error)}"
        return self._read()

    def _before_gap(
        self, walk: FrameWalk, frames: NDArray[np.float32], trouble: str | None
    ) -> tuple[NDArray[np.float32], str | None]:
        try:
            walk.walk_to(self.frames_read + len(frames))
        except OSError as error:
            return frames[:0], f"it cannot be read: {error.strerror}"
        if walk.gap is None:
            return frames, trouble
        return frames[: walk.frames - self.frames_read], walk.gap

    def _read(self) -> tuple[NDArray[np.float32], str | None]:
        """The next sample frames, float32 [frames, channels], and what kept the decoder from giving more."""
        left = READ_FRAMES if self._length.readable is None else self._length.readable - self.frames_read
        frames = np.empty((min(left, READ_FRAMES), self.channels), np.float32)
        if not len(frames):
            return frames, None
        try:
            return self._file.read(out=frames), None
        except soundfile.LibsndfileError as error:
            return frames[: self._file.tell() - self.frames_read], f"the decoder failed: {reason(error)}"

    def _verdict(self, trouble: str | None) -> str | None:
        stated, promised_s = self._length.stated, self.promised_s
        if trouble is None and stated is not None and self.frames_read < stated:
            trouble = "audio is missing"
            if promised_s is None:
                trouble = f"its header states {stated / self.rate:.3f} s, which its size cannot bear"
        if trouble is None and self._digest is not None and self._digest.value != self._md5:
            trouble = "the audio has not the MD5 that the header states"
        if trouble is None:
            return None
        promised = "" if promised_s is None else f" of the promised {promised_s:.3f} s"
        return f"{trouble}; {self.delivered_s:.3f} s{promised} were read"


def _good_frames(frames: NDArray[np.float32]) -> int:
    """How many sample frames there are before the first that no microphone gives."""
    if not len(frames) or (frames.max() <= LOUDEST and frames.min() >= -LOUDEST):  # neither holds for a NaN
        return len(frames)
    return int((~(np.abs(frames) <= LOUDEST)).any(axis=1).argmax())


def _said(frame: NDArray[np.float32]) -> str:
    loudest = float(np.abs(frame).max())
    return f"{loudest:.2g} times full scale" if np.isfinite(loudest) else "not a finite number"

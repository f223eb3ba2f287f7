"""Decode recordings to mono at the rate that is asked for, block by block, and notice audio that ends before it should.

A recording is padded with zeros to whole chunks; a tail under 1 s makes no chunk. Decoding is sequential and holds
about one audio block, so that a recording of a day takes no more memory than one of a minute.
"""

from __future__ import annotations

import math
import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import soxr
from numpy.typing import NDArray

from bce.engine.audio.decoder import Decoder
from bce.engine.errors import AudioError
from bce.engine.geometry import SHIFT_STEP_S, ChunkGrid

BLOCK_CHUNKS = 12
BLOCK_S = 60.0


def chunks_of_a_block(grid: ChunkGrid) -> int:
    """Chunks of an audio block: a dozen, or as many as a minute holds where they are long, at least one."""
    return max(1, min(BLOCK_CHUNKS, int(BLOCK_S / grid.chunk_s)))


@dataclass(frozen=True)
class AudioBlock:
    """A stretch of a recording: some chunks, and the audio that their windows reach into.

    Attributes:
        samples: float32 [samples] at the reader's rate, mono, full scale +-1.
        start_sample: position of ``samples[0]`` in the padded recording.
        first_chunk: position of the first chunk in the recording.
        chunks: how many chunks.
        total_samples: length of the padded recording, always whole chunks; None while the end is further away than any
            window of this block reaches. Never None for the last block.
        audio_samples: where the recording's own audio ends in it and zeros begin; None together with the above.
        chunk_samples: length of a chunk.
    """

    samples: NDArray[np.float32]
    start_sample: int
    first_chunk: int
    chunks: int
    total_samples: int | None
    chunk_samples: int
    audio_samples: int | None = None

    @property
    def is_last(self) -> bool:
        """Whether the recording ends with this block."""
        return (self.first_chunk + self.chunks) * self.chunk_samples == self.total_samples


class AudioReader:
    """Iterate over the audio blocks of a recording.

    Whatever goes wrong after the start (a decoder's error, a sample that no microphone gives, audio that is missing or
    damaged) ends the recording there: the chunks before it are delivered as usual, and ``problem`` says what happened.

    Args:
        path: any file that libsndfile reads, of any rate and channel count. Channels are averaged.
        sample_rate: to resample to, in Hz.
        grid: the chunks to cut into.
        context_s: how far windows reach beyond their chunk to either side, in seconds; rounded up to 10 ms.
        block_chunks: chunks per block, the last block has the rest; None for :func:`chunks_of_a_block`.

    Attributes:
        source_rate: sample rate of the file, in Hz.
        channels: of the file.
        promised_s: duration that the file's header states, in seconds; None where it states none, or more than the
            file's size can bear.
        delivered_s: duration read so far.
        problem: why reading ended early, or what does not fit, in one line; None while nothing is wrong. Final after
            the last block.
        notes: what is worth knowing and no error (a flat stretch, an unfinished header), one line each; final likewise.

    Raises:
        AudioError: on opening, the file is missing, empty, not audio, of a sample rate that no recorder has, or without
            frames; on iteration, less than 1 s could be read.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        sample_rate: int,
        grid: ChunkGrid,
        context_s: float = 0.0,
        block_chunks: int | None = None,
    ) -> None:
        self.path = Path(path)
        self.sample_rate = sample_rate
        self.grid = grid
        chunk = grid.samples(sample_rate)
        self._decoder = Decoder(self.path)
        self.source_rate = self._decoder.rate
        self.channels = self._decoder.channels
        self.promised_s = self._decoder.promised_s
        context = round(math.ceil(context_s / SHIFT_STEP_S) * SHIFT_STEP_S * sample_rate)
        self._blocks = self._read_blocks(context, block_chunks or chunks_of_a_block(grid), chunk)

    @property
    def delivered_s(self) -> float:
        return self._decoder.delivered_s

    @property
    def problem(self) -> str | None:
        return self._decoder.problem

    @property
    def notes(self) -> tuple[str, ...]:
        return self._decoder.notes

    @property
    def promised_chunks(self) -> int | None:
        """Chunks of what the file's header states; None where it states nothing."""
        return None if self.promised_s is None else self.grid.chunks(self.promised_s)

    def __iter__(self) -> Iterator[AudioBlock]:
        return self

    def __next__(self) -> AudioBlock:
        return next(self._blocks)

    def __enter__(self) -> AudioReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; iteration ends."""
        self._blocks.close()
        self._decoder.close()

    def _read_blocks(self, context: int, block_chunks: int, chunk: int) -> Generator[AudioBlock, None, None]:
        # One more chunk than the context needs tells whether a block is the last one and where the padded end is.
        lookahead = chunk * max(1, math.ceil(context / chunk))
        samples = self._resampled()
        held = np.empty(0, np.float32)
        start = 0  # position of held[0]
        first_chunk = 0
        total: int | None = None
        ended: int | None = None
        while True:
            end = (first_chunk + block_chunks) * chunk
            pieces = [held]
            known = start + len(held)
            while total is None and known < end + lookahead:
                piece = next(samples, None)
                if piece is None:
                    total = self._padded_chunks() * chunk
                    ended, known = min(known, total), max(known, total)
                    pieces.append(np.zeros(known - start - sum(map(len, pieces)), np.float32))
                else:
                    known += len(piece)
                    pieces.append(piece)
            held = np.concatenate(pieces)
            reach = end + context
            if total is not None:
                end, reach = min(end, total), min(reach, total)
            yield AudioBlock(held[: reach - start], start, first_chunk, end // chunk - first_chunk, total, chunk, ended)
            if end == total:
                return
            first_chunk = end // chunk
            keep = max(0, end - context)
            held = held[keep - start :]
            start = keep

    def _padded_chunks(self) -> int:
        chunks = self.grid.chunks(self.delivered_s)
        if not chunks:
            why = self.problem or f"it lasts {self.delivered_s:.2f} s"
            raise AudioError(f"is too short: a recording needs at least 1 s of audio ({why})", self.path)
        return chunks

    def _resampled(self) -> Iterator[NDArray[np.float32]]:
        if self.source_rate == self.sample_rate:
            yield from self._decoder.mono()
            return
        resampler = soxr.ResampleStream(self.source_rate, self.sample_rate, 1, dtype="float32", quality="HQ")
        for piece in self._decoder.mono():
            yield resampler.resample_chunk(piece)
        yield resampler.resample_chunk(np.empty(0, np.float32), last=True)

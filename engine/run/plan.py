"""``bce-infer --plan``: how long would it take? Measured on the recordings themselves, before anything is run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from bce.engine.audio.reader import AudioReader
from bce.engine.errors import AudioError
from bce.engine.geometry import overhang_s
from bce.engine.network.bundle import Bundle
from bce.engine.recording import Recording
from bce.engine.run.budget import shift_ladder
from bce.engine.run.engine import Engine, EngineOptions
from bce.engine.run.headers import HEADER_S, looked_at

MEASURED_CHUNKS = 4
"""Chunks that each thread runs: with five shifts about 16 windows, so half a second of Perch."""


@dataclass(frozen=True)
class Plan:
    """What a run would take.

    Attributes:
        recordings: how many there are, and how many of them cannot be opened or deliver nothing.
        unreadable: see above.
        chunks: by the headers.
        audio_s: by the headers.
        backbone: what runs it.
        minutes: wall time by number of shifts, start-up included.
    """

    recordings: int
    unreadable: int
    chunks: int
    audio_s: float
    backbone: str
    minutes: dict[int, float]

    def lines(self, budget_minutes: float | None = None) -> list[str]:
        """The plan for people; with a budget each line says how much of it is used."""
        bad = f" ({self.unreadable} cannot be opened)" if self.unreadable else ""
        lines = [f"{self.recordings} recordings{bad}, {self.audio_s / 3600:.2f} h of audio, {self.chunks} chunks"]
        lines.append(f"backbone: {self.backbone}")
        for shifts, minutes in self.minutes.items():
            share = "" if budget_minutes is None else f", {minutes / budget_minutes:.0%} of {budget_minutes:g} minutes"
            speed = self.audio_s / 60 / minutes if minutes else float("inf")
            lines.append(
                f"  {shifts} shift{'s' if shifts > 1 else ' '}: {minutes:6.1f} min, {speed:.0f}x real time{share}"
            )
        return lines


def plan(bundle: Bundle, options: EngineOptions, recordings: Sequence[Recording], start_up_s: float = 0.0) -> Plan:
    """Read all headers, run the start of the first readable recordings, and predict.

    Args:
        bundle: what would be run.
        options: threads, shifts, precision and backend of the run.
        recordings: all of them.
        start_up_s: what the process took before it could begin.

    Raises:
        AudioError: not one recording can be read.
    """
    window, grid = bundle.manifest.window, options.grid_for(bundle)
    chunks, audio_s, unreadable = 0, 0.0, 0
    begin: list[Recording] = []  # readable ones, of which the start can be read too

    def look(recording: Recording) -> tuple[int, float]:
        with AudioReader(recording.path, window.sample_rate, grid) as reader:
            if len(begin) < options.threads:
                next(reader)
            return reader.promised_chunks or 0, reader.promised_s or 0.0

    for recording, promised in looked_at(recordings, look, min(options.stall_s, HEADER_S)):
        if promised is None:
            unreadable += 1
            continue
        chunks, audio_s = chunks + promised[0], audio_s + promised[1]
        if len(begin) < options.threads:
            begin.append(recording)
    if not begin:
        raise AudioError("not one of the recordings can be read", recordings[0].path)
    engine = Engine(bundle, replace(options, features=None))
    minutes: dict[int, float] = {}
    for shifts_s in shift_ladder(engine.shifts_s, window):
        seconds_per_chunk = _seconds_per_chunk(engine, begin, shifts_s)
        minutes[len(shifts_s)] = (start_up_s + seconds_per_chunk * chunks) / 60
    return Plan(len(recordings), unreadable, chunks, audio_s, str(engine.member.model.form), minutes)


def _seconds_per_chunk(engine: Engine, recordings: Sequence[Recording], shifts_s: tuple[float, ...]) -> float:
    """Wall seconds per chunk with every thread busy, decoding included."""
    threads = engine.options.threads
    begin = [recordings[number % len(recordings)] for number in range(threads)]
    reach_s = max(map(abs, shifts_s)) + overhang_s(engine.member.window, engine.grid)

    def run(recording: Recording) -> int:
        rate = engine.member.window.sample_rate
        with AudioReader(recording.path, rate, engine.grid, reach_s, MEASURED_CHUNKS) as reader:
            block = next(reader)
            engine.compute(block, shifts_s)
            return block.chunks

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(run, begin))  # loads, compiles and warms up
        began = time.perf_counter()
        done = sum(pool.map(run, begin))
        return (time.perf_counter() - began) / done

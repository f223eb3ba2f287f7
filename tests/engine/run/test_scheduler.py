"""Order, threads, stops and crashes of the scheduler, with a fake network."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import soundfile
from support.scheduling import GRID, RATE, rows, run, write

from bce.engine.audio.reader import AudioBlock
from bce.engine.geometry import ChunkGrid
from bce.engine.recording import Recording
from bce.engine.results import BlockResult, Part
from bce.engine.run.pace import SteadyPace, Stop
from bce.engine.run.record import RunReport
from bce.engine.run.scheduler import Scheduler, part_chunks


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_order_and_whole(tmp_path: Path, threads: int) -> None:
    durations = [3.0, 130.0, 61.2, 60.0, 5.0, 185.0, 12.4]
    recordings = [write(tmp_path, f"r{i}", s, 0.01 * (i + 1)) for i, s in enumerate(durations)]

    def slow_first(block: AudioBlock, shifts: tuple[float, ...]) -> BlockResult:
        if abs(block.samples[0] - 0.01) < 1e-3:
            time.sleep(0.2)
        return rows(block)

    results = run(recordings, slow_first, threads=threads)
    assert [r.recording for r in results] == recordings
    for i, (result, chunks) in enumerate(zip(results, [1, 26, 13, 12, 1, 37, 3], strict=True)):
        assert result.status == "ok"
        assert result.promised_chunks == chunks
        assert result.windows == chunks
        np.testing.assert_allclose(result.logits[:, 0], 0.01 * (i + 1), rtol=1e-5)
        np.testing.assert_array_equal(result.logits[:, 1], np.arange(chunks))
        assert result.seconds.inference == -(-chunks // 12)


def test_what_is_noted_of_a_recording_is_in_its_outcome_and_in_the_report(tmp_path: Path) -> None:
    (result,) = run([write(tmp_path, "flat", 7.0, 0.25)])
    assert result.status == "ok"
    assert result.notes == ("the value 0.25 is repeated for 7.000 s from 0.000 s on",)
    report = RunReport()
    report.add(result.recording, result, 1, 1)
    assert report.recordings[0]["notes"] == list(result.notes)


def test_one_long_recording_uses_all_threads(tmp_path: Path) -> None:
    together = threading.Barrier(3, timeout=20)

    def meet(block: AudioBlock, shifts: tuple[float, ...]) -> BlockResult:
        together.wait()  # passes only when three blocks of the one recording are computed at a time
        return rows(block)

    (result,) = run([write(tmp_path, "long", 60.0 * 6, 0.5)], meet, threads=3)
    np.testing.assert_array_equal(result.logits[:, 1], np.arange(72))


def test_short_recordings_use_all_threads(tmp_path: Path) -> None:
    together = threading.Barrier(3, timeout=20)

    def meet(block: AudioBlock, shifts: tuple[float, ...]) -> BlockResult:
        together.wait()
        return rows(block)

    assert len(run([write(tmp_path, f"r{i}", 5.0, 0.5) for i in range(6)], meet, threads=3)) == 6


def test_the_pace_is_asked_per_block_and_told_what_happens(tmp_path: Path) -> None:
    recordings = [write(tmp_path, "a", 125.0, 0.1), write(tmp_path, "b", 10.0, 0.2)]

    class Slowing(SteadyPace):
        reach_s = 2.0
        left: ClassVar[list[tuple[float, ...]]] = [(-2.0, 0.0, 2.0), (0.0,), (-1.0, 1.0), (0.0,)]
        told: ClassVar[list[tuple]] = []

        def opened(self, recording: Recording, promised_chunks: int | None) -> None:
            self.told.append(("opened", recording.stem, promised_chunks))

        def shifts(self, recording: Recording, chunks: int) -> tuple[float, ...]:
            return self.left.pop(0)

        def computed(self, recording: Recording, chunks: int, shifts_s: tuple[float, ...], windows: int) -> None:
            self.told.append(("computed", recording.stem, chunks, len(shifts_s), windows))

        def finished(self, recording: Recording) -> None:
            self.told.append(("finished", recording.stem))

    seen: list[tuple[int, tuple[float, ...]]] = []

    def note(block: AudioBlock, shifts: tuple[float, ...]) -> BlockResult:
        seen.append((block.start_sample, shifts))
        return replace(rows(block), shifts_s=shifts)

    results = run(recordings, note, pace=Slowing(()), threads=1)
    # audio blocks begin as far before their chunks as shifts may reach
    assert seen == [(0, (-2.0, 0.0, 2.0)), (58 * RATE, (0.0,)), (118 * RATE, (-1.0, 1.0)), (0, (0.0,))]
    assert results[0].shifts == ((12, (-2.0, 0.0, 2.0)), (12, (0.0,)), (1, (-1.0, 1.0)))
    assert results[0].chunks_by_shifts == {3: 12, 1: 12, 2: 1}
    assert Slowing.told == [
        ("opened", "a", 25), ("computed", "a", 12, 3, 12), ("computed", "a", 12, 1, 12), ("computed", "a", 1, 2, 1),
        ("finished", "a"),
        ("opened", "b", 2), ("computed", "b", 2, 1, 2), ("finished", "b"),
    ]  # fmt: skip


def test_a_bad_recording_costs_only_itself(tmp_path: Path) -> None:
    good = write(tmp_path, "good", 10.0, 0.1)
    text = tmp_path / "text.ogg"
    text.write_text("not audio")
    results = run([good, Recording(text, "text"), Recording(tmp_path / "gone.wav", "gone"), good])
    assert [r.status for r in results] == ["ok", "failed", "failed", "ok"]
    assert results[1].logits.shape == (0, 2)
    assert results[1].promised_chunks is None
    assert results[1].reason
    assert results[2].reason


def test_a_decoder_that_fails_in_a_way_of_its_own_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = write(tmp_path, "good", 10.0, 0.1)

    def broken(*args: object) -> None:
        raise RuntimeError("resampler in pieces")

    monkeypatch.setattr("bce.engine.run.scheduler.AudioReader", broken)
    (result,) = run([good])
    assert result.status == "failed"
    assert "resampler in pieces" in (result.reason or "")


def test_a_crash_of_the_network_reaches_the_caller(tmp_path: Path) -> None:
    def crash(block: AudioBlock, shifts: tuple[float, ...]) -> BlockResult:
        raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        run([write(tmp_path, "a", 10.0, 0.1)], crash)


def test_a_stop_finishes_what_is_in_flight_and_names_the_rest(tmp_path: Path) -> None:
    recordings = [write(tmp_path, f"r{i}", 60.0, 0.1) for i in range(4)] + [write(tmp_path, "long", 180.0, 0.2)]
    stop = Stop()

    def stop_in_the_second(block: AudioBlock, shifts: tuple[float, ...]) -> BlockResult:
        if len(done) == 1:
            stop.reason = "enough"
        done.append(block)
        return rows(block)

    done: list[AudioBlock] = []
    results = run(recordings, stop_in_the_second, threads=1, stop=stop)
    # the stop comes while the second is computed: it is finished, and nothing after it is read
    assert [r.status for r in results] == ["ok", "ok", "not_run", "not_run", "not_run"]
    assert len(results[1].logits) == 12
    assert all("enough" in (r.reason or "") for r in results[2:])
    assert len(done) == 2


def test_a_stop_in_a_long_recording_keeps_its_finished_part(tmp_path: Path) -> None:
    stop = Stop()

    def stop_at_the_third(block: AudioBlock, shifts: tuple[float, ...]) -> BlockResult:
        if block.first_chunk == 24:
            stop.reason = "enough"
        return rows(block)

    (result,) = run([write(tmp_path, "long", 600.0, 0.2)], stop_at_the_third, threads=1, stop=stop)
    assert result.status == "short_read"
    np.testing.assert_array_equal(result.logits[:, 1], np.arange(36))
    assert result.promised_chunks == 120


def test_an_abandoned_reader_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bce.engine.run import scheduler

    real = scheduler.AudioReader
    release = threading.Event()
    stop = Stop()

    class Hanging(real):  # type: ignore[misc, valid-type]
        def __next__(self) -> AudioBlock:
            if self.path.stem == "hangs":
                stop.reason, stop.abandon = "out of time", True
                release.wait(20)
            return super().__next__()

    monkeypatch.setattr(scheduler, "AudioReader", Hanging)
    recordings = [write(tmp_path, "hangs", 60.0, 0.1), write(tmp_path, "later", 60.0, 0.1)]
    began = time.monotonic()
    results = run(recordings, threads=1, stop=stop)
    took = time.monotonic() - began
    release.set()
    assert [r.status for r in results] == ["not_run", "not_run"]
    assert took < 10


def test_workers_pause_when_an_early_recording_holds_results_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bce.engine.run.scheduler._PENDING_BYTES", 200)  # two results of 12 x 2 float32
    recordings = [write(tmp_path, f"r{i:02}", 60.0, 0.1 if i else 0.9) for i in range(20)]
    counted: list[int] = []
    release = threading.Event()

    def hold_the_first(block: AudioBlock, shifts: tuple[float, ...]) -> BlockResult:
        if block.samples[0] > 0.5:
            release.wait(20)
        else:
            counted.append(1)
        return rows(block)

    iterator = Scheduler(recordings, hold_the_first, SteadyPace((0.0,)), 2, Stop(), 2, RATE, GRID).parts()
    threading.Timer(0.4, release.set).start()
    next(iterator)
    ahead = len(counted)
    assert ahead <= 6
    assert len(list(iterator)) == 19


def test_closing_the_iterator_ends_the_workers(tmp_path: Path) -> None:
    recordings = [write(tmp_path, f"r{i}", 60.0, 0.1) for i in range(6)]
    iterator = Scheduler(recordings, lambda b, s: rows(b), SteadyPace((0.0,)), 2, Stop(), 2, RATE, GRID).parts()
    next(iterator)
    iterator.close()  # type: ignore[attr-defined]
    workers = [thread for thread in threading.enumerate() if thread.name.startswith("bce-worker")]
    for worker in workers:
        worker.join(10)
    assert not any(worker.is_alive() for worker in workers)


# parts ----------------------------------------------------------------------------------------------------------------

SLOW_RATE = 1_000
"""Hours of audio at a rate at which they are small."""


def long_recording(folder: Path, name: str, chunks: int, value: float = 0.1) -> Recording:
    path = folder / f"{name}.wav"
    soundfile.write(path, np.full(chunks * 5 * SLOW_RATE, value, np.float32), SLOW_RATE, subtype="FLOAT")
    return Recording(path, name)


def parts_of(recordings: list[Recording], compute=lambda block, shifts: rows(block), threads: int = 2) -> list[Part]:
    scheduler = Scheduler(recordings, compute, SteadyPace((0.0,)), threads, Stop(), 2, SLOW_RATE, GRID)
    return list(scheduler.parts())


@pytest.mark.parametrize(
    ("chunks", "expected"), [(1, [1]), (719, [719]), (720, [720]), (721, [720, 1]), (1500, [720, 720, 60])]
)
def test_a_part_is_an_hour_at_most_and_the_last_one_says_how_it_ended(
    tmp_path: Path, chunks: int, expected: list[int]
) -> None:
    for threads in (1, 3):
        parts = parts_of([long_recording(tmp_path, "long", chunks)], threads=threads)
        assert [len(part.logits) for part in parts] == expected
        assert [part.first_chunk for part in parts] == np.cumsum([0, *expected])[:-1].tolist()
        assert [part.last for part in parts] == [False] * (len(expected) - 1) + [True]
        np.testing.assert_array_equal(np.concatenate([part.logits for part in parts])[:, 1], np.arange(chunks))
        outcome = parts[-1].outcome
        assert outcome is not None
        assert (outcome.status, outcome.promised_chunks, outcome.windows) == ("ok", chunks, chunks)
        assert sum(count for count, _ in outcome.shifts) == chunks


def test_chunks_of_other_lengths_make_parts_of_an_hour_too() -> None:
    assert part_chunks(ChunkGrid(5.0)) == 720
    assert part_chunks(ChunkGrid(3.0)) == 1200
    assert part_chunks(ChunkGrid(7.0)) == 512  # 3,584 s: whole audio blocks of eight chunks
    assert part_chunks(ChunkGrid(90.0)) == 40  # each is an audio block of its own
    assert part_chunks(ChunkGrid(4000.0)) == 1  # longer than an hour: it is not cut


def test_a_long_recording_behind_a_stalled_one_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bce.engine.run.scheduler._PENDING_BYTES", 5 * 96)  # five blocks of 12 x 2 float32
    recordings = [long_recording(tmp_path, "first", 12, 0.9), long_recording(tmp_path, "day", 2400)]
    release = threading.Event()
    counted: list[int] = []

    def hold_the_first(block: AudioBlock, shifts: tuple[float, ...]) -> BlockResult:
        if block.samples[0] > 0.5:
            release.wait(20)
        else:
            counted.append(len(counted))
        return rows(block)

    threading.Timer(0.4, lambda: (counted.append(-1), release.set())).start()
    parts = parts_of(recordings, hold_the_first, threads=3)
    assert counted.index(-1) <= 5 + 3
    assert sum(len(part.logits) for part in parts) == 2412


def test_rows_are_given_out_while_the_recording_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who takes parts slowly holds the workers back: no more than a part and what may wait lies in memory."""
    monkeypatch.setattr("bce.engine.run.scheduler._PENDING_BYTES", 5 * 96)
    computed: list[int] = []

    def count(block: AudioBlock, shifts: tuple[float, ...]) -> BlockResult:
        computed.append(block.first_chunk)
        return rows(block)

    scheduler = Scheduler(
        [long_recording(tmp_path, "day", 4320)], count, SteadyPace((0.0,)), 2, Stop(), 2, SLOW_RATE, GRID
    )
    given = 0
    for part in scheduler.parts():
        given += len(part.logits)
        time.sleep(0.1)
        assert 12 * len(computed) <= given + 720 + 5 * 12 + 2 * 12
    assert given == 4320


def test_an_interrupted_part_keeps_its_finished_blocks(tmp_path: Path) -> None:
    stop = Stop()

    def stop_late(block: AudioBlock, shifts: tuple[float, ...]) -> BlockResult:
        if block.first_chunk == 732:
            stop.reason = "enough"
        return rows(block)

    recording = long_recording(tmp_path, "day", 4320)
    parts = list(Scheduler([recording], stop_late, SteadyPace((0.0,)), 1, stop, 2, SLOW_RATE, GRID).parts())
    assert [len(part.logits) for part in parts] == [720, 24]
    outcome = parts[-1].outcome
    assert outcome is not None
    assert (outcome.status, outcome.stopped, outcome.promised_chunks) == ("short_read", True, 4320)


# blocks that are cut --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("done", [0, 5, 12])
def test_a_block_that_is_cut_keeps_the_chunks_that_are_complete(tmp_path: Path, done: int) -> None:
    stop = Stop()

    def cut(block: AudioBlock, shifts: tuple[float, ...]) -> BlockResult:
        whole = rows(block)
        if block.first_chunk < 12:
            return whole
        stop.reason, stop.cut = "out of time", True
        return replace(whole, logits=whole.logits[:done], windows=done)

    (result,) = run([write(tmp_path, "long", 120.0, 0.2)], cut, threads=1, stop=stop)
    np.testing.assert_array_equal(result.logits[:, 1], np.arange(12 + done))
    assert result.promised_chunks == 24
    whole = done == 12
    assert (result.status, result.stopped) == (("ok", False) if whole else ("short_read", True))
    assert (result.reason is None) == whole

"""The deadline is kept, with a clock that the tests turn: slow machines, slow disks, stalled files."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.sounds import write_sound

from bce.engine import Bundle, Engine, EngineOptions, OptionsError
from bce.engine.geometry import SHIFT_SETS, ChunkGrid, WindowSpec, plan_windows
from bce.engine.recording import Recording
from bce.engine.run.budget import OUT_OF_TIME, Budget, BudgetOptions, process_began, shift_ladder
from bce.engine.run.infer import RunOptions, infer
from bce.engine.run.pace import Stop
from bce.engine.tables.scores import read_scores

FIVE, THREE, ONE = SHIFT_SETS[5], SHIFT_SETS[3], SHIFT_SETS[1]
WINDOW, GRID = WindowSpec(32_000, 5.0), ChunkGrid(5.0)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def drive(
    chunks: list[int],
    minutes: float,
    seconds_per_window: Callable[[float], float],
    *,
    reserve: float = 3.0,
    threads: int = 2,
    surveyed: bool = True,
) -> tuple[Counter[int], float, float, str | None]:
    """Play a run of ``threads`` workers on a turned clock, block by block, with the real Budget.

    Returns:
        chunks by number of shifts (0: not run), the end in seconds after the start, the moment at which time is up,
        and the stop's reason.
    """
    clock, stop = Clock(), Stop()
    began = clock.now
    recordings = [Recording(Path(f"r{i}.ogg"), f"r{i}") for i in range(len(chunks))]
    promised = {r.stem: n for r, n in zip(recordings, chunks, strict=True)} if surveyed else {}
    budget = Budget(
        BudgetOptions(minutes, reserve),
        FIVE,
        recordings,
        stop,
        WINDOW,
        GRID,
        promised=promised,
        began=began,
        clock=clock,
    )
    blocks = [
        (r, first, min(12, n - first)) for r, n in zip(recordings, chunks, strict=True) for first in range(0, n, 12)
    ]
    got: Counter[int] = Counter()
    free_at = [clock.now] * threads
    running: list[tuple[float, Recording, int, tuple[float, ...], int]] = []
    todo = list(blocks)
    while todo or running:
        if todo and len(running) < threads:
            clock.now = max(clock.now, min(free_at))
            budget.tick()
            if stop.reason is not None:
                got[0] += sum(n for _, _, n in todo)
                todo.clear()
                continue
            recording, first, count = todo.pop(0)
            if first == 0:
                budget.opened(recording, chunks[int(recording.stem[1:])])
            shifts = budget.shifts(recording, count)
            windows = len(plan_windows(WINDOW, GRID, 0, count, shifts, count * 160_000).starts)
            end = clock.now + windows * seconds_per_window(clock.now - began) * threads
            running.append((end, recording, count, shifts, windows))
            got[len(shifts)] += count
            continue
        running.sort(key=lambda item: item[0])
        end, recording, count, shifts, windows = running.pop(0)
        clock.now = max(clock.now, end)
        free_at.append(clock.now)
        free_at.remove(min(free_at))
        budget.computed(recording, count, shifts, windows)
    return got, clock.now - began, (minutes - reserve) * 60, stop.reason


def test_a_fast_machine_gives_all_shifts() -> None:
    got, end, limit, reason = drive([12] * 600, 90, lambda t: 0.010)
    assert got == {5: 7200}
    assert end < limit
    assert reason is None


def test_a_machine_just_fast_enough_gives_almost_all_shifts() -> None:
    # 600 x 56 windows x 0.15 s = 84 min of 87
    got, end, limit, _ = drive([12] * 600, 90, lambda t: 0.15)
    assert end < limit
    assert got[5] >= 6500
    assert got[0] == 0


def test_a_slower_machine_gets_fewer_shifts_for_all_that_is_left() -> None:
    # five shifts would take 112 minutes, three take 72
    got, end, limit, _ = drive([12] * 600, 90, lambda t: 0.20)
    assert end < limit
    assert got[0] == 0
    assert got[3] > got[1]
    assert got[3] + got[5] > 6500
    # the time that there is gets used
    assert end > 0.93 * limit


def test_one_pass_is_all_that_fits() -> None:
    # three shifts would take 180 minutes, one takes 72
    got, end, limit, _ = drive([12] * 600, 90, lambda t: 0.6)
    assert end < limit + 20  # the last blocks may end within the reserve
    assert got[1] > 6000


def test_not_even_one_pass_fits() -> None:
    got, end, limit, reason = drive([12] * 600, 90, lambda t: 2.0)
    assert reason == OUT_OF_TIME
    assert got[0] > 0
    assert got[1] > 1000
    assert limit <= end < limit + 180 / 3 + 60


def test_a_machine_that_slows_down_half_way() -> None:
    got, end, limit, _ = drive([12] * 600, 90, lambda t: 0.12 if t < 40 * 60 else 0.36)
    assert end < limit + 60
    assert got[0] == 0
    assert got[5] > 3000
    assert got[1] + got[3] > 1000


def test_a_machine_that_recovers_gets_its_shifts_back() -> None:
    got, end, limit, _ = drive([12] * 600, 90, lambda t: 0.5 if t < 10 * 60 else 0.10)
    assert end < limit
    assert got[0] == 0
    assert got[5] > 5000


def test_without_any_header_read_the_length_is_guessed() -> None:
    got, end, limit, _ = drive([12] * 600, 90, lambda t: 0.20, surveyed=False)
    assert end < limit + 60
    assert got[0] == 0


def test_a_header_that_is_not_believed_costs_nobody_a_shift() -> None:
    """A promise that a file's size cannot bear is None: 26 recordings of a minute, 0.4 of the time that there is."""
    clock, stop = Clock(), Stop()
    recordings = [Recording(Path(f"r{i}.wav"), f"r{i}") for i in range(26)]
    promised = {recording.stem: 12 for recording in recordings[1:]}
    budget = Budget(
        BudgetOptions(2, 0), FIVE, recordings, stop, WINDOW, GRID, promised=promised, began=clock.now, clock=clock
    )
    for recording in recordings:
        budget.opened(recording, promised.get(recording.stem))
        assert budget.shifts(recording, 12) == FIVE
        clock.now += 0.4 * 120 / 26
        budget.computed(recording, 12, FIVE, 56)
        budget.finished(recording)


def test_one_long_recording_is_judged_as_it_goes() -> None:
    # a day: five shifts would take 5.4 hours
    got, end, limit, _ = drive([17_280], 240, lambda t: 0.24)
    assert end < limit + 60
    assert got[0] == 0
    assert got[3] > 3000


@settings(max_examples=60, deadline=None)
@given(
    chunks=st.lists(st.integers(1, 40), min_size=1, max_size=120),
    minutes=st.floats(4, 30),
    slow=st.floats(0.005, 1.0),
    change=st.floats(0.3, 3.0),
    threads=st.integers(1, 4),
)
def test_the_deadline_holds_whatever_happens(
    chunks: list[int], minutes: float, slow: float, change: float, threads: int
) -> None:
    half = minutes * 30
    speed = lambda t: slow if t < half else slow * change  # noqa: E731
    got, end, limit, reason = drive(chunks, minutes, speed, reserve=2.0, threads=threads)
    assert sum(got.values()) == sum(chunks)
    # a block that is in flight when time is up may take this long; the scheduler abandons slower ones
    block = 60 * max(slow, slow * change) * threads
    assert end <= max(limit, 0) + block + 1e-6
    assert (reason is None) == (got[0] == 0)


def test_time_is_up_then_cut_then_abandoned() -> None:
    clock, stop = Clock(), Stop()
    budget = Budget(BudgetOptions(10, 3), FIVE, [], stop, WINDOW, GRID, promised={}, began=clock.now, clock=clock)
    for after, reason, cut, abandon in [
        (0, None, False, False),
        (419, None, False, False),
        (420, OUT_OF_TIME, False, False),
        (450, OUT_OF_TIME, True, False),
        (480, OUT_OF_TIME, True, True),
    ]:
        clock.now = 1000.0 + after
        budget.tick()
        assert (stop.reason, stop.cut, stop.abandon) == (reason, cut, abandon)
        assert stop.fills


def test_the_ladder_of_shifts() -> None:
    assert shift_ladder(FIVE, WINDOW) == (FIVE, THREE, ONE)
    assert shift_ladder(THREE, WINDOW) == (THREE, ONE)
    assert shift_ladder(ONE, WINDOW) == (ONE,)
    assert shift_ladder((-2.5, 0.0, 2.5), WINDOW) == ((-2.5, 0.0, 2.5), ONE)
    # no set reaches further than a window
    assert shift_ladder((-0.4, -0.2, 0.0, 0.2, 0.4), WindowSpec(32_000, 0.5)) == ((-0.4, -0.2, 0.0, 0.2, 0.4), ONE)


@pytest.mark.parametrize(("minutes", "reserve"), [(0, 0), (-1, 0), (5, 5), (5, -1), (float("nan"), 1)])
def test_options_are_checked(minutes: float, reserve: float) -> None:
    with pytest.raises(OptionsError, match="minutes"):
        BudgetOptions(minutes, reserve)


@pytest.mark.parametrize(
    ("minutes", "given", "reserve_s"), [(90, None, 180), (12, None, 180), (2, None, 30), (90, 5, 300), (2, 0, 0)]
)
def test_a_short_budget_has_a_short_reserve(minutes: float, given: float | None, reserve_s: float) -> None:
    options = BudgetOptions(minutes, given)
    assert options.reserve_s == reserve_s
    assert options.working_s == minutes * 60 - reserve_s


def test_a_recording_that_stalled_before_it_was_open_is_no_longer_waited_for() -> None:
    """One minute each of three; the first stalls in its opening, the second is computed."""
    clock, stop = Clock(), Stop()
    recordings = [Recording(Path(name), name) for name in "abc"]
    budget = Budget(
        BudgetOptions(10, 3),
        ONE,
        recordings,
        stop,
        WINDOW,
        GRID,
        promised=dict.fromkeys("abc", 12),
        began=clock.now,
        clock=clock,
    )
    budget.opened(recordings[1], 12)
    budget.shifts(recordings[1], 12)
    budget.finished(recordings[0])
    clock.now += 12.0
    budget.computed(recordings[1], 12, ONE, 12)
    budget.finished(recordings[1])
    # c alone is left: 12 windows at a second each
    assert budget.predicted_end(ONE) - clock.now == pytest.approx(12, rel=0.05)


def test_the_process_began_before_now() -> None:
    age = time.monotonic() - process_began()
    assert 0 <= age < 3600


def test_a_run_out_of_time_still_writes_a_whole_table(
    small_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stalled reader and a budget of seconds: the rows are all there, filled, and the run ends."""
    from bce.engine.run import scheduler

    for number in range(5):
        write_sound(tmp_path / "in" / f"r{number}.wav", 10.0 + 5 * number, number)
    release = threading.Event()
    real = scheduler.AudioReader

    class Stalling(real):  # type: ignore[misc, valid-type]
        def __next__(self):
            if self.path.stem == "r2":
                release.wait(60)
            return super().__next__()

    monkeypatch.setattr(scheduler, "AudioReader", Stalling)
    monkeypatch.setattr("bce.engine.run.infer.process_began", time.monotonic)
    monkeypatch.setattr("bce.engine.run.budget.LEAST_PATIENCE_S", 60.0)  # the deadline comes first
    options = RunOptions(
        (tmp_path / "in",),
        tmp_path / "out.csv",
        engine=EngineOptions(threads=1, shifts_s=ONE),
        budget=BudgetOptions(minutes=0.10, reserve_minutes=0.05),
        quiet=True,
    )
    began = time.monotonic()
    report = infer(small_bundle, options)
    took = time.monotonic() - began
    release.set()
    assert took < 6.0 + 2.0
    table = read_scores(tmp_path / "out.csv")
    assert len(table.row_ids) == 2 + 3 + 4 + 5 + 6
    assert [entry["status"] for entry in report.recordings] == ["ok", "ok", "not_run", "not_run", "not_run"]
    assert report.exit_code == 3
    assert report.filled == 4 + 5 + 6
    np.testing.assert_allclose(table.scores[5:], np.broadcast_to(table.scores[:5].mean(axis=0), (15, 12)), rtol=1e-12)


def test_a_stalled_first_file_takes_a_share_of_the_budget_and_no_rows_of_the_others(
    small_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread, and a reader that never opens its file: all others are computed, and no row is missing."""
    from bce.engine.run import scheduler

    for number in range(4):
        write_sound(tmp_path / "in" / f"r{number}.wav", 15.0, number)
    release = threading.Event()
    real = scheduler.AudioReader

    def stalling(path: Path, *more: object):
        if path.stem == "r0":
            release.wait(60)
        return real(path, *more)

    monkeypatch.setattr(scheduler, "AudioReader", stalling)
    monkeypatch.setattr("bce.engine.run.budget.LEAST_PATIENCE_S", 0.3)
    monkeypatch.setattr("bce.engine.run.budget.PATIENCE_SHARE", 0.0)
    engine = EngineOptions(threads=1, shifts_s=ONE)
    report = infer(
        small_bundle,
        RunOptions((tmp_path / "in",), tmp_path / "out.csv", engine=engine, budget=BudgetOptions(10), quiet=True),
    )
    release.set()
    assert [entry["status"] for entry in report.recordings] == ["failed", "ok", "ok", "ok"]
    assert report.recordings[0]["reason"] == "delivered nothing for 0.3 s"
    assert [entry["rows"] for entry in report.recordings] == [3, 3, 3, 3]
    assert len(read_scores(tmp_path / "out.csv").row_ids) == 12


def test_without_a_budget_there_is_no_deadline(small_bundle: Bundle, soundscapes: Path) -> None:
    engine = Engine(small_bundle, EngineOptions(threads=2, shifts_s=ONE))
    assert next(r.chunks_by_shifts for r in engine.run([soundscapes])) == {1: 12}


@pytest.mark.parametrize("given", [("x",), (None,), (True,), (1.0, "x")])
def test_minutes_that_are_no_number_are_refused(given: tuple) -> None:
    with pytest.raises(OptionsError, match="it must be a number of minutes"):
        BudgetOptions(*given)

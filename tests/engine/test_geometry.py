"""Windows of chunks and shifts, against a definition with loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bce.engine.errors import OptionsError
from bce.engine.geometry import (
    SHIFT_SETS,
    ChunkGrid,
    WindowSpec,
    check_reach,
    check_shifts,
    parse_shifts,
    plan_windows,
)

RATE = 32_000
WINDOW = 5 * RATE
SPEC, GRID = WindowSpec(RATE, 5.0), ChunkGrid(5.0)

steps = st.integers(-500, 500)


@given(
    first=st.integers(0, 20_000),
    chunks=st.integers(1, 30),
    beyond=st.none() | st.integers(0, 3),
    shifts=st.lists(steps, min_size=1, max_size=6, unique=True),
)
def test_plan_is_chunk_start_plus_shift_moved_into_the_recording(first, chunks, beyond, shifts):
    total = None if beyond is None else (first + chunks + beyond) * WINDOW
    plan = plan_windows(SPEC, GRID, first, chunks, [step / 100 for step in shifts], total)
    wanted = []
    for chunk in range(first, first + chunks):
        row = []
        for step in shifts:
            start = chunk * WINDOW + step * 320
            if total is not None and start + WINDOW > total:
                start = total - WINDOW
            row.append(max(start, 0))
        wanted.append(row)
    assert plan.starts[plan.index].tolist() == wanted
    assert plan.starts.tolist() == sorted({start for row in wanted for start in row})
    assert (plan.starts % 320 == 0).all()


def test_a_minute_at_five_shifts_has_56_distinct_windows():
    plan = plan_windows(SPEC, GRID, 0, 12, SHIFT_SETS[5], 60 * RATE)
    assert len(plan.starts) == 56
    assert plan.index.shape == (12, 5)


def test_one_chunk_has_one_window_whatever_the_shifts():
    assert plan_windows(SPEC, GRID, 0, 1, SHIFT_SETS[5], WINDOW).starts.tolist() == [0]


@pytest.mark.parametrize(
    ("text", "shifts"),
    [
        ("1", (0,)),
        ("3", (-1, 0, 1)),
        ("5", (-2, -1, 0, 1, 2)),
        (" 5 ", (-2, -1, 0, 1, 2)),
        ("-2.5,0,2.5", (-2.5, 0, 2.5)),
        ("0, 0.01", (0, 0.01)),
        ("5,-5", (5, -5)),
    ],
)
def test_shifts_are_read(text, shifts):
    assert parse_shifts(text) == shifts


@given(st.lists(steps, min_size=2, max_size=8, unique=True))
def test_every_multiple_of_10_ms_is_read_exactly(shifts):
    assert parse_shifts(",".join(f"{step / 100:.2f}" for step in shifts)) == tuple(step / 100 for step in shifts)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("4", "expected 1, 3, 5"),
        ("", "expected 1, 3, 5"),
        ("2.5", "expected 1, 3, 5"),
        ("0,", "expected numbers of seconds"),
        ("0,x", "expected numbers of seconds"),
        ("0,nan", "nan s is not a multiple"),
        ("0,inf", "inf s is not a multiple"),
        ("0,1e308", "1e+308 s is not a multiple"),
        ("0,0.005", "0.005 s is not a multiple"),
        ("1,2,1.0", "1 s is given twice"),
        ("0,-0", "0 s is given twice"),
    ],
)
def test_bad_shifts_are_named(text, says):
    with pytest.raises(OptionsError, match=r"^shift") as error:
        parse_shifts(text)
    assert says in str(error.value)


def test_no_shift_at_all_is_refused():
    with pytest.raises(OptionsError, match="at least one"):
        check_shifts(())


def test_shifts_stay_within_a_window():
    check_reach((-5.0, 0.0, 5.0), SPEC)
    for shift, window in [(5.01, SPEC), (-3.5, WindowSpec(48_000, 3.0))]:
        with pytest.raises(OptionsError, match=f"shift {shift:g} s is outside -{window.window_s:g}"):
            check_reach((0.0, shift), window)


@given(
    rate=st.sampled_from([16_000, 22_050, 24_000, 48_000]),
    seconds=st.sampled_from([1.0, 2.0, 3.0, 10.0]),
    first=st.integers(0, 1000),
    chunks=st.integers(1, 20),
    shifts=st.lists(st.integers(-100, 100), min_size=1, max_size=4, unique=True),
)
def test_windows_of_any_rate_and_length(rate, seconds, first, chunks, shifts):
    window = round(rate * seconds)
    total = (first + chunks) * window
    shifts_s = [step / 100 for step in shifts]
    plan = plan_windows(WindowSpec(rate, seconds), ChunkGrid(seconds), first, chunks, shifts_s, total)
    wanted = [
        [min(max((first + chunk) * window + round(shift * rate), 0), total - window) for shift in shifts_s]
        for chunk in range(chunks)
    ]
    assert plan.starts[plan.index].tolist() == wanted


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: WindowSpec(0, 5.0), "sample rate is 0 Hz"),
        (lambda: WindowSpec(22_050, 0.33), "windows of 0.33 s are not a whole number of samples at 22050 Hz"),
        (lambda: WindowSpec(32_000, 0.0), "windows of 0 s"),
        (lambda: WindowSpec(32_000, float("inf")), "windows of inf s"),
        (lambda: WindowSpec(10**30, 5.0), "windows of 5 s"),
        (lambda: ChunkGrid(0.0), "chunks of 0 s"),
        (lambda: ChunkGrid(float("nan")), "chunks of nan s"),
        (lambda: ChunkGrid(0.33).samples(22_050), "chunks of 0.33 s are not a whole number"),
    ],
)
def test_impossible_geometry_is_named(make, says):
    with pytest.raises(OptionsError, match=says):
        make()


def test_lengths_that_no_decimal_has_do_not_drift():
    assert ChunkGrid(1 / 3).chunks(86_400) == 259_200
    assert ChunkGrid(0.96).chunks(0.96 * 100_000) == 100_000


@given(st.integers(1, 400), st.integers(1, 50), st.integers(1, 4))
def test_chunks_of_any_length(quarters, chunk_quarters, per_s):
    """In units of a quarter second, counted one by one."""
    grid, units = ChunkGrid(chunk_quarters / 4), quarters
    count = 0
    while units >= chunk_quarters:
        units -= chunk_quarters
        count += 1
    count += units >= min(4, chunk_quarters)
    assert grid.chunks(quarters / 4) == count
    np.testing.assert_allclose(grid.start_s(per_s, 3), [(per_s + i) * chunk_quarters / 4 for i in range(3)])

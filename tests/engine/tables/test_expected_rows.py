"""How many rows a recording has that could not be read."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bce.engine.geometry import ChunkGrid
from bce.engine.recording import Recording
from bce.engine.results import Outcome
from bce.engine.tables.expected_rows import ExpectedRows

GRID = ChunkGrid(5.0)
FAILED = Outcome(status="failed", reason="no audio")


def rows_of(expected: ExpectedRows, stem: str, outcome: Outcome = FAILED, chunks: int = 0) -> int:
    """Rows of a recording, those that were computed included."""
    return chunks + len(expected.missing(Recording(Path(f"{stem}.wav"), stem), outcome, chunks))


@given(st.dictionaries(st.text("abc", min_size=1), st.integers(0, 5), max_size=12))
def test_the_commonest_length_of_the_run(promised: dict[str, int]) -> None:
    lengths = [n for n in promised.values() if n]
    found = rows_of(ExpectedRows(GRID, None, lambda: promised, lambda: True), "z")
    if not lengths:
        assert found == 12  # a minute
        return
    counts = Counter(lengths)
    assert counts[found] == max(counts.values())
    common = [n for n in counts if counts[n] == counts[found]]
    shorter, longer = sum(n < found for n in common), sum(n > found for n in common)
    assert shorter - longer in (0, 1)


def test_no_header_promises_anything_then_what_was_delivered_before_counts() -> None:
    expected = ExpectedRows(GRID, None, dict, lambda: True)
    assert rows_of(expected, "a") == 12
    for stem, chunks in (("b", 7), ("c", 7), ("d", 3)):
        assert rows_of(expected, stem, Outcome(status="ok"), chunks) == chunks
    assert rows_of(expected, "e") == 7


@pytest.mark.parametrize("promised", [None, 0])
def test_unknown_and_too_short_are_the_same(promised: int | None) -> None:
    expected = ExpectedRows(GRID, None, lambda: {"a": 24, "b": 24, "c": 12, "d": 0}, lambda: True)
    assert rows_of(expected, "d", Outcome(status="failed", promised_chunks=promised)) == 24


def test_a_promise_of_its_own_counts_first() -> None:
    expected = ExpectedRows(GRID, None, lambda: {"a": 24, "b": 24, "c": 3}, lambda: True)
    assert rows_of(expected, "c", Outcome(status="not_run", stopped=True)) == 3
    assert rows_of(expected, "c", Outcome(status="short_read", promised_chunks=5), 2) == 5


def test_headers_are_asked_for_only_when_needed() -> None:
    def never() -> dict[str, int]:
        raise AssertionError("nobody needs them")

    expected = ExpectedRows(GRID, None, never, lambda: False)
    assert rows_of(expected, "a", Outcome(status="ok", promised_chunks=3), 3) == 3
    assert rows_of(expected, "b", Outcome(status="ok"), 3) == 3  # a stream without a length
    assert rows_of(expected, "c", Outcome(status="short_read", promised_chunks=5), 2) == 5
    assert rows_of(expected, "d", Outcome(status="not_run", stopped=True)) == 0  # it was interrupted

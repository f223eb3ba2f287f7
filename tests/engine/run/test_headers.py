"""What headers promise: read in the background, past files that hang."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.pipes import dead_pipe
from support.sounds import write_sound

from bce.engine.geometry import ChunkGrid
from bce.engine.recording import Recording
from bce.engine.run import headers as headers_module
from bce.engine.run.headers import Headers
from bce.engine.run.pace import Stop

RATE, GRID = 32_000, ChunkGrid(5.0)


@pytest.fixture
def recordings(tmp_path: Path) -> Iterator[list[Recording]]:
    """A pipe that nobody fills, audio, text, audio."""
    write_sound(tmp_path / "a.wav", 61.2, 1)
    (tmp_path / "b.wav").write_text("no audio")
    write_sound(tmp_path / "c.ogg", 9.0, 2)
    with dead_pipe(tmp_path / "p.wav"):
        yield [Recording(tmp_path / name, name[0]) for name in ("p.wav", "a.wav", "b.wav", "c.ogg")]


def test_what_cannot_be_read_and_what_hangs_is_passed_over(recordings: list[Recording]) -> None:
    headers = Headers(recordings, RATE, GRID, Stop())
    headers.start(patience_s=0.2)
    assert headers.all() == {"a": 13, "c": 2}


def test_whoever_asks_starts_the_reading(recordings: list[Recording]) -> None:
    assert Headers(recordings[1:], RATE, GRID, Stop()).all() == {"a": 13, "c": 2}


def test_after_a_stop_nobody_waits(recordings: list[Recording]) -> None:
    stop = Stop(reason="out of time")
    headers = Headers(recordings, RATE, GRID, stop)
    began = time.monotonic()
    headers.all()
    assert time.monotonic() - began < 5  # of the ten that the pipe may take


def test_a_dead_disk_is_given_up(recordings: list[Recording], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headers_module, "MOST_STALLED", 2)
    pipes = [Recording(tmp_path / "p.wav", name) for name in "xyz"]
    headers = Headers([*recordings, *pipes, recordings[1]], RATE, GRID, Stop())
    headers.start(patience_s=0.1)
    assert headers.all() == {"a": 13, "c": 2}


def test_the_run_s_patience_holds_for_headers(recordings: list[Recording], monkeypatch: pytest.MonkeyPatch) -> None:
    given = []
    monkeypatch.setattr(headers_module, "attempt", lambda do, patience_s: given.append(patience_s))
    Headers(recordings, RATE, GRID, Stop(), 3.0).all()
    assert set(given) == {3.0}

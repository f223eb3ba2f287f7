"""What people see, and streams that are gone."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from bce.engine.results import Outcome
from bce.engine.run.progress import Progress
from bce.engine.screen import Screen, printable


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("plain Ünïcode ☃ 12.5 %", "plain Ünïcode ☃ 12.5 %"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("two\nlines\r\t", r"two\nlines\r\t"),
        (os.fsdecode(b"a\xff.wav"), r"a\udcff.wav"),
        ("right\u202eleft", r"right\u202eleft"),
    ],
)
def test_nothing_that_a_terminal_obeys(text: str, seen: str) -> None:
    assert printable(text) == seen
    stream = io.StringIO()
    Screen(stream).say(text)
    assert stream.getvalue() == seen + "\n"


class Gone(io.StringIO):
    """A stream whose reader has gone."""

    asked = 0

    def write(self, text: str) -> int:
        self.asked += 1
        raise BrokenPipeError(32, "Broken pipe")


class Busy(io.StringIO):
    """A stream in the middle of a word, when a signal's handler speaks."""

    busy = True

    def write(self, text: str) -> int:
        if self.busy:
            raise RuntimeError("reentrant call inside <_io.BufferedWriter>")
        return super().write(text)


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("stream", [None, Gone(), closed()])
@pytest.mark.parametrize("terminal", [False, True])
def test_a_screen_that_is_gone_is_silent(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO | None, terminal: bool
) -> None:
    monkeypatch.setattr("sys.stderr", stream)
    if terminal and stream is not None:
        monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setattr("bce.engine.run.progress._LINE_EVERY_S", -1.0)
    progress = Progress(2)
    for _ in range(2):
        progress.say("a line")
        progress.update(Outcome(status="ok", delivered_s=1.0))
    progress.close()
    Screen(stream).say("a line")


def test_after_a_failure_nothing_more_is_tried() -> None:
    stream = Gone()
    screen = Screen(stream)
    for _ in range(5):
        screen.say("a line")
    assert stream.asked == 1


def test_a_word_between_is_lost_and_no_more() -> None:
    stream = Busy()
    screen = Screen(stream)
    screen.say("lost")
    stream.busy = False
    screen.say("said")
    assert stream.getvalue() == "said\n"


def test_a_full_disk_behind_a_screen() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    screen = Screen(open("/dev/full", "w"))  # noqa: SIM115
    screen.say("a line")
    screen.say("a line")

"""A run in a folder of its own, and what is left there when something has happened to it.

What is right is the table of an undisturbed run, byte for byte: a table has the same bytes whatever the threads.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bce.bench.attack_files import SAME, Bench
from bce.bench.attack_process import Ended, Rows, computed_rows, each, ended, read_rows, start
from bce.bench.attack_recordings import Intact
from bce.engine.errors import BceError

LIMIT_S = 120.0
AT_ONCE = 2
PREVIOUS = b"row_id,an_earlier_result\nthat_is_not_to_be_lost_5,1\n"


@dataclass(frozen=True)
class Scenario:
    """What came of a run that something happened to.

    Attributes:
        kind: what happened.
        number: which of them.
        moment_s: when, from the start of the program; None where it was so from the start.
        code: exit code of the run.
        left: "table": the whole, right table; "part": the rows that were done, right, at their place; "rescued": the
            same in a file that the last message names; "nothing": the place is as it was.
        broken: which promise was broken; None where all held.
        litter: files that the run left beside its outputs, after the run that followed on it.
    """

    kind: str
    number: int
    moment_s: float | None
    code: int
    left: str = "nothing"
    broken: str | None = None
    litter: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Job:
    """A run that is disturbed.

    Attributes:
        bench: knows what is right.
        recordings: a folder of intact ones.
        table: of an undisturbed run.
        seconds: that it took.
    """

    bench: Bench
    recordings: Path
    table: bytes
    seconds: float

    @classmethod
    def linked(cls, bench: Bench, name: str, intact: Sequence[Intact]) -> Job:
        """Link recordings into a folder; :meth:`timed` tells the rest."""
        recordings = bench.folder / name
        recordings.mkdir()
        for recording in intact:
            (recordings / recording.path.name).symlink_to(recording.path)
        return cls(bench, recordings, b"", 0.0)

    def timed(self, name: str) -> Job:
        """Run it undisturbed, as many at a time as disturbed ones: how long it takes now, and what comes of it."""
        began = time.monotonic()
        places = [Place(self, f"{self.recordings.name}_{name}_{number}") for number in range(AT_ONCE)]
        ends = each([place.again for place in places], AT_ONCE)
        seconds = time.monotonic() - began
        if any(end.code for end in ends):
            raise BceError(f"an undisturbed run ended with code {ends[0].code}: {ends[0].last_line}", self.recordings)
        return replace(self, table=places[0].out.read_bytes(), seconds=seconds)


class Place:
    """A folder of a run's own, with an earlier result in it.

    Attributes:
        folder: of the outputs.
        out, report: where the run writes.
    """

    def __init__(self, job: Job, name: str) -> None:
        self.job = job
        self.folder = job.bench.folder / f"place_{name}"
        self.folder.mkdir()
        self.out, self.report = self.folder / "table.csv", self.folder / "report.json"
        self.out.write_bytes(PREVIOUS)

    def start(self) -> subprocess.Popen[bytes]:
        """Start the job."""
        return start(self.arguments())

    def arguments(self) -> list[str]:
        """The command line of the job."""
        return self.job.bench.arguments(self.out, self.report, self.job.recordings, threads=1)

    def again(self) -> Ended:
        """The whole job, undisturbed."""
        return ended(self.start(), LIMIT_S)

    def ended(self, kind: str, number: int, moment_s: float | None, end: Ended) -> Scenario:
        """Judge what a run left, without running again."""
        left, broken = self._left(end)
        if end.hung:
            broken = "hangs"
        elif end.traceback:
            broken = f"traceback: {end.last_line}"
        elif end.code < 0 and end.code != -signal.SIGKILL and left != "table":
            broken = broken or f"died of signal {-end.code}"
        return Scenario(kind, number, moment_s, end.code, left, broken)

    def followed(self, scenario: Scenario) -> Scenario:
        """Run again after it: that must work, whatever the first one left lying about."""
        end = self.again()
        broken = scenario.broken
        if end.code or self.out.read_bytes() != self.job.table:
            broken = broken or f"the next run does not work: code {end.code}: {end.last_line}"
        known = {self.out.name, self.report.name}
        litter = sum(name not in known for name in os.listdir(self.folder))
        return replace(scenario, broken=broken, litter=litter)

    def _left(self, end: Ended) -> tuple[str, str | None]:
        """What is there, and what is wrong with it."""
        content = self.out.read_bytes() if self.out.exists() else None
        if content == self.job.table:
            return "table", None
        if content not in (None, PREVIOUS):
            left, path = "part", self.out
        elif (rescued := _named(end.errors, self.out)) is not None:
            left, path = "rescued", rescued
        elif content is None and self.folder.exists():
            return "nothing", "the earlier result is gone"
        else:
            return "nothing", None if end.code else "says that all is well, but there is no table"
        try:
            rows = read_rows(path)
            computed = computed_rows(self.report) if end.code == 130 else {stem: len(rows[stem]) for stem in rows}
        except (OSError, ValueError, KeyError) as error:
            return left, f"half written: {error}"
        finally:
            if left == "rescued":
                path.unlink()
        return left, self.wrong(rows, computed, end.code)

    def wrong(self, rows: Rows, computed: dict[str, int], code: int) -> str | None:
        """What is wrong with a table that is not the whole one: of each recording so many rows must be right."""
        if code == 0:
            return "says that all is well, but the table is not whole"
        for stem, count in computed.items():
            found, truth = rows.get(stem, np.empty((0, 0))), self.job.bench.truth[stem]
            if count > len(found) or (count and np.abs(found[:count] - truth[:count]).max() > SAME):
                return f"rows of {stem} are wrong or missing"
        return None


def _named(errors: str, out: Path) -> Path | None:
    """A table elsewhere that a message names."""
    for word in errors.split():
        path = Path(word.strip("'\",;:.()"))
        if path.suffix == out.suffix and path.is_absolute() and path != out and path.is_file():
            return path
    return None

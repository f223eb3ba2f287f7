"""Runs that are killed, interrupted, or lose the ground under their feet; what is left of them, and the run after them.

What is right is the table of an undisturbed run, byte for byte: a table has the same bytes whatever the threads.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bce.bench.attack_files import SAME, Bench
from bce.bench.attack_process import Ended, Rows, each, ended, read_report, read_rows, start
from bce.bench.attack_recordings import Intact, rng_of
from bce.bench.processes import infer_command

LIMIT_S = 120.0
_AT_ONCE = 2
_OF_A_JOB = 12
_PREVIOUS = b"row_id,an_earlier_result\nthat_is_not_to_be_lost_5,1\n"


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
    def measured(cls, bench: Bench, name: str, intact: Sequence[Intact]) -> Job:
        """Link recordings into a folder and run them undisturbed, as many at a time as the disturbed ones."""
        recordings = bench.folder / name
        recordings.mkdir()
        for recording in intact:
            (recordings / recording.path.name).symlink_to(recording.path)
        job = cls(bench, recordings, b"", 0.0)
        began = time.monotonic()
        places = [Place(job, f"{name}_{number}") for number in range(_AT_ONCE)]
        ends = each([partial(Place.again, place) for place in places], _AT_ONCE)
        if any(end.code for end in ends):
            raise RuntimeError(f"an undisturbed run ended with code {ends[0].code}: {ends[0].last_line}")
        return cls(bench, recordings, places[0].out.read_bytes(), time.monotonic() - began)


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
        self.out.write_bytes(_PREVIOUS)

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
        return Scenario(**asdict(scenario) | {"broken": broken, "litter": litter})

    def _left(self, end: Ended) -> tuple[str, str | None]:
        """What is there, and what is wrong with it."""
        content = self.out.read_bytes() if self.out.exists() else None
        if content == self.job.table:
            return "table", None
        if content not in (None, _PREVIOUS):
            left, path = "part", self.out
        elif (rescued := _named(end.errors, self.out)) is not None:
            left, path = "rescued", rescued
        elif content is None and self.folder.exists():
            return "nothing", "the earlier result is gone"
        else:
            return "nothing", None if end.code else "says that all is well, but there is no table"
        try:
            rows = read_rows(path)
            computed = _computed(self.report) if end.code == 130 else {stem: len(rows[stem]) for stem in rows}
        except (OSError, ValueError, KeyError) as error:
            return left, f"half written: {error}"
        finally:
            if left == "rescued":
                path.unlink()
        return left, self._wrong(rows, computed, end.code)

    def _wrong(self, rows: Rows, computed: dict[str, int], code: int) -> str | None:
        if code == 0:
            return "says that all is well, but the table is not whole"
        for stem, count in computed.items():
            found, truth = rows.get(stem, np.empty((0, 0))), self.job.bench.truth[stem]
            if count > len(found) or (count and np.abs(found[:count] - truth[:count]).max() > SAME):
                return f"rows of {stem} are wrong or missing"
        return None


def _computed(report: Path) -> dict[str, int]:
    return {stem: entry["rows"] - entry["filled"] for stem, entry in read_report(report).items()}


def _named(errors: str, out: Path) -> Path | None:
    """A table elsewhere that a message names."""
    for word in errors.split():
        path = Path(word.strip("'\",;:.()"))
        if path.suffix == out.suffix and path.is_absolute() and path != out and path.is_file():
            return path
    return None


def _moments(bench_seed: int, kind: str, count: int, job: Job, shares: tuple[float, float]) -> Iterator[float]:
    """Moments of a run, spread evenly and then at random within each stretch, as shares of its length."""
    rng, (low, high) = rng_of(bench_seed, kind), shares
    for number in range(count):
        yield job.seconds * (low + (high - low) * (number + rng.uniform()) / count)


# --- what happens ----------------------------------------------------------------------------------------------------


def killed(job: Job, number: int, moment_s: float) -> Scenario:
    """kill -9: nothing of the run is expected, but that it harmed nothing."""
    place = Place(job, f"kill_{number}")
    process = place.start()
    time.sleep(moment_s)
    process.kill()
    return place.followed(place.ended("kill -9", number, moment_s, ended(process, LIMIT_S)))


def interrupted(job: Job, name: str, number: int, moment_s: float) -> Scenario:
    """A signal: what is done is written."""
    place = Place(job, f"{name}_{number}")
    process = place.start()
    time.sleep(moment_s)
    begun = _catches(process.pid, signal.SIGTERM)
    process.send_signal(signal.Signals[name])
    end = ended(process, LIMIT_S)
    if not begun and end.code and place.out.read_bytes() == _PREVIOUS:  # a signal of the system's, before any work
        return Scenario(name, number, moment_s, end.code)
    found = place.ended(name, number, moment_s, end)
    if found.broken is None and found.left != "table" and end.code != 130:
        found = Scenario(**asdict(found) | {"broken": f"ended with code {end.code}: {end.last_line}"})
    return found


def _catches(pid: int, number: int) -> bool:
    """Whether a program has a handler for a signal; so it says on Linux, elsewhere it is taken for granted."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    except OSError:
        pass
    return True


def small_files(job: Job, number: int, share: float) -> Scenario:
    """No file may grow beyond a share of the table: writing fails, early or late."""
    place = Place(job, f"small_{number}")
    size = round(share * len(job.table))
    process = place.start()
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, size))
    return place.followed(place.ended("file size limited", number, None, ended(process, LIMIT_S)))


def full_disk(job: Job, number: int, share: float) -> Scenario:
    """A disk of its own that has room for a share of the table."""
    place = Place(job, f"disk_{number}")
    kept = place.folder.with_suffix(".kept")
    kept.mkdir()
    size = max(8192, round(share * len(job.table)))
    script = (
        f'cp "$1/{place.out.name}" "$2" && mount -t tmpfs -o size={size} none "$1" && cp "$2/{place.out.name}" "$1" '
        '|| exit 99; place="$1" kept="$2"; shift 2; "$@"; code=$?; cp "$place"/* "$kept"; exit $code'
    )
    command = [*_NAMESPACE, "sh", "-c", script, "sh", str(place.folder), str(kept), *infer_command(*place.arguments())]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    end = ended(process, LIMIT_S)
    shutil.rmtree(place.folder)
    kept.rename(place.folder)
    return place.followed(place.ended("disk full", number, None, end))


_NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")


def can_mount() -> bool:
    """Whether a disk of one's own can be had: Linux with user namespaces."""
    try:
        return (
            subprocess.run([*_NAMESPACE, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode == 0
        )
    except OSError:
        return False


def without_folder(job: Job, number: int, moment_s: float, *, renamed: bool) -> Scenario:
    """The outputs' folder goes away in mid-run: the table must be somewhere, and the last message says where."""
    kind = "output folder renamed" if renamed else "output folder removed"
    place = Place(job, f"{kind.replace(' ', '_')}_{number}")
    process = place.start()
    time.sleep(moment_s)
    moved = place.folder.with_suffix(".moved")
    os.replace(place.folder, moved)
    if not renamed:
        shutil.rmtree(moved)
    end = ended(process, LIMIT_S)
    found = place.ended(kind, number, moment_s, end)
    if found.broken is None and found.left == "nothing":
        at_new_place = renamed and (moved / place.out.name).read_bytes() == job.table
        lost = None if at_new_place else f"all that was computed is lost; it said: {end.last_line}"
        found = Scenario(**asdict(found) | {"broken": lost, "left": "table" if at_new_place else "nothing"})
    return found


def without_recordings(job: Job, number: int, moment_s: float) -> Scenario:
    """The recordings go away in mid-run, a card that is pulled: rows are right or filled."""
    place = Place(job, f"card_{number}")
    card = place.folder.with_suffix(".card")
    shutil.copytree(job.recordings, card, symlinks=True)
    process = start(job.bench.arguments(place.out, place.report, card, threads=1))
    time.sleep(moment_s)
    shutil.rmtree(card)
    end = ended(process, LIMIT_S)
    kind = "recordings removed"
    if end.traceback or end.hung or (end.code == 3 and not place.report.exists()):
        return place.ended(kind, number, moment_s, end)
    if end.code == 3:
        wrong = place._wrong(read_rows(place.out), _computed(place.report), end.code)
        return Scenario(kind, number, moment_s, end.code, "part", wrong)
    return place.ended(kind, number, moment_s, end)


def two_at_once(job: Job, other: Job, number: int, moment_s: float) -> Scenario:
    """Two runs write to one place: each that says it is done has its whole table there, or had it."""
    place = Place(job, f"two_{number}")
    second = other.bench.arguments(place.out, place.folder / "other.json", other.recordings, threads=1)

    def late() -> Ended:
        time.sleep(moment_s)
        return ended(start(second), LIMIT_S)

    first, then = each([place.again, late], 2)
    content = place.out.read_bytes() if place.out.exists() else b""
    owner = {job.table: first, other.table: then}.get(content)
    broken = None
    if first.code and then.code:
        broken = f"neither was done: {first.last_line} / {then.last_line}"
    elif owner is None or owner.code:
        broken = "the table is of neither run that says it is done"
    elif first.traceback or then.traceback:
        broken = f"traceback: {(first if first.traceback else then).last_line}"
    code = first.code or then.code
    return Scenario("two runs, one output", number, moment_s, code, "table" if broken is None else "part", broken)


def no_screen(job: Job, number: int) -> Scenario:
    """Nobody listens: standard error closed, or its reader gone; the same with standard output."""
    place = Place(job, f"screen_{number}")
    command = [argument for argument in infer_command(*place.arguments()) if argument != "--quiet"]
    kinds = ("2>&-", ">&-", ">&- 2>&-", "reader of 2 gone", "reader of 1 gone")
    how = kinds[number % len(kinds)]
    if how.startswith("reader"):
        reader, writer = os.pipe()
        os.close(reader)
        with os.fdopen(writer, "wb") as gone:
            out, errors = (subprocess.DEVNULL, gone) if "2" in how else (gone, subprocess.PIPE)
            process = subprocess.Popen(command, stdout=out, stderr=errors)
    else:
        shell = ["sh", "-c", f'exec "$@" {how}', "sh", *command]
        process = subprocess.Popen(shell, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    found = place.ended("no screen", number, None, ended(process, LIMIT_S))
    if found.left != "table":
        found = Scenario(**asdict(found) | {"broken": f"{how}: no table, code {found.code}"})
    elif found.code:
        found = Scenario(**asdict(found) | {"broken": f"{how}: code {found.code} though the table is whole"})
    return found


# --- all of it -------------------------------------------------------------------------------------------------------


def run_scenarios(
    bench: Bench,
    intact: Sequence[Intact],
    seed: int,
    kills: int,
    signals: int,
    faults: int,
    say: Callable[[str], None] = lambda line: None,
) -> list[Scenario]:
    """Everything that happens to runs, two at a time.

    Args:
        bench: that has learned.
        intact: recordings; a part of them is run.
        seed: of the moments.
        kills, signals, faults: how many kills, signals of each kind, and of each other fault.
    """
    job = Job.measured(bench, "job", intact[:: max(1, len(intact) // _OF_A_JOB)][:_OF_A_JOB])
    other = Job.measured(bench, "other", intact[1 :: max(1, len(intact) // _OF_A_JOB)][:_OF_A_JOB])
    say(f"an undisturbed run takes {job.seconds:.1f} s")

    def moments(kind: str, count: int, low: float = 0.15, high: float = 1.0) -> list[tuple[int, float]]:
        return list(enumerate(_moments(seed, kind, count, job, (low, high))))

    things: dict[str, list[Callable[[], Scenario]]] = {
        "kills": [partial(killed, job, *at) for at in moments("kill", kills, 0.1)],
        "signals": [
            partial(interrupted, job, name, *at)
            for name in ("SIGINT", "SIGTERM", "SIGHUP")
            for at in moments(name, signals)
        ],
        "files that may not grow": [
            partial(small_files, job, number, at / job.seconds) for number, at in moments("size", faults, 0.0, 1.1)
        ],
        "full disks": [
            partial(full_disk, job, number, at / job.seconds)
            for number, at in moments("disk", faults if can_mount() else 0, 0.0, 2.0)
        ],
        "folders that go away": [
            partial(without_folder, job, *at, renamed=renamed)
            for renamed in (False, True)
            for at in moments(f"folder {renamed}", faults, 0.4, 0.9)
        ],
        "recordings that go away": [partial(without_recordings, job, *at) for at in moments("card", faults, 0.3, 0.9)],
        "two runs at once": [partial(two_at_once, job, other, *at) for at in moments("two", faults, 0.0, 0.4)],
        "nobody listens": [partial(no_screen, job, number) for number in range(faults)],
    }
    found: list[Scenario] = []
    for what, jobs in things.items():
        say(f"{what}: {len(jobs)}")
        found += each(jobs, _AT_ONCE)
    return found

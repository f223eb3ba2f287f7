"""Runs that are killed, interrupted, or lose the ground under their feet, and the run that follows on them."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from bce.bench.attack_files import Bench
from bce.bench.attack_places import AT_ONCE, LIMIT_S, PREVIOUS, Job, Place, Scenario
from bce.bench.attack_process import Ended, computed_rows, each, ended, read_rows, start
from bce.bench.attack_recordings import Intact, rng_of
from bce.bench.processes import infer_command

Thing = Callable[[Job, int, float], Scenario]
"""What happens to a job: which of its kind, and at what share of the run's length, or of the table's size."""
_OF_A_JOB = 12
_A_LOT = 10


# --- what happens ----------------------------------------------------------------------------------------------------


def killed(job: Job, number: int, share: float) -> Scenario:
    """kill -9: nothing of the run is expected, but that it harmed nothing."""
    place = Place(job, f"kill_{number}")
    process = place.start()
    time.sleep(moment_s := share * job.seconds)
    process.kill()
    return place.followed(place.ended("kill -9", number, moment_s, ended(process, LIMIT_S)))


def interrupted(job: Job, number: int, share: float, *, name: str) -> Scenario:
    """A signal: what is done is written."""
    place = Place(job, f"{name}_{number}")
    process = place.start()
    time.sleep(moment_s := share * job.seconds)
    begun = _catches(process.pid, signal.SIGTERM)
    process.send_signal(signal.Signals[name])
    end = ended(process, LIMIT_S)
    if not begun and end.code and place.out.read_bytes() == PREVIOUS:  # a signal of the system's, before any work
        return Scenario(name, number, moment_s, end.code)
    found = place.ended(name, number, moment_s, end)
    if found.broken is None and found.left != "table" and end.code != 130:
        found = replace(found, broken=f"ended with code {end.code}: {end.last_line}")
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
    shutil.move(kept, place.folder)
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


def without_folder(job: Job, number: int, share: float, *, renamed: bool) -> Scenario:
    """The outputs' folder goes away in mid-run: the table must be somewhere, and the last message says where."""
    kind = "output folder renamed" if renamed else "output folder removed"
    place = Place(job, f"{kind.replace(' ', '_')}_{number}")
    process = place.start()
    time.sleep(moment_s := share * job.seconds)
    done = place.out.read_bytes() == job.table
    moved = place.folder.with_suffix(".moved")
    shutil.move(place.folder, moved)
    if not renamed:
        shutil.rmtree(moved)
    end = ended(process, LIMIT_S)
    if done or (renamed and (moved / place.out.name).read_bytes() == job.table):
        return Scenario(kind, number, moment_s, end.code, "table")
    found = place.ended(kind, number, moment_s, end)
    if found.broken is None and found.left == "nothing":
        found = replace(found, broken=f"all that was computed is lost; it said: {end.last_line}")
    return found


def without_recordings(job: Job, number: int, share: float) -> Scenario:
    """The recordings go away in mid-run, a card that is pulled: rows are right or filled."""
    place = Place(job, f"card_{number}")
    card = place.folder.with_suffix(".card")
    shutil.copytree(job.recordings, card, symlinks=True)
    process = start(job.bench.arguments(place.out, place.report, card, threads=1))
    time.sleep(moment_s := share * job.seconds)
    shutil.rmtree(card)
    end = ended(process, LIMIT_S)
    kind = "recordings removed"
    if end.traceback or end.hung or (end.code == 3 and not place.report.exists()):
        return place.ended(kind, number, moment_s, end)
    if end.code == 3:
        wrong = place.wrong(read_rows(place.out), computed_rows(place.report), end.code)
        return Scenario(kind, number, moment_s, end.code, "part", wrong)
    return place.ended(kind, number, moment_s, end)


def two_at_once(job: Job, number: int, share: float, *, other: Job) -> Scenario:
    """Two runs write to one place: each that says it is done has its whole table there, or had it."""
    place = Place(job, f"two_{number}")
    second = other.bench.arguments(place.out, place.folder / "other.json", other.recordings, threads=1)

    moment_s = share * job.seconds

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


def no_screen(job: Job, number: int, share: float) -> Scenario:
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
        found = replace(found, broken=f"{how}: no table, code {found.code}")
    elif found.code:
        found = replace(found, broken=f"{how}: code {found.code} though the table is whole")
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
    step = max(1, len(intact) // _OF_A_JOB)
    job = Job.linked(bench, "job", intact[::step][:_OF_A_JOB])
    other = Job.linked(bench, "other", intact[step // 2 :: step][1:_OF_A_JOB])
    if faults:
        other = other.timed("first")
    removed, renamed = partial(without_folder, renamed=False), partial(without_folder, renamed=True)
    things: tuple[tuple[str, Thing, int, float, float], ...] = (
        ("kill -9", killed, kills, 0.1, 1.0),
        *((name, partial(interrupted, name=name), signals, 0.15, 0.95) for name in ("SIGINT", "SIGTERM", "SIGHUP")),
        ("file size limited", small_files, faults, 0.0, 1.1),
        ("disk full", full_disk, faults if can_mount() else 0, 0.0, 2.0),
        ("output folder removed", removed, faults, 0.4, 0.9),
        ("output folder renamed", renamed, faults, 0.4, 0.9),
        ("recordings removed", without_recordings, faults, 0.2, 0.9),
        ("two runs, one output", partial(two_at_once, other=other), faults, 0.0, 0.4),
        ("no screen", no_screen, faults, 0.0, 1.0),
    )
    found: list[Scenario] = []
    for kind, thing, count, low, high in things:
        if not count:
            continue
        rng = rng_of(seed, kind)
        # spread evenly, and at random within each stretch
        shares = [low + (high - low) * (number + rng.uniform()) / count for number in range(count)]
        for first in range(0, count, _A_LOT):
            job = job.timed(f"{kind.replace(' ', '_')}_{first}")  # anew: other programs come and go
            say(f"{kind}: {first} of {count}, an undisturbed run takes {job.seconds:.1f} s")
            lot = range(first, min(first + _A_LOT, count))
            found += each([partial(thing, job, number, shares[number]) for number in lot], AT_ONCE)
    return found

"""Damaged recordings through the engine, some intact ones among them, and a verdict on each by the intact one's rows.

What is right is known independently: the damaged file is a copy of an intact one, and a row is computed out of its own
stretch of audio alone. So a row of a damaged recording that counts as computed equals the row of the intact recording,
or it is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from bce.bench.attack_process import QUICK, Ended, Rows, ended, read_report, read_rows, start
from bce.bench.attack_recordings import Form, Intact, Victim
from bce.engine.errors import BceError

SAME = 1e-3
"""Logits that are no further apart are the same; half a second of shift moves a row of these recordings by 0.9 at
least, and one of 1 ms by 0.1."""
ALIKE = 0.3
"""The same for the row in which a recording ends: the report tells the end to a millisecond only."""
MARGIN_S = 0.02
"""What lies so close before the end of the audio is changed by resampling."""
NOTICEABLE = frozenset({"cut", "beheaded", "trailing", "wild"})
"""Damages that a reader can notice without checksums: sizes that a header states, numbers that are no samples."""
_MANY = 10
_A_BATCH = 60
_INTACT_OF_A_BATCH = 3
_START_S, _FILE_S = 120.0, 5.0
"""A run that takes longer than this, and this for each of its files, hangs."""


@dataclass(frozen=True)
class Verdict:
    """What a run made of a damaged recording.

    Attributes:
        name: of the damaged file.
        damage, form: what happened to which format.
        checked: whether the format has checksums.
        fate: "right": ok and all rows right; "flagged": reported, and the rows before the reported end right; "failed":
            reported, no row computed; "wrong": ok with wrong rows; "flagged wrong": reported, but with wrong rows
            before the reported end; "lost": the run died of it.
        status, reason: of the report.
        intact_rows: rows of the intact recording.
        rows: rows of the table.
        computed: of them, rows that are not filled.
        wrong: of these, positions of rows that differ from the intact recording's, that it has not, or, where the
            status is ok, that it has and this one has not.
        displaced: of these, how many lie behind all that was damaged: their audio is another time's.
        bloated: more than ten times as many rows as any intact recording has: a header was believed that cannot be.
    """

    name: str
    damage: str
    form: str
    checked: bool
    fate: str
    status: str = ""
    reason: str | None = None
    intact_rows: int = 0
    rows: int = 0
    computed: int = 0
    wrong: tuple[int, ...] = ()
    displaced: int = 0
    bloated: bool = False

    @property
    def right_rows(self) -> int:
        """Rows that were computed and are right."""
        return self.computed - sum(row < self.computed for row in self.wrong)

    @property
    def broken(self) -> bool:
        """Whether this breaks a promise: a run lost, rows wrong that could be known to be wrong, rows without end."""
        noticeable = self.checked or self.damage in NOTICEABLE
        return self.fate == "lost" or self.bloated or (noticeable and self.fate in ("wrong", "flagged wrong"))

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"wrong": list(self.wrong)}


@dataclass
class _End:
    """A row in which a recording is said to end, to be compared with the intact audio cut there."""

    victim: Victim
    row: int
    end_s: float
    found: np.ndarray


@dataclass
class Bench:
    """Runs batches; knows what is right.

    Attributes:
        bundle: folder of the bundle.
        chunk_s: length of its rows.
        folder: to work in.
        threads: of a run.
        truth: rows of the intact recordings.
        ends: rows that :meth:`settle` looks at.
    """

    bundle: Path
    chunk_s: float
    folder: Path
    threads: int = 2
    truth: Rows = field(default_factory=dict)
    ends: list[_End] = field(default_factory=list)

    def arguments(self, out: Path, report: Path | None, *paths: Path, threads: int | None = None) -> list[str]:
        """A command line over some recordings."""
        reported = [] if report is None else ["--report", str(report)]
        busy = str(threads or self.threads)
        return [
            "--bundle",
            str(self.bundle),
            "--threads",
            busy,
            *QUICK,
            "--quiet",
            "--out",
            str(out),
            *reported,
            *map(str, paths),
        ]

    def run(self, name: str, paths: Sequence[Path]) -> tuple[Ended, Path, Path]:
        """Run recordings, links to them in a folder of their own."""
        folder = self.folder / name
        folder.mkdir()
        for path in paths:
            (folder / path.name).symlink_to(path)
        out, report = self.folder / f"{name}.csv", self.folder / f"{name}.json"
        process = start(self.arguments(out, report, folder))
        return ended(process, _START_S + _FILE_S * len(paths)), out, report

    def learn(self, intact: Sequence[Intact]) -> None:
        """Take the rows of the intact recordings for the truth.

        Raises:
            BceError: there is something wrong with them already.
        """
        end, out, report = self.run("intact", [recording.path for recording in intact])
        if end.code:
            raise BceError(f"the run over intact recordings ended with code {end.code}: {end.last_line}", self.folder)
        self.truth = read_rows(out)
        bad = [stem for stem, entry in read_report(report).items() if entry["status"] != "ok"]
        if bad or set(self.truth) != {recording.path.stem for recording in intact}:
            raise BceError(f"the run over intact recordings is not right: {bad or 'rows are missing'}", self.folder)

    def judge(self, victims: Sequence[Victim], say: Callable[[str], None] = lambda line: None) -> list[Verdict]:
        """Run damaged recordings in batches, and judge each."""
        kept = {victim.intact.path: victim.intact for victim in victims}
        intact = list(kept.values())
        verdicts: list[Verdict] = []
        for number, first in enumerate(range(0, len(victims), _A_BATCH)):
            say(f"damaged recordings {first} to {min(first + _A_BATCH, len(victims))} of {len(victims)}")
            healthy = [intact[(number + step) % len(intact)] for step in range(_INTACT_OF_A_BATCH)]
            verdicts += self._batch(f"batch_{number:02}", victims[first : first + _A_BATCH], healthy)
        say("the rows in which recordings end")
        return self.settle(verdicts)

    def _batch(self, name: str, victims: Sequence[Victim], intact: Sequence[Intact]) -> list[Verdict]:
        end, out, report = self.run(name, [*(v.path for v in victims), *{recording.path for recording in intact}])
        try:
            rows, entries = self._whole(end, out, report, victims, intact)
        except (ValueError, OSError, KeyError) as error:
            if len(victims) == 1:
                return [_lost(victims[0], str(error))]
            half = len(victims) // 2
            found = self._batch(f"{name}a", victims[:half], intact) + self._batch(f"{name}b", victims[half:], intact)
            if all(verdict.fate != "lost" for verdict in found):  # only together do they do it
                found[0] = _lost(victims[0], f"{error} (with {len(victims) - 1} others)")
            return found
        return [self._verdict(victim, rows.get(victim.name), entries[victim.name]) for victim in victims]

    def _whole(
        self, end: Ended, out: Path, report: Path, victims: Sequence[Victim], intact: Sequence[Intact]
    ) -> tuple[Rows, dict[str, dict[str, Any]]]:
        """Table and report of a run that was not lost.

        Raises:
            ValueError, OSError, KeyError: it was.
        """
        if end.hung:
            raise ValueError("hangs")
        if end.traceback or end.code not in (0, 3):
            raise ValueError(f"ended with code {end.code}: {end.last_line}")
        rows, entries = read_rows(out), read_report(report)
        names = {victim.name for victim in victims} | {recording.path.stem for recording in intact}
        if set(entries) != names:
            raise ValueError(f"the report lacks {sorted(names - set(entries))[:1]} or has too many")
        for name, entry in entries.items():
            if entry["rows"] != len(rows.get(name, ())):
                raise ValueError(f"{name} has {len(rows.get(name, ()))} rows, the report says {entry['rows']}")
        filled = sum(entry["filled"] for entry in entries.values())
        if end.code != (3 if filled else 0):
            raise ValueError(f"ended with code {end.code} with {filled} rows filled")
        for recording in intact:
            stem = recording.path.stem
            if entries[stem]["status"] != "ok" or not _same(rows[stem], self.truth[stem]).all():
                raise ValueError(f"rows of the intact {stem} are wrong")
        return rows, entries

    def _verdict(self, victim: Victim, rows: np.ndarray | None, entry: dict[str, Any]) -> Verdict:
        truth = self.truth[victim.intact.path.stem]
        total = 0 if rows is None else len(rows)
        computed = total - entry["filled"]
        status = entry["status"]
        wrong: tuple[int, ...] = ()
        if rows is not None:
            compared = min(computed, len(truth))
            right = _same(rows[:compared], truth[:compared])
            short = range(total, len(truth)) if status == "ok" else ()
            wrong = (*map(int, np.flatnonzero(~right)), *range(compared, computed), *short)
            last = computed - 1
            # of a recording that is said to end early, the last row is that of the audio before the end
            if status != "ok" and last in wrong and self.chunk_s * (last + 1) > entry["delivered_s"] - MARGIN_S:
                self.ends.append(_End(victim, last, entry["delivered_s"], rows[last]))
        return Verdict(
            **_who(victim),
            fate=_fate(status, computed, wrong),
            status=status,
            reason=entry["reason"],
            intact_rows=len(truth),
            rows=total,
            computed=computed,
            wrong=wrong,
            displaced=self._displaced(victim, wrong),
            bloated=total > _MANY * max(map(len, self.truth.values())),
        )

    def _displaced(self, victim: Victim, wrong: Sequence[int]) -> int:
        # a row more: where bytes are not time, what was touched is known about
        behind = victim.touched_s[1] / self.chunk_s + 1
        return sum(row >= behind for row in wrong)

    def settle(self, verdicts: Sequence[Verdict]) -> list[Verdict]:
        """Compare the rows in which recordings are said to end with the intact audio cut there, and mend verdicts."""
        folder = self.folder / "cut"
        folder.mkdir()
        paths: dict[str, Path] = {}
        for end in self.ends:
            audio, rate = soundfile.read(end.victim.intact.path, dtype="float32", always_2d=True)
            # from the row before on, so that a resampler has begun
            first = round(max(0.0, (end.row - 1) * self.chunk_s) * rate)
            stop = round(end.end_s * rate)
            if stop > first and first < len(audio):
                paths[end.victim.name] = folder / f"{end.victim.name}.wav"
                soundfile.write(paths[end.victim.name], audio[first:stop], rate, "FLOAT")
        if not paths:
            return list(verdicts)
        ran, out, _ = self.run("ends", list(paths.values()))
        if ran.code:
            raise BceError(f"the run over cut recordings ended with code {ran.code}: {ran.last_line}", self.folder)
        rows = read_rows(out)
        right = {
            end.victim.name: end
            for end in self.ends
            if end.victim.name in rows and np.abs(rows[end.victim.name][min(end.row, 1)] - end.found).max() <= ALIKE
        }
        return [self._mended(verdict, right.get(verdict.name)) for verdict in verdicts]

    def _mended(self, verdict: Verdict, right: _End | None) -> Verdict:
        if right is None:
            return verdict
        wrong = tuple(row for row in verdict.wrong if row != right.row)
        fate, displaced = _fate(verdict.status, verdict.computed, wrong), self._displaced(right.victim, wrong)
        return replace(verdict, wrong=wrong, fate=fate, displaced=displaced)


def _same(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Which rows are the same, up to the shorter one."""
    shorter = min(len(a), len(b))
    return np.abs(a[:shorter] - b[:shorter]).max(axis=1, initial=0.0) <= SAME if len(a) == len(b) else np.array([False])


def _fate(status: str, computed: int, wrong: Sequence[int]) -> str:
    if status == "ok":
        return "wrong" if wrong else "right"
    if not computed:
        return "failed"
    return "flagged wrong" if wrong else "flagged"


def _who(victim: Victim) -> dict[str, Any]:
    form: Form = victim.intact.form
    return {"name": victim.name, "damage": victim.damage, "form": form.name, "checked": form.checked}


def _lost(victim: Victim, why: str) -> Verdict:
    return Verdict(**_who(victim), fate="lost", reason=why)

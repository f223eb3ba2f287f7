"""``bce-bench attack``: damaged recordings, killed runs, full disks; what came of each, counted."""

from __future__ import annotations

import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypeVar

from bce.bench.attack_files import Bench, Verdict
from bce.bench.attack_places import Scenario
from bce.bench.attack_recordings import (
    FORMS,
    Intact,
    Victim,
    victim_name,
    write_intact,
    write_victim,
)
from bce.bench.attack_runs import run_scenarios
from bce.bench.attack_tables import FATES, LEFT
from bce.bench.machine import Watch
from bce.bench.machine import describe as describe_machine
from bce.bench.materials import Work, describe
from bce.engine.errors import OptionsError
from bce.engine.network.bundle import Bundle
from bce.engine.network.default import bundle_path

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class AttackOptions:
    """What to attack.

    Attributes:
        given_bundle: a bundle with a head; None for the embedded one.
        seed: of everything that is random.
        repeats: damaged files of each format and damage.
        kills, signals, faults: runs that are killed; interrupted by each signal; of each other fault.
        every: of the damaged files, every so many-th only.
        only: of the damaged files, those whose name fits this pattern; no runs are killed then.
        keep: a folder to leave the recordings in; None leaves none.
        threads: of a run.
    """

    given_bundle: Path | None = None
    seed: int = 1
    repeats: int = 10
    kills: int = 60
    signals: int = 15
    faults: int = 8
    every: int = 1
    only: str | None = None
    keep: Path | None = None
    threads: int = 2

    def __post_init__(self) -> None:
        if min(self.repeats, self.every, self.threads) < 1:
            raise OptionsError("repeats, every and threads must be 1 or more")
        if min(self.seed, self.kills, self.signals, self.faults) < 0:
            raise OptionsError("seed, kills, signals and faults must be 0 or more")
        if self.keep is not None and self.keep.exists():
            raise OptionsError("exists already: name a folder to be made", self.keep)

    @classmethod
    def quick(cls, **more: Any) -> AttackOptions:
        """A smoke test: some forty files, a few runs."""
        return cls(**{"repeats": 2, "every": 7, "kills": 2, "signals": 1, "faults": 1} | more)


_INTACT = 5
"""Intact recordings of each format."""


def attack(options: AttackOptions, work: Work) -> dict[str, Any]:
    """Attack the engine; the same seed damages the same bytes, the moments of kills are as even as the machine is."""
    made = Bundle.load(bundle_path(options.given_bundle))
    machine, watch, began = describe_machine(), Watch(), time.monotonic()
    work.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="attack-", dir=work.folder.resolve()) as name:
        folder = Path(name)
        bench = Bench(made.path, made.manifest.grid.chunk_s, folder, options.threads)
        work.say("making recordings")
        intact, victims = recordings(options, _made(options.keep or folder / "recordings"), made)
        bench.learn(intact)
        verdicts = bench.judge(victims, work.say)
        files_s = time.monotonic() - began
        scenarios = (
            []
            if options.only
            else run_scenarios(bench, intact, options.seed, options.kills, options.signals, options.faults, work.say)
        )
    return {
        "kind": "attack",
        "machine": machine,
        "weights": describe(made),
        "seed": options.seed,
        "files": len(victims),
        "intact": len(intact),
        "counts": counts(verdicts),
        "runs": run_counts(scenarios),
        "broken": [verdict.to_json() for verdict in verdicts if verdict.broken],
        "broken_runs": [scenario.to_json() for scenario in scenarios if scenario.broken],
        "peak_bytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
        "files_s": round(files_s, 1),
        "wall_s": round(time.monotonic() - began, 1),
        "load": watch.stop(),
    }


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder.resolve()


def recordings(options: AttackOptions, folder: Path, bundle: Bundle) -> tuple[list[Intact], list[Victim]]:
    """Write the intact recordings and their damaged copies.

    Raises:
        OptionsError: no name fits the pattern.
    """
    rate = bundle.manifest.window.sample_rate
    recipes = [
        (form, how, number) for form in FORMS.values() for how in form.damages for number in range(options.repeats)
    ]
    if options.only is not None:
        recipes = [recipe for recipe in recipes if fnmatch(victim_name(*recipe), options.only)]
    if not recipes:
        raise OptionsError(f"no damaged file is called '{options.only}': names are such as vorbis-cut-03")
    hosts: dict[tuple[str, int], Intact] = {}
    victims: list[Victim] = []
    for form, how, number in recipes[:: options.every]:
        key = (form.name, number % _INTACT)  # damages of one kind meet every recording in turn
        if key not in hosts:
            hosts[key] = write_intact(folder, form, key[1], options.seed, rate)
        victims.append(write_victim(folder, hosts[key], how, number, options.seed))
    return list(hosts.values()), victims


def counts(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Of each format and damage: files, their fates, and the share of the intact recordings' rows that is right."""
    found = []
    for (form, checked, how), group in _grouped(verdicts, lambda one: (one.form, one.checked, one.damage)):
        fates = Counter(verdict.fate for verdict in group)
        found.append(
            {
                "form": form,
                "checked": checked,
                "damage": how,
                "files": len(group),
                **{fate: fates[fate] for fate in FATES},
                "displaced": sum(verdict.displaced > 0 for verdict in group),
                "broken": sum(verdict.broken for verdict in group),
                "intact_rows": sum(verdict.intact_rows for verdict in group),
                "right_rows": sum(verdict.right_rows for verdict in group),
            }
        )
    return found


def run_counts(scenarios: Sequence[Scenario]) -> list[dict[str, Any]]:
    """Of each thing that happened to runs: how many, what they left where all promises held, and where not."""
    found = []
    for kind, group in _grouped(scenarios, lambda one: one.kind):
        left = Counter(scenario.left for scenario in group if not scenario.broken)
        broken = sum(scenario.broken is not None for scenario in group)
        found.append({"kind": kind, "runs": len(group), **{name: left[name] for name in LEFT}, "broken": broken})
    return found


def _grouped(items: Sequence[Item], key: Callable[[Item], Key]) -> Iterator[tuple[Key, list[Item]]]:
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    yield from groups.items()

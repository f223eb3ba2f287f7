"""``bce-bench startup``: how long until ``bce-infer`` answers, and until its first window is done."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from bce.bench.figures import figure, read_json
from bce.bench.machine import Watch
from bce.bench.machine import describe as describe_machine
from bce.bench.materials import Work, bundle, describe, model_file
from bce.bench.processes import infer_command, run
from bce.engine.errors import OptionsError


@dataclass(frozen=True)
class StartupOptions:
    """What to start.

    Attributes:
        given_bundle: a bundle with a head; None makes one.
        perch: what it is made from; None for a stand-in.
        repeats: at least 1.
    """

    given_bundle: Path | None = None
    perch: Path | None = None
    repeats: int = 7

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise OptionsError(f"repeats is {self.repeats}: it must be at least 1")


def startup(options: StartupOptions, work: Work) -> dict[str, Any]:
    """Time ``bce-infer --help``, and runs over one window: the first with an empty kernel cache, then warm ones."""
    made = bundle(work, options.given_bundle, lambda: model_file(work, options.perch))
    machine, watch = describe_machine(), Watch()
    work.say("bce-infer --help")
    helps = [run(infer_command("--help"), sample_s=10.0).wall_s for _ in range(options.repeats + 1)][1:]
    firsts: list[float] = []
    walls: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shape = made.manifest.window
        sound = (0.1 * np.random.default_rng(0).standard_normal(shape.samples)).astype(np.float32)
        window, report = folder / "BC0000_Bench_00001_S01_20250101_000000.wav", folder / "report.json"
        soundfile.write(window, sound, shape.sample_rate)
        command = infer_command("--bundle", made.path, "--threads", "1", "--shifts", "1", "--quiet")
        command += ["--out", str(folder / "out.csv"), "--report", str(report), str(window)]
        for number in range(options.repeats + 1):
            work.say(f"one window, run {number}" + (" (compiles)" if not number else ""))
            # long waits between looks at the memory: a look takes time from a run this short
            ran = run(command, environment={"NUMBA_CACHE_DIR": str(folder / "kernels")}, sample_s=10.0)
            walls.append(ran.wall_s)
            firsts.append(read_json(report, kind=False)["totals"]["first_result_s"])
    return {
        "kind": "startup",
        "machine": machine,
        "weights": describe(made),
        "repeats": options.repeats,
        "help_s": figure(helps).to_json(),
        "compiling": {"first_window_s": firsts[0], "wall_s": walls[0]},
        "warm": {"first_window_s": figure(firsts[1:]).to_json(), "wall_s": figure(walls[1:]).to_json()},
        "load": watch.stop(),
    }

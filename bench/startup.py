"""``bce-bench startup``: how long until ``bce-infer`` answers, and until its first window is done."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from bce.bench.budget_report import form_of
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


BACKENDS = ("auto", "onnxruntime")


def startup(options: StartupOptions, work: Work) -> dict[str, Any]:
    """Time ``bce-infer --help``, and runs over one window: with empty caches of kernels, and with those it left."""
    made = bundle(work, options.given_bundle, lambda: model_file(work, options.perch))
    machine, watch = describe_machine(), Watch()
    work.say("bce-infer --help")
    helps = [run(infer_command("--help"), sample_s=10.0).wall_s for _ in range(options.repeats + 1)][1:]
    times: dict[tuple[str, str], list[tuple[float, float]]] = {}
    forms: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shape = made.manifest.window
        sound = (0.1 * np.random.default_rng(0).standard_normal(shape.samples)).astype(np.float32)
        window, report = folder / "BC0000_Bench_00001_S01_20250101_000000.wav", folder / "report.json"
        soundfile.write(window, sound, shape.sample_rate)
        command = infer_command("--bundle", made.path, "--threads", "1", "--shifts", "1", "--quiet")
        command += ["--out", str(folder / "out.csv"), "--report", str(report), str(window)]
        for number in range(options.repeats + 1):
            work.say(f"one window, round {number} of {options.repeats}" + (" (warm-up, dropped)" if not number else ""))
            for backend in BACKENDS:
                caches = folder / f"caches_{backend}_{number}"
                places = {"NUMBA_CACHE_DIR": str(caches / "numba"), "XDG_CACHE_HOME": str(caches)}
                for state in ("cold", "warm"):
                    # long waits between looks at the memory: a look takes time from a run this short
                    ran = run([*command, "--backend", backend], environment=places, sample_s=10.0)
                    found = read_json(report, kind=False)
                    forms[backend] = form_of(found["backbone"])
                    if number:
                        times.setdefault((backend, state), []).append((found["totals"]["first_result_s"], ran.wall_s))
    return {
        "kind": "startup",
        "machine": machine,
        "weights": describe(made),
        "repeats": options.repeats,
        "help_s": figure(helps).to_json(),
        "starts": [
            {
                "form": forms[backend],
                "state": state,
                "first_window_s": figure([first for first, _ in of_start]).to_json(),
                "wall_s": figure([wall for _, wall in of_start]).to_json(),
            }
            for (backend, state), of_start in times.items()
        ],
        "load": watch.stop(),
    }

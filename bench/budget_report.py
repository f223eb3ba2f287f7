"""``bce-bench budget``: from a measured run on this machine to the minutes that a whole job takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bce.bench.backbones import has_kernels
from bce.bench.figures import read_json
from bce.bench.machine import Watch
from bce.bench.machine import describe as describe_machine
from bce.bench.materials import Work, bundle, describe, model_file, recordings
from bce.bench.processes import infer_command, run
from bce.engine.errors import BceError, OptionsError
from bce.engine.network.backbone import NAMES
from bce.engine.network.bundle import Bundle
from bce.engine.network.runtimes import RUNS
from bce.engine.run.engine import usable_cpus

STAGES = ("decode", "frontend", "inference", "postprocess", "write")
BUDGET_MINUTES = 90


@dataclass(frozen=True)
class BudgetReportOptions:
    """What to measure and what to predict.

    Attributes:
        files: recordings of the whole job.
        measure: recordings of the measured run, at least 1; from 20 on the prediction is worth something.
        given_bundle: a bundle with a head; None makes one.
        perch: what it is made from; None for a stand-in.
        audio: recordings and folders; empty for synthetic soundscapes of a minute.
        threads: at least 1.
        shifts: sizes of shift sets to measure.
        precisions: of the bundle that is made; a given one is measured in all that it has.
        backends: what runs the backbone, of those that have the precision.
    """

    files: int = 600
    measure: int = 20
    given_bundle: Path | None = None
    perch: Path | None = None
    audio: tuple[Path, ...] = ()
    threads: int = field(default_factory=usable_cpus)
    shifts: tuple[int, ...] = (5, 3, 1)
    precisions: tuple[str, ...] = ("fp32",)
    backends: tuple[str, ...] = ("auto", "onnxruntime")

    def __post_init__(self) -> None:
        for name in ("files", "measure", "threads"):
            if getattr(self, name) < 1:
                raise OptionsError(f"{name} is {getattr(self, name)}: it must be at least 1")


def budget(options: BudgetReportOptions, work: Work) -> dict[str, Any]:
    """Run ``bce-infer`` over real-length recordings for each precision and number of shifts, and predict.

    The first run of each only warms up caches (compiled kernels, files) and is not kept.
    """
    made = bundle(work, options.given_bundle, lambda: model_file(work, options.perch), options.precisions)
    folder = recordings(work, options.audio, options.measure)
    machine, watch = describe_machine(), Watch()
    out, report = work.folder / "budget.csv", work.folder / "budget_run.json"

    def once(precision: str, backend: str, shifts: int) -> dict[str, Any]:
        work.say(f"{precision}, {backend}, {shifts} shifts: {options.measure} recordings, {options.threads} threads")
        command = infer_command("--bundle", made.path, "--threads", str(options.threads), "--shifts", str(shifts))
        command += [
            "--precision",
            precision,
            "--backend",
            backend,
            "--out",
            str(out),
            "--report",
            str(report),
            "--quiet",
            str(folder),
        ]
        ran = run(command)
        out.unlink()
        found = read_json(report, kind=False)
        row = split(found["totals"], found["thread_seconds"], options.threads, options.files)
        return {
            "precision": precision,
            "form": form_of(found["backbone"]),
            "shifts": shifts,
            **row,
            "wall_s": ran.wall_s,
            "busy_threads": ran.busy_threads,
            "peak_bytes": ran.peak_bytes,
        }

    absent: dict[str, str] = {}
    rows = []
    for precision, backend in ways_to_run(made, options.backends):
        try:
            once(precision, backend, 1)
        except BceError as error:
            absent[f"{precision}, {backend}"] = error.reason
            continue
        rows += [once(precision, backend, shifts) for shifts in options.shifts]
    if not rows:
        raise OptionsError("; ".join(absent.values()))
    return {
        "kind": "budget",
        "machine": machine,
        "weights": describe(made),
        "files": options.files,
        "measured": options.measure,
        "audio": [str(path) for path in options.audio],
        "threads": options.threads,
        "budget_minutes": BUDGET_MINUTES,
        "runs": rows,
        "absent": absent,
        "load": watch.stop(),
    }


def ways_to_run(made: Bundle, backends: Sequence[str]) -> list[tuple[str, str]]:
    """Precision and backend of each way: all of the bundle's precisions and bfloat16, on each backend that has them.

    int8 is for ONNX Runtime, for the kernels, or for both. Where it has no kernels, it runs in ONNX Runtime by itself:
    that is not measured twice.
    """
    precisions = ["fp32", "bf16", *(precision for precision in made.precisions if precision != "fp32")]
    found = [(precision, backend) for precision in precisions for backend in backends if precision in RUNS[backend]]
    return [
        (precision, backend)
        for precision, backend in found
        if backend != "onnxruntime"
        or (precision in made.manifest.variants and (has_kernels(made, precision) or "auto" not in backends))
    ]


def form_of(backbone: dict[str, Any]) -> str:
    """What ran a backbone, out of a run's report: "compiled fp32, avx512" or "ONNX Runtime int8"."""
    isa = f", {backbone['isa']}" if "isa" in backbone else ""
    return f"{NAMES[backbone['backend']]} {backbone['precision']}{isa}"


def split(totals: dict[str, Any], seconds: dict[str, float], threads: int, files: int) -> dict[str, Any]:
    """Where the time of a run went, and how long more of the same takes.

    Args:
        totals: of a run's report: recordings, windows, audio_s, wall_s, ready_s.
        seconds: thread-seconds of each stage.
        threads: of the run.
        files: of the job to predict.

    Returns:
        per stage ms a window and share of the threads' time while the run was going, start-up left out; what no stage
        accounts for is "waiting". The prediction is start-up once and the rest in proportion to the recordings.
    """
    running_s = totals["wall_s"] - totals["ready_s"]
    stages = {name: seconds[name] for name in STAGES}
    stages["waiting"] = max(0.0, threads * running_s - sum(stages.values()))
    startup_s = totals["ready_s"]
    minutes = (startup_s + running_s * files / totals["recordings"]) / 60
    return {
        "windows": totals["windows"],
        "running_s": running_s,
        "startup_s": startup_s,
        "stages": {
            name: {"ms_per_window": 1e3 * value / totals["windows"], "share": value / (threads * running_s)}
            for name, value in stages.items()
        },
        "ms_per_window": 1e3 * running_s / totals["windows"],
        "times_real_time": totals["audio_s"] / running_s,
        "minutes": minutes,
        "share_of_budget": minutes / BUDGET_MINUTES,
    }

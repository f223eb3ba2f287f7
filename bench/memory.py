"""``bce-bench memory``: resident memory of ``bce-infer`` over many short recordings and over one very long one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bce.bench.budget_report import form_of
from bce.bench.figures import read_json, slope
from bce.bench.machine import Watch
from bce.bench.machine import describe as describe_machine
from bce.bench.materials import Work, bundle, describe, linked, long_recording, model_file, recordings
from bce.bench.processes import ProcessRun, infer_command, run
from bce.engine.audio.recordings import audio_files
from bce.engine.errors import OptionsError

_SOURCES = 6
"""Distinct recordings behind the many links."""
_LOOK_S = 0.25
_KEPT = 200
"""Points of the curve that are kept."""


@dataclass(frozen=True)
class MemoryOptions:
    """What to run.

    Attributes:
        given_bundle: a bundle with a head; None makes one.
        perch: what it is made from; None for a stand-in.
        files: one-minute recordings; 0 leaves them out.
        hours: length of the long recording; 0 leaves it out.
        threads: at least 1.
        shifts, long_shifts: shifts of the many and of the long one.
        precision: of the backbone.
        backends: what runs it, one after the other.
    """

    given_bundle: Path | None = None
    perch: Path | None = None
    files: int = 600
    hours: float = 24.0
    threads: int = 4
    shifts: int = 5
    long_shifts: int = 1
    precision: str = "fp32"
    backends: tuple[str, ...] = ("auto", "onnxruntime")

    def __post_init__(self) -> None:
        if self.files < 0 or self.hours < 0 or self.threads < 1:
            raise OptionsError("files and hours must be 0 or more, threads 1 or more")


def memory(options: MemoryOptions, work: Work) -> dict[str, Any]:
    """Measure both; the table is written as parquet for the long one, which streams, and as CSV for the many."""
    made = bundle(work, options.given_bundle, lambda: model_file(work, options.perch))
    jobs: list[tuple[str, Path, int, str]] = []
    if options.files:
        sources = sorted(audio_files(recordings(work, None, _SOURCES)))
        many = linked(work, sources, options.files)
        jobs.append((f"{options.files} recordings of a minute", many, options.shifts, ".csv"))
    if options.hours:
        day = long_recording(work, options.hours, made.manifest.window.sample_rate)
        jobs.append((f"one recording of {options.hours:g} hours", day, options.long_shifts, ".parquet"))
    machine, watch = describe_machine(), Watch()
    rows = []
    for name, path, shifts, suffix in jobs:
        for backend in options.backends:
            work.say(f"{name}, {shifts} shifts, {options.threads} threads, {backend}")
            out, report = work.folder / f"memory{suffix}", work.folder / "memory_run.json"
            command = infer_command("--bundle", made.path, "--threads", str(options.threads), "--shifts", str(shifts))
            command += ["--precision", options.precision, "--backend", backend, "--out", str(out)]
            ran = run([*command, "--report", str(report), "--quiet", str(path)], sample_s=_LOOK_S)
            out.unlink()
            found = read_json(report, kind=False)
            row = {"name": name, "form": form_of(found["backbone"]), "shifts": shifts}
            rows.append({**row, "windows": found["totals"]["windows"], **curve(ran)})
    return {
        "kind": "memory",
        "machine": machine,
        "weights": describe(made),
        "threads": options.threads,
        "precision": options.precision,
        "runs": rows,
        "load": watch.stop(),
    }


def curve(ran: ProcessRun) -> dict[str, Any]:
    """Peak, growth and shape of a program's memory over time.

    The growth is the slope of a line through the second half, when all is loaded, without the end, when all is let go.
    """
    times, sizes = np.asarray(ran.time_s, float), np.asarray(ran.rss_bytes, float)
    late = (times >= ran.wall_s / 2) & (times <= 0.95 * ran.wall_s)
    steps = np.unique(np.linspace(0, len(times) - 1, _KEPT).astype(int)) if len(times) else np.empty(0, int)
    return {
        "wall_s": ran.wall_s,
        "busy_threads": ran.busy_threads,
        "peak_bytes": ran.peak_bytes,
        "growth_bytes_per_s": slope(times[late], sizes[late]),
        "at": {
            f"{share:.0%}": float(np.interp(share * ran.wall_s, times, sizes)) if len(times) else None
            for share in (0.1, 0.25, 0.5, 0.75, 0.95)
        },
        "time_s": times[steps].round(2).tolist(),
        "rss_bytes": sizes[steps].astype(int).tolist(),
    }

"""What a run says of itself: counts for the last line, and ``--report run.json``."""

from __future__ import annotations

import os
import platform
import sys
from collections import Counter
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from bce.engine.files import write_json
from bce.engine.recording import Recording
from bce.engine.results import Outcome, StageSeconds
from bce.engine.run.progress import duration


@dataclass
class RunReport:
    """Grows with the run; :meth:`write` makes the JSON.

    Attributes:
        settings: what was asked for and what follows from it.
        bundle: name, identity, source, geometry and notice of the bundle.
        backbone: what ran it, :meth:`bce.engine.network.backbone.BackboneForm.record`; None where nothing was run.
        sample_rate: of the bundle's windows, in Hz.
        recordings: one entry per recording, in order.
        ranged: whether a range model was applied.
        rows, filled: rows of the table, and how many of them were filled because they could not be computed.
        detections: how many were written; None where none were asked for.
        missing: recordings of the sample submission that were not there.
        passed_over: what the walk of the folders went past, and why, a line each.
        written: the tables that were written.
        interrupted: the signal that ended the run early, if one did.
        wall_s: from the start of the process's work to the finished table.
        ready_s: from there until the first recording was begun: reading tables, loading the graphs.
        first_result_s: from the start of the process to the first part of a recording; None before there is one.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    bundle: dict[str, Any] = field(default_factory=dict)
    backbone: dict[str, Any] | None = None
    sample_rate: int | None = None
    recordings: list[dict[str, Any]] = field(default_factory=list)
    ranged: bool = False
    rows: int = 0
    filled: int = 0
    detections: int | None = None
    missing: list[str] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)
    written: list[Path] = field(default_factory=list)
    interrupted: str | None = None
    stages: StageSeconds = field(default_factory=StageSeconds)
    postprocess_s: float = 0.0
    write_s: float = 0.0
    audio_s: float = 0.0
    windows: int = 0
    wall_s: float = 0.0
    ready_s: float = 0.0
    first_result_s: float | None = None

    def add(self, recording: Recording, outcome: Outcome, expected: int, computed: int, **more: Any) -> None:
        """Count a recording: rows expected of it and rows computed, and whatever else belongs to its entry."""
        self.stages += outcome.seconds
        self.audio_s += outcome.delivered_s
        self.windows += outcome.windows
        self.recordings.append(
            {
                "recording": recording.path_text,
                "status": outcome.status,
                "reason": outcome.reason,
                "notes": list(outcome.notes),
                "rows": expected,
                "filled": expected - computed,
                "chunks_by_shifts": outcome.chunks_by_shifts,
                "windows": outcome.windows,
                "resampled_from": None if outcome.source_rate == self.sample_rate else outcome.source_rate,
                "promised_s": outcome.promised_s,
                "delivered_s": round(outcome.delivered_s, 3),
                **more,
            }
        )

    @property
    def statuses(self) -> Counter[str]:
        """How many recordings ended in each status."""
        return Counter(entry["status"] for entry in self.recordings)

    @property
    def bad(self) -> list[dict[str, Any]]:
        """The entries of recordings that are not ok."""
        return [entry for entry in self.recordings if entry["status"] != "ok"]

    @property
    def exit_code(self) -> int:
        """0 all done, 3 complete but rows were filled or recordings not heard whole, 130 interrupted."""
        if self.interrupted:
            return 130
        unheard = self.detections is not None and bool(self.bad)
        return 3 if self.filled or self.missing or unheard else 0

    def ranges(self) -> str:
        """How many recordings the range model knew a place and a date of, in a line; empty where it was not asked."""
        if not self.ranged:
            return ""
        bases = [entry["range_from"] for entry in self.recordings if entry.get("range_from") is not None]
        dated = sum(basis["week"] is not None for basis in bases)
        hint = "" if dated or not bases else " (their names tell no date that is read: see --name-pattern)"
        return (
            f"range: {len(bases)} of {len(self.recordings)} recordings have a place, {dated} of them a week too{hint}"
        )

    def last_line(self) -> str:
        """Counts, time and speed in one line."""
        counts = self.statuses
        bad = ", ".join(
            f"{counts[name]} {name.replace('_', ' ')}" for name in ("short_read", "failed", "not_run") if counts[name]
        )
        speed = self.audio_s / self.wall_s if self.wall_s else 0.0
        rows = f"{self.rows} rows{f', {self.filled} of them filled' if self.filled else ''}"
        written = [rows] if self.rows or self.detections is None else []
        written += [] if self.detections is None else [f"{self.detections} detections"]
        return (
            f"{sum(counts.values())} recordings ({counts['ok']} ok{', ' + bad if bad else ''}), "
            f"{', '.join(written)}, {self.windows} windows,"
            f" {duration(self.wall_s)}, {speed:.1f}x real time"
        )

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the report as JSON, beside and then renamed."""
        content = {
            "settings": self.settings,
            "bundle": self.bundle,
            "backbone": self.backbone,
            "versions": versions(),
            "totals": {
                "recordings": len(self.recordings),
                **self.statuses,
                "rows": self.rows,
                "filled": self.filled,
                "detections": self.detections,
                "windows": self.windows,
                "audio_s": round(self.audio_s, 3),
                "wall_s": round(self.wall_s, 3),
                "ready_s": round(self.ready_s, 3),
                "first_result_s": None if self.first_result_s is None else round(self.first_result_s, 3),
                "interrupted": self.interrupted,
            },
            # threads work side by side, so these add up to about threads x wall
            "thread_seconds": {
                "decode": round(self.stages.decode, 3),
                "frontend": round(self.stages.frontend, 3),
                "inference": round(self.stages.inference, 3),
                "postprocess": round(self.postprocess_s, 3),
                "write": round(self.write_s, 3),
            },
            "missing_recordings": self.missing,
            "passed_over": self.passed_over,
            "recordings": self.recordings,
        }
        write_json(path, content, indent=1)


def versions() -> dict[str, str]:
    """Versions of what a run's numbers depend on, and the machine."""
    found = {"python": platform.python_version(), "platform": platform.platform(), "machine": platform.machine()}
    for name in ("bce", "numpy", "scipy", "numba", "llvmlite", "onnxruntime", "soundfile", "soxr", "pyarrow"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    if "soundfile" in sys.modules:
        found["libsndfile"] = sys.modules["soundfile"].__libsndfile_version__
    return found

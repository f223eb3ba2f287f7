"""Whole programs, start-up included: a folder of ogg files to submission.csv at five shifts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bce.bench.figures import figure, ratio, read_json
from bce.bench.materials import Work
from bce.bench.processes import infer_command, run
from bce.engine.audio.recordings import audio_files
from bce.engine.errors import BceError
from bce.engine.geometry import SHIFT_SETS
from bce.engine.network.backbone import NAMES
from bce.engine.network.bundle import Bundle

STOCK_SCRIPT = "stock script"


def end_to_end(
    work: Work,
    model: Path,
    made: Bundle,
    folder: Path,
    recordings: int,
    rounds: int,
    threads: Sequence[int],
    ways: Sequence[tuple[str, str]],
) -> dict[str, Any]:
    """Measure them in interleaved rounds; a first one warms up the caches and is dropped.

    Args:
        work: where tables and links go.
        model: the published graph, for the stock script.
        made: the bundle.
        folder: of recordings.
        recordings: how many of them.
        rounds: that are kept.
        threads: each at least 1.
        ways: precision and backend of each ``bce-infer``.
    """
    some = work.folder / "end_to_end"
    some.mkdir(exist_ok=True)
    for old in some.iterdir():
        old.unlink()
    for path in sorted(audio_files(folder))[:recordings]:
        (some / path.name).symlink_to(path.resolve())
    out, report = work.folder / "end_to_end.csv", work.folder / "end_to_end.json"
    shifts = ",".join(f"{shift:g}" for shift in SHIFT_SETS[5])
    programs: list[tuple[str, int, list[str]]] = []
    for count in threads:
        stock = [sys.executable, str(Path(__file__).with_name("stock.py")), str(some), "--model", str(model)]
        stock += ["--threads", str(count), f"--shifts={shifts}", "--out", str(out)]
        programs.append((STOCK_SCRIPT, count, stock))
        for precision, backend in ways:
            ours = infer_command("--bundle", made.path, "--threads", str(count), "--shifts", "5", "--quiet")
            ours += ["--precision", precision, "--backend", backend]
            ours += ["--out", str(out), "--report", str(report), str(some)]
            programs.append((program_name(precision, backend), count, ours))
    walls: list[list[float]] = [[] for _ in programs]
    cpus: list[list[float]] = [[] for _ in programs]
    readys: list[list[float]] = [[] for _ in programs]
    peaks = [0] * len(programs)
    rows, windows = -1, 0
    for number in range(rounds + 1):
        work.say(f"end to end, round {number} of {rounds}" + (" (warm-up)" if not number else ""))
        for index, (name, count, command) in enumerate(programs):
            # the stock script has nothing to warm up but the file cache, which the others warm as well
            if not number and name == STOCK_SCRIPT:
                continue
            ran = run(command)
            rows = _same_rows(out, rows, f"{name} at {count} threads")
            peaks[index] = max(peaks[index], ran.peak_bytes)
            if not number:
                continue
            walls[index].append(ran.wall_s)
            cpus[index].append(ran.cpu_s)
            if name != STOCK_SCRIPT:
                totals = read_json(report, kind=False)["totals"]
                windows = totals["windows"]
                readys[index].append(ran.wall_s - totals["wall_s"] + totals["ready_s"])
    found = []
    for index, (name, count, _) in enumerate(programs):
        row: dict[str, Any] = {
            "name": name,
            "threads": count,
            "seconds": walls[index],
            "figure": figure(walls[index]).to_json(),
            "cpu_s": figure(cpus[index]).to_json(),
            "peak_bytes": peaks[index],
        }
        if readys[index]:
            row["startup_s"] = figure(readys[index]).to_json()
        stock_at = next(i for i, p in enumerate(programs) if p[:2] == (STOCK_SCRIPT, count))
        if stock_at != index:
            row["times_stock"] = ratio(walls[stock_at], walls[index]).to_json()
        found.append(row)
    return {
        "recordings": recordings,
        "rows": rows,
        "windows_stock": rows * len(SHIFT_SETS[5]),
        "windows_bce": windows,
        "rounds": rounds,
        "programs": found,
    }


def program_name(precision: str, backend: str) -> str:
    """The name of a ``bce-infer``: what nobody has to ask for is not said."""
    return f"bce-infer {precision}" if backend == "auto" else f"bce-infer {precision}, {NAMES[backend]}"


def _same_rows(table: Path, rows: int, who: str) -> int:
    """Rows of a score table; all programs must write as many."""
    with open(table, encoding="utf-8") as file:
        found = sum(1 for _ in file) - 1
    table.unlink()
    if rows not in (-1, found):
        raise BceError(f"{who} wrote {found} rows, the one before it {rows}")
    return found

"""``bce-bench peers``: the stock graph, other runtimes and ``bce``, side by side in one run on the same audio.

Method: every contestant goes over the same windows once per round, and the rounds are interleaved (A B C, A B C), so
that whatever disturbs the machine for a while disturbs all of them. The first round warms up and is dropped. Figures
are medians with quartiles; ratios are taken within a round. The bound is measured in the same rounds.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bce.bench import contestants as ways
from bce.bench.contestants import Contestant, NotHere
from bce.bench.figures import figure, ratio, read_json
from bce.bench.machine import Watch
from bce.bench.machine import describe as describe_machine
from bce.bench.materials import Work, bundle, describe, headless, model_file, recordings
from bce.bench.processes import infer_command, run
from bce.bench.sgemm import Rates, Sgemm, bound_ms, multiplications
from bce.engine.audio.recordings import audio_files, find_recordings
from bce.engine.errors import BceError, OptionsError
from bce.engine.geometry import SHIFT_SETS
from bce.engine.network.bundle import Bundle

STOCK = "stock graph, ONNX Runtime"
HEADLESS = "headless graph, ONNX Runtime"
_PAUSE_S = 0.1
"""Between contestants: the thread pool of the last one spins for a while before it sleeps."""


@dataclass(frozen=True)
class PeersOptions:
    """What to compare.

    Attributes:
        perch: the published ONNX file; None for a stand-in.
        given_bundle: a bundle made from it; None makes one.
        tflite: a published TFLite file, for LiteRT.
        audio: recordings and folders; empty for synthetic soundscapes.
        threads: each at least 1.
        windows: about how many windows each contestant runs in a round.
        rounds: kept rounds, at least 1.
        recordings: of a minute, end to end at five shifts; 0 leaves end to end out.
        end_to_end_rounds: kept rounds of whole programs.
        precisions: of the bundle that is made.
    """

    perch: Path | None = None
    given_bundle: Path | None = None
    tflite: Path | None = None
    audio: tuple[Path, ...] = ()
    threads: tuple[int, ...] = (1, 2)
    windows: int = 120
    rounds: int = 7
    recordings: int = 6
    end_to_end_rounds: int = 3
    precisions: tuple[str, ...] = ("fp32",)

    def __post_init__(self) -> None:
        for name in ("windows", "rounds", "end_to_end_rounds"):
            if getattr(self, name) < 1:
                raise OptionsError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.recordings < 0 or not self.threads or min(self.threads) < 1:
            raise OptionsError("recordings must be 0 or more, and each number of threads 1 or more")


def peers(options: PeersOptions, work: Work) -> dict[str, Any]:
    """Measure, and return everything as JSON can hold it: see :func:`bce.bench.tables.peers_tables`."""
    model = model_file(work, options.perch)
    made = bundle(work, options.given_bundle, lambda: model, options.precisions)
    weights = describe(made, model)
    folder = recordings(work, options.audio, max(options.recordings, 6))
    machine, watch = describe_machine(), Watch()
    result: dict[str, Any] = {"kind": "peers", "machine": machine, "weights": weights}
    result |= _per_window(options, work, model, made, folder)
    if options.recordings:
        result["end_to_end"] = _end_to_end(options, work, model, made, folder)
    result["load"] = watch.stop()
    return result


# --- a window ------------------------------------------------------------------------------------------------------


def _per_window(options: PeersOptions, work: Work, model: Path, made: Bundle, folder: Path) -> dict[str, Any]:
    window = made.manifest.window
    audio = ways.load_audio(find_recordings([folder]), options.windows, SHIFT_SETS[5], window, max(options.threads))
    absent: dict[str, str] = {}
    field = list(_field(options, work, model, made, audio, absent))
    sgemm = Sgemm()
    times: list[list[float]] = [[] for _ in field]
    rates: list[Rates] = []
    windows = [0] * len(field)
    for number in range(options.rounds + 1):
        work.say(f"round {number} of {options.rounds}" + (" (warm-up, dropped)" if not number else ""))
        rate = sgemm.measure()
        if number:
            rates.append(rate)
        for index, contestant in enumerate(field):
            time.sleep(_PAUSE_S)
            began = time.perf_counter()
            windows[index] = contestant.run()
            elapsed = time.perf_counter() - began
            if number:
                times[index].append(1e3 * elapsed / windows[index])
    rows = []
    for index, contestant in enumerate(field):
        row: dict[str, Any] = {
            "name": contestant.name,
            "threads": contestant.threads,
            "note": contestant.note,
            "windows": windows[index],
            "ms": times[index],
            "figure": figure(times[index]).to_json(),
        }
        for key, name in (("times_stock", STOCK), ("times_headless", HEADLESS)):
            slow = _find(field, name, contestant.threads)
            if slow is not None and slow != index:
                row[key] = ratio(times[slow], times[index]).to_json()
        single = _find(field, contestant.name, 1)
        if single is not None and single != index:
            row["times_one_thread"] = ratio(times[single], times[index]).to_json()
        if contestant.threads == 1 and "fp32" in contestant.name:
            row["times_bound"] = {
                name: ratio(times[index], [bound_ms(rate, with_head=_whole(made)) for rate in of_name]).to_json()
                for name, of_name in _by_name(rates).items()
            }
        rows.append(row)
    return {
        "audio": {
            "windows": len(audio.waveforms),
            "blocks": len(audio.blocks),
            "shifts_s": list(audio.shifts_s),
            "given": [str(path) for path in options.audio],
        },
        "rounds": options.rounds,
        "batch": ways.BATCH,
        "bound": _describe_bound(rates, made),
        "contestants": rows,
        "absent": absent,
    }


def _field(
    options: PeersOptions, work: Work, model: Path, made: Bundle, audio: ways.Audio, absent: dict[str, str]
) -> Iterator[Contestant]:
    cut = headless(work, model)
    inputs = ways.network_inputs(made, audio)
    sounds = audio.waveforms
    for threads in options.threads:
        yield ways.onnx_runtime(STOCK, model, sounds, threads, ways.BATCH, f"all outputs, batch {ways.BATCH}")
        yield ways.onnx_runtime(HEADLESS, cut, sounds, threads, ways.BATCH, f"embedding only, batch {ways.BATCH}")
        yield ways.onnx_runtime(f"{HEADLESS}, one by one", cut, sounds, threads, 1, "embedding only, batch 1")
        cut_note = "embedding only, batch 1"
        others: dict[str, Callable[[str], Contestant]] = {
            "LiteRT": partial(_tflite, model=options.tflite, inputs=sounds, threads=threads),
            "headless graph, OpenVINO": partial(
                ways.openvino, model=cut, inputs=sounds, threads=threads, batch=1, note=cut_note
            ),
            "bce fp32, backbone alone, OpenVINO": partial(
                ways.openvino_backbone, bundle=made, precision="fp32", inputs=inputs, threads=threads
            ),
            "bce bf16, backbone alone, OpenVINO": partial(
                ways.openvino_backbone, bundle=made, precision="bf16", inputs=inputs, threads=threads
            ),
        }
        for name, make in others.items():
            try:
                yield make(name)
            except NotHere as reason:
                absent[name] = str(reason)
        for precision in made.manifest.variants:
            yield ways.engine(made, precision, audio, threads)
            yield ways.backbone(made, precision, inputs, threads)


def _tflite(name: str, model: Path | None, inputs: NDArray[np.float32], threads: int) -> Contestant:
    if model is None:
        raise NotHere("no TFLite file was given")
    return ways.litert(name, model, inputs, threads)


def _find(field: Sequence[Contestant], name: str, threads: int) -> int | None:
    return next((i for i, c in enumerate(field) if (c.name, c.threads) == (name, threads)), None)


def _whole(made: Bundle) -> bool:
    """Whether the bundle's backbone runs the network to its end."""
    return any(output.kind != "block" for output in made.manifest.outputs)


def _by_name(rates: Sequence[Rates]) -> dict[str, list[float]]:
    """GFLOP/s per round of each kind of bound."""
    return {"fastest product": [rate.best for rate in rates]} | {
        f"all products, {library}": [rate.network[library] for rate in rates] for library in rates[0].network
    }


def _describe_bound(rates: Sequence[Rates], made: Bundle) -> dict[str, Any]:
    return {
        "gmac_whole": multiplications() / 1e9,
        "gmac_bundle": multiplications(with_head=_whole(made)) / 1e9,
        "fastest": max(rates, key=lambda rate: rate.best).best_of,
        "rates": [
            {
                "name": name,
                "gflops": figure(of_name).to_json(),
                "ms_whole": figure([bound_ms(rate) for rate in of_name]).to_json(),
                "ms_bundle": figure([bound_ms(rate, with_head=_whole(made)) for rate in of_name]).to_json(),
            }
            for name, of_name in _by_name(rates).items()
        ],
    }


# --- end to end ----------------------------------------------------------------------------------------------------


def _end_to_end(options: PeersOptions, work: Work, model: Path, made: Bundle, folder: Path) -> dict[str, Any]:
    """Whole programs, start-up included: a folder of ogg files to submission.csv at five shifts."""
    some = work.folder / "end_to_end"
    some.mkdir(exist_ok=True)
    for old in some.iterdir():
        old.unlink()
    for path in sorted(audio_files(folder))[: options.recordings]:
        (some / path.name).symlink_to(path.resolve())
    out, report = work.folder / "end_to_end.csv", work.folder / "end_to_end.json"
    shifts = ",".join(f"{shift:g}" for shift in SHIFT_SETS[5])
    programs: list[tuple[str, int, list[str]]] = []
    for threads in options.threads:
        stock = [sys.executable, str(Path(__file__).with_name("stock.py")), str(some), "--model", str(model)]
        stock += ["--threads", str(threads), f"--shifts={shifts}", "--out", str(out)]
        programs.append(("stock script", threads, stock))
        for precision in made.manifest.variants:
            ours = infer_command("--bundle", made.path, "--threads", str(threads), "--shifts", "5", "--quiet")
            ours += ["--precision", precision, "--out", str(out), "--report", str(report), str(some)]
            programs.append((f"bce-infer {precision}", threads, ours))
    walls: list[list[float]] = [[] for _ in programs]
    cpus: list[list[float]] = [[] for _ in programs]
    peaks = [0] * len(programs)
    rows = -1
    for number in range(options.end_to_end_rounds + 1):
        work.say(f"end to end, round {number} of {options.end_to_end_rounds}" + (" (warm-up)" if not number else ""))
        for index, (name, threads, command) in enumerate(programs):
            # the stock script has nothing to warm up but the file cache, which the others warm as well
            if not number and name == "stock script":
                continue
            ran = run(command)
            rows = _same_rows(out, rows, f"{name} at {threads} threads")
            peaks[index] = max(peaks[index], ran.peak_bytes)
            if number:
                walls[index].append(ran.wall_s)
                cpus[index].append(ran.cpu_s)
    windows = read_report(report)["totals"]["windows"]
    found = []
    for index, (name, threads, _) in enumerate(programs):
        row: dict[str, Any] = {
            "name": name,
            "threads": threads,
            "seconds": walls[index],
            "figure": figure(walls[index]).to_json(),
            "cpu_s": figure(cpus[index]).to_json(),
            "peak_bytes": peaks[index],
        }
        stock_at = next(i for i, p in enumerate(programs) if p[:2] == ("stock script", threads))
        if stock_at != index:
            row["times_stock"] = ratio(walls[stock_at], walls[index]).to_json()
        found.append(row)
    return {
        "recordings": options.recordings,
        "rows": rows,
        "windows_stock": rows * len(SHIFT_SETS[5]),
        "windows_bce": windows,
        "rounds": options.end_to_end_rounds,
        "programs": found,
    }


def read_report(path: Path) -> dict[str, Any]:
    """The report of a ``bce-infer`` run."""
    return read_json(path, kind=False)


def _same_rows(table: Path, rows: int, who: str) -> int:
    """Rows of a score table; all programs must write as many."""
    with open(table, encoding="utf-8") as file:
        found = sum(1 for _ in file) - 1
    table.unlink()
    if rows not in (-1, found):
        raise BceError(f"{who} wrote {found} rows, the one before it {rows}")
    return found

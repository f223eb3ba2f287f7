"""Markdown tables out of the JSON of ``bce-bench``, for the terminal and for the documentation."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bce.bench.attack_tables import attack_tables
from bce.bench.backbones import furthest
from bce.bench.birdnet_tables import birdnet_tables
from bce.bench.figures import read_json
from bce.bench.kernel_tables import kernels_tables
from bce.bench.markdown import markdown
from bce.bench.side_by_side import STATES, side_by_side
from bce.engine.errors import OptionsError
from bce.engine.files import write_text

Json = dict[str, Any]
ATTACK = "attack"
"""The kind of result that is no measurement: machines do not matter."""


def table(content: Json) -> list[str]:
    """The lines of a result: where it was measured, on what, and the figures."""
    kinds: dict[str, Callable[[Json], Iterable[str]]] = {
        "peers": peers_tables,
        "kernels": kernels_tables,
        "fidelity": fidelity_table,
        "budget": budget_tables,
        "startup": startup_table,
        "memory": memory_table,
        "birdnet": birdnet_tables,
    }
    if content["kind"] == ATTACK:
        return list(attack_tables(content))
    if content["kind"] not in kinds:
        raise OptionsError(
            f"a result of kind '{content['kind']}' has no table: known are {', '.join([*kinds, ATTACK])}"
        )
    return [*_header(content), "", *kinds[content["kind"]](content)]


def put_into(document: str | os.PathLike[str], results: Sequence[Path]) -> None:
    """Replace what is between ``<!-- KIND -->`` and ``<!-- /KIND -->`` in a document by the tables of results.

    Machines stand side by side, in the order in which their results are given.

    Raises:
        OptionsError: a result's place is not in the document.
    """
    path = Path(document)
    text = path.read_text(encoding="utf-8")
    by_kind: dict[str, list[Json]] = {}
    for file in results:
        content = read_json(file)
        by_kind.setdefault(content["kind"], []).append(content)
    for kind, contents in by_kind.items():
        alone = kind in (ATTACK, "birdnet")
        lines = "\n".join(table(contents[-1]) if alone else side_by_side(contents))
        place = re.compile(f"(<!-- {kind} -->).*?(<!-- /{kind} -->)", re.DOTALL)
        found = place.search(text)
        if found is None:
            raise OptionsError(f"has no place for {kind}: expected <!-- {kind} --> and <!-- /{kind} -->", path)
        # not as a template: a table may hold backslashes
        before, after = text[: found.end(1)], text[found.start(2) :]
        text = f"{before}\n{lines}\n{after}"
    write_text(path, text)


def _header(content: Json) -> Iterator[str]:
    machine, weights, load = content["machine"], content["weights"], content["load"]
    versions = machine["versions"]
    named = [
        f"{name} {versions[name]}"
        for name in ("onnxruntime", "numpy", "openvino", "ai-edge-litert")
        if name in versions
    ]
    yield (
        f"{machine['cpu']}, {machine['cpus']} CPUs, {machine['memory_gb']:g} GB; Python {versions['python']},"
        f" {', '.join(named)}; bce {versions['bce']}."
    )
    yield f"Weights: {weights['source']}" + (f" ({weights['notice']})." if weights["notice"] else ".")
    quiet = f"Other programs took {load['others_share']:.1%} of the CPUs, the host {load['stolen_share']:.1%}"
    yield quiet + ("." if load["quiet"] else ": **the machine was not quiet, the figures are doubtful**.")


OFF = "relative L2 against ONNX Runtime fp32, of the output that is furthest off"
RATIOS = {
    "times_stock": "x stock",
    "times_headless": "x headless",
    "times_onnxruntime": "x ONNX Runtime, backbone",
    "times_capped": "x OpenVINO held to AVX2",
    "times_one_thread": "x one thread",
}


def off_cells(distance: Json | None) -> tuple[str, str]:
    """Relative L2 over all windows, and of the worst one."""
    if distance is None:
        return "", ""
    off = furthest(distance)
    return f"{off['all']:.1e}", f"{off['worst']:.1e}"


def _times(entry: Json | None, digits: int = 2) -> str:
    """A ratio and its quartiles."""
    if entry is None:
        return ""
    return f"{entry['median']:.{digits}f} ({entry['low']:.{digits}f}-{entry['high']:.{digits}f})"


# --- peers ---------------------------------------------------------------------------------------------------------


def peers_tables(content: Json) -> Iterator[str]:
    """Per window, end to end."""
    audio = content["audio"]
    yield (
        f"A window: {audio['windows']} windows a round (five shifts), {content['rounds']} rounds interleaved after one"
        " that is dropped; ratios within a round, quartiles in brackets."
    )
    yield ""
    header = ("a window", "threads", "ms, median", "quartiles", "least", *RATIOS.values(), "off, all", "worst window")
    yield from markdown(
        header,
        [
            (
                f"{row['name']} ({row['note']})" if row["note"] else row["name"],
                str(row["threads"]),
                f"**{row['figure']['median']:.1f}**",
                f"{row['figure']['low']:.1f}-{row['figure']['high']:.1f}",
                f"{row['figure']['best']:.1f}",
                *(_times(row.get(key)) for key in RATIOS),
                *off_cells(row.get("distance")),
            )
            for row in content["contestants"]
        ],
    )
    yield ""
    yield f"Off: {OFF}."
    yield ""
    for row in content["contestants"]:
        if row.get("form") and row["threads"] == content["contestants"][0]["threads"]:
            yield f"- {row['name']}: {row['form']}."
    for name, reason in content["absent"].items():
        yield f"- {name}: left out, {reason}."
    if "end_to_end" in content:
        yield ""
        yield from _end_to_end(content["end_to_end"])


def _end_to_end(content: Json) -> Iterator[str]:
    yield (
        f"End to end: {content['recordings']} ogg files to submission.csv as whole programs, start-up included;"
        f" {content['windows_stock']} windows the stock way, {content['windows_bce']} distinct ones for bce;"
        f" {content['rounds']} rounds interleaved."
    )
    yield ""
    header = ("end to end", "threads", "s, median", "quartiles", "x stock", "start-up s", "CPU s", "peak MB")
    yield from markdown(
        header,
        [
            (
                row["name"],
                str(row["threads"]),
                f"**{row['figure']['median']:.1f}**",
                f"{row['figure']['low']:.1f}-{row['figure']['high']:.1f}",
                _times(row.get("times_stock")),
                f"{row['startup_s']['median']:.1f}" if "startup_s" in row else "",
                f"{row['cpu_s']['median']:.1f}",
                f"{row['peak_bytes'] / 1e6:.0f}",
            )
            for row in content["programs"]
        ],
    )


# --- fidelity ------------------------------------------------------------------------------------------------------


def fidelity_table(content: Json) -> Iterator[str]:
    """A row for each form and output."""
    yield f"{content['windows']} windows of {content['recordings']} recordings; relative L2 against ONNX Runtime fp32."
    yield ""
    yield from markdown(
        ("form", "output", "over all windows", "median window", "worst window"),
        [
            (form["name"], output, *(f"{off[key]:.1e}" for key in ("all", "median", "worst")))
            for form in content["forms"]
            for output, off in form["distance"]["outputs"].items()
        ],
    )
    yield ""
    yield from (f"- {name}: left out, {reason}." for name, reason in content["absent"].items())
    yield from (f"- Not read to its end: {reason}." for reason in content["unreadable"])


# --- budget --------------------------------------------------------------------------------------------------------


def budget_tables(content: Json) -> Iterator[str]:
    """Stages of each run, then the prediction."""
    runs = content["runs"]
    stages = list(runs[0]["stages"])
    yield (
        f"Measured: {content['measured']} recordings, {content['threads']} threads. Thread-milliseconds a window and"
        " share of the threads' time, start-up left out."
    )
    yield ""
    yield from markdown(
        ("run", *stages),
        [
            (
                f"{row['form']}, {row['shifts']} shifts",
                *(
                    f"{row['stages'][name]['ms_per_window']:.2f} ({row['stages'][name]['share']:.1%})"
                    for name in stages
                ),
            )
            for row in runs
        ],
    )
    yield ""
    header = ("run", "ms a window", "x real time", "busy threads", "peak MB", "start-up s", "minutes", "of the budget")
    yield f"Predicted for {content['files']} recordings, against a budget of {content['budget_minutes']} minutes:"
    yield ""
    yield from markdown(
        header,
        [
            (
                f"{row['form']}, {row['shifts']} shifts",
                f"{row['ms_per_window']:.1f}",
                f"{row['times_real_time']:.0f}",
                f"{row['busy_threads']:.2f}",
                f"{row['peak_bytes'] / 1e6:.0f}",
                f"{row['startup_s']:.2f}",
                f"**{row['minutes']:.1f}**",
                f"{row['share_of_budget']:.0%}",
            )
            for row in runs
        ],
    )
    yield ""
    yield from (f"- {name}: left out, {reason}." for name, reason in content["absent"].items())


# --- start-up and memory -------------------------------------------------------------------------------------------


def startup_table(content: Json) -> Iterator[str]:
    """Seconds until an answer."""

    def row(name: str, entry: Json) -> tuple[str, str, str, str]:
        return (name, f"{entry['median']:.2f}", f"{entry['low']:.2f}-{entry['high']:.2f}", f"{entry['best']:.2f}")

    rows = [row("`bce-infer --help`", content["help_s"])]
    for start in content["starts"]:
        name = f"{start['form']}, {STATES[start['state']]}"
        rows.append(row(f"{name}: first window", start["first_window_s"]))
        rows.append(row(f"{name}: one window, from the command to its end", start["wall_s"]))
    yield from markdown(("start-up, s", "median", "quartiles", "least"), rows)


def memory_table(content: Json) -> Iterator[str]:
    """Peak and course of the resident memory."""
    shares = list(content["runs"][0]["at"])
    header = (
        "resident MB",
        "windows",
        "minutes",
        "busy threads",
        "peak",
        *(f"at {share}" for share in shares),
        "growth, MB/h",
    )
    yield f"{content['threads']} threads; summed over children."
    yield ""
    yield from markdown(
        header,
        [
            (
                f"{row['form']}: {row['name']}, {row['shifts']} shift{'s' * (row['shifts'] > 1)}",
                str(row["windows"]),
                f"{row['wall_s'] / 60:.1f}",
                f"{row['busy_threads']:.2f}",
                f"**{row['peak_bytes'] / 1e6:.0f}**",
                *("" if row["at"][share] is None else f"{row['at'][share] / 1e6:.0f}" for share in shares),
                f"{row['growth_bytes_per_s'] * 3600 / 1e6:.0f}",
            )
            for row in content["runs"]
        ],
    )

"""Results of several machines in one table, machine beside machine: what the documentation shows of them.

These tables leave out quartiles and what only matters to whoever measures: ``bce-bench table FILE.json`` shows all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from bce.bench.backbones import furthest
from bce.bench.contestants import ALONE
from bce.bench.kernel_tables import forms_table, peaks_table
from bce.bench.markdown import markdown
from bce.engine.errors import OptionsError

Json = dict[str, Any]
STATES = {"cold": "nothing cached", "warm": "kernels cached"}
"""How a start is called, by what the caches of kernels held."""


def side_by_side(results: Sequence[Json]) -> list[str]:
    """The lines of results of one kind, one of each machine.

    Raises:
        OptionsError: results of this kind have no table.
    """
    kinds: dict[str, Callable[[Sequence[Json]], Iterable[str]]] = {
        "peers": _peers,
        "kernels": _kernels,
        "fidelity": _fidelity,
        "budget": _budget,
        "startup": _startup,
        "memory": _memory,
    }
    kind = results[0]["kind"]
    if kind not in kinds:
        raise OptionsError(f"a result of kind '{kind}' has no table: known are {', '.join(kinds)}")
    return [" ".join(map(_where, results)), "", *kinds[kind](results)]


def _cpu(result: Json) -> str:
    """The processor's name without what says nothing: "Intel Xeon"."""
    name = result["machine"]["cpu"]
    for word in ("(R)", "(TM)", "Processor", "CPU"):
        name = name.replace(word, " ")
    return " ".join(name.split())


def _where(result: Json) -> str:
    machine, load = result["machine"], result["load"]
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in ("bce", "onnxruntime"))
    quiet = "" if load["quiet"] else ", **not quiet: the figures are doubtful**"
    return f"{_cpu(result)}: {versions}; others took {load['others_share']:.1%}{quiet}."


def _columns(results: Sequence[Json], rows: Callable[[Json], Sequence[Json]]) -> list[tuple[Json, int, str]]:
    """A column for each machine and number of threads: the result, the number, its heading."""
    return [
        (result, threads, f"{_cpu(result)}, {threads} thread{'s' * (threads > 1)}")
        for result in results
        for threads in dict.fromkeys(row["threads"] for row in rows(result))
    ]


def _by_threads(
    what: str, results: Sequence[Json], rows: Callable[[Json], Sequence[Json]], cell: Callable[[Json], str]
) -> Iterator[str]:
    """A row for each name, a column for each machine and number of threads."""
    columns = _columns(results, rows)
    notes = {row["name"]: row.get("note", "") for result in results for row in rows(result)}

    def at(result: Json, threads: int, name: str) -> str:
        found = (row for row in rows(result) if (row["name"], row["threads"]) == (name, threads))
        return next(map(cell, found), "")

    yield from markdown(
        (what, *(heading for _, _, heading in columns)),
        [
            (
                f"{name.removeprefix(ALONE)} ({note})" if note else name.removeprefix(ALONE),
                *(at(result, threads, name) for result, threads, _ in columns),
            )
            for name, note in notes.items()
        ],
    )


def _ratio(row: Json, key: str) -> str:
    return f" ({row[key]['median']:.2f})" if key in row else ""


def _programs(result: Json) -> Sequence[Json]:
    found: Sequence[Json] = result.get("end_to_end", {}).get("programs", ())
    return found


def _whole(result: Json) -> Sequence[Json]:
    return [row for row in result["contestants"] if not row["name"].startswith(ALONE)]


def _alone(result: Json) -> Sequence[Json]:
    return [row for row in result["contestants"] if row["name"].startswith(ALONE)]


def _peers(results: Sequence[Json]) -> Iterator[str]:
    def ms(row: Json, key: str) -> str:
        return f"**{row['figure']['median']:.1f}**{_ratio(row, key)}"

    keys = ("times_stock", "times_onnxruntime")
    rows = [row for result in results for row in (*result["contestants"], *_programs(result))]
    ratios = [row[key] for row in rows for key in keys if key in row]
    spread = max((max(x["high"] - x["median"], x["median"] - x["low"]) / x["median"] for x in ratios), default=0.0)
    yield from _by_threads("ms a window (x stock)", results, _whole, lambda row: ms(row, "times_stock"))
    yield ""
    yield from _by_threads(
        "backbone alone, ms a window (x ONNX Runtime fp32)", results, _alone, lambda row: ms(row, "times_onnxruntime")
    )
    yield ""
    yield from _capped(results)
    yield from _by_threads(
        "end to end, s (x stock), peak MB",
        results,
        _programs,
        lambda row: f"{ms(row, 'times_stock')}, {row['peak_bytes'] / 1e6:.0f}",
    )
    yield ""
    yield f"Medians; the quartiles of each ratio lie within {spread:.0%} of it."


def _capped(results: Sequence[Json]) -> Iterator[str]:
    """The forms that any CPU with AVX2 has, against OpenVINO on such a CPU."""
    for result in results:
        for row in _alone(result):
            if "times_capped" in row and row["name"].endswith(", avx2") and row["threads"] == 1:
                name, times = row["name"].removeprefix(ALONE), row["times_capped"]["median"]
                yield f"{_cpu(result)}, one thread: {name} is {times:.2f} times as fast as OpenVINO fp32 held to AVX2."
                yield ""


def _kernels(results: Sequence[Json]) -> Iterator[str]:
    yield from peaks_table(results, list(map(_cpu, results)))
    yield ""
    yield from forms_table([(_cpu(result), form) for result in results for form in result["forms"]])


def _fidelity(results: Sequence[Json]) -> Iterator[str]:
    def cells(result: Json, name: str) -> tuple[str, str, str]:
        found = next((furthest(form["distance"]) for form in result["forms"] if form["name"] == name), None)
        if found is None:
            return "", "", ""
        return f"{found['all']:.1e}", f"{found['median']:.1e}", f"{found['worst']:.1e}"

    names = dict.fromkeys(form["name"] for result in results for form in result["forms"])
    columns = (f"{_cpu(r)}, {r['windows']} windows" for r in results)
    headings = [heading for column in columns for heading in (column, "median window", "worst window")]
    yield from markdown(
        ("relative L2 against ONNX Runtime fp32", *headings),
        [(name, *(cell for result in results for cell in cells(result, name))) for name in names],
    )


def _budget(results: Sequence[Json]) -> Iterator[str]:
    first = results[0]
    shown = ("decode", "frontend", "inference")

    def cells(result: Json, run: tuple[str, int]) -> tuple[str, ...]:
        row = next((row for row in result["runs"] if (row["form"], row["shifts"]) == run), None)
        if row is None:
            return "", "", ""
        shares = "/".join(f"{100 * row['stages'][name]['share']:.0f}" for name in shown)
        return f"**{row['minutes']:.1f}**", f"{row['times_real_time']:.0f}", shares

    runs = dict.fromkeys((row["form"], row["shifts"]) for result in results for row in result["runs"])
    headings = [
        heading for result in results for heading in (f"{_cpu(result)}, minutes", "x real time", f"% {'/'.join(shown)}")
    ]
    yield (
        f"Predicted for {first['files']} recordings from {first['measured']}, {first['threads']} threads; the budget is"
        f" {first['budget_minutes']} minutes."
    )
    yield ""
    yield from markdown(
        ("run", *headings),
        [
            (
                f"{form}, {shifts} shift{'s' * (shifts > 1)}",
                *(c for r in results for c in cells(r, (form, shifts))),
            )
            for form, shifts in runs
        ],
    )


def _startup(results: Sequence[Json]) -> Iterator[str]:
    def cells(result: Json, key: tuple[str, str]) -> tuple[str, str]:
        start = next((one for one in result["starts"] if (one["form"], one["state"]) == key), None)
        figures = (None, None) if start is None else (start["first_window_s"], start["wall_s"])
        first, whole = ("" if figure is None else f"{figure['median']:.2f}" for figure in figures)
        return first, whole

    keys = dict.fromkeys((start["form"], start["state"]) for result in results for start in result["starts"])
    headings = [heading for r in results for heading in (f"{_cpu(r)}, first window", "command to end")]
    helps = [cell for result in results for cell in ("", f"{result['help_s']['median']:.2f}")]
    yield from markdown(
        ("start-up, s", *headings),
        [("`bce-infer --help`", *helps)]
        + [
            (f"{form}, {STATES[state]}", *(cell for r in results for cell in cells(r, (form, state))))
            for form, state in keys
        ],
    )


def _memory(results: Sequence[Json]) -> Iterator[str]:
    def cells(result: Json, key: tuple[str, str, int]) -> tuple[str, str]:
        row = next((row for row in result["runs"] if (row["form"], row["name"], row["shifts"]) == key), None)
        if row is None:
            return "", ""
        return f"**{row['peak_bytes'] / 1e6:.0f}**", f"{row['growth_bytes_per_s'] * 3600 / 1e6:.0f}"

    keys = dict.fromkeys((row["form"], row["name"], row["shifts"]) for result in results for row in result["runs"])
    headings = [heading for result in results for heading in (f"{_cpu(result)}, peak MB", "growth, MB/h")]
    yield from markdown(
        (f"{results[0]['threads']} threads", *headings),
        [
            (
                f"{form}: {name}, {shifts} shift{'s' * (shifts > 1)}",
                *(cell for result in results for cell in cells(result, (form, name, shifts))),
            )
            for form, name, shifts in keys
        ],
    )

"""Results of several machines in one table, machine beside machine: what the documentation shows of them.

These tables leave out quartiles and what only matters to whoever measures: ``bce-bench table FILE.json`` shows all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from bce.bench.markdown import markdown
from bce.engine.errors import OptionsError

Json = dict[str, Any]


def side_by_side(results: Sequence[Json]) -> list[str]:
    """The lines of results of one kind, one of each machine.

    Raises:
        OptionsError: results of this kind have no table.
    """
    kinds: dict[str, Callable[[Sequence[Json]], Iterable[str]]] = {
        "peers": _peers,
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
            (f"{name} ({note})" if note else name, *(at(result, threads, name) for result, threads, _ in columns))
            for name, note in notes.items()
        ],
    )


def _ratio(row: Json) -> str:
    return f" ({row['times_stock']['median']:.2f})" if "times_stock" in row else ""


def _peers(results: Sequence[Json]) -> Iterator[str]:
    def programs(result: Json) -> Sequence[Json]:
        found: Sequence[Json] = result.get("end_to_end", {}).get("programs", ())
        return found

    def contestants(result: Json) -> Sequence[Json]:
        found: Sequence[Json] = result["contestants"]
        return found

    ratios = [row["times_stock"] for r in results for row in (*contestants(r), *programs(r)) if "times_stock" in row]
    spread = max((max(x["high"] - x["median"], x["median"] - x["low"]) / x["median"] for x in ratios), default=0.0)
    yield from _by_threads(
        "ms a window (x stock)",
        results,
        contestants,
        lambda row: f"**{row['figure']['median']:.1f}**{_ratio(row)}",
    )
    yield ""
    yield from _by_threads(
        "end to end, s (x stock), peak MB",
        results,
        programs,
        lambda row: f"**{row['figure']['median']:.1f}**{_ratio(row)}, {row['peak_bytes'] / 1e6:.0f}",
    )
    yield ""
    yield f"Medians; the quartiles of each ratio lie within {spread:.0%} of it."
    yield ""
    yield from _bound(results)


def _bound(results: Sequence[Json]) -> Iterator[str]:
    """One core's matrix products, and how near the best of ours in float32 comes to them."""

    def cells(result: Json, name: str) -> tuple[str, str]:
        rate = next((rate for rate in result["bound"]["rates"] if rate["name"] == name), None)
        if rate is None:
            return "", ""
        ours = [row["times_bound"][name]["median"] for row in result["contestants"] if "times_bound" in row]
        nearest = f"{min(ours):.2f}" if ours else ""
        return f"{rate['ms_bundle']['median']:.1f} ({rate['gflops']['median']:.0f})", nearest

    names = dict.fromkeys(rate["name"] for result in results for rate in result["bound"]["rates"])
    headings = [
        heading for result in results for heading in (f"{_cpu(result)}, ms (GFLOP/s)", "x bound, nearest of ours")
    ]
    yield from markdown(
        ("bound, one core", *headings),
        [(name, *(cell for result in results for cell in cells(result, name))) for name in names],
    )


def _budget(results: Sequence[Json]) -> Iterator[str]:
    first = results[0]
    shown = ("decode", "frontend", "inference")

    def cells(result: Json, run: tuple[str, int]) -> tuple[str, ...]:
        row = next((row for row in result["runs"] if (row["precision"], row["shifts"]) == run), None)
        if row is None:
            return "", "", ""
        shares = "/".join(f"{100 * row['stages'][name]['share']:.0f}" for name in shown)
        return f"**{row['minutes']:.1f}**", f"{row['times_real_time']:.0f}", shares

    runs = dict.fromkeys((row["precision"], row["shifts"]) for result in results for row in result["runs"])
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
                f"{precision}, {shifts} shift{'s' * (shifts > 1)}",
                *(c for r in results for c in cells(r, (precision, shifts))),
            )
            for precision, shifts in runs
        ],
    )


def _startup(results: Sequence[Json]) -> Iterator[str]:
    rows: dict[str, Callable[[Json], float]] = {
        "`bce-infer --help`": lambda result: result["help_s"]["median"],
        "first window, kernels compile": lambda result: result["compiling"]["first_window_s"],
        "first window later": lambda result: result["warm"]["first_window_s"]["median"],
        "one window, command to end": lambda result: result["warm"]["wall_s"]["median"],
    }
    yield from markdown(
        ("start-up, s", *map(_cpu, results)),
        [(name, *(f"{seconds(result):.2f}" for result in results)) for name, seconds in rows.items()],
    )


def _memory(results: Sequence[Json]) -> Iterator[str]:
    def cells(result: Json, name: str) -> tuple[str, str]:
        row = next((row for row in result["runs"] if row["name"] == name), None)
        if row is None:
            return "", ""
        return f"**{row['peak_bytes'] / 1e6:.0f}**", f"{row['growth_bytes_per_s'] * 3600 / 1e6:.0f}"

    first = results[0]
    names = {row["name"]: row["shifts"] for result in results for row in result["runs"]}
    headings = [heading for result in results for heading in (f"{_cpu(result)}, peak MB", "growth, MB/h")]
    yield from markdown(
        (f"{first['threads']} threads, {first['precision']}", *headings),
        [
            (
                f"{name}, {shifts} shift{'s' * (shifts > 1)}",
                *(cell for result in results for cell in cells(result, name)),
            )
            for name, shifts in names.items()
        ],
    )

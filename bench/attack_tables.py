"""Tables of an attack: the fates of damaged files, by format and by damage, and of runs that something happened to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from bce.bench.markdown import markdown

Json = dict[str, Any]
FATES = {
    "right": "ok, all rows right",
    "flagged": "flagged, rows before right",
    "failed": "failed, no rows",
    "wrong": "ok, wrong rows",
    "flagged wrong": "flagged, wrong rows before",
    "lost": "run lost",
}
LEFT = {
    "table": "whole table",
    "part": "what was done",
    "rescued": "what was done, in a named file",
    "nothing": "earlier result untouched",
}
_COLUMNS = {"files": "files", **FATES, "displaced": "with rows of another time", "broken": "broken promises"}
_SUMS = (*_COLUMNS, "right_rows", "intact_rows")
_NAMED = 20


def attack_tables(content: Json) -> Iterator[str]:
    """The lines of an attack's result."""
    machine, runs = content["machine"], content["runs"]
    versions, disturbed = machine["versions"], sum(row["runs"] for row in runs)
    yield (
        f"{content['files']} damaged copies of {content['intact']} recordings and {disturbed} disturbed runs, seed"
        f" {content['seed']}, in {content['wall_s'] / 60:.0f} minutes on {machine['cpus']} CPUs; no run took more than"
        f" {content['peak_bytes'] / 1e6:.0f} MB. bce {versions['bce']}, libsndfile {versions['libsndfile']}."
    )
    for title, key in (("format", "form"), ("damage", "damage")):
        for checked in (True, False):
            if chosen := [row for row in content["counts"] if row["checked"] is checked]:
                yield ""
                yield from _fates(f"{title} ({'with' if checked else 'without'} checksums)", key, chosen)
    if runs:
        yield ""
        names = ("runs", *LEFT, "broken")
        yield from markdown(
            ("what happened", "runs", *LEFT.values(), "broken promises"),
            [(row["kind"], *(str(row[name]) for name in names)) for row in runs],
        )
    broken = [f"{row['name']} ({row['reason'] or row['status']})" for row in content["broken"]]
    broken += [f"{row['kind']} {row['number']} ({row['broken']})" for row in content["broken_runs"]]
    if broken:
        yield ""
        yield f"Broken promises, the first {min(len(broken), _NAMED)} of {len(broken)}: {'; '.join(broken[:_NAMED])}."


def _fates(title: str, key: str, counts: Sequence[Json]) -> Iterator[str]:
    sums = {value: dict.fromkeys(_SUMS, 0) for value in dict.fromkeys(row[key] for row in counts)}
    if len(sums) > 1:
        sums["all"] = dict.fromkeys(_SUMS, 0)
    for row in counts:
        for into in {row[key], "all"} & sums.keys():
            for name in _SUMS:
                sums[into][name] += row[name]

    def share(row: Json) -> str:
        return f"{row['right_rows'] / row['intact_rows']:.0%}" if row["intact_rows"] else ""

    yield from markdown(
        (title, *_COLUMNS.values(), "rows saved"),
        [(value, *(str(row[name]) for name in _COLUMNS), share(row)) for value, row in sums.items()],
    )

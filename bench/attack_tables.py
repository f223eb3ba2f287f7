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
    "displaced": "of these, rows of another time",
    "lost": "run lost",
    "broken": "broken promises",
}
LEFT = {
    "table": "whole table",
    "part": "what was done",
    "rescued": "what was done, in a named file",
    "nothing": "earlier result untouched",
}
_NAMED = 20


def attack_tables(content: Json) -> Iterator[str]:
    """The lines of an attack's result."""
    counts, scenarios, versions = content["counts"], content["scenarios"], content["machine"]["versions"]
    yield (
        f"{content['files']} damaged copies of {content['intact']} recordings and {len(scenarios)} disturbed runs, seed"
        f" {content['seed']}, in {content['wall_s'] / 60:.0f} minutes on {content['machine']['cpus']} CPUs; no run took"
        f" more than {content['peak_bytes'] / 1e6:.0f} MB. bce {versions['bce']}, libsndfile {versions['libsndfile']}."
    )
    for title, key in (("format", "form"), ("damage", "damage")):
        for checked in (True, False):
            if chosen := [row for row in counts if row["checked"] is checked]:
                yield ""
                yield from _fates(f"{title} ({'with' if checked else 'without'} checksums)", key, chosen)
    if scenarios:
        yield ""
        yield from _scenarios(scenarios)
    broken = [f"{row['name']} ({row['reason']})" if row["reason"] else row["name"] for row in content["broken"]]
    broken += [f"{row['kind']} {row['number']} ({row['broken']})" for row in scenarios if row["broken"]]
    if broken:
        yield ""
        yield f"Broken promises, the first {min(len(broken), _NAMED)} of {len(broken)}: {'; '.join(broken[:_NAMED])}."


def _fates(title: str, key: str, counts: Sequence[Json]) -> Iterator[str]:
    names = ("files", *FATES)
    sums = {value: dict.fromkeys(names, 0) for value in dict.fromkeys(row[key] for row in counts)}
    if len(sums) > 1:
        sums["all"] = dict.fromkeys(names, 0)
    for row in counts:
        for into in {row[key], "all"} & sums.keys():
            for name in names:
                sums[into][name] += row[name]
    yield from markdown(
        (title, "files", *FATES.values()), [(value, *(str(row[name]) for name in names)) for value, row in sums.items()]
    )


def _scenarios(scenarios: Sequence[Json]) -> Iterator[str]:
    rows = []
    for kind in dict.fromkeys(row["kind"] for row in scenarios):
        ours = [row for row in scenarios if row["kind"] == kind]
        good = [row["left"] for row in ours if not row["broken"]]
        rows.append((kind, str(len(ours)), *(str(good.count(left)) for left in LEFT), str(len(ours) - len(good))))
    yield from markdown(("what happened", "runs", *LEFT.values(), "broken promises"), rows)

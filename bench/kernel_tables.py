"""Markdown tables of ``bce-bench kernels``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from bce.bench.markdown import markdown
from bce.bench.stages import PARTS

Json = dict[str, Any]


def kernels_tables(content: Json) -> Iterator[str]:
    """The peaks, then a table for each form."""
    yield from peaks_table([content], [""])
    for form in content["forms"]:
        yield ""
        yield from stages_table(form)
        if form.get("products"):  # results of earlier versions have none
            yield ""
            yield f"{form['name']}: {_products(form['products'])}."
    for name, reason in content["absent"].items():
        yield ""
        yield f"{name}: left out, {reason}."


def _products(counts: Json) -> str:
    """How many products are in what: "40 products of bytes, 2 of 16 bits, 5 in float32"."""
    texts = {"i8": "of bytes", "i16": "of 16 bits", "f32": "in float32"}
    first, *others = (f"{counts[element]} {text}" for element, text in texts.items() if element in counts)
    number, what = first.split(" ", 1)
    return ", ".join([f"{number} product{'' if number == '1' else 's'} {what}", *others])


def peaks_table(contents: Sequence[Json], machines: Sequence[str]) -> Iterator[str]:
    """What a core computes at most, a column for each machine and vector form."""
    columns = [
        (content, isa, f"{machine}, {isa}".removeprefix(", "))
        for content, machine in zip(contents, machines, strict=True)
        for isa in dict.fromkeys(peak["isa"] for peak in content["peaks"])
    ]

    def rate(content: Json, isa: str, name: str) -> float | None:
        found = (peak["rate"]["median"] for peak in content["peaks"] if (peak["isa"], peak["name"]) == (isa, name))
        return next(found, None)

    def cell(content: Json, isa: str, name: str) -> str:
        found = rate(content, isa, name)
        if found is None:
            return ""
        if name not in ("exact", "rough"):
            return f"{found / 1e9:.{2 if name == 'cycles' else 1}f}"
        cycles, lanes = rate(content, isa, "cycles"), {"avx512": 16, "avx2": 8}[isa]
        return f"{found / 1e9:.2f}" if cycles is None else f"{found / 1e9:.2f} ({lanes * cycles / found:.1f} cycles)"

    names = {
        "cycles": "clock, GHz",
        "f32": "multiply-adds in float32, G/s",
        "bf16": "multiply-adds in bfloat16, G/s",
        "i16": "multiply-adds of 16 bits, G/s",
        "i8": "multiply-adds of bytes, G/s",
        "exact": "swish for float32, G/s (cycles of a vector)",
        "rough": "swish for bfloat16, G/s (cycles of a vector)",
    }
    yield from markdown(
        ("peak of one core", *(heading for *_, heading in columns)),
        [
            (text, *cells)
            for name, text in names.items()
            if any(cells := [cell(content, isa, name) for content, isa, _ in columns])
        ],
    )


def stages_table(form: Json) -> Iterator[str]:
    """Rows of blocks, their parts, what it takes at the peaks."""

    def cell(part: Json | None) -> str:
        if part is None:
            return ""
        rate = part["multiplications"] / part["ms"] / 1e6 if part["ms"] > 0 else 0.0
        return f"{part['ms']:.2f}" + (f" ({rate:.0f})" if part["multiplications"] else "")

    yield from markdown(
        (
            f"{form['name']}: blocks",
            "MMAC",
            "expand + depthwise",
            *PARTS[1:],
            "ms (GMAC/s)",
            "at the peaks, ms",
        ),
        [
            (
                row["name"],
                f"{whole['multiplications'] / 1e6:.1f}",
                *(cell(row["parts"].get(part)) for part in PARTS),
                cell(whole),
                f"{whole['floor_ms']:.2f}",
            )
            for row in form["rows"]
            for whole in [summed(row["parts"])]
        ]
        + [
            (
                "all",
                f"{form['multiplications'] / 1e6:.1f}",
                *(cell(summed(_column(form, part))) for part in PARTS),
                f"**{form['figure']['median']:.2f}** ({form['multiplications'] / form['figure']['median'] / 1e6:.0f})",
                f"{form['floor_ms']:.2f}",
            )
        ],
    )


def forms_table(forms: Sequence[tuple[str, Json]]) -> Iterator[str]:
    """A row for each group of blocks and each part of all of them, a column for each machine and form.

    Args:
        forms: the machine's name and the form's result.
    """

    def cell(entry: Json | None) -> str:
        return "" if entry is None else f"{entry['ms']:.2f} ({entry['floor_ms']:.2f})"

    def of_row(form: Json, name: str) -> Json | None:
        return next((summed(row["parts"]) for row in form["rows"] if row["name"] == name), None)

    blocks = dict.fromkeys(row["name"] for _, form in forms for row in form["rows"])
    parts = {part: {"expand": "expand + depthwise"}.get(part, part) for part in PARTS}
    yield from markdown(
        ("blocks: ms (at the peaks)", *(f"{machine}, {form['name']}" for machine, form in forms)),
        [(name, *(cell(of_row(form, name)) for _, form in forms)) for name in blocks]
        + [
            ("all", *(f"**{form['figure']['median']:.1f}** ({form['floor_ms']:.1f})" for _, form in forms)),
            *(
                (f"of it {text}", *(cell(summed(_column(form, part))) for _, form in forms))
                for part, text in parts.items()
            ),
        ],
    )


def summed(parts: Json) -> Json:
    """Milliseconds and multiply-adds of all parts."""
    return {key: sum(part[key] for part in parts.values()) for key in ("ms", "multiplications", "floor_ms")}


def _column(form: Json, part: str) -> Json:
    return {row["name"]: row["parts"][part] for row in form["rows"] if part in row["parts"]}

"""Markdown tables of ``bce-bench birdnet``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bce.bench.markdown import markdown


def birdnet_tables(content: dict[str, Any]) -> Iterator[str]:
    """Markdown tables: speed, then what lower precision changes."""
    yield (
        f"One thread, {content['windows']} real windows of 3 s, {content['rounds']} rounds, in turn; median ms of CPU "
        "time a window and the quartiles of the ratio to LiteRT in the same round. What is named with classes goes "
        "from samples to logits, frontend included."
    )
    yield ""
    rows = []
    for entry in content["speed"]:
        times = entry["litert"]
        rows.append(
            (
                entry["name"],
                f"{entry['ms']['median']:.2f}",
                f"{times['median']:.2f} ({times['low']:.2f}-{times['high']:.2f})",
            )
        )
    yield from markdown(("", "ms", "LiteRT / this"), rows)
    yield ""
    yield (
        f"Logits of {content['precision'][0]['windows']} windows against ONNX Runtime fp32, centred for each class"
        f"{_calibrated(content)}:"
    )
    yield ""
    yield from _precision(content["precision"])
    if content["absent"]:
        yield ""
        yield from (f"- {name}: left out, {reason}." for name, reason in content["absent"].items())


def _calibrated(content: dict[str, Any]) -> str:
    """What int8 was made on; results of earlier versions have none."""
    recordings = content.get("recordings", {"calibrate": 0})
    if not recordings["calibrate"]:
        return ""
    made_on, others = recordings["calibrate"], recordings["compare"]
    return f"; int8 was calibrated on {made_on} recordings, the windows are of {others} others"


def _precision(entries: list[dict[str, Any]]) -> Iterator[str]:
    """A row for each form; results of earlier versions know neither the worst window nor the order within a class."""
    columns = {
        "relative L2": ("relative_l2", "{:.1e}"),
        "worst window": ("relative_l2_worst", "{:.1e}"),
        "rank correlation in a window": ("rank_correlation", "{:.5f}"),
        "of a class": ("class_rank_correlation", "{:.5f}"),
        "of the worst classes": ("class_rank_correlation_worst", "{:.5f}"),
        "top-1, all": ("top1", "{:.1%}"),
        "top-1, loud": ("top1_loud", "{:.1%} of {loud}"),
        "largest change of a probability": ("largest_change", "{:.3f}"),
    }
    shown = {title: column for title, column in columns.items() if any(column[0] in entry for entry in entries)}
    yield from markdown(
        ("", *shown),
        (
            (
                entry["name"],
                *(
                    "" if entry.get(key) is None else form.format(entry[key], loud=entry["loud"])
                    for key, form in shown.values()
                ),
            )
            for entry in entries
        ),
    )

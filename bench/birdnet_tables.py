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
    yield f"Logits of {content['precision'][0]['windows']} windows against ONNX Runtime fp32, centred for each class:"
    yield ""
    yield from markdown(
        ("", "relative L2", "rank correlation", "top-1, all", "top-1, loud", "largest change of a probability"),
        (
            (
                entry["name"],
                f"{entry['relative_l2']:.1e}",
                f"{entry['rank_correlation']:.5f}",
                f"{entry['top1']:.1%}",
                f"{entry['top1_loud']:.1%} of {entry['loud']}",
                f"{entry['largest_change']:.3f}",
            )
            for entry in content["precision"]
        ),
    )

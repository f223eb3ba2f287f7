"""Machines side by side, and the page that is made so."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("psutil", reason="benchmarks need the extra bce[bench]")

from bce.bench.figures import read_json
from bce.bench.side_by_side import side_by_side
from bce.bench.tables import put_into
from bce.engine.errors import OptionsError

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "performance.md"
NAMES = {"amd": "AMD EPYC"}
FOLDERS = [folder for machine in NAMES if (folder := ROOT / "bench" / "results" / machine).is_dir()]
RESULTS = [path for folder in FOLDERS for path in sorted(folder.glob("*.json"))]
"""The measurements that the page shows, machine by machine."""


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_page_is_what_its_results_say(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    shutil.copy(PAGE, page)
    put_into(page, RESULTS)
    assert page.read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8"), (
        f"bce-bench table --into {PAGE.relative_to(ROOT)} {' '.join(str(path.relative_to(ROOT)) for path in RESULTS)}"
    )


def test_the_page_stays_short() -> None:
    words = [word for word in PAGE.read_text(encoding="utf-8").split() if word.strip("|-:")]
    assert len(words) < 1500


def test_the_readme_says_the_same() -> None:
    """Its table has two threads: stock, and how many times faster each precision that it names is, of each machine."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = [cells(line) for line in text.splitlines() if line.startswith("|")]
    (_, *heads), *_ = (row for row in shown if any(cell.endswith(": stock") for cell in row))
    starts = [place for place, head in enumerate(heads) if head.endswith(": stock")]
    assert [heads[place].removesuffix(": stock") for place in starts] == [NAMES[folder.name] for folder in FOLDERS]
    windows, programs, minutes = (
        ["a window"],
        ["six one-minute files to `submission.csv`, five shifts"],
        ["600 such files"],
    )
    for folder, start, end in zip(FOLDERS, starts, [*starts[1:], len(heads)], strict=True):
        precisions = heads[start + 1 : end]
        peers, budget = (read_json(folder / f"{kind}.json") for kind in ("peers", "budget"))
        for row, rows, unit, name in (
            (windows, peers["contestants"], "ms", "bce"),
            (programs, peers["end_to_end"]["programs"], "s", "bce-infer"),
        ):
            of_name = {one["name"]: one for one in rows if one["threads"] == 2}
            stock = of_name.get("stock graph, ONNX Runtime") or of_name["stock script"]
            row.append(f"{stock['figure']['median']:.1f} {unit}")
            row += [f"{of_name[f'{name} {precision}']['times_stock']['median']:.1f}x" for precision in precisions]
        # the first of a precision is what runs without being asked for
        of_run = {run["precision"]: run for run in reversed(budget["runs"]) if run["shifts"] == 5}
        minutes += ["", *(f"{of_run[precision]['minutes']:.1f} min" for precision in precisions)]
    for row in (windows, programs, minutes):
        assert row in shown


def test_every_machine_and_thread_has_its_figure() -> None:
    both = [read_json(folder / "peers.json") for folder in FOLDERS]
    columns = [
        (result, threads, f"{NAMES[folder.name]}, {threads} thread{'s' * (threads > 1)}")
        for folder, result in zip(FOLDERS, both, strict=True)
        for threads in dict.fromkeys(row["threads"] for row in result["contestants"])
    ]
    lines = side_by_side(both)
    head, *rows = (cells(line) for line in lines if line.startswith("|") and "---" not in line)
    assert head[1:] == [heading for *_, heading in columns]
    of_name = {row[0]: row[1:] for row in rows}

    def label(row: dict[str, Any]) -> str:
        name = row["name"].removeprefix("backbone, ")
        return f"{name} ({row['note']})" if row["note"] else name

    everywhere = {label(row) for result in both for row in result["contestants"]}
    for column, (result, threads, _) in enumerate(columns):
        here = {label(row): row for row in result["contestants"] if row["threads"] == threads}
        for name, row in here.items():
            key = "times_onnxruntime" if row["name"].startswith("backbone, ") else "times_stock"
            ratio = f" ({row[key]['median']:.2f})" if key in row else ""
            assert of_name[name][column] == f"**{row['figure']['median']:.1f}**{ratio}"
        # a machine on which a contestant took no part has an empty cell
        assert {of_name[name][column] for name in everywhere - set(here)} <= {""}


@pytest.mark.parametrize("kind", ["peers", "budget", "startup", "memory"])
def test_rows_are_as_wide_as_their_header(kind: str) -> None:
    width = 0
    for line in side_by_side([read_json(path) for path in RESULTS if path.stem == kind]):
        width = (width or len(cells(line))) if line.startswith("|") else 0
        assert not width or len(cells(line)) == width


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(OptionsError, match="'weather' has no table"):
        side_by_side([{"kind": "weather"}])

"""Machines side by side, and the page that is made so."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

pytest.importorskip("psutil", reason="benchmarks need the extra bce[bench]")

from bce.bench.figures import read_json
from bce.bench.side_by_side import side_by_side
from bce.bench.tables import put_into
from bce.engine.errors import OptionsError

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "performance.md"
FOLDERS = [ROOT / "bench" / "results" / machine for machine in ("intel", "amd")]
RESULTS = [path for folder in FOLDERS for path in sorted(folder.glob("*.json"))]
"""The measurements that the page shows, Intel's before AMD's."""


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
    assert len(PAGE.read_text(encoding="utf-8").split()) < 1500


def test_the_readme_says_the_same() -> None:
    """Its table has two threads: stock, and how many times faster fp32 and int8 are, of each machine."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    windows, programs, minutes = (
        ["a window"],
        ["six one-minute files to `submission.csv`, five shifts"],
        ["600 such files"],
    )
    for folder in FOLDERS:
        peers, budget = (read_json(folder / f"{kind}.json") for kind in ("peers", "budget"))
        for row, rows, unit in (
            (windows, peers["contestants"], "ms"),
            (programs, peers["end_to_end"]["programs"], "s"),
        ):
            of_name = {
                one["name"].removeprefix("bce-infer ").removeprefix("bce "): one for one in rows if one["threads"] == 2
            }
            stock = of_name.get("stock graph, ONNX Runtime") or of_name["stock script"]
            row.append(f"{stock['figure']['median']:.1f} {unit}")
            row += [f"{of_name[name]['times_stock']['median']:.1f}x" for name in ("fp32", "int8")]
        minutes += ["", *(f"{run['minutes']:.1f} min" for run in budget["runs"] if run["shifts"] == 5)]
    shown = [cells(line) for line in text.splitlines() if line.startswith("|")]
    for row in (windows, programs, minutes):
        assert row in shown


def test_every_machine_and_thread_has_its_figure() -> None:
    both = [read_json(folder / "peers.json") for folder in FOLDERS]
    lines = side_by_side(both)
    head, *rows = (cells(line) for line in lines if line.startswith("|") and "---" not in line)
    assert head[1:] == [
        f"{cpu}, {threads} thread{'s' * (threads > 1)}" for cpu in ("Intel Xeon", "AMD EPYC") for threads in (1, 2)
    ]
    of_name = {row[0]: row[1:] for row in rows}
    for column, (result, threads) in enumerate([(result, threads) for result in both for threads in (1, 2)]):
        here = [row for row in result["contestants"] if row["threads"] == threads]
        for row in here:
            cell = of_name[f"{row['name']} ({row['note']})"][column]
            ratio = f" ({row['times_stock']['median']:.2f})" if "times_stock" in row else ""
            assert cell == f"**{row['figure']['median']:.1f}**{ratio}"
        # a machine on which a contestant took no part has an empty cell
        others = {f"{row['name']} ({row['note']})" for result in both for row in result["contestants"]}
        others -= {f"{row['name']} ({row['note']})" for row in here}
        assert {of_name[name][column] for name in others} <= {""}


@pytest.mark.parametrize("kind", ["peers", "budget", "startup", "memory"])
def test_rows_are_as_wide_as_their_header(kind: str) -> None:
    width = 0
    for line in side_by_side([read_json(path) for path in RESULTS if path.stem == kind]):
        width = (width or len(cells(line))) if line.startswith("|") else 0
        assert not width or len(cells(line)) == width


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(OptionsError, match="'weather' has no table"):
        side_by_side([{"kind": "weather"}])

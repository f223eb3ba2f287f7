"""The command line, and tables out of results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("psutil", reason="benchmarks need the extra bce[bench]")
pytest.importorskip("threadpoolctl", reason="benchmarks need the extra bce[bench]")

from bce.bench import machine
from bce.bench.cli import main, parser
from bce.bench.figures import figure, write_json
from bce.bench.peers import PeersOptions
from bce.bench.side_by_side import side_by_side
from bce.bench.tables import put_into, table
from bce.engine.errors import OptionsError

VERSIONS = {"python": "3.11.7", "onnxruntime": "1.32.0", "bce": "0.1.0"}
HEAD: dict[str, Any] = {
    "machine": {"cpu": "A CPU", "cpus": 2, "memory_gb": 8.0, "versions": VERSIONS},
    "weights": {"source": "model.onnx", "notice": "scores mean nothing"},
    "load": {"others_share": 0.01, "stolen_share": 0.0, "quiet": True},
}  # fmt: skip


def entry(*values: float) -> dict[str, float]:
    return figure(values).to_json()


STARTUP = HEAD | {
    "kind": "startup",
    "help_s": entry(0.2, 0.22, 0.26),
    "compiling": {"first_window_s": 8.0, "wall_s": 9.0},
    "warm": {"first_window_s": entry(1.1, 1.2, 1.3), "wall_s": entry(2.0, 2.5, 3.0)},
}
PEERS = HEAD | {
    "kind": "peers",
    "audio": {"windows": 120},
    "rounds": 3,
    "absent": {"LiteRT": "no TFLite file was given"},
    "bound": {
        "gmac_whole": 1.2335,
        "gmac_bundle": 1.1958,
        "fastest": "numpy, 1x2x3",
        "rates": [
            {
                "name": "fastest product",
                "gflops": entry(84, 85, 86),
                "ms_whole": entry(29.4, 29.4),
                "ms_bundle": entry(28.5, 28.5),
            }
        ],
    },
    "contestants": [
        {"name": "stock", "threads": 1, "note": "all outputs", "figure": entry(180, 190, 200)},
        {
            "name": "bce fp32",
            "threads": 1,
            "note": "",
            "figure": entry(35, 36, 37),
            "times_stock": entry(5.1, 5.3, 5.4),
            "times_bound": {"fastest product": entry(1.2, 1.3)},
        },
    ],
}


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_startup_table_holds_the_figures() -> None:
    lines = table(STARTUP)
    assert "model.onnx (scores mean nothing)" in lines[1]
    assert cells(next(line for line in lines if "--help" in line)) == [
        "`bce-infer --help`",
        "0.22",
        "0.21-0.24",
        "0.20",
    ]


def test_peers_table_holds_the_figures() -> None:
    lines = table(PEERS)
    ours = cells(next(line for line in lines if line.startswith("| bce fp32")))
    assert ours[:5] == ["bce fp32", "1", "**36.0**", "35.5-36.5", "35.0"]
    assert ours[5] == "5.30 (5.20-5.35)"
    assert any("LiteRT: left out, no TFLite file was given" in line for line in lines)
    assert cells(next(line for line in lines if line.startswith("| fastest product")))[2] == "28.5"


@pytest.mark.parametrize("content", [STARTUP, PEERS])
def test_rows_are_as_wide_as_their_header(content: dict[str, Any]) -> None:
    width = 0
    for line in table(content):
        if not line.startswith("|"):
            width = 0
            continue
        width = width or len(cells(line))
        assert len(cells(line)) == width


def test_a_busy_machine_is_named() -> None:
    busy = STARTUP | {"load": {"others_share": 0.4, "stolen_share": 0.0, "quiet": False}}
    assert not any("doubtful" in line for line in table(STARTUP))
    assert any("doubtful" in line for line in table(busy))


def test_tables_take_their_place_in_a_document(tmp_path: Path) -> None:
    document, result = tmp_path / "doc.md", tmp_path / "startup.json"
    document.write_text("before\n<!-- startup -->\nold\n<!-- /startup -->\nafter\n")
    write_json(result, STARTUP)
    for _ in range(2):
        assert main(["table", str(result), "--into", str(document)]) == 0
        lines = document.read_text().splitlines()
        assert lines == ["before", "<!-- startup -->", *side_by_side([STARTUP]), "<!-- /startup -->", "after"]
    document.write_text("no place")
    with pytest.raises(OptionsError, match="<!-- startup -->"):
        put_into(document, [result])


def test_an_unknown_result_is_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(tmp_path / "x.json", {"kind": "weather"})
    assert main(["table", str(tmp_path / "x.json")]) == 2
    assert "weather" in capsys.readouterr().err


def test_lists_are_parsed() -> None:
    given = parser().parse_args(["peers", "--threads", "1,4", "--precisions", "fp32,int8"])
    assert (given.threads, given.precisions) == ((1, 4), ("fp32", "int8"))
    with pytest.raises(SystemExit):
        parser().parse_args(["peers", "--threads", "two"])


@pytest.mark.parametrize("wrong", [["--rounds", "0"], ["--windows", "0"], ["--threads", "0"], ["--recordings", "-1"]])
def test_values_out_of_range_are_wrong_use(
    wrong: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["peers", *wrong, "--work", str(tmp_path / "work")]) == 2
    assert "must be" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


def test_defaults_are_in_range() -> None:
    assert PeersOptions().threads == (1, 2)


def test_the_machine_is_described() -> None:
    found = machine.describe()
    assert found["cpus"] >= 1
    assert found["versions"]["onnxruntime"]


def test_own_work_is_not_that_of_others() -> None:
    watch = machine.Watch()
    total = sum(i * i for i in range(300_000))
    load = watch.stop()
    assert total > 0
    assert 0.0 <= load["others_share"] <= 1.0
    assert load["quiet"] == (load["others_share"] + load["stolen_share"] <= machine.QUIET)

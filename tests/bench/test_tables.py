"""The command line, and tables out of results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("psutil", reason="benchmarks need the extra bce[bench]")

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
    "starts": [
        {"form": "compiled fp32, avx2", "state": state, "first_window_s": entry(*first), "wall_s": entry(*wall)}
        for state, first, wall in (("cold", (4.0, 4.5), (5.0, 5.5)), ("warm", (1.1, 1.2, 1.3), (2.0, 2.5, 3.0)))
    ],
}
DISTANCE = {
    "windows": 9,
    "outputs": {
        "block_1": {"all": 2e-6, "median": 1e-6, "worst": 5e-6},
        "block_2": {"all": 3e-6, "median": 2e-6, "worst": 4e-6},
    },
}
FIDELITY = HEAD | {
    "kind": "fidelity",
    "windows": 9,
    "recordings": 3,
    "unreadable": ["x.ogg: is empty"],
    "absent": {"compiled bf16, avx512": "this CPU has no bfloat16"},
    "forms": [{"name": "compiled fp32, avx2", "distance": DISTANCE}],
}
KERNELS = HEAD | {
    "kind": "kernels",
    "absent": {},
    "peaks": [
        {"isa": "avx2", "name": "cycles", "rate": entry(4e9)},
        {"isa": "avx2", "name": "f32", "rate": entry(64e9)},
        {"isa": "avx2", "name": "exact", "rate": entry(4e9)},
    ],
    "forms": [
        {
            "name": "compiled fp32, avx2",
            "figure": entry(3.6, 4.0, 4.2),
            "multiplications": 120_000_000,
            "floor_ms": 2.0,
            "rows": [
                {
                    "name": "0-1",
                    "parts": {
                        "expand": {"ms": 2.0, "multiplications": 80_000_000, "floor_ms": 1.25},
                        "gate": {"ms": 0.1, "multiplications": 0, "floor_ms": 0.0},
                        "scale": {"ms": 0.1, "multiplications": 0, "floor_ms": 0.0},
                        "project": {"ms": 1.0, "multiplications": 30_000_000, "floor_ms": 0.5},
                    },
                },
                {"name": "head", "parts": {"": {"ms": 0.5, "multiplications": 10_000_000, "floor_ms": 0.25}}},
            ],
        }
    ],
}
PEERS = HEAD | {
    "kind": "peers",
    "audio": {"windows": 120},
    "rounds": 3,
    "absent": {"LiteRT": "no TFLite file was given"},
    "contestants": [
        {"name": "stock", "threads": 1, "note": "all outputs", "figure": entry(180, 190, 200)},
        {
            "name": "bce fp32",
            "threads": 1,
            "note": "",
            "figure": entry(35, 36, 37),
            "times_stock": entry(5.1, 5.3, 5.4),
            "form": "compiled fp32, avx2 (znver4)",
        },
        {
            "name": "backbone, compiled fp32, avx2",
            "threads": 1,
            "note": "",
            "figure": entry(24, 25, 26),
            "times_onnxruntime": entry(1.3, 1.4, 1.5),
            "times_capped": entry(1.6, 1.7, 1.8),
            "distance": DISTANCE,
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
    assert "- bce fp32: compiled fp32, avx2 (znver4)." in lines
    alone = cells(next(line for line in lines if line.startswith("| backbone, compiled")))
    assert alone[7:9] == ["1.40 (1.35-1.45)", "1.70 (1.65-1.75)"]
    assert alone[-2:] == ["3.0e-06", "5.0e-06"]  # of the output that is furthest off, each


def test_kernels_table_holds_the_figures() -> None:
    lines = table(KERNELS)
    of_row = {cells(line)[0]: cells(line)[1:] for line in lines if line.startswith("|")}
    assert of_row["swish for float32, G/s (cycles of a vector)"] == ["4.00 (8.0 cycles)"]
    assert of_row["0-1"] == ["110.0", "2.00 (40)", "0.10", "0.10", "1.00 (30)", "3.20 (34)", "1.75"]
    assert of_row["head"] == ["10.0", "", "", "", "", "0.50 (20)", "0.25"]
    assert of_row["all"][1] == "2.00 (40)"
    assert of_row["all"][-2:] == ["**4.00** (30)", "2.00"]


def test_only_peaks_that_were_measured_have_a_row() -> None:
    lines = table(KERNELS)
    assert not any("multiply-adds of bytes" in line or "bfloat16" in line for line in lines)
    new = KERNELS | {"peaks": [*KERNELS["peaks"], {"isa": "avx2", "name": "i8", "rate": entry(250e9)}]}
    of_row = {cells(line)[0]: cells(line)[1:] for line in table(new) if line.startswith("|")}
    assert of_row["multiply-adds of bytes, G/s"] == ["250.0"]
    assert "multiply-adds of 16 bits, G/s" not in of_row


def test_fidelity_table_holds_the_figures() -> None:
    lines = table(FIDELITY)
    assert cells(next(line for line in lines if "block_2" in line))[2:] == ["3.0e-06", "2.0e-06", "4.0e-06"]
    assert "- compiled bf16, avx512: left out, this CPU has no bfloat16." in lines
    assert "- Not read to its end: x.ogg: is empty." in lines


@pytest.mark.parametrize("show", [table, lambda content: side_by_side([content, content])])
@pytest.mark.parametrize("content", [STARTUP, PEERS, KERNELS, FIDELITY], ids=lambda content: content["kind"])
def test_rows_are_as_wide_as_their_header(content: dict[str, Any], show: Callable[[dict[str, Any]], list[str]]) -> None:
    width = 0
    for line in show(content):
        if not line.startswith("|"):
            width = 0
            continue
        width = width or len(cells(line))
        assert len(cells(line)) == width


def test_the_documentation_has_the_distance_to_the_peaks() -> None:
    of_row = {cells(line)[0]: cells(line)[1:] for line in side_by_side([KERNELS]) if line.startswith("|")}
    assert of_row["0-1"] == ["3.20 (1.75)"]
    assert of_row["all"] == ["**4.0** (2.0)"]
    assert of_row["of it expand + depthwise"] == ["2.00 (1.25)"]


def test_the_documentation_has_the_furthest_output() -> None:
    (row,) = (cells(line) for line in side_by_side([FIDELITY]) if line.startswith("| compiled"))
    assert row == ["compiled fp32, avx2", "3.0e-06", "2.0e-06", "5.0e-06"]


def test_what_is_held_to_avx2_is_compared_with_its_like() -> None:
    assert any("1.70 times as fast as OpenVINO fp32 held to AVX2" in line for line in side_by_side([PEERS]))


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
    given = parser().parse_args(["kernels", "--isa", "avx2", "--precision", "bf16,fp32"])
    assert (given.isa, given.precision) == (("avx2",), ("bf16", "fp32"))
    given = parser().parse_args(["birdnet", "--audio", "a", "b", "--calibrate", "c", "--precisions", "fp32"])
    assert (given.audio, given.calibrate, given.precisions) == ([Path("a"), Path("b")], [Path("c")], ("fp32",))
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

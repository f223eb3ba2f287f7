"""Statistics against numpy and scipy, the prediction against sums done by hand."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

pytest.importorskip("psutil", reason="benchmarks need the extra bce[bench]")

from bce.bench import backbones
from bce.bench.budget_report import form_of, split, ways_to_run
from bce.bench.figures import figure, ratio, read_json, slope, write_json
from bce.bench.memory import curve
from bce.bench.peers import our_ways
from bce.bench.processes import ProcessRun
from bce.engine.compiled.targets import Target
from bce.engine.errors import OptionsError
from bce.engine.network.bundle import Bundle
from bce.engine.network.int8 import INT8
from bce.engine.network.manifest import Manifest

TIMES = st.lists(st.floats(0.001, 1e6), min_size=1, max_size=30)


@given(TIMES)
@example([32769.0, 0.001, 0.001, 0.001])
def test_figure_is_median_and_quartiles(values: list[float]) -> None:
    found = figure(values)
    assert found.median == pytest.approx(np.median(values))
    assert found.low == pytest.approx(np.percentile(values, 25))
    assert found.high == pytest.approx(np.percentile(values, 75))
    assert found.best == min(values)
    assert found.count == len(values)
    assert found.spread == pytest.approx(stats.iqr(values) / np.median(values), rel=1e-9, abs=1e-9)


def test_ratios_are_taken_within_a_round() -> None:
    # the second round is disturbed throughout: ten times slower, the same ratio
    found = ratio([100.0, 1000.0, 110.0], [20.0, 200.0, 22.0])
    assert (found.median, found.low, found.high) == pytest.approx((5.0, 5.0, 5.0))
    with pytest.raises(ValueError, match="shorter"):
        ratio([1.0, 2.0], [1.0])


@given(
    st.lists(st.tuples(st.floats(-100, 100), st.floats(-100, 100)), min_size=2, max_size=20, unique_by=lambda p: p[0])
)
def test_slope_is_that_of_linear_regression(points: list[tuple[float, float]]) -> None:
    x, y = np.transpose(points)
    if np.ptp(x) > 0.1:
        assert slope(x, y) == pytest.approx(stats.linregress(x, y).slope, rel=1e-6, abs=1e-6)


def test_slope_of_a_point_is_none() -> None:
    assert slope([1.0], [5.0]) == 0.0


TOTALS = {"recordings": 20, "windows": 1120, "audio_s": 1200.0, "wall_s": 21.0, "ready_s": 1.0}
SECONDS = {"decode": 0.8, "frontend": 1.0, "inference": 37.6, "postprocess": 0.1, "write": 0.1}


def test_stages_and_waiting_are_all_of_the_time() -> None:
    found = split(TOTALS, SECONDS, threads=2, files=600)
    assert sum(stage["share"] for stage in found["stages"].values()) == pytest.approx(1.0)
    assert found["stages"]["inference"]["share"] == pytest.approx(0.94)
    assert found["stages"]["waiting"]["share"] == pytest.approx(0.01)
    assert found["stages"]["inference"]["ms_per_window"] == pytest.approx(37_600 / 1120)


def test_prediction_counts_the_start_once() -> None:
    found = split(TOTALS, SECONDS, threads=2, files=600)
    assert found["minutes"] == pytest.approx((1 + 30 * 20) / 60)
    assert found["share_of_budget"] == pytest.approx(found["minutes"] / 90)
    assert found["times_real_time"] == pytest.approx(60.0)


def test_growth_leaves_out_loading_and_leaving() -> None:
    times = np.arange(0.0, 100.0, 0.5)
    sizes = np.where(times < 20, times * 20, np.where(times < 96, 400 + 0.5 * (times - 20), 50)) * 1e6
    found = curve(ProcessRun(100.0, 180.0, int(sizes.max()), tuple(times), tuple(sizes.astype(int)), 0, ""))
    assert found["growth_bytes_per_s"] == pytest.approx(0.5e6, rel=1e-3)
    assert found["busy_threads"] == pytest.approx(1.8)
    assert found["at"]["50%"] == pytest.approx(415e6, rel=1e-3)
    assert len(found["time_s"]) <= 200


def test_results_are_read_as_written(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "x.json", {"kind": "peers", "ms": [1.5, 2.0]})
    assert read_json(tmp_path / "new" / "x.json") == {"kind": "peers", "ms": [1.5, 2.0]}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.json"]


@pytest.mark.parametrize(
    ("content", "says"), [("{", "not JSON"), (json.dumps({"ms": 1}), "kind"), ("[]", "kind"), (None, "cannot be read")]
)
def test_other_files_are_refused(tmp_path: Path, content: str | None, says: str) -> None:
    path = tmp_path / "x.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(OptionsError, match=says):
        read_json(path)


@pytest.mark.parametrize(
    ("record", "text"),
    [
        ({"backend": "compiled", "precision": "bf16", "isa": "avx512", "cpu": "znver4"}, "compiled bf16, avx512"),
        ({"backend": "onnxruntime", "precision": "int8"}, "ONNX Runtime int8"),
    ],
)
def test_forms_are_named_without_the_cpu(record: dict[str, str], text: str) -> None:
    assert form_of(record) == text


@pytest.mark.parametrize(
    ("kernels", "graph", "vnni", "twice", "alone"),
    [
        (False, True, True, ["auto"], ["onnxruntime"]),
        (True, True, False, ["auto"], ["onnxruntime"]),
        (True, True, True, ["auto", "onnxruntime"], ["onnxruntime"]),
        (True, False, True, ["auto"], []),
        (False, False, True, [], []),
    ],
)
def test_no_way_runs_twice(
    kernels: bool, graph: bool, vnni: bool, twice: list[str], alone: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbones, "host_target", lambda: Target("any", "avx512", vnni=vnni))
    manifest = SimpleNamespace(
        variants={"fp32": ""} | ({"int8": ""} if graph else {}), files={INT8: ""} if kernels else {}
    )
    made = Bundle(Path("b"), cast(Manifest, manifest))
    both = ways_to_run(made, ("auto", "onnxruntime"))
    always = [("fp32", "auto"), ("fp32", "onnxruntime"), ("bf16", "auto")]
    assert both == [*always, *(("int8", backend) for backend in twice)]
    only = ways_to_run(made, ("onnxruntime",))
    assert only == [("fp32", "onnxruntime"), *(("int8", backend) for backend in alone)]
    assert set(our_ways(made)) == set(both)
    assert len(our_ways(made)) == len(both)

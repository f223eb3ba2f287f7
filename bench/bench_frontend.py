"""Time of Perch's frontend: a minute at one shift and at five (56 distinct windows), a window by the definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bce.engine.frontends.perch import SHAPE, WINDOW, PerchFrontend, Preparation, log_mel_reference
from bce.engine.geometry import SHIFT_SETS, ChunkGrid, plan_windows

SAMPLES = np.random.default_rng(0).normal(0, 0.1, 60 * WINDOW.sample_rate).astype(np.float32)


@pytest.mark.parametrize("shifts", [1, 5])
@pytest.mark.parametrize("preparation", ["none", "peak", "hoplite"])
def test_minute(benchmark: Any, preparation: Preparation, shifts: int) -> None:
    frontend, out = PerchFrontend(preparation), np.empty(SHAPE, np.float32)
    starts = plan_windows(WINDOW, ChunkGrid(WINDOW.window_s), 0, 12, SHIFT_SETS[shifts], len(SAMPLES)).starts.tolist()

    def minute() -> None:
        opened = frontend.open(SAMPLES)
        for start in starts:
            opened.window(start, out)

    minute()
    benchmark(minute)
    benchmark.extra_info["windows"] = len(starts)


def test_one_window_by_the_definition(benchmark: Any) -> None:
    benchmark(log_mel_reference, SAMPLES[: WINDOW.samples], "none")
    benchmark.extra_info["windows"] = 1

"""Time of the log-mel: a minute at five shifts (56 distinct windows), and the same window by window."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bce.engine.frontends.perch import Frontend, Preparation, log_mel_reference
from bce.engine.geometry import SHIFT_SETS, plan_windows

SAMPLES = np.random.default_rng(0).normal(0, 0.1, 60 * 32_000).astype(np.float32)
STARTS = plan_windows(0, 12, SHIFT_SETS[5], len(SAMPLES)).starts.tolist()


@pytest.mark.parametrize("preparation", ["none", "peak", "hoplite"])
def test_minute_at_five_shifts(benchmark: Any, preparation: Preparation) -> None:
    out = np.empty((500, 128), np.float32)

    def minute() -> None:
        frontend = Frontend(SAMPLES, preparation)
        for start in STARTS:
            frontend.window(start, out)

    minute()
    benchmark(minute)
    benchmark.extra_info["windows"] = len(STARTS)


def test_one_window_by_the_definition(benchmark: Any) -> None:
    benchmark(log_mel_reference, SAMPLES[:160_000], "none")
    benchmark.extra_info["windows"] = 1

"""Time of what surrounds and makes the network's call: decoding a minute, one window, a minute at five shifts.

The bundle is $BCE_BUNDLE, or one with seeded weights that is made once in build/bench.

pytest bench/bench_engine.py --benchmark-only
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from pytest_benchmark.fixture import BenchmarkFixture

from bce.bench.cli import WORK
from bce.bench.materials import Work, model_file
from bce.bench.materials import bundle as find_bundle
from bce.engine.audio.reader import AudioBlock, AudioReader
from bce.engine.geometry import SHIFT_SETS
from bce.engine.GONE import SAMPLE_RATE
from bce.engine.network.bundle import Bundle
from bce.engine.network.model import Model
from bce.engine.run.engine import Engine, EngineOptions

SHIFTS = SHIFT_SETS[5]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    named, work = os.environ.get("BCE_BUNDLE"), Work(WORK)
    return find_bundle(work, None if named is None else Path(named), lambda: model_file(work, None))


@pytest.fixture(scope="module", params=["ogg", "flac", "wav"])
def recording(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("minute") / f"minute.{request.param}"
    samples = np.random.default_rng(0).normal(0, 0.1, 60 * SAMPLE_RATE).clip(-1, 1)
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1) as file:
        for start in range(0, len(samples), SAMPLE_RATE):  # libsndfile's Vorbis encoder overflows on long writes
            file.write(samples[start : start + SAMPLE_RATE])
    return path


def test_decode_minute(benchmark: BenchmarkFixture, recording: Path) -> None:
    def decode() -> list[AudioBlock]:
        with AudioReader(recording, 2.0) as reader:
            return list(reader)

    benchmark(decode)


@pytest.mark.parametrize("windows", [1, 2, 4])
def test_backbone(benchmark: BenchmarkFixture, bundle: Bundle, windows: int) -> None:
    log_mel = np.random.default_rng(0).uniform(-1.15, 0.2, (windows, 500, 128)).astype(np.float32)
    model = Model(bundle)
    benchmark(model.features, log_mel)
    benchmark.extra_info["windows"] = windows


def test_minute_at_five_shifts(benchmark: BenchmarkFixture, bundle: Bundle) -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, 60 * SAMPLE_RATE).astype(np.float32)
    block = AudioBlock(samples, 0, 0, 12, len(samples))
    engine = Engine(bundle, EngineOptions(threads=1, shifts_s=SHIFTS))
    benchmark.pedantic(engine.compute, (block, SHIFTS), rounds=3, warmup_rounds=1)
    benchmark.extra_info["windows"] = engine.compute(block, SHIFTS).windows

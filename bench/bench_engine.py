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
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture

from bce.bench.cli import WORK
from bce.bench.materials import Work, model_file
from bce.bench.materials import bundle as find_bundle
from bce.engine.audio.reader import AudioBlock, AudioReader
from bce.engine.geometry import SHIFT_SETS
from bce.engine.network.bundle import Bundle
from bce.engine.network.model import Model
from bce.engine.run.engine import Engine, EngineOptions

SHIFTS = SHIFT_SETS[5]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    named, work = os.environ.get("BCE_BUNDLE"), Work(WORK)
    return find_bundle(work, None if named is None else Path(named), lambda: model_file(work, None))


@pytest.fixture(scope="module", params=["ogg", "flac", "wav"])
def recording(request: pytest.FixtureRequest, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("minute") / f"minute.{request.param}"
    rate = bundle.manifest.window.sample_rate
    with soundfile.SoundFile(path, "w", rate, 1) as file:
        for second in minute(rate).clip(-1, 1).reshape(60, rate):  # libsndfile's Vorbis encoder overflows on more
            file.write(second)
    return path


def minute(rate: int) -> NDArray[np.float64]:
    """A minute of noise."""
    return np.random.default_rng(0).normal(0, 0.1, 60 * rate)


def test_decode_minute(benchmark: BenchmarkFixture, bundle: Bundle, recording: Path) -> None:
    manifest = bundle.manifest

    def decode() -> list[AudioBlock]:
        with AudioReader(recording, manifest.window.sample_rate, manifest.grid, 2.0) as reader:
            return list(reader)

    benchmark(decode)


@pytest.mark.parametrize("windows", [1, 2, 4])
def test_backbone(benchmark: BenchmarkFixture, bundle: Bundle, windows: int) -> None:
    inputs = np.random.default_rng(0).uniform(-1.15, 0.2, (windows, *bundle.manifest.input.shape)).astype(np.float32)
    model = Model(bundle)
    benchmark(model.features, inputs)
    benchmark.extra_info["windows"] = windows


def test_minute_at_five_shifts(benchmark: BenchmarkFixture, bundle: Bundle) -> None:
    window = bundle.manifest.window
    samples = minute(window.sample_rate).astype(np.float32)
    block = AudioBlock(samples, 0, 0, len(samples) // window.samples, len(samples), window.samples)
    engine = Engine(bundle, EngineOptions(threads=1, shifts_s=SHIFTS))
    benchmark.pedantic(engine.compute, (block, SHIFTS), rounds=3, warmup_rounds=1)
    benchmark.extra_info["windows"] = engine.compute(block, SHIFTS).windows

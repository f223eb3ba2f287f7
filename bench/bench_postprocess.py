"""Post-processing of 600 recordings of a minute: the kernels beside the same steps in numpy and scipy.

pytest bench/bench_postprocess.py --benchmark-only
"""

from __future__ import annotations

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from scipy.ndimage import gaussian_filter1d
from scipy.special import expit

from bce.engine.post.options import PostprocessOptions
from bce.engine.post.steps import Groups, add_prior, postprocess, smooth_taxonomy, smooth_time

RECORDINGS, CHUNKS, CLASSES, HOURS = 600, 12, 234, 24
SHAPE = (RECORDINGS * CHUNKS, CLASSES)
OFFSETS = np.arange(RECORDINGS + 1, dtype=np.int64) * CHUNKS


@pytest.fixture(scope="module")
def logits() -> np.ndarray:
    return np.random.default_rng(0).normal(size=SHAPE, scale=3).astype(np.float32)


@pytest.fixture(scope="module")
def boost() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.normal(size=(HOURS, CLASSES)), rng.integers(0, HOURS, SHAPE[0]).astype(np.int32)


@pytest.fixture(scope="module")
def groups() -> list[Groups]:
    rng = np.random.default_rng(2)
    genus, taxon = rng.integers(0, 170, CLASSES), rng.integers(0, 5, CLASSES)
    return [Groups.of(genus.astype(np.int32), 0.15), Groups.of(taxon.astype(np.int32), 0.05)]


def numpy_gaussian(scores: np.ndarray) -> np.ndarray:
    parts = [gaussian_filter1d(part, 1.0, axis=0, mode="nearest") for part in np.split(scores, OFFSETS[1:-1])]
    return np.concatenate(parts)


def numpy_taxonomy(scores: np.ndarray, groups: list[Groups]) -> np.ndarray:
    out = scores.copy()
    for level in groups:
        for number in np.unique(level.group[level.group >= 0]):
            members = np.flatnonzero(level.group == number)
            mean = out[:, members].mean(axis=1, keepdims=True)
            out[:, members] = (1 - level.amount) * out[:, members] + level.amount * mean
    return out


@pytest.mark.benchmark(group="all steps")
def test_all_kernels(
    benchmark: BenchmarkFixture, logits: np.ndarray, boost: tuple[np.ndarray, np.ndarray], groups: list[Groups]
) -> None:
    benchmark(lambda: postprocess(add_prior(logits, *boost), OFFSETS, PostprocessOptions(), groups))


@pytest.mark.benchmark(group="all steps")
def test_all_numpy(
    benchmark: BenchmarkFixture, logits: np.ndarray, boost: tuple[np.ndarray, np.ndarray], groups: list[Groups]
) -> None:
    benchmark(lambda: numpy_taxonomy(expit(numpy_gaussian(logits.astype(np.float64) + boost[0][boost[1]])), groups))


@pytest.mark.benchmark(group="Gaussian")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gaussian_kernel(benchmark: BenchmarkFixture, logits: np.ndarray, dtype: type) -> None:
    benchmark(smooth_time, logits.astype(dtype), OFFSETS, 1.0)


@pytest.mark.benchmark(group="Gaussian")
def test_gaussian_scipy(benchmark: BenchmarkFixture, logits: np.ndarray) -> None:
    benchmark(numpy_gaussian, logits.astype(np.float64))


@pytest.mark.benchmark(group="taxonomy")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_taxonomy_kernel(benchmark: BenchmarkFixture, logits: np.ndarray, groups: list[Groups], dtype: type) -> None:
    benchmark(smooth_taxonomy, expit(logits).astype(dtype), groups)


@pytest.mark.benchmark(group="taxonomy")
def test_taxonomy_numpy(benchmark: BenchmarkFixture, logits: np.ndarray, groups: list[Groups]) -> None:
    benchmark(numpy_taxonomy, expit(logits.astype(np.float64)), groups)

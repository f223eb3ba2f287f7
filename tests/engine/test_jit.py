"""Kernels run whatever has become of numba's cache."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np
import pytest
from numba.core import caching

from bce.engine import jit

SOURCE = """
from bce.engine.jit import kernel

@kernel()
def double(values):
    for i in range(values.shape[0]):
        values[i] *= 2
"""


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Callable]:
    """The kernel as a new process finds it."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    jit._say_once.cache_clear()
    path = tmp_path / "doubling.py"
    path.write_text(SOURCE)

    def load() -> Callable:
        spec = importlib.util.spec_from_file_location("doubling", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.double

    return load


def doubles(double: Callable) -> dict:
    """That it does; and from where its code came."""
    values = np.arange(4.0)
    double(values)
    assert values.tolist() == [0, 2, 4, 6]
    return {"hits": sum(double.stats.cache_hits.values()), "misses": sum(double.stats.cache_misses.values())}


def test_code_comes_from_the_cache(fresh: Callable[[], Callable]) -> None:
    assert doubles(fresh()) == {"hits": 0, "misses": 1}
    assert doubles(fresh()) == {"hits": 1, "misses": 0}


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[: len(b) // 2], lambda b: bytes(len(b))])
def test_a_damaged_cache_is_made_anew(
    fresh: Callable[[], Callable], tmp_path: Path, suffix: str, damage: Callable[[bytes], bytes]
) -> None:
    doubles(fresh())
    (file,) = tmp_path.rglob(f"*.{suffix}")
    file.write_bytes(damage(file.read_bytes()))
    assert doubles(fresh())["hits"] == 0
    assert doubles(fresh())["hits"] == 1


def test_a_full_disk_costs_compiling_and_says_so_once(
    fresh: Callable[[], Callable], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(caching.IndexDataCacheFile, "_open_for_write", full)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            doubles(fresh())
    (said,) = caplog.messages
    assert said.startswith("kernels are compiled at every start, which takes seconds: ")
    assert "No space left on device" in said


def test_no_folder_for_a_cache(
    fresh: Callable[[], Callable], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def nowhere(self: object, function: object) -> None:
        raise RuntimeError("cannot cache function 'double': no locator available for file")

    monkeypatch.setattr(caching.FunctionCache, "__init__", nowhere)
    doubles(fresh())
    assert "no locator available" in caplog.messages[0]

"""A cache of its own for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from bce.engine import cache
from bce.engine.compiled.targets import Target, host_target, why_none


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that is the cache; it is not there yet. Skips where there are no kernels for the CPU."""
    if host_target() is None:
        pytest.skip("there are no kernels for this CPU")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    cache._say_once.cache_clear()
    return tmp_path / "home" / "bce" / "kernels"


@pytest.fixture(scope="session", params=["avx512", "avx2"])
def target(request: pytest.FixtureRequest) -> Target:
    """This CPU in each vector form that it can run; bfloat16 comes with the wider one, where the CPU has it."""
    found = host_target(request.param)
    if found is None:
        pytest.skip(why_none(request.param))
    return found

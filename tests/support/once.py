"""What costs seconds to make is made once in a run of the tests, however many processes share the run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that the first process to ask for it fills; the others wait for it. Not to be written to."""
    from filelock import FileLock  # torch needs it too, and only what torch makes takes long

    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    partial = folder.with_name(f"{name}.partial")
    with FileLock(folder.with_name(f"{name}.lock")):
        if not folder.exists():
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            make(partial)
            partial.rename(folder)
    return folder

"""Fixtures that several floors use."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real recordings and tables that lie beside a development checkout; tests that want them skip elsewhere."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("the folder with real recordings is not beside this checkout")
    return folder

"""Labelled windows that several rooms of tools read."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.labels import HEADER, A, B


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """A table of labelled windows of two recordings, every row twice as in the published one."""
    path = tmp_path / "labels.csv"
    rows = [
        f"{A}.ogg,00:00:00,00:00:05,x;y",
        f"{A}.ogg,00:00:05,00:00:10,y",
        f"{A}.ogg,00:00:10,00:00:15,",
        f"{B}.ogg,00:00:00,00:00:05,x",
        f"{B}.ogg,00:01:00,00:01:05,z",
    ]
    path.write_text(HEADER + "".join(f"{row}\n" for row in rows * 2))
    return path

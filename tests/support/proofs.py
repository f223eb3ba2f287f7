"""Exports for tests of something else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def quick_proof() -> Iterator[None]:
    """Exports prove themselves on two kinds of natural windows: where the proof is not what is tested."""
    from bce.export.commands import planning

    whole = planning.check_inputs
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "check_inputs", lambda *given: [item for item in whole(*given) if item.natural][:2])
        yield

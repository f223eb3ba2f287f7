"""Disks that fill up, for tests: in one folder, files take so many bytes and no more."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path

import pytest

from bce.engine.files import Beside, Scratch


class SmallFile(io.FileIO):
    """As a disk does it: the last write is a short one, the next one fails."""

    room = 0

    def write(self, content) -> int:
        left = self.room - self.tell()
        if left <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(memoryview(content)[:left])


def fill(monkeypatch: pytest.MonkeyPatch, folder: Path, room: int, kinds: tuple[type, ...] = (Beside, Scratch)) -> None:
    """From here on each file that grows in a folder has room for so many bytes."""
    for kind in kinds:

        def small(self, where: Path, real=kind._open):
            file = real(self, where)
            if not os.path.samefile(where, folder):
                return file
            limited = SmallFile(os.dup(file.fileno()), "r+b")
            limited.room, limited.name = room, file.name
            file.close()
            return limited

        monkeypatch.setattr(kind, "_open", small)

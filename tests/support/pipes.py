"""A pipe that nobody fills: whoever opens it hangs, as on a dead mount."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def dead_pipe(path: Path) -> Iterator[Path]:
    """Make it; at the end let the engine's threads go that hang in it, for a command would end the process on them."""
    os.mkfifo(path)
    try:
        yield path
    finally:
        deadline = time.monotonic() + 20
        while any(thread.name.startswith("bce-") for thread in threading.enumerate()):
            assert time.monotonic() < deadline, "a thread of the engine still hangs"
            os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))  # who waits for a writer has seen one, and the end
            time.sleep(0.01)

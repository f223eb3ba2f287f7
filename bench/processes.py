"""Whole programs measured from outside: time, CPU time, memory."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from bce.engine.errors import BceError

SAMPLE_S = 0.05


@dataclass(frozen=True)
class ProcessRun:
    """One program from start to end.

    Attributes:
        wall_s: from before it was started until it had ended.
        cpu_s: user and system time, its children's too.
        peak_bytes: the most resident memory, summed over children.
        time_s, rss_bytes: resident memory over time.
        code: exit code.
        output: what it printed, both streams.
    """

    wall_s: float
    cpu_s: float
    peak_bytes: int
    time_s: tuple[float, ...]
    rss_bytes: tuple[int, ...]
    code: int
    output: str

    @property
    def busy_threads(self) -> float:
        """CPU seconds per second."""
        return self.cpu_s / self.wall_s


def run(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    sample_s: float = SAMPLE_S,
    good: Sequence[int] = (0,),
) -> ProcessRun:
    """Run a program to its end. One at a time: the CPU time is that of all children that end meanwhile.

    Args:
        command: the program and its arguments.
        environment: variables beside this process's own.
        sample_s: memory is looked at this often.
        good: exit codes that are not a failure.

    Raises:
        BceError: the program ended with another code; with its last line.
    """
    this = psutil.Process(os.getpid())
    times: list[float] = []
    sizes: list[int] = []
    peak = 0
    with tempfile.TemporaryFile("w+") as output:
        cpu_before = _children_seconds(this)
        began = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **(environment or {})}
        )
        try:
            while True:
                try:
                    process.wait(sample_s)
                    break
                except subprocess.TimeoutExpired:
                    now, most = _resident(process.pid)
                    times.append(time.perf_counter() - began)
                    sizes.append(now)
                    peak = max(peak, now, most)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        wall_s = time.perf_counter() - began
        cpu_s = _children_seconds(this) - cpu_before
        output.seek(0)
        text = output.read()
    if process.returncode not in good:
        last = text.strip().splitlines()[-1:] or ["it said nothing"]
        raise BceError(f"ended with code {process.returncode}: {last[0]}", " ".join(command[:4]))
    return ProcessRun(wall_s, cpu_s, peak, tuple(times), tuple(sizes), process.returncode, text)


def _children_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.children_user + times.children_system


def _resident(pid: int) -> tuple[int, int]:
    """Resident bytes now, summed over children, and the program's own peak where the system tells (Linux)."""
    try:
        process = psutil.Process(pid)
        now = process.memory_info().rss
        now += sum(child.memory_info().rss for child in process.children(recursive=True))
    except psutil.Error:
        return 0, 0  # it has just ended
    return now, _high_water(pid)


def _high_water(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return 0


def infer_command(*arguments: str | os.PathLike[str]) -> list[str]:
    """``bce-infer`` with this Python."""
    return [sys.executable, "-m", "bce.engine.commands.infer", *(os.fspath(argument) for argument in arguments)]

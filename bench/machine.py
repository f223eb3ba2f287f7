"""The machine that figures come from, and whether it was quiet meanwhile."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

import psutil

from bce.engine.run.engine import usable_cpus
from bce.engine.run.record import versions

QUIET = 0.05
"""Other programs may take this share of the CPUs before the figures are called doubtful."""
_PEERS = ("ai-edge-litert", "openvino", "torch", "onnx")


def describe() -> dict[str, Any]:
    """CPU, cores, memory and versions."""
    found = versions()
    for name in _PEERS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "cpu": _cpu_model(),
        "cpus": usable_cpus(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "versions": found,
    }


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass  # only Linux has it
    return platform.processor() or platform.machine()


class Watch:
    """Measures, from its making to :meth:`stop`, how much of the CPUs went to programs other than this one.

    Children that have ended count as this program.
    """

    def __init__(self) -> None:
        self._load_before = psutil.getloadavg()[0]
        self._busy, self._stolen, self._all = _system_seconds()
        self._own = _own_seconds()

    def stop(self) -> dict[str, Any]:
        """Load averages, the share of all CPU time that others took, and the share that the host withheld."""
        busy, stolen, everything = _system_seconds()
        elapsed = max(everything - self._all, 1e-9)
        others = (busy - self._busy) - (_own_seconds() - self._own)
        share = min(1.0, max(0.0, others / elapsed))
        stolen_share = (stolen - self._stolen) / elapsed
        return {
            "load_before": round(self._load_before, 2),
            "load_after": round(psutil.getloadavg()[0], 2),
            "others_share": round(share, 4),
            "stolen_share": round(stolen_share, 4),
            "quiet": share + stolen_share <= QUIET,
        }


def _system_seconds() -> tuple[float, float, float]:
    """CPU seconds of all CPUs: busy, withheld by the host, all."""
    times = psutil.cpu_times()._asdict()
    stolen = times.get("steal", 0.0)
    # guest time is part of user time
    everything = sum(seconds for name, seconds in times.items() if not name.startswith("guest"))
    return everything - stolen - times["idle"] - times.get("iowait", 0.0), stolen, everything


def _own_seconds() -> float:
    times = psutil.Process(os.getpid()).cpu_times()
    return times.user + times.system + times.children_user + times.children_system

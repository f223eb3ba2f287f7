"""What programs read and write: their own memory and nothing else, whatever was in it before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.kernel_calls import lend
from support.programs import RELU_KINDS, an_input, network, running

from bce.engine.compiled.plan import Precision
from bce.engine.compiled.targets import Target

TESTS = Path(__file__).resolve().parents[2]
ALL = ("no expansion at first", "no expansion at first, added to", "no expansion later", "padded stem", "maps")
CASES: list[tuple[str, Precision, tuple[str, ...]]] = [
    ("ends", "fp32", (*ALL, "classes with members", *RELU_KINDS)),
    ("begins", "fp32", ("padded stem", "classes with members", *RELU_KINDS)),
    ("strips", "fp32", ("no expansion at first", "many rows", "patches")),
    ("ends", "bf16", ("deep", "patches")),
]


def guarded(side: str, target: Target, precision: Precision, *kinds: str) -> subprocess.CompletedProcess[str]:
    """Programs between pages that nothing may touch, in a process that a fault ends."""
    return subprocess.run(
        [sys.executable, "-m", "support.guarded", side, target.isa, precision, *kinds],
        cwd=TESTS,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(("side", "precision", "kinds"), CASES, ids=[f"{case[0]} {case[1]}" for case in CASES])
def test_nothing_beside_its_memory(target: Target, side: str, precision: Precision, kinds: tuple[str, ...]) -> None:
    """Every array of weights, the input and every place of the arena lie at a page that cannot be touched; weights and
    input can be read only."""
    if precision == "bf16" and not target.bf16:
        pytest.skip("no bfloat16 in this form")
    done = guarded(side, target, precision, *kinds)
    assert (done.returncode, done.stdout.splitlines()) == (0, list(kinds)), done.stderr[-2000:]


def test_the_pages_guard(target: Target) -> None:
    """A program whose arena is a cache line too short does not survive it."""
    assert guarded("short", target, "fp32", "padded stem").returncode == -signal.SIGSEGV


@pytest.mark.parametrize(
    ("kind", "precision"),
    [
        ("no expansion at first, added to", "fp32"),
        ("classes with members", "fp32"),
        ("maps", "fp32"),
        ("deep", "bf16"),
        *((kind, precision) for kind in RELU_KINDS for precision in ("fp32", "bf16")),
    ],
)
def test_what_was_in_the_arena_does_not_matter(target: Target, kind: str, precision: Precision) -> None:
    """Zeros, NaN or another input's numbers: the same bytes."""
    if precision == "bf16" and not target.bf16:
        pytest.skip("no bfloat16 in this form")
    layers, program = network(kind), running(kind, precision, target)
    weights = program.program.weights.memory()
    before = weights.tobytes()
    used = program.arena()
    program(an_input(layers, 1) * 100, weights, used)
    arenas = [program.arena(), program.arena(0xFF), program.arena(0x7F), used]
    x = an_input(layers)
    results = [b"".join(values.tobytes() for values in program(x, weights, arena)) for arena in arenas]
    assert len(set(results)) == 1
    assert np.isfinite(np.frombuffer(results[0], np.float32)).all()
    assert weights.tobytes() == before


def test_an_input_without_an_alignment(target: Target) -> None:
    """Numbers that begin anywhere."""
    layers, program = network("padded stem"), running("padded stem", "fp32", target)
    weights, x = program.program.weights.memory(), an_input(layers)
    wanted = program(x, weights, program.arena())
    memory = lend(np.concatenate([np.zeros(1, np.uint8), x.reshape(-1).view(np.uint8)]))
    odd = memory[513 : 513 + x.nbytes]
    assert odd.ctypes.data % 4 == 1
    found = program(odd, weights, program.arena())
    assert all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))

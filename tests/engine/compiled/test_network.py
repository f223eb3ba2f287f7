"""The door: inputs and outputs, callers at the same time, and what is left of the CPU's state after a call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import pytest
from numpy.typing import NDArray
from support.kernel_calls import call
from support.plain_mbconv import forward
from support.programs import an_input, network

from bce.engine.compiled import network as door
from bce.engine.compiled.emitter import Function, Module
from bce.engine.compiled.lanes import Isa
from bce.engine.compiled.layers import Block, Layers, Pointwise, Tap
from bce.engine.compiled.network import CompiledNetwork
from bce.engine.compiled.targets import Target
from bce.engine.errors import CompiledError

KIND = "classes with members"


@pytest.fixture(scope="module")
def opened(target: Target, tmp_path_factory: pytest.TempPathFactory) -> CompiledNetwork:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return CompiledNetwork(network(KIND), "fp32", isa=target.isa)


def as_bytes(outputs: list[NDArray[np.float32]]) -> bytes:
    return b"".join(values.tobytes() for values in outputs)


def test_what_it_says_of_itself(opened: CompiledNetwork, target: Target) -> None:
    """Its form, and the width of every output in the order of the taps."""
    assert str(opened.form) == f"compiled fp32, {target.isa} ({target.cpu})"
    assert opened.form.origin == "compiled"
    layers = network(KIND)
    wanted = forward(layers, an_input(layers))
    assert list(opened.widths.items()) == [
        (tap.name, found.size) for tap, found in zip(layers.taps, wanted, strict=True)
    ]


def test_opened_again(kernels: Path, target: Target) -> None:
    """Out of the cache, it gives the same bytes."""
    layers = network("padded stem")
    x = an_input(layers)
    results = []
    for origin in ("compiled", "cache"):
        opened = CompiledNetwork(layers, "fp32", isa=target.isa)
        assert opened.form.origin == origin
        results.append(as_bytes(opened.run(x)))
        del opened
    assert len(set(results)) == 1


def test_any_array_of_the_shape(opened: CompiledNetwork) -> None:
    """Reversed, transposed, of another type: what its numbers are in float32."""
    x = an_input(network(KIND))
    wanted = as_bytes(opened.run(x))
    assert as_bytes(opened.run(x[::-1].copy()[::-1])) == wanted
    assert as_bytes(opened.run(x.T.copy().T)) == wanted
    assert as_bytes(opened.run(x.astype(np.float64))) == wanted
    assert as_bytes(opened.run(np.repeat(x, 3, axis=1)[:, ::3])) == wanted
    read_only = x.copy()
    read_only.flags.writeable = False
    assert as_bytes(opened.run(read_only)) == wanted


@pytest.mark.parametrize(
    "change", [lambda x: x[:-1], lambda x: x[:, 1:], lambda x: x[None], lambda x: x.ravel(), lambda x: x.T.copy()]
)
def test_another_shape(opened: CompiledNetwork, change: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> None:
    x = an_input(network(KIND))
    assert x.shape[0] != x.shape[1]
    with pytest.raises(ValueError, match=r"an input of \(.*\), expected \("):
        opened.run(change(x))


def test_outputs_are_the_callers(opened: CompiledNetwork) -> None:
    """The next call changes nothing in them, and they can be changed."""
    layers = network(KIND)
    first = opened.run(an_input(layers, 1))
    before = as_bytes(first)
    second = opened.run(an_input(layers, 2))
    assert as_bytes(first) == before != as_bytes(second)
    for values in second:
        values[...] = 0
    assert as_bytes(opened.run(an_input(layers, 1))) == before


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_threads_give_the_same_bytes(opened: CompiledNetwork, threads: int) -> None:
    inputs = [an_input(network(KIND), seed) for seed in range(8)]
    wanted = [as_bytes(opened.run(x)) for x in inputs]
    assert len(set(wanted)) == 8
    together = threading.Barrier(threads)

    def many(first: int) -> bool:
        together.wait()
        order = [(first + number) % 8 for number in range(24)]
        return all(as_bytes(opened.run(inputs[number])) == wanted[number] for number in order)

    with ThreadPoolExecutor(threads) as pool:
        assert all(pool.map(many, range(threads)))


@pytest.mark.parametrize("callers", [1, 2, 5])
def test_arenas(opened: CompiledNetwork, monkeypatch: pytest.MonkeyPatch, callers: int) -> None:
    """As many as there are callers at the same time, whatever they call and how often."""
    made: list[int] = []
    aligned, run = door.aligned, opened._run

    def counted(size: int) -> NDArray[np.uint8]:
        made.append(size)
        return aligned(size)

    inside = threading.Barrier(callers)

    def all_at_once(*places: int) -> None:
        inside.wait()
        run(*places)
        inside.wait()

    monkeypatch.setattr(door, "aligned", counted)
    monkeypatch.setattr(opened, "_run", all_at_once)
    monkeypatch.setattr(opened, "_arenas", SimpleQueue())
    x = an_input(network(KIND))
    with ThreadPoolExecutor(callers) as pool:
        for _ in range(3):
            list(pool.map(lambda _: opened.run(x), range(callers)))
    assert len(made) == callers


def test_no_bfloat16(kernels: Path) -> None:
    with pytest.raises(CompiledError, match="no bfloat16 arithmetic"):
        CompiledNetwork(network(KIND), "bf16", isa="avx2")


# tiny numbers ---------------------------------------------------------------------------------------------------------

STANDARD = 0x1F80
"""MXCSR as a program finds it: all exceptions masked, rounding to the nearest."""
FLAGS = 0x3F
"""What has happened so far."""


def control(module: Module, isa: Isa, spec: str) -> str:
    """(word): the SSE unit's control word there, or from there."""
    f = Function(module, spec, ["p"])
    f.do(f"llvm.x86.sse.{spec}", f.arguments[0])
    f.done()
    return spec


def control_word(target: Target) -> int:
    word = np.zeros(1, np.uint32)
    call(target, control, "stmxcsr", word)
    return int(word[0]) & ~FLAGS


@pytest.fixture
def standard(target: Target) -> Iterator[None]:
    """The standard control word, whatever a test leaves."""
    call(target, control, "ldmxcsr", np.array([STANDARD], np.uint32))
    yield
    call(target, control, "ldmxcsr", np.array([STANDARD], np.uint32))


def tiny(layers: Layers) -> Layers:
    """A network that ends in a map of numbers that only a subnormal float32 can hold."""
    *before, last = layers.blocks
    weight = last.project.weight * np.float32(1e-39)
    made = Block(last.expand, last.depthwise, last.gate, Pointwise(weight, np.zeros_like(last.project.bias)), False)
    return replace(
        layers, blocks=(*before, made), taps=(Tap("map", "block", len(before), False),), head=None, prototypes=None
    )


@pytest.mark.usefixtures("standard")
def test_tiny_numbers_are_zero_inside(kernels: Path, target: Target) -> None:
    """They would take a hundred times as long."""
    layers = tiny(network("padded stem"))
    x = an_input(layers)
    (wanted,) = forward(layers, x)
    assert 1e-41 < np.abs(wanted).mean() < np.finfo(np.float32).tiny
    (found,) = CompiledNetwork(layers, "fp32", isa=target.isa).run(x)
    assert not found.any()


@pytest.mark.parametrize("word", [STANDARD, STANDARD | 0x8000, STANDARD | 0x0040, STANDARD | 0x6000])
@pytest.mark.usefixtures("standard")
def test_the_callers_arithmetic_is_as_it_was(opened: CompiledNetwork, target: Target, word: int) -> None:
    """Flushing or not, rounding in whatever direction."""
    call(target, control, "ldmxcsr", np.array([word], np.uint32))
    opened.run(np.zeros(network(KIND).shape, np.float32))
    assert control_word(target) == word


@pytest.mark.usefixtures("standard")
def test_numpy_has_tiny_numbers_after_a_call(opened: CompiledNetwork) -> None:
    opened.run(an_input(network(KIND)))
    smallest = np.full(64, np.finfo(np.float32).tiny, np.float32)
    assert (smallest / 2 > 0).all()
    assert (smallest / 2 * 2 == smallest).all()

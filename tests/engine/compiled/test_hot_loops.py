"""Loops that the time goes to, in the shapes of Perch v2's network: their vectors stay in registers.

Left to itself LLVM moves all broadcasts of a tile to its beginning and spills: that takes half of the speed, and no
result shows it.
"""

from __future__ import annotations

from typing import Any

import pytest
from support.forms import host
from support.hot_loops import functions, innermost_loops, spills
from support.kernel_calls import Write

from bce.engine.compiled.compilation import assembly
from bce.engine.compiled.emitter import Module, ir_for
from bce.engine.compiled.kernels.depthwise import Depthwise, depthwise
from bce.engine.compiled.kernels.expand import Expand, expand
from bce.engine.compiled.kernels.gate import Squeeze, gate
from bce.engine.compiled.kernels.planes import Join, Planes, group_of, join, planes
from bce.engine.compiled.kernels.pool import Nearest, nearest
from bce.engine.compiled.kernels.project import Project, project
from bce.engine.compiled.lanes import ISAS
from bce.engine.compiled.swish import swish_for
from bce.engine.compiled.targets import TRAVELLING, Target

WIDE, NARROW = TRAVELLING["znver4"], TRAVELLING["haswell"]
SOME = 1 / 6
"""Of a depthwise tile's instructions: they wait for nothing there. Two thirds fewer made no network faster."""


@pytest.fixture(autouse=True)
def compiles() -> None:
    """Skips where nothing can be compiled: no instruction of these loops has to run."""
    host()


def loops_of(target: Target, write: Write, spec: Any) -> list[list[str]]:
    module = Module()
    name = write(module, ISAS[target.isa], spec)
    return list(innermost_loops(functions(assembly(ir_for(module.text(), target.attributes), target))[name]))


def arithmetic(loop: list[str]) -> int:
    """Products and sums of a loop."""
    return sum("vfmadd" in line or "vdpbf16ps" in line for line in loop)


def pixel(target: Target, element: str) -> int:
    return ISAS[target.isa].bytes // (2 if element == "bf16" else 1)


PRODUCTS = [(WIDE, "f32"), (WIDE, "bf16"), (NARROW, "f32")]


@pytest.mark.parametrize(("target", "element"), PRODUCTS, ids=["avx512", "avx512 bf16", "avx2"])
@pytest.mark.parametrize(("channels", "width", "height"), [(32, 32, 125), (48, 16, 63), (136, 8, 32), (384, 4, 16)])
def test_expansions(target: Target, element: Any, channels: int, width: int, height: int) -> None:
    """Panels of three vectors, and of two."""
    size, near = pixel(target, element), swish_for(element, ISAS[target.isa])
    for panel in (3, 2):
        spec = Expand(
            channels, width, panel, element, width * size, width * height * size, 2048, 99968, near, rows=height
        )
        loops = loops_of(target, expand, spec)
        assert max(arithmetic(loop) for loop in loops) >= panel * min(width, ISAS[target.isa].pixels[panel]) * 8
        assert not any(spills(loop) for loop in loops)


@pytest.mark.parametrize(("target", "element"), PRODUCTS, ids=["avx512", "avx512 bf16", "avx2"])
@pytest.mark.parametrize(("channels", "width", "panel"), [(144, 4000, 2), (576, 256, 3), (1392, 64, 3), (48, 9000, 1)])
def test_projections(target: Target, element: Any, channels: int, width: int, panel: int) -> None:
    """With a map added and without, with a copy in bfloat16 and without."""
    size, floats = pixel(target, element), ISAS[target.isa].bytes
    copy = width * floats // 2 if element == "bf16" else 0
    for added in (0, width * floats):
        spec = Project(channels, width, 1, panel, element, 0, width * size, 0, width * floats, copy, 0, added)
        loops = loops_of(target, project, spec)
        assert max(arithmetic(loop) for loop in loops) >= panel * ISAS[target.isa].pixels[panel] * 8
        assert not any(spills(loop) for loop in loops)


@pytest.mark.parametrize("target", [WIDE, NARROW], ids=["avx512", "avx2"])
def test_gates_and_prototypes(target: Target) -> None:
    lanes = ISAS[target.isa].lanes
    for channels, hidden in ((144, 6), (816, 34), (2304, 96)):
        loops = loops_of(target, gate, Squeeze(channels // lanes, -(-hidden // lanes), hidden))
        assert sum(map(arithmetic, loops)) > 8
        assert not any(spills(loop) for loop in loops)
    loops = loops_of(target, nearest, Nearest(1536, 64, 3))
    assert max(map(arithmetic, loops)) >= 3 * ISAS[target.isa].pixels[3] * lanes
    assert not any(spills(loop) for loop in loops)


@pytest.mark.parametrize(("target", "element"), PRODUCTS, ids=["avx512", "avx512 bf16", "avx2"])
@pytest.mark.parametrize(
    ("kernel", "stride", "width", "even"), [(3, 1, 63, False), (3, 2, 32, False), (5, 1, 16, False), (5, 2, 4, True)]
)
def test_depthwise(target: Target, element: Any, kernel: int, stride: int, width: int, even: bool) -> None:
    """A whole tile with its swish is one pass of the innermost loop: sums, weights and constants are many."""
    floats = ISAS[target.isa].bytes
    row = ((width - 1) * stride + kernel) * floats
    spec = Depthwise(
        kernel,
        stride,
        width,
        even,
        3,
        row,
        99 * row,
        64 * width * floats,
        element,
        swish_for(element, ISAS[target.isa]),
    )
    (tile,) = (loop for loop in loops_of(target, depthwise, spec) if arithmetic(loop) > 50)
    assert len(spills(tile)) < SOME * len(tile)


@pytest.mark.parametrize("target", [WIDE, NARROW], ids=["avx512", "avx2"])
def test_stems(target: Target) -> None:
    """The same."""
    floats = ISAS[target.isa].bytes
    spec = Expand(0, 63, 3, "f32", 1024, 0, 65 * floats, 64 * 65 * floats, "exact", taps=3, stride=2)
    (tile,) = (loop for loop in loops_of(target, expand, spec) if arithmetic(loop) > 50)
    assert len(spills(tile)) < SOME * len(tile)


@pytest.mark.parametrize("target", [WIDE, NARROW], ids=["avx512", "avx2"])
def test_pooled_stems(target: Target) -> None:
    """Sums of left and right pixels of a group of channels; the product of rows that follows."""
    isa = ISAS[target.isa]
    for channels, wide, stride in ((24, 8, 2), (40, 3, 2)):
        group, groups = group_of(channels, isa)
        spec = Planes(2, 4, wide, stride, 128 // isa.lanes, group, groups, 99 * 4096, 4096, 4096 // (2 * stride))
        loops = loops_of(target, planes, spec)
        assert max(arithmetic(loop) for loop in loops) >= 2 * group * wide
        assert not any(spills(loop) for loop in loops)
    for panel in (3, 2):
        loops = loops_of(target, join, Join(48, 128, panel, 512, 48 * 128 * isa.bytes))
        assert max(arithmetic(loop) for loop in loops) >= 8 * panel * isa.pixels[panel]
        assert not any(spills(loop) for loop in loops)


@pytest.mark.parametrize(("target", "element"), PRODUCTS, ids=["avx512", "avx512 bf16", "avx2"])
@pytest.mark.parametrize(("channels", "pixels"), [(1728, 6), (1024, 1)])
def test_heads_of_patches_and_dense_classifiers(target: Target, element: Any, channels: int, pixels: int) -> None:
    size, floats = pixel(target, element), ISAS[target.isa].bytes
    for panel in (3, 2):
        kept = min(pixels, ISAS[target.isa].pixels[panel])
        head = Expand(channels, pixels, panel, element, 0, pixels * size, 0, pixels * floats, "relu", rows=1)
        dense = Project(channels, pixels, 1, panel, element, 0, pixels * size, 0, pixels * floats)
        for loops in (loops_of(target, expand, head), loops_of(target, project, dense)):
            assert max(arithmetic(loop) for loop in loops) >= 8 * panel * kept
            assert not any(spills(loop) for loop in loops)


def test_what_counts_as_a_spill() -> None:
    """Vectors on the stack; not addresses in other registers, nor what lies outside of the innermost loops."""
    text = """
f:
	vmovups	%zmm0, 64(%rsp)
.LBB0_1:
	vmovups	(%rbp), %zmm1
.LBB0_2:
	vfmadd231ps	-128(%rsp), %zmm1, %zmm2
	vmovups	%ymm3, (%rsp)
	movq	8(%rsp), %rax
	vmovups	64(%rax), %zmm1
	jl	.LBB0_2
	vmovups	64(%rsp), %zmm0
	jl	.LBB0_1
	.size	f, .-f
"""
    (loop,) = innermost_loops(functions(text)["f"])
    assert spills(loop) == ["vfmadd231ps	-128(%rsp), %zmm1, %zmm2", "vmovups	%ymm3, (%rsp)"]

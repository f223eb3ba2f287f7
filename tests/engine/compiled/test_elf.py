"""Object code in memory: what it calls and names is where it says, and what kernels do not need is refused."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tiny_kernels import SUMS, combine, combining, module

from bce.engine.compiled.compilation import Code, compile_object
from bce.engine.compiled.elf import NativeMemory
from bce.engine.compiled.targets import Target, host_target
from bce.engine.errors import CompiledError

pytestmark = pytest.mark.skipif(host_target() is None, reason="there are no kernels for this CPU")
TARGET = host_target() or Target("", "avx2")

NAMING = """
@first = private unnamed_addr constant [4 x float] [float 1.0, float 2.0, float 3.0, float 4.0], align 4
@second = internal constant [3 x double] [double 10.0, double 20.0, double 30.0], align 64
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
define void @outer(ptr %out, i64 %n) #0 {
  call void @llvm.memset.p0.i64(ptr %out, i8 7, i64 %n, i1 false)
  call void @inner(ptr %out, i64 2)
  call void @visible(ptr %out)
  ret void
}
define internal void @inner(ptr %out, i64 %i) noinline #0 {
  %p = getelementptr float, ptr @first, i64 %i
  %x = load float, ptr %p, align 4
  %y = fadd float %x, 0.25
  store float %y, ptr %out, align 4
  %q = getelementptr double, ptr @second, i64 %i
  %to = getelementptr i8, ptr %out, i64 8
  call void @llvm.memcpy.p0.p0.i64(ptr %to, ptr %q, i64 8, i1 false)
  ret void
}
define void @visible(ptr %out) noinline #0 {
  %p = getelementptr i8, ptr %out, i64 4
  store float 8.5, ptr %p, align 4
  ret void
}
"""


def test_code_finds_its_constants_its_functions_and_the_c_library() -> None:
    code = Code(compile_object(module(NAMING)(TARGET), TARGET), TARGET, "compiled")
    out = np.zeros(24, np.uint8)
    ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(code.address("outer"))(out.ctypes.data, 20)
    assert out[:8].view(np.float32).tolist() == [3.25, 8.5]
    assert out[8:16].view(np.float64).tolist() == [30.0]
    assert out[16:].tolist() == [7, 7, 7, 7, 0, 0, 0, 0]


def test_code_is_read_and_run_but_never_written() -> None:
    code = Code(compile_object(combining("fadd")(TARGET), TARGET), TARGET, "compiled")
    address = code.address("combine")
    with open("/proc/self/maps") as file:
        ranges = [line.split() for line in file]
    found = [
        rights for span, rights, *_ in ranges if int(span.split("-")[0], 16) <= address < int(span.split("-")[1], 16)
    ]
    assert found == ["r-xp"]


def test_memory_is_given_back() -> None:
    native = compile_object(combining("fadd")(TARGET), TARGET)
    before = mapped()
    codes = [Code(native, TARGET, "compiled") for _ in range(50)]
    assert all(combine(code) == SUMS for code in codes)
    assert mapped() > before
    del codes
    gc.collect()
    assert mapped() <= before + 4096


def mapped() -> int:
    """Bytes of this process that may be executed."""
    with open("/proc/self/maps") as file:
        spans = [line.split()[0].split("-") for line in file if "x" in line.split()[1]]
    return sum(int(end, 16) - int(start, 16) for start, end in spans)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (
            "declare void @strange(ptr)\ndefine void @f(ptr %a) #0 {\n call void @strange(ptr %a)\n ret void\n}",
            "strange",
        ),
        ("@v = global i32 5\ndefine void @f(ptr %a) #0 {\n store i32 1, ptr @v\n ret void\n}", "variables"),
        ("@v = internal global i32 0\ndefine void @f() #0 {\n store volatile i32 1, ptr @v\n ret void\n}", "variables"),
    ],
    ids=["a function of nobody", "a variable", "a variable of zeros"],
)
def test_what_kernels_have_no_business_with(body: str, says: str) -> None:
    with pytest.raises(CompiledError, match=says):
        NativeMemory(compile_object(module(body)(TARGET), TARGET))


def test_no_such_function() -> None:
    with pytest.raises(CompiledError, match="no function 'subtract'"):
        Code(compile_object(combining("fadd")(TARGET), TARGET), TARGET, "compiled").address("subtract")


@given(st.data())
def test_damage_costs_no_more_than_an_error(data: st.DataObject) -> None:
    """A cut and a byte that was changed: placing it raises the one error or nothing, and never ends the process."""
    native = bytearray(compile_object(module(NAMING)(TARGET), TARGET))
    native[data.draw(st.integers(0, len(native) - 1))] = data.draw(st.integers(0, 255))
    del native[data.draw(st.integers(0, len(native))) :]
    with suppress(CompiledError):
        NativeMemory(bytes(native))


def test_a_system_that_runs_no_code_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under SELinux without execmem."""

    def refuse(base: int, size: int) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("bce.engine.compiled.elf._make_executable", refuse)
    with pytest.raises(CompiledError, match="this system gives no memory to code: Permission denied"):
        NativeMemory(compile_object(combining("fadd")(TARGET), TARGET))

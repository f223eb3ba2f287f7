"""Which code runs on which CPU, and that it uses nothing but what it says it needs."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable

import llvmlite.binding as llvm
import pytest
from support.tiny_kernels import module

from bce.engine.compiled import compilation
from bce.engine.compiled.compilation import assembly
from bce.engine.compiled.targets import (
    TRAVELLING,
    Target,
    host_target,
    runs_here,
    travelling_targets,
    why_none,
)
from bce.engine.errors import CompiledError

Pretend = Callable[..., None]
ALL = (*Target("", "avx512", bf16=True, vnni=True).needs, "avxvnni")


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """A CPU of some name with some features, on some system."""

    def pretend(features: tuple[str, ...], cpu: str = "znver4", triple: str = "x86_64-unknown-linux-gnu") -> None:
        monkeypatch.setattr(llvm, "get_process_triple", lambda: triple)
        monkeypatch.setattr(llvm, "get_host_cpu_name", lambda: cpu)
        monkeypatch.setattr(llvm, "get_host_cpu_features", lambda: {name: name in features for name in ALL})

    return pretend


def test_the_best_form_of_a_cpu(pretend: Pretend) -> None:
    pretend(ALL)
    assert host_target() == Target("znver4", "avx512", bf16=True, vnni=True)
    assert host_target("avx512") == Target("znver4", "avx512", bf16=True, vnni=True)
    assert host_target("avx2") == Target("znver4", "avx2", vnni=True)
    pretend((*Target("", "avx512").needs, "avx512vnni"), cpu="cascadelake")
    assert host_target() == Target("cascadelake", "avx512", vnni=True)
    assert host_target("avx2") == Target("cascadelake", "avx2")
    pretend((*Target("", "avx2").needs, "avxvnni"), cpu="alderlake")
    assert host_target() == Target("alderlake", "avx2", vnni=True)
    pretend(Target("", "avx512").needs, cpu="icelake-server")
    assert host_target() == Target("icelake-server", "avx512")
    pretend(Target("", "avx2").needs, cpu="znver3")
    assert host_target() == Target("znver3", "avx2")
    assert host_target("avx512") is None
    assert why_none("avx512") == "this CPU has no AVX512F, AVX512BW, AVX512DQ, AVX512VL"


@pytest.mark.parametrize("target", TRAVELLING.values(), ids=TRAVELLING)
def test_code_runs_where_all_that_it_needs_is(pretend: Pretend, target: Target) -> None:
    """Whatever the CPU's name is."""
    pretend(target.needs, cpu="generic")
    assert runs_here(target)
    for missing in target.needs:
        pretend(tuple(name for name in ALL if name != missing), cpu=target.cpu)
        assert not runs_here(target)


def test_what_the_forms_need_is_what_their_instructions_are_in() -> None:
    """Intel's manual: F16C and FMA are features apart from AVX2, and AVX-512 is one for each group of instructions."""
    assert {"avx2", "fma", "f16c"} < set(Target("", "avx2").needs)
    assert {"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl"} < set(Target("", "avx512").needs)
    assert set(ALL) - set(Target("", "avx512").needs) == {"avx512bf16", "avx512vnni", "avxvnni"}


@pytest.mark.parametrize("missing", ["avx2", "fma", "f16c"])
def test_no_form_without_avx2_and_its_companions(pretend: Pretend, missing: str) -> None:
    pretend(tuple(name for name in Target("", "avx2").needs if name != missing))
    assert host_target() is None
    assert why_none() == f"this CPU has no {missing.upper()}"


@pytest.mark.parametrize("triple", ["aarch64-unknown-linux-gnu", "x86_64-apple-darwin23", "x86_64-pc-windows-msvc"])
def test_only_where_it_was_tried(pretend: Pretend, triple: str) -> None:
    pretend(ALL, triple=triple)
    assert host_target() is None
    assert travelling_targets() == []
    assert why_none() == f"there are kernels for Linux on x86-64 only, this is {triple}"
    with pytest.raises(CompiledError, match="Linux on x86-64 only"):
        assembly(module(TEMPTING)(TRAVELLING["haswell"]), TRAVELLING["haswell"])


def test_objects_made_elsewhere_the_best_first(pretend: Pretend) -> None:
    pretend(ALL, cpu="sapphirerapids")
    names = [target.cpu for target in travelling_targets()]
    assert names[0] == "sapphirerapids"
    assert sorted(names) == sorted(TRAVELLING)
    with_bf16 = [TRAVELLING[name].bf16 for name in names]
    assert with_bf16 == sorted(with_bf16, reverse=True)
    assert TRAVELLING[names[-1]].isa == "avx2"
    assert travelling_targets("avx2") == [TRAVELLING["alderlake"], TRAVELLING["haswell"]]
    pretend((*Target("", "avx512").needs, "avx512vnni"), cpu="cascadelake")
    assert [target.cpu for target in travelling_targets()] == ["cascadelake", "skylake-avx512", "haswell"]


def test_this_machine() -> None:
    """What the system's own list of the CPU's features says."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        assert host_target() is None
        return
    with open("/proc/cpuinfo") as file:
        flags = set(next(line for line in file if line.startswith("flags")).split())
    assert (host_target("avx2") is not None) == ({"avx2", "fma", "f16c"} <= flags)
    assert (host_target("avx512") is not None) == ({"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= flags)
    target = host_target()
    assert (target is not None and target.bf16) == ("avx512_bf16" in flags)


TEMPTING = """
declare i64 @llvm.ctlz.i64(i64, i1)
declare i64 @llvm.bswap.i64(i64)
declare <64 x i8> @llvm.bitreverse.v64i8(<64 x i8>)
define void @tempting(ptr %a, i64 %n) #0 {
  %x = load i64, ptr %a
  %zeros = call i64 @llvm.ctlz.i64(i64 %n, i1 false)
  %shifted = shl i64 %x, %n
  %swapped = call i64 @llvm.bswap.i64(i64 %x)
  %not = xor i64 %zeros, -1
  %and = and i64 %not, %shifted
  %sum = add i64 %and, %swapped
  store i64 %sum, ptr %a
  %bytes = load <64 x i8>, ptr %a, align 1
  %reversed = call <64 x i8> @llvm.bitreverse.v64i8(<64 x i8> %bytes)
  store <64 x i8> %reversed, ptr %a, align 1
  ret void
}
"""
OF_OTHER_FEATURES = ("lzcnt", "shlx", "movbe", "andn", "gf2p8affineqb")
"""LZCNT, BMI2, MOVBE, BMI1, GFNI: all of a Zen 4 and a Sapphire Rapids, the first four of a Haswell."""


@pytest.mark.parametrize("target", TRAVELLING.values(), ids=TRAVELLING)
def test_code_uses_nothing_else_that_a_cpu_of_the_name_has(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    if host_target() is None:
        pytest.skip("there are no kernels for this CPU")
    text = assembly(module(TEMPTING)(target), target)
    used = {line.split()[0] for line in text.splitlines() if line.startswith("\t")}
    assert not used & {"lzcntq", "shlxq", "movbeq"}
    assert not [name for name in used if any(other in name for other in ("gf2p8", "andnq"))]
    assert ("%zmm" in text) == (target.isa == "avx512")

    monkeypatch.setattr(compilation, "_machine", lambda library, features: machine(library, target.cpu))
    implied = assembly(f"{TEMPTING}\nattributes #0 = {{ nounwind }}\n; {target.attributes}", target)
    assert "lzcntq" in implied  # so does a CPU's name alone


def machine(library, cpu: str):
    return library.Target.from_triple(library.get_process_triple()).create_target_machine(cpu, "", opt=2, reloc="pic")

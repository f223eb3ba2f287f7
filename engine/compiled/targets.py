"""The CPUs that kernels are made for: what their code may use, and which of its forms the CPU at hand can run.

The code was run on Linux on x86-64 only: elsewhere there is no target.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Literal

from bce.engine.errors import CompiledError, first_line

IsaName = Literal["avx512", "avx2"]

_AVX2 = ("sse3", "ssse3", "sse4.1", "sse4.2", "popcnt", "avx", "avx2", "fma", "f16c")
_AVX512 = ("avx512f", "avx512bw", "avx512dq", "avx512vl")
_BF16 = ("avx512bf16",)
_VNNI: dict[IsaName, tuple[str, ...]] = {"avx512": ("avx512vnni",), "avx2": ("avxvnni",)}


@dataclass(frozen=True)
class Target:
    """What code is made for.

    The code uses the instructions of plain x86-64 and of :attr:`features`, never others that a CPU of this name has:
    it runs wherever those are.

    Attributes:
        cpu: LLVM's name of the CPU for which instructions are chosen and ordered.
        isa: which form of the kernels: 16 or 8 float32 lanes.
        bf16: dot products of bfloat16 pairs (AVX512_BF16) may be used.
        vnni: dot products of four bytes or two words (AVX512_VNNI, AVX_VNNI) may be used.
    """

    cpu: str
    isa: IsaName
    bf16: bool = False
    vnni: bool = False

    @property
    def needs(self) -> tuple[str, ...]:
        """LLVM's names of all that a CPU must have beyond plain x86-64."""
        more = (_AVX512 if self.isa == "avx512" else (), _BF16 if self.bf16 else ())
        return (*_AVX2, *(name for names in more for name in names), *(_VNNI[self.isa] if self.vnni else ()))

    @property
    def features(self) -> str:
        """The same as LLVM's feature string."""
        return ",".join(f"+{name}" for name in self.needs)

    @property
    def attributes(self) -> str:
        """What every function of a module for this target has among its attributes in LLVM IR."""
        width = 512 if self.isa == "avx512" else 256
        return (
            f'"target-cpu"="x86-64" "tune-cpu"="{self.cpu}" "target-features"="{self.features}" '
            f'"prefer-vector-width"="{width}" "min-legal-vector-width"="{width}"'
        )


TRAVELLING = {
    target.cpu: target
    for target in (
        Target("znver5", "avx512", bf16=True, vnni=True),
        Target("znver4", "avx512", bf16=True, vnni=True),
        Target("sapphirerapids", "avx512", bf16=True, vnni=True),
        Target("cascadelake", "avx512", vnni=True),
        Target("skylake-avx512", "avx512"),
        Target("alderlake", "avx2", vnni=True),
        Target("haswell", "avx2"),
    )
}
"""CPUs for which code can be made on another machine, the ones to prefer first."""


def llvm() -> ModuleType:
    """``llvmlite.binding``, ready for code of this process' kind.

    Raises:
        CompiledError: it cannot be loaded.
    """
    try:
        import llvmlite.binding as library
    except (ImportError, OSError) as error:
        raise CompiledError(f"llvmlite cannot be loaded: {first_line(error, 200)}") from None
    library.initialize_native_target()
    library.initialize_native_asmprinter()
    return library


def host_target(isa: IsaName | None = None) -> Target | None:
    """The best form that the CPU at hand can run, or one that is asked for; None: it cannot, see :func:`why_none`."""
    cpu = llvm().get_host_cpu_name()
    forms = (
        Target(cpu, "avx512", bf16=True, vnni=True),
        Target(cpu, "avx512", vnni=True),
        Target(cpu, "avx512"),
        Target(cpu, "avx2", vnni=True),
        Target(cpu, "avx2"),
    )
    return next((form for form in forms if isa in (None, form.isa) and runs_here(form)), None)


def runs_here(target: Target) -> bool:
    """Whether this is Linux on an x86-64 CPU with all that the code needs, which the system lets programs use."""
    if not on_known_platform():
        return False
    found = _features()
    return all(found.get(name, False) for name in target.needs)


def why_none(isa: IsaName | None = None) -> str:
    """Why there is no target here, in a line."""
    if not on_known_platform():
        return f"there are kernels for Linux on x86-64 only, this is {llvm().get_process_triple()}"
    found = _features()
    missing = [name for name in Target("", isa or "avx2").needs if not found.get(name, False)]
    return f"this CPU has no {', '.join(missing).upper()}"


def travelling_targets(isa: IsaName | None = None) -> list[Target]:
    """Those of :data:`TRAVELLING` whose code runs here, the ones to prefer first: this very CPU, then in order."""
    here = llvm().get_host_cpu_name()
    usable = [target for target in TRAVELLING.values() if isa in (None, target.isa) and runs_here(target)]
    return sorted(usable, key=lambda target: target.cpu != here)


def _features() -> dict[str, bool]:
    """What the CPU has, by LLVM's names."""
    try:
        return dict(llvm().get_host_cpu_features())
    except RuntimeError as error:  # where LLVM does not know how to ask
        raise CompiledError(f"llvmlite cannot tell what this CPU has: {first_line(error, 200)}") from None


def on_known_platform() -> bool:
    """Whether this is Linux on x86-64, whatever the CPU has."""
    triple: str = llvm().get_process_triple()
    return triple.startswith("x86_64-") and "-linux" in triple

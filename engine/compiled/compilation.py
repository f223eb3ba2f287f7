"""LLVM IR as text to object code by llvmlite, and object code to functions that can be called.

Object code outlives the llvmlite that made it: it runs where the llvmlite at hand is too old for the IR.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from bce.engine.compiled.elf import NativeMemory
from bce.engine.compiled.targets import Target, llvm, on_known_platform, why_none
from bce.engine.errors import CompiledError, first_line

OLDEST_LLVM = 20
"""The oldest that was tried: llvmlite 0.45's. Before 15 the IR's pointers were unknown."""


def compile_object(ir: str, target: Target) -> bytes:
    """Object code of a module, in the format of this system.

    No pass over the IR comes before the choice of instructions: they take as long again, and bring nothing.

    Args:
        ir: its functions have :attr:`Target.attributes`.
        target: what they are for; the code never runs here, it may be another CPU's.

    Raises:
        CompiledError: llvmlite is too old, or does not take the module.
    """
    return bytes(_emit(ir, target, "emit_object"))


def assembly(ir: str, target: Target) -> str:
    """The code of :func:`compile_object` for people to read, in AT&T's syntax."""
    return str(_emit(ir, target, "emit_assembly"))


def _emit(ir: str, target: Target, method: str) -> Any:
    library = llvm()
    if not on_known_platform():
        raise CompiledError(why_none())
    if library.llvm_version_info[0] < OLDEST_LLVM:
        raise CompiledError(
            f"llvmlite {version()} cannot compile the kernels, 0.45 or newer can: "
            "make them elsewhere with bce-export --compile-for, and name their folder with --objects"
        )
    if target.attributes not in ir:
        raise ValueError("the module is not for this target: its attributes are missing")
    try:
        # a context of its own: what other users of llvmlite in the process compile meanwhile is none of its business
        module = library.parse_assembly(ir, library.create_context())
        module.verify()
        return getattr(_machine(library, target.features), method)(module)
    except RuntimeError as error:
        raise CompiledError(f"llvmlite {version()} cannot compile the kernels: {first_line(error, 200)}") from None


class Code:
    """Native code in memory. It is freed with this object: keep it for as long as its functions may run.

    Attributes:
        target: what it is made for.
        origin: where it came from: "compiled", "cache", or the folder that was named.
    """

    def __init__(self, content: bytes, target: Target, origin: str) -> None:
        """Load object code.

        Raises:
            CompiledError: it is none, or memory for it cannot be had.
        """
        self.target, self.origin = target, origin
        self._memory = NativeMemory(content)

    def address(self, name: str) -> int:
        """Where a function begins.

        Raises:
            CompiledError: there is none of that name.
        """
        try:
            return self._memory.functions[name]
        except KeyError:
            raise CompiledError(f"the kernels have no function '{name}'") from None


def version() -> str:
    """Of llvmlite, as in "0.50.0"."""
    import llvmlite

    return str(llvmlite.__version__)


def _machine(library: ModuleType, features: str = "") -> Any:
    target = library.Target.from_triple(library.get_process_triple())
    return target.create_target_machine("x86-64", features, opt=2, reloc="pic", codemodel="default", jit=True)

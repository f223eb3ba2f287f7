"""LLVM IR as text to object code, and object code to functions that can be called, by llvmlite.

Object code outlives the llvmlite that made it: one that is too old for the IR still loads and runs it.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from bce.engine.compiled.targets import Target, llvm
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
    if library.llvm_version_info[0] < OLDEST_LLVM:
        raise CompiledError(
            f"llvmlite {version()} cannot compile the kernels, 0.45 or newer can: "
            "make objects elsewhere with bce-export --compile-for, and name their folder with --objects"
        )
    if target.attributes not in ir:
        raise ValueError("the module is not for this target: its attributes are missing")
    try:
        # a context of its own: what other users of llvmlite in the process compile meanwhile is none of its business
        module = library.parse_assembly(ir, library.create_context())
        module.verify()
        return getattr(_machine(library, target.features), method)(module)
    except RuntimeError as error:
        raise CompiledError(f"llvmlite {version()} cannot compile the kernels: {_reason(error)}") from None


class Code:
    """Native code in memory. What it holds is freed with it: keep it for as long as its functions may run.

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
        library = llvm()
        try:
            empty = library.parse_assembly("", library.create_context())
            self._engine = library.create_mcjit_compiler(empty, _machine(library), use_lmm=False)
            self._engine.add_object_file(library.ObjectFileRef.from_data(content))
            self._engine.finalize_object()
        except (RuntimeError, ValueError) as error:
            raise CompiledError(f"llvmlite {version()} cannot load the kernels: {_reason(error)}") from None

    def address(self, name: str) -> int:
        """Where a function begins.

        Raises:
            CompiledError: there is none of that name.
        """
        address = int(self._engine.get_function_address(name))
        if not address:
            raise CompiledError(f"the kernels have no function '{name}'")
        return address


def version() -> str:
    """Of llvmlite, as in "0.50.0"."""
    import llvmlite

    return str(llvmlite.__version__)


def _reason(error: Exception) -> str:
    return first_line(error, 200)


def _machine(library: ModuleType, features: str = "") -> Any:
    target = library.Target.from_triple(library.get_process_triple())
    return target.create_target_machine("x86-64", features, opt=2, reloc="pic", codemodel="default", jit=True)

"""From a network's IR to code that runs here: out of a folder that the user named, out of the cache, or compiled."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from weakref import WeakValueDictionary

from bce.engine import cache
from bce.engine.compiled.compilation import Code, compile_object, version
from bce.engine.compiled.object_files import file_name, names_for, object_key, pack, unpack
from bce.engine.compiled.targets import IsaName, Target, host_target, travelling_targets, why_none
from bce.engine.errors import CompiledError, OptionsError
from bce.engine.files import write_bytes

_lock = threading.Lock()
if hasattr(os, "register_at_fork"):  # a child whose parent was compiling would wait for ever
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)
_loaded: WeakValueDictionary[tuple[str, str], Code] = WeakValueDictionary()
"""What is in memory, by origin and key: threads that open one network at once share its code."""


def load_code(
    ir: Callable[[Target], str], precision: str, folders: Sequence[Path] = (), isa: IsaName | None = None
) -> Code:
    """The code of a network in the best form that this CPU can run.

    Args:
        ir: the network's module for a target, with :attr:`Target.attributes`.
        precision: of the module, as files are named after it.
        folders: which the user named, to look at first. They are trusted: whoever can write to them can run anything.
            Code there for a smaller form than this CPU has is taken only where nothing better can be compiled. Where
            nothing there is of use, a warning says so.
        isa: the form to take; None for the best.

    Raises:
        CompiledError: there is no form for this CPU, or nothing fits in the folders and llvmlite cannot compile.
        OptionsError: a named folder cannot be read, or a file in it is damaged.
    """
    with _lock:
        target = host_target(isa)
        if target is None:
            raise CompiledError(why_none(isa))
        if (code := _named(ir, precision, folders, target.isa)) is not None:
            return code
        nothing = f"holds no {precision} kernels of this network for this CPU ({target.cpu}, {target.isa})"
        try:
            code = _own(ir(target), target, precision)
        except CompiledError as error:
            if isa is None and (code := _named(ir, precision, folders)) is not None:
                return code
            if folders:
                raise CompiledError(f"{nothing}, and {error.reason}", folders[0]) from None
            raise
    for folder in folders:
        logging.getLogger(__name__).warning("%s: %s: they are compiled here", folder, nothing)
    return code


def write_object(ir: str, target: Target, precision: str, folder: Path) -> Path:
    """Compile a module for a CPU that may be another machine's, into a folder that :func:`load_code` can be given.

    Raises:
        CompiledError: llvmlite cannot compile it.
        OSError: the file cannot be written.
    """
    key = object_key(ir, target)
    path = folder / file_name(target, precision, key)
    write_bytes(path, pack(compile_object(ir, target), target, precision, key))
    return path


def _named(
    ir: Callable[[Target], str], precision: str, folders: Sequence[Path], isa: IsaName | None = None
) -> Code | None:
    """The code in the first of the folders that has any for this CPU; None where none has."""
    found = (_in_folder(ir, precision, folder, isa) for folder in folders)
    return next((code for code in found if code is not None), None)


def _in_folder(ir: Callable[[Target], str], precision: str, folder: Path, isa: IsaName | None) -> Code | None:
    """The code in a folder that suits this CPU best; None where none does."""
    try:
        names = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise OptionsError(f"is no folder of kernels that can be read: {error.strerror}", folder) from None
    for target in travelling_targets(isa):
        if not any(name.startswith(names_for(target, precision)) for name in names):
            continue  # before its IR is made, which takes a while
        key = object_key(ir(target), target)
        name = file_name(target, precision, key)
        if name not in names:
            continue
        try:
            return _load(str(folder), key, unpack((folder / name).read_bytes(), key), target)
        except OSError as error:
            raise OptionsError(f"cannot be read: {error.strerror}", folder / name) from None
        except ValueError as error:
            raise OptionsError(f"{error}, make it anew with bce-export --compile-for", folder / name) from None
    return None


def _own(ir: str, target: Target, precision: str) -> Code:
    """The code for this CPU: out of memory, out of the cache, or compiled and put there."""
    key = object_key(ir, target, maker=".".join(version().split(".")[:2]))
    for origin in ("compiled", "cache"):
        if (code := _loaded.get((origin, key))) is not None:
            return code
    name = file_name(target, precision, key)
    if (content := cache.read(name)) is not None:
        try:
            return _load("cache", key, unpack(content, key), target)
        except (ValueError, CompiledError):
            pass  # damaged: made anew
    native = compile_object(ir, target)
    cache.write(name, pack(native, target, precision, key))
    return _load("compiled", key, native, target)


def _load(origin: str, key: str, native: bytes, target: Target) -> Code:
    code = _loaded.get((origin, key))
    if code is None:
        code = _loaded[origin, key] = Code(native, target, origin)
    return code

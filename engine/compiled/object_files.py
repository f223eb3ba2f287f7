"""Object code as a file: a line that says what it is, a line of JSON, the code.

What a file holds is found by its name, which is a hash of everything that the code depends on, and believed where its
own hash is right.
"""

from __future__ import annotations

import hashlib
import json

from bce.engine.cache import KERNELS
from bce.engine.compiled.compilation import version
from bce.engine.compiled.targets import Target

_MAGIC = b"bce kernels 1\n"
_PLATFORM = "x86_64 linux elf"


def object_key(ir: str, target: Target, maker: str = "") -> str:
    """What the code of a module depends on, as 64 hexadecimal digits.

    Args:
        ir: of the module; it depends on the network's shapes and on the form, not on weights.
        target: what the code is for.
        maker: which llvmlite makes it, where that matters.
    """
    parts = (_MAGIC.decode(), _PLATFORM, target.cpu, target.features, maker, ir)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def file_name(target: Target, precision: str, key: str) -> str:
    """The name of an object file; :func:`names_for` finds it without the key."""
    return f"{names_for(target, precision)}{key[:32]}{KERNELS}"


def names_for(target: Target, precision: str) -> str:
    """How the names of all object files for a target begin."""
    return f"{target.cpu}-{target.isa}-{precision}-"


def pack(code: bytes, target: Target, precision: str, key: str) -> bytes:
    """The content of an object file."""
    header = {
        "key": key,
        "cpu": target.cpu,
        "features": target.features,
        "isa": target.isa,
        "precision": precision,
        "llvmlite": version(),
        "sha256": hashlib.sha256(code).hexdigest(),
    }
    return _MAGIC + json.dumps(header).encode() + b"\n" + code


def unpack(content: bytes, key: str) -> bytes:
    """The code out of an object file.

    Raises:
        ValueError: it is damaged or holds other code; says what is wrong.
    """
    if not content.startswith(_MAGIC):
        raise ValueError("is no file of kernels that this version of bce can read")
    line, _, code = content[len(_MAGIC) :].partition(b"\n")
    try:
        header = json.loads(line)
        found, digest = header["key"], header["sha256"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise ValueError("is damaged: it does not say what it holds") from None
    if found != key:
        raise ValueError("holds the kernels of another network")
    if hashlib.sha256(code).hexdigest() != digest:
        raise ValueError("is damaged: its kernels are not what was written")
    return code

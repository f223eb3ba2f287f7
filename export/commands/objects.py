"""``bce-export --compile-for``: a bundle's kernels for the CPUs of other machines, never in the bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bce.engine.compiled.ahead import compile_ahead, targets_named
from bce.engine.errors import OptionsError
from bce.engine.network.bundle import Bundle, bundle_around
from bce.engine.network.int8 import INT8, Int8Form
from bce.engine.network.mbconv import read_layers


def write_objects(cpus: str, bundle: Bundle, folder: Path, say: Callable[[str], None]) -> None:
    """Write a bundle's kernels, in every precision that they have, into a folder for ``bce-infer --objects``.

    Args:
        cpus: names with commas, or "all".
        bundle: whose backbone it is. The kernels depend on its shapes and never on its weights.
        folder: is made where it is missing. Files of other networks and CPUs that lie there stay.
        say: takes a line for each file.

    Raises:
        OptionsError: a CPU is unknown, or the folder is a file or lies in a bundle.
        NotMbconv: there are no kernels for the bundle's graph.
        CompiledError: llvmlite cannot compile here.
    """
    targets = targets_named(cpus)
    if (around := bundle_around(folder)) is not None:
        raise OptionsError(
            f"lies in the bundle {around}, out of which native code is never loaded: choose another place", folder
        )
    if folder.exists() and not folder.is_dir():
        raise OptionsError("is a file, expected a folder", folder)
    layers = read_layers(bundle.backbone())
    file = bundle.file(INT8)
    form = None if file is None else Int8Form.load(file)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionsError(f"cannot be made: {error.strerror}", folder) from None
    for path in compile_ahead(layers, targets, folder, None if form is None else form.elements):
        say(f"wrote {path}: {path.stat().st_size / 1e3:.0f} kB")

"""Kernels that are compiled here for the CPUs of other machines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bce.engine.compiled.emitter import ir_for
from bce.engine.compiled.generate import generate
from bce.engine.compiled.lanes import ISAS
from bce.engine.compiled.layers import Layers
from bce.engine.compiled.loading import write_object
from bce.engine.compiled.maps import Element
from bce.engine.compiled.network import lacks
from bce.engine.compiled.plan import Precision
from bce.engine.compiled.targets import TRAVELLING, Target
from bce.engine.errors import OptionsError, one_line


def targets_named(text: str) -> list[Target]:
    """CPUs by their names with commas, or "all", in any case and with any spaces.

    Raises:
        OptionsError: there is no such CPU.
    """
    named = [name.strip() for name in text.lower().split(",")]
    names = list(TRAVELLING) if named == ["all"] else named
    for name in names:
        if name not in TRAVELLING:
            raise OptionsError(f"CPU '{one_line(name)}' is unknown: give 'all', or some of {','.join(TRAVELLING)}")
    return [TRAVELLING[name] for name in dict.fromkeys(names)]


def compile_ahead(
    layers: Layers, targets: Sequence[Target], folder: Path, chosen: Mapping[str, Element] | None = None
) -> Iterator[Path]:
    """Write a network's kernels in every precision that a CPU has, for any number of CPUs; yields each file when done.

    Args:
        layers: the network.
        targets: the CPUs.
        folder: for the files.
        chosen: the products' elements for int8; None for a network without.

    Raises:
        CompiledError: llvmlite cannot compile here.
        OSError: a file cannot be written.
    """
    precisions: tuple[Precision, ...] = ("fp32", "bf16", *(() if chosen is None else ("int8",)))
    for precision in precisions:
        texts: dict[str, str] = {}
        for target in targets:
            if lacks(target, precision) is not None:
                continue
            if target.isa not in texts:
                texts[target.isa] = generate(layers, precision, ISAS[target.isa], chosen=chosen).text
            yield write_object(ir_for(texts[target.isa], target.attributes), target, precision, folder)

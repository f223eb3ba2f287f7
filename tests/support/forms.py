"""Which form of a backbone ran: where this CPU has compiled kernels, ONNX Runtime never passes for them."""

from __future__ import annotations

import pytest

from bce.engine.compiled.targets import IsaName, Target, host_target, runs_here, why_none
from bce.engine.network.backbone import BackboneForm


def host() -> Target:
    """The best form that this CPU has; a test that wants kernels is skipped only where there is none at all."""
    target = host_target()
    if target is None:
        pytest.skip(why_none())
    return target


class Borrowing(Target):
    """The narrow form, whose dot products of bytes a CPU does with AVX-512's instructions where it lacks AVX_VNNI."""

    @property
    def needs(self) -> tuple[str, ...]:
        return (*Target("", "avx2").needs, "avx512f", "avx512vl", "avx512vnni")


def multiplying_bytes(target: Target) -> Target:
    """A form that multiplies bytes, of the same width; skips where this CPU cannot."""
    if target.vnni:
        return target
    borrowing = Borrowing(target.cpu, target.isa, vnni=True)
    if target.isa != "avx2" or not runs_here(borrowing):
        pytest.skip("this CPU has no dot products of bytes")
    return borrowing


def assert_compiled(form: BackboneForm, precision: str = "fp32", isa: IsaName | None = None) -> None:
    """Compiled kernels ran, of this CPU's best form or the one named."""
    target = host()
    assert form.backend == "compiled", form
    assert form.isa == (isa or target.isa), form
    assert form.precision == precision, form
    assert not form.why

"""What a bundle was exported in, and what is said where a precision is asked for that it lacks."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.forms import assert_compiled, host
from support.int8_bundle import with_int8

from bce.engine.errors import BundleError, OptionsError
from bce.engine.network.bundle import Bundle
from bce.engine.network.default import bundle_path
from bce.engine.network.runtimes import open_backbone


@pytest.mark.parametrize(("kernels", "graph"), [(True, True), (True, False), (False, True)])
def test_int8_is_one_of_the_precisions_for_whatever_it_is(tmp_path: Path, kernels: bool, graph: bool) -> None:
    bundle = with_int8(tmp_path / "b", kernels=kernels, graph=graph)
    assert bundle.precisions == ("fp32", "int8")


def test_a_bundle_without_int8_says_how_to_get_it() -> None:
    bundle = Bundle.load(bundle_path())
    assert bundle.precisions == ("fp32",)
    for backend in ("auto", "compiled", "onnxruntime"):
        with pytest.raises(BundleError) as caught:
            open_backbone(bundle, "int8", backend)
        says = "has no int8 backbone, only fp32: export it with --precision fp32,int8 --calibrate FOLDER"
        assert caught.value.reason == says


def test_int8_for_one_of_them_names_the_other(tmp_path: Path) -> None:
    bundle = with_int8(tmp_path / "kernels", kernels=True, graph=False)
    with pytest.raises(BundleError, match="has int8 for the compiled kernels alone: leave --backend at auto"):
        open_backbone(bundle, "int8", "onnxruntime")
    bundle = with_int8(tmp_path / "graph", kernels=False, graph=True)
    with pytest.raises(OptionsError, match="has int8 for ONNX Runtime alone"):
        open_backbone(bundle, "int8", "compiled")
    assert open_backbone(bundle, "int8", "auto").form.backend == "onnxruntime"


def test_kernels_run_int8_by_themselves(tmp_path: Path) -> None:
    bundle = with_int8(tmp_path / "b", kernels=True, graph=True)
    if host().vnni:
        assert_compiled(open_backbone(bundle, "int8", "auto").form, "int8")
    assert open_backbone(bundle, "int8", "onnxruntime").form.backend == "onnxruntime"

"""Heads know the network that they were trained on, and no other one takes them."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="heads need the extra bce[export]")

import onnxruntime as ort  # noqa: E402

from bce.engine.errors import OptionsError  # noqa: E402
from bce.engine.frontends.perch import WINDOW, log_mel  # noqa: E402
from bce.engine.network.bundle import Bundle  # noqa: E402
from bce.engine.network.default import DEFAULT_BUNDLE  # noqa: E402
from bce.export.heads.checkpoints import HeadCheckpoint  # noqa: E402
from bce.export.heads.modules import HeadConfig, build_head  # noqa: E402
from bce.export.heads.trained_on import Network, compare_networks, sample_features, sample_window  # noqa: E402
from bce.export.perch.exact import prepared  # noqa: E402

SAMPLE = {"block_1": (1.0, -2.0, 0.5), "block_2": (0.1, 0.2)}


def head(sample: dict[str, tuple[float, ...]], facts: dict[str, object] | None = None) -> HeadCheckpoint:
    module = build_head(HeadConfig(kind="scalar_mix", d=4), (3, 2), 2).eval()
    widths = {"block_1": 3, "block_2": 2}
    return HeadCheckpoint(module, ("a", "b"), widths, "none", facts=facts or {}, path="in/fold_1.pt", sample=sample)


def network(factor: float = 1.0, identity: str = "i") -> Network:
    return Network(identity, {name: [factor * x for x in numbers] for name, numbers in SAMPLE.items()})


def test_the_sample_is_what_the_bundles_graph_gives() -> None:
    bundle = Bundle.load(DEFAULT_BUNDLE)
    names = list(bundle.manifest.blocks)
    found = sample_features(bundle.backbone(), bundle.frontend(), bundle.manifest.window, names)
    entry = log_mel(sample_window(bundle.manifest.window), "none")[None]
    expected = ort.InferenceSession(bundle.backbone()).run(names, {"log_mel": entry})
    for name, array in zip(names, expected, strict=True):
        np.testing.assert_allclose(found[name], array[0], rtol=1e-5, atol=1e-6)


def test_the_sample_depends_on_each_preparation() -> None:
    window = sample_window(WINDOW)
    assert window.dtype == np.float32
    assert np.abs(window).max() < 0.2  # so that scaling to a peak of 0.25 changes it
    pictures = [log_mel(prepared(window[None], how)[0], "none") for how in ("none", "peak", "hoplite")]  # type: ignore[arg-type]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(pictures[one] - pictures[other]).max() > 0.01


@pytest.mark.parametrize("factor", [1.0, 1.00001, 1.08])
def test_the_same_network_takes_a_head(factor: float) -> None:
    """Also as a form whose weights were rounded to 16 or 8 bits."""
    assert "fold_1.pt was trained on this network" in compare_networks(head(SAMPLE), network(factor))


def test_no_difference_is_said_plainly() -> None:
    assert compare_networks(head(SAMPLE), network()).endswith("its features differ by 0 at most")


@pytest.mark.parametrize("factor", [1.3, -1.0, float("nan")])
def test_another_network_does_not(factor: float) -> None:
    with pytest.raises(OptionsError, match=r"another network, or with another preparation.*--any-backbone") as raised:
        compare_networks(head(SAMPLE), network(factor))
    assert raised.value.path == "in/fold_1.pt"
    assert "another network" in compare_networks(head(SAMPLE), network(factor), insist=True)


def test_a_head_of_an_earlier_version_is_known_by_its_bundles_identity() -> None:
    old = head({}, {"bundle": "a" * 64})
    assert "same identity" in compare_networks(old, network(identity="a" * 64))
    with pytest.raises(OptionsError, match=r"aaaaaaaaaaaa.*bbbbbbbbbbbb.*--any-backbone"):
        compare_networks(old, network(identity="b" * 64))
    assert "another network, other blocks, or another version's export" in compare_networks(
        old, network(identity="b" * 64), insist=True
    )


def test_a_head_that_says_nothing_is_said_so() -> None:
    assert "does not say which network it was trained on" in compare_networks(head({}), network())

"""The check that a runtime passes before it is believed: what it catches, and what it lets through."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from bce.engine.network.backbone import BackboneForm
from bce.engine.network.bundle import Bundle
from bce.engine.network.checking import CHECKED, LIMITS, ROUNDS, NotTheSameError, check_inputs, hold_to
from bce.engine.network.default import DEFAULT_BUNDLE

WIDTHS = {"block_1": 6, "block_2": 4}
Rows = list[NDArray[np.float32]]


def network(window: NDArray[np.float32]) -> Rows:
    """[1, 10] -> [1, 6] and [1, 4]."""
    return [np.tanh(window[:, :6] + 1), window[:, 6:] - 3]


INPUTS = np.stack([np.linspace(-1, 1, 10), np.full(10, 1e-4), np.zeros(10)]).astype(np.float32)
EXPECTED = dict(zip(WIDTHS, network(INPUTS), strict=True))


class Spoiled:
    """The network, but for one output in one call."""

    def __init__(self, call: int, output: int, how: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> None:
        self.call, self.output, self.how, self.calls = call, output, how, 0

    def __call__(self, window: NDArray[np.float32]) -> Rows:
        rows = network(window)
        if self.calls == self.call:
            rows[self.output] = self.how(rows[self.output])
        self.calls += 1
        return rows


def hold(run: Callable[[NDArray[np.float32]], Rows], precision: str = "fp32") -> None:
    hold_to(EXPECTED, run, INPUTS, BackboneForm("openvino", precision), "net.onnx")


def off_by(relative: float) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """One number of a row moved so that the row is that far off, relative L2."""

    def move(row: NDArray[np.float32]) -> NDArray[np.float32]:
        moved = row.copy()
        moved[0, 1] += relative * np.linalg.norm(row)
        return moved

    return move


def test_the_same_numbers_pass() -> None:
    right = Spoiled(-1, 0, np.zeros_like)
    hold(right)
    assert right.calls == ROUNDS * len(CHECKED)


@pytest.mark.parametrize("precision", LIMITS)
@pytest.mark.parametrize("kind", CHECKED)
@pytest.mark.parametrize("output", [0, 1])
def test_every_output_on_every_input_counts(precision: str, kind: str, output: int) -> None:
    """Each in both rounds: off by a little less than the limit passes, by a little more does not."""
    limit = LIMITS[precision][CHECKED.index(kind)]
    for call in range(CHECKED.index(kind), ROUNDS * len(CHECKED), len(CHECKED)):
        hold(Spoiled(call, output, off_by(0.95 * limit)), precision)
        name = list(WIDTHS)[output]
        with pytest.raises(NotTheSameError, match=rf"net\.onnx: gives {name} .* on {kind} in OpenVINO {precision} "):
            hold(Spoiled(call, output, off_by(1.05 * limit)), precision)


@pytest.mark.parametrize("call", range(ROUNDS * len(CHECKED)))
@pytest.mark.parametrize("wrong", [np.nan, np.inf, 0.0])
def test_what_was_not_computed_never_passes(call: int, wrong: float) -> None:
    for precision in LIMITS:
        with pytest.raises(NotTheSameError, match="off ONNX Runtime's"):
            hold(Spoiled(call, 1, lambda row: np.full_like(row, wrong)), precision)


def test_another_shape_does_not_pass() -> None:
    with pytest.raises(NotTheSameError, match=r"gives block_2 as \[1, 3\] in OpenVINO fp32, not \[1, 4\]"):
        hold(Spoiled(0, 1, lambda row: row[:, :3]))


def test_nothing_out_of_silence_is_the_same_as_nothing() -> None:
    expected = {"a": np.zeros((3, 2), np.float32)}
    hold_to(expected, lambda x: [np.zeros((1, 2), np.float32)], INPUTS, BackboneForm("openvino", "fp32"), "n")


def test_it_listens_to_sound_to_next_to_nothing_and_to_nothing(tmp_path: Path) -> None:
    bundle = Bundle.load(DEFAULT_BUNDLE)
    sound, near, silence = check_inputs(bundle)
    opened = bundle.frontend().open(np.zeros(bundle.manifest.window.samples, np.float32))
    nothing = np.empty_like(silence)
    opened.window(0, nothing)
    np.testing.assert_array_equal(silence, nothing)
    assert np.isfinite(near).all()
    assert silence.mean() < near.mean() < sound.mean()
    assert sound.std() > 0.1

"""A network of no known family, to be written in any form.

Frames times a matrix, its tanh; one convolution at stride 2, swish, the mean of the map.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bce.engine.geometry import WindowSpec
from bce.export.readers.base import Expectation, Opened
from bce.export.readers.steps import Conv, Func, Reduce
from bce.export.readers.taps import find_taps, run_taps

EXPECTED = Expectation(WindowSpec(8_000, 0.1), (20, 10), "picture", 1e-5)
RNG = np.random.default_rng(4)
MEL = RNG.standard_normal((40, 10)).astype(np.float32)
KERNEL = RNG.standard_normal((6, 1, 3, 3)).astype(np.float32)
BIAS = RNG.standard_normal(6).astype(np.float32)


def computed(waveforms: np.ndarray) -> dict[str, np.ndarray]:
    """The network in numpy: samples [n, 800] -> its spectrogram and its one output."""
    picture = np.tanh(waveforms.astype(np.float64).reshape(-1, 20, 40) @ MEL)
    patches = np.lib.stride_tricks.sliding_window_view(picture, (3, 3), axis=(1, 2))[:, ::2, ::2]
    maps = np.einsum("ntmij,cij->nctm", patches, KERNEL[:, 0]) + BIAS[:, None, None]
    maps = maps / (1 + np.exp(-maps))
    return {"spectrogram": picture, "vector": maps.mean(axis=(2, 3))}


def check(opened: Opened[Any], windows: int) -> None:
    """What was read is the network that was written, and the file gives its numbers for so many windows."""
    (end, *_) = (term for term in opened.ends if isinstance(term, Reduce))
    assert (end.kind, end.over) == ("mean", {"t", "m"})
    (swish,) = end.inputs
    assert isinstance(swish, Func)
    assert swish.name == "swish"
    (conv,) = swish.inputs
    assert isinstance(conv, Conv)
    assert conv.inputs == (opened.input,)
    np.testing.assert_array_equal(conv.kernel, KERNEL)
    np.testing.assert_allclose(conv.shift, BIAS)
    assert (conv.stride, conv.padding) == ((2, 2), ((0, 0), (0, 0)))

    taps = find_taps(opened, {"vector": end, "mean of the map": swish})
    waveforms = (0.1 * RNG.standard_normal((windows, 800))).astype(np.float32)
    found = run_taps(opened.run, opened.spectrogram, taps, EXPECTED.spectrogram)(waveforms)
    expected = computed(waveforms)
    assert found.keys() == {"spectrogram", "vector", "mean of the map"}
    for name, array in (expected | {"mean of the map": expected["vector"]}).items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-5)

"""A member of a run: a bundle that turns an audio block into rows of logits on the run's chunk grid."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bce.engine.audio.reader import AudioBlock
from bce.engine.geometry import ChunkGrid, plan_windows, window_offsets
from bce.engine.network.bundle import Bundle
from bce.engine.network.manifest import Reduce
from bce.engine.network.model import Model
from bce.engine.results import BlockResult, Features, Shifts, StageSeconds


class Member:
    """A bundle's frontend and network, ready to run on a grid of chunks. Calls are thread-safe.

    Args:
        bundle: a checked bundle.
        precision, backend, threads, objects: as in :class:`bce.engine.network.model.Model`.
        grid: the chunks of the run; None for the bundle's own.

    Attributes:
        window: the bundle's windows.
        grid: the chunks.
        offsets_s: where the windows of a chunk begin in it.
        model: the network.

    Raises:
        BundleError, OptionsError: as :class:`bce.engine.network.model.Model` and the bundle's frontend do.
    """

    def __init__(
        self,
        bundle: Bundle,
        precision: str = "fp32",
        backend: str = "auto",
        threads: int = 1,
        objects: Path | None = None,
        grid: ChunkGrid | None = None,
    ) -> None:
        placing = bundle.manifest.placing
        self.window = bundle.manifest.window
        self.grid = bundle.manifest.grid if grid is None else grid
        self.offsets_s = window_offsets(self.window, self.grid, placing.step_s)
        self.frontend = bundle.frontend()
        self.model = Model(bundle, precision, backend, threads, objects)
        self._reduce = placing.reduce

    def compute(
        self, block: AudioBlock, shifts_s: Shifts, keep: str | None = None, cut: Callable[[], bool] = lambda: False
    ) -> BlockResult:
        """Inputs, features and logits of one audio block.

        Args:
            block: at the windows' rate, with the audio that the shifts reach into.
            shifts_s: test-time shifts in seconds.
            keep: features to give out: None, as a mean over a chunk's shifts ("chunk") or of each "window".
            cut: asked after each window: the block ends there, with the chunks whose windows have all been run.
        """
        clock = time.perf_counter
        began = clock()
        samples, total = block.samples, block.total_samples
        if total is not None and total < self.window.samples:  # chunks shorter than windows, and few of them
            samples = np.pad(samples, (0, self.window.samples - total))
            total = self.window.samples
        plan = plan_windows(
            self.window,
            self.grid,
            block.first_chunk,
            block.chunks,
            shifts_s,
            total,
            self.offsets_s,
            block.audio_samples,
        )
        opened = self.frontend.open(samples, block.start_sample)
        frontend_s = clock() - began
        inference_s = 0.0
        inputs = np.empty((1, *self.frontend.shape), np.float32)
        rows: list[Features] = []
        for start in plan.starts:
            began = clock()
            opened.window(int(start), inputs[0])
            middle = clock()
            rows.append(self.model.features(inputs))
            frontend_s += middle - began
            inference_s += clock() - middle
            if cut():
                break
        index = plan.index[(plan.index < len(rows)).all(axis=1)]
        began = clock()
        features = {name: np.concatenate([row[name] for row in rows]) for name in self.model.outputs}
        by_shift = index.reshape(len(index), len(shifts_s), len(self.offsets_s))
        logits = _mean(_reduced(self.model.logits(features), by_shift, self._reduce), axis=1)
        inference_s += clock() - began
        kept: Features = {}
        if keep == "window":
            kept = features
        elif keep == "chunk":
            kept = {name: _mean(values[index], axis=1) for name, values in features.items()}
        return BlockResult(
            logits,
            kept,
            plan.starts[: len(rows)] / self.window.sample_rate if keep == "window" else np.empty(0),
            shifts_s,
            len(rows),
            StageSeconds(0.0, frontend_s, inference_s),
        )


def _reduced(values: NDArray[np.float32], index: NDArray[np.int64], how: Reduce) -> NDArray[np.float32]:
    """[windows, width] and index [chunks, shifts, windows of a chunk] -> [chunks, shifts, width]."""
    return values[index].max(axis=2) if how == "max" else _mean(values[index], axis=2)


def _mean(values: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """A mean whose sum is in float64."""
    return values.mean(axis=axis, dtype=np.float64).astype(np.float32)

"""A run over recordings that are damaged or lie: each has its status and its reason, and none ends the run."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support.decoding import GRID, RATE, sweep

from bce.engine.audio.reader import AudioBlock
from bce.engine.frontends.perch import PerchFrontend
from bce.engine.recording import Recording
from bce.engine.results import BlockResult, StageSeconds, whole_recordings
from bce.engine.run.pace import SteadyPace, Stop
from bce.engine.run.scheduler import Scheduler


def write(path: Path, samples: np.ndarray, at: int | None = None, changed: bytes = b"", **options: str) -> None:
    """A recording with some bytes of its file changed."""
    soundfile.write(path, samples, RATE, **options)
    with path.open("r+b") as file:
        if at is not None:
            file.seek(at)
            file.write(changed)


def spiked(value: float) -> np.ndarray:
    samples = sweep(12.0)
    samples[7 * RATE] = value
    return samples


@pytest.mark.parametrize("preparation", ["none", "hoplite"])
def test_a_run_goes_on(tmp_path, preparation):
    frontend = PerchFrontend(preparation)

    def compute(block: AudioBlock, shifts: tuple[float, ...]) -> BlockResult:
        opened = frontend.open(block.samples, block.start_sample)
        rows = np.empty((block.chunks, 2), np.float32)
        for chunk in range(block.chunks):
            out = np.empty(frontend.shape, np.float32)
            opened.window((block.first_chunk + chunk) * block.chunk_samples, out)
            assert np.isfinite(out).all()
            rows[chunk] = out.min(), out.max()
        return BlockResult(rows, {}, np.empty(0), (0.0,), block.chunks, StageSeconds())

    samples = sweep(12.0)
    write(tmp_path / "healthy.wav", samples)
    write(tmp_path / "huge.wav", spiked(3e38), subtype="FLOAT")
    write(tmp_path / "spike.wav", spiked(-1e10), subtype="FLOAT")
    write(tmp_path / "loud.wav", spiked(9e6), subtype="FLOAT")
    write(tmp_path / "not_a_number.wav", spiked(np.nan), subtype="FLOAT")
    write(tmp_path / "rate_1.wav", samples, 24, struct.pack("<I", 1))
    write(tmp_path / "rate_8.wav", samples, 24, struct.pack("<I", 8))
    write(tmp_path / "endless.wav", samples, 40, struct.pack("<I", 0xFFFFFFF0))
    write(tmp_path / "unfinished.wav", samples, 40, bytes(4))
    write(tmp_path / "lying.wav", samples, 40, struct.pack("<I", 0xF0000000))
    write(tmp_path / "lying.rf64", samples, 28, struct.pack("<Q", 1 << 62), format="RF64")
    write(tmp_path / "damaged.ogg", samples, 60_000, b"\0" * 9)
    expected = {  # status, rows, chunks that are promised
        "healthy.wav": ("ok", 3, 3),
        "huge.wav": ("short_read", 2, 3),
        "spike.wav": ("short_read", 2, 3),
        "loud.wav": ("ok", 3, 3),
        "not_a_number.wav": ("short_read", 2, 3),
        "rate_1.wav": ("failed", 0, None),
        "rate_8.wav": ("failed", 0, None),
        "endless.wav": ("ok", 3, 3),
        "unfinished.wav": ("ok", 3, 3),
        "lying.wav": ("short_read", 3, None),
        "lying.rf64": ("short_read", 3, None),
        "damaged.ogg": ("short_read", 2, 3),
    }
    recordings = [Recording(tmp_path / name, name) for name in expected]
    scheduler = Scheduler(recordings, compute, SteadyPace((0.0,)), 2, Stop(), 2, RATE, GRID)
    results = {result.recording.stem: result for result in whole_recordings(scheduler.parts())}
    for name, (status, rows, promised) in expected.items():
        result = results[name]
        assert (result.status, len(result.logits), result.promised_chunks) == (status, rows, promised), name
        assert (result.reason is None) == (status == "ok"), name
        if name not in ("loud.wav", "damaged.ogg"):
            first = results["healthy.wav"].logits[: min(rows, 1)]
            np.testing.assert_allclose(result.logits[:1], first, atol=1e-4, err_msg=name)  # floats, and 16 bits

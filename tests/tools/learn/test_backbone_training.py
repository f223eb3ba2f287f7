"""A backbone from scratch: windows against their definition, augmentation as sound would do it, and that it learns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="training needs the extra bce[tools]")
pytest.importorskip("onnx", reason="the network is written as ONNX")

from bce.engine.errors import OptionsError  # noqa: E402
from bce.engine.frontends.perch import LOWEST, log_mel_reference  # noqa: E402
from bce.export.perch.backbone import pooled  # noqa: E402
from bce.export.perch.sources import read_source  # noqa: E402
from bce.tools.commands import tools as cli  # noqa: E402
from bce.tools.data.datasets import read_dataset  # noqa: E402
from bce.tools.data.synth.dataset import write_dataset  # noqa: E402
from bce.tools.data.synth.options import SynthOptions  # noqa: E402
from bce.tools.learn.augment import Batch, augment, draw  # noqa: E402
from bce.tools.learn.backbone_training import masked_bce, train_backbone, write_source  # noqa: E402
from bce.tools.learn.backbone_windows import TrainingWindows, Windows, chunks_of, read_windows  # noqa: E402
from bce.tools.learn.options import BackboneOptions  # noqa: E402

TINY = BackboneOptions(width=0.1, steps=28, batch=6, checks=1, threads=1, learning_rate=1e-2, mix=0.2)


def test_chunks_are_the_reference_log_mel(tmp_path: Path) -> None:
    """In float16; a tail of 2 s is left out, one of 3 s is kept."""
    samples = 0.1 * np.random.default_rng(0).standard_normal(32_000 * 18)
    soundfile.write(tmp_path / "a.wav", samples, 32_000, subtype="DOUBLE")
    soundfile.write(tmp_path / "b.wav", samples[: 32_000 * 12], 32_000, subtype="DOUBLE")
    chunks = chunks_of(tmp_path / "a.wav")
    assert chunks.shape == (4, 500, 128)
    expected = log_mel_reference(samples[320_000:480_000], "none")
    np.testing.assert_allclose(chunks[2], expected, atol=1e-3)
    assert len(chunks_of(tmp_path / "b.wav")) == 2
    np.testing.assert_array_equal(chunks_of(tmp_path / "a.wav", limit=2), chunks[:2])


def test_windows_of_a_data_set_carry_their_labels(tmp_path: Path) -> None:
    write_dataset(tmp_path / "d", SynthOptions(species=4, clips_per_species=2, train_soundscapes=3, test_soundscapes=0,
                                               duration_s=10, jobs=1))  # fmt: skip
    data = read_dataset(tmp_path / "d")
    assert data.clips is not None
    assert data.train is not None
    read = read_windows(data, replace(TINY, held_out=3))
    soundscapes, clips = read.sources
    assert read.held is not None
    assert (len(soundscapes), len(read.held)) == (4, 2)
    truth = data.train.windows.present(data.taxonomy.labels)
    np.testing.assert_array_equal(np.concatenate([soundscapes.present, read.held.present]), truth)
    assert (clips.present.sum(axis=1) == 1).all()
    secondary = data.clips.present(data.taxonomy.labels, secondary=True).sum() - len(data.clips)
    assert (~clips.known).any() == (secondary > 0)
    assert clips.known[clips.present].all()
    np.testing.assert_allclose([of.sum() for of in read.balance], 1)


def batch_of(inputs: NDArray[np.float32], present: NDArray[np.bool_], known: NDArray[np.bool_] | None = None) -> Batch:
    known = np.ones_like(present) if known is None else known
    return Batch(torch.from_numpy(inputs), torch.from_numpy(present), torch.from_numpy(known))


def test_mixing_adds_power_and_joins_labels() -> None:
    """Two flat windows of equal background: the sum of two equal powers is 3 dB more, level for level."""
    flat = np.full((2, 500, 128), -0.6, np.float32)
    batch = batch_of(flat, np.array([[1, 0, 0], [0, 1, 0]], bool), np.array([[1, 1, 1], [1, 1, 0]], bool))
    options = replace(TINY, mix=1.0, gain_db=0.0)
    seen = set()
    for seed in range(20):
        mixed = augment(batch, options, np.random.default_rng(seed))
        rise_db = (mixed.inputs[:, 0, 0].numpy() + 0.6) * 200 / np.log(10)
        assert (rise_db > 10 * np.log10(1 + 10**-0.6) - 0.1).all()  # the other is at least 6 dB softer,
        assert (rise_db < 10 * np.log10(1 + 10**0.6) + 0.1).all()  # at most 6 dB louder
        seen.add(tuple(mixed.present[0].tolist()))
        if mixed.present[0].tolist() == [True, True, False]:
            assert mixed.known.tolist() == [[True, True, False]] * 2
    assert seen == {(True, False, False), (True, True, False)}


def test_gain_is_a_shift_of_the_log_mel_down_to_its_floor() -> None:
    noise = np.random.default_rng(1).uniform(-1.0, -0.5, (6, 500, 128)).astype(np.float32)
    out = augment(
        batch_of(noise, np.eye(6, dtype=bool)), replace(TINY, mix=0.0, gain_db=20.0), np.random.default_rng(2)
    )
    assert float(out.inputs.min()) >= LOWEST - 1e-6
    shift = np.median(out.inputs.numpy(), axis=(1, 2)) - np.median(noise, axis=(1, 2))
    assert np.abs(shift).max() <= 20 * np.log(10) / 200 + 0.01
    assert np.unique(np.round(shift, 4)).size == 6
    np.testing.assert_array_equal(out.present, np.eye(6, dtype=bool))


def test_batches_take_as_much_from_each_source() -> None:
    def source(n: int, value: float) -> Windows:
        return Windows(np.full((n, 500, 128), value, np.float16), np.ones((n, 2), bool), np.ones((n, 2), bool))

    sources = [source(9, -1), source(3, -0.5)]
    balance = [np.full(9, 1 / 9), np.array([1.0, 0.0, 0.0])]
    batch = draw(sources, balance, 8, np.random.default_rng(0))
    assert batch.inputs[:, 0, 0].tolist() == [-1] * 4 + [-0.5] * 4


def test_what_is_not_known_costs_nothing() -> None:
    logits = torch.tensor([[0.0, 9.0]])
    batch = batch_of(np.zeros((1, 1, 1), np.float32), np.array([[True, False]]), np.array([[True, False]]))
    assert float(masked_bce(logits, batch)) == pytest.approx(np.log(2))


def tones(n: int, seed: int) -> Windows:
    """Two classes: a steady band at the bottom, one at the top; both, one or none in each window."""
    rng = np.random.default_rng(seed)
    present = rng.random((n, 2)) < 0.5
    x = rng.normal(-0.9, 0.03, (n, 500, 128))
    x[present[:, 0], :, 20:28] += 0.4
    x[present[:, 1], :, 90:98] += 0.4
    return Windows(x.astype(np.float16), present, np.ones_like(present))


def test_it_learns_tones_and_is_written_as_it_is(tmp_path: Path) -> None:
    """And what a reader of published files finds in the file gives the same maps."""
    source = tones(48, 0)
    windows = TrainingWindows([source], [np.full(48, 1 / 48)], tones(24, 1))
    figures: list[dict[str, float]] = []
    before = torch.get_num_threads(), np.float32(1e-40) * np.float32(0.5)
    backbone, auc = train_backbone(windows, TINY, lambda b, f: figures.append(f))
    assert (torch.get_num_threads(), np.float32(1e-40) * np.float32(0.5)) == before
    assert before[1] > 0, "training must not change the caller's arithmetic"
    assert auc > 0.8
    assert figures[-1]["auc"] == auc
    assert figures[-1]["step"] == TINY.steps
    write_source(backbone, tmp_path / "small.onnx", "a notice")
    read = read_source(tmp_path / "small.onnx")
    assert read.notice == "a notice"
    from bce.export.perch.backbone import build

    x = torch.from_numpy(source.inputs[:2].astype(np.float32))
    with torch.no_grad():
        expected, found = (pooled(model.block_maps(x)[25]) for model in (backbone, build(read.weights)))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(OptionsError, match="width is 2"):
        BackboneOptions(width=2.0)
    with pytest.raises(OptionsError, match="steps is 0"):
        BackboneOptions(steps=0)


def test_the_command_writes_what_an_export_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "d", SynthOptions(species=4, clips_per_species=1, train_soundscapes=0, test_soundscapes=0,
                                               jobs=1))  # fmt: skip
    out = tmp_path / "net.onnx"
    arguments = ["backbone", str(tmp_path / "d"), "--out", str(out), "--steps", "2", "--batch", "4", "--width", "0.1",
                 "--threads", "1", "--notice", "for a test", "--licence", "CC0", "--quiet"]  # fmt: skip
    assert cli.main(arguments) == 0
    assert f"wrote {out}" in capsys.readouterr().out
    source = read_source(out)
    assert (source.notice, source.licence) == ("for a test", "CC0")
    lines = [json.loads(line) for line in out.with_suffix(".jsonl").read_text().splitlines()]
    assert lines[0]["options"]["steps"] == 2
    assert [line["step"] for line in lines[1:]] == [1, 2]

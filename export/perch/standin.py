"""Files with Perch v2's published structure and seeded weights: for tests, benchmarks and trials.

The scores mean nothing, but the weights are good for comparing numbers: features follow the input (plain random
weights contract every window to nearly one point, so any two models agree on them), and a small change of the input
stays small (a careless calibration turns rounding into noise, so no two models agree on them).

Run as a command: ``python -m bce.export.perch.standin OUT.onnx``.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bce.engine.commands.main import run_command
from bce.engine.errors import OptionsError
from bce.export.perch.architecture import PERCH_WIDTH, PROTOTYPES_PER_CLASS, architecture
from bce.export.perch.backbone import Backbone, ConvNormAct, Gate, MBConv, extract
from bce.export.perch.published_graph import WINDOW_SAMPLES, Form, Swish, log_mel, write_onnx
from bce.export.perch.weights import Prototypes, Weights, check

PERCH_CLASSES = 14_795
"""Classes of the published file: 14,597 species and 198 sound events."""

_SAMPLE_RATE = 32_000
_CALIBRATION_WINDOWS = 26
_CLASSES_AT_ONCE = 512

# found by trial: together they let features follow the input without making rounding larger on its way
_GAIN = 0.7
"""Standard deviation of what goes into an activation."""
_RESIDUAL = 0.3 / _GAIN
"""Scale of a residual branch, beside 1 for what it is added to."""
_OFFSET = 0.7
"""Standard deviation over channels of the part of a stage's features that is the same for all windows."""
_LEAST_VARIANCE = 0.3
"""Of a channel, relative to the mean over channels."""


def notice(seed: int) -> str:
    """What is shown wherever scores of such a file are."""
    return f"stand-in weights (seed {seed}): scores mean nothing"


def seeded_weights(classes: int = PERCH_CLASSES, seed: int = 0, width: float = PERCH_WIDTH) -> Weights:
    """Weights of a whole network, the same for the same arguments on one machine.

    Kernels are random across channels and gather over time and mel, BatchNorm's statistics are those of varied
    synthetic audio from -80 to 0 dBFS, residual branches are small beside what they are added to, gates are mild, and
    the prototypes lie around feature vectors of that audio.

    Args:
        classes: of the ProtoPNet classifier, at least 1.
        seed: 0 or more.
        width: scales every channel count, in (0, 4]; Perch v2's is 1.2.

    Raises:
        OptionsError: a value is out of range.
    """
    if classes < 1:
        raise OptionsError(f"{classes} classes are too few: give 1 or more")
    if seed < 0:
        raise OptionsError(f"seed {seed} is negative: give 0 or more")
    rng = np.random.default_rng(seed)
    backbone = Backbone(architecture(width))
    _initialise(backbone, rng)
    windows = log_mel(np.stack(list(_calibration_windows(rng))))
    spatial = _calibrate(backbone, torch.from_numpy(windows.astype(np.float32)))
    return check(extract(backbone, _prototypes(spatial, classes, rng)))


def write_standin(
    path: str | os.PathLike[str],
    *,
    classes: int = PERCH_CLASSES,
    seed: int = 0,
    width: float = PERCH_WIDTH,
    form: Form = "no_dft",
    swish: Swish = "sigmoid",
    names: bool = True,
) -> Path:
    """Write an ONNX file of the published structure with :func:`seeded_weights`.

    Args:
        path: of the file; it is written beside and renamed.
        classes, seed, width: as in :func:`seeded_weights`.
        form, swish, names: as in :func:`bce.export.perch.published_graph.write_onnx`.

    Returns:
        The path.

    Raises:
        OptionsError: a value is out of range.
    """
    weights = seeded_weights(classes, seed, width)
    write_onnx(weights, path, form=form, swish=swish, names=names, notice=notice(seed))
    return Path(path)


def _initialise(backbone: Backbone, rng: np.random.Generator) -> None:
    """Random kernels, gates that close a little when it is loud, small residual branches."""
    with torch.no_grad():
        for module in backbone.modules():
            if isinstance(module, ConvNormAct):
                _initialise_conv(module, rng)
            elif isinstance(module, Gate):
                _initialise_gate(module, rng)
        for block in backbone.blocks:
            assert isinstance(block, MBConv)
            norm = _norm(block.project)
            if block.residual:
                norm.weight.mul_(_RESIDUAL)
            else:
                norm.weight.div_(_GAIN)
                norm.bias.copy_(_normal(rng, norm.bias.shape, _OFFSET))
        head = _norm(backbone.head)
        head.bias.copy_(_normal(rng, head.bias.shape, _OFFSET))


def _initialise_conv(module: ConvNormAct, rng: np.random.Generator) -> None:
    """A kernel that is random across channels and gathers rather than compares over time and mel.

    A rough kernel takes differences of neighbours, which are small in a log-mel, and BatchNorm would scale them up
    together with whatever noise lies on them. A flat one prefers what is equal everywhere, until nothing but the
    loudness of a window is left. So the centre weighs most.
    """
    weight = module.conv.weight
    _, fan_in, height, width = weight.shape
    kernel = rng.standard_normal(weight.shape)
    if height > 1:
        hump = np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1])
        centre = np.zeros((height, width))
        centre[height // 2, width // 2] = np.sqrt(height * width)
        shape = 0.7 * centre + 0.3 * hump / np.sqrt(np.mean(hump**2))
        kernel = rng.choice([-1.0, 1.0], (*weight.shape[:2], 1, 1)) * shape + 0.3 * kernel
    weight.copy_(torch.from_numpy(kernel / np.sqrt(fan_in * height * width)))
    norm = _norm(module)
    norm.weight.copy_(torch.from_numpy(_GAIN * rng.uniform(0.8, 1.2, norm.num_features)))
    norm.bias.copy_(_normal(rng, norm.bias.shape, 0.1))


def _initialise_gate(gate: Gate, rng: np.random.Generator) -> None:
    """Gates around 0.7 that close a little for large activations of either sign.

    Without that, a window louder than those of the calibration grows from block to block.
    """
    assert gate.reduce.bias is not None
    assert gate.expand.bias is not None
    expanded, squeezed = gate.expand.weight.shape[:2]
    gate.reduce.weight.copy_(_normal(rng, gate.reduce.weight.shape, 1 / np.sqrt(expanded)))
    gate.reduce.bias.copy_(_normal(rng, gate.reduce.bias.shape, 0.2))
    gate.expand.weight.copy_(-_normal(rng, gate.expand.weight.shape, 0.5 / squeezed).abs())
    gate.expand.bias.copy_(1.0 + _normal(rng, gate.expand.bias.shape, 0.2))


def _norm(module: nn.Module) -> nn.BatchNorm2d:
    assert isinstance(module, ConvNormAct)
    assert isinstance(module.norm, nn.BatchNorm2d)
    return module.norm


def _normal(rng: np.random.Generator, shape: Sequence[int], std: float) -> torch.Tensor:
    return torch.from_numpy(rng.standard_normal(tuple(shape)) * std)


def _calibrate(backbone: Backbone, windows: torch.Tensor) -> NDArray[np.float32]:
    """Set BatchNorm's statistics to those of the windows and return the windows' feature vectors.

    One pass is a calibration block by block: each BatchNorm sees what those before it have already normalised.

    Returns:
        [windows * positions, channels] after the head's swish.
    """

    def take(norm: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3), correction=0)
        norm.running_mean.copy_(mean)
        # a channel whose inputs happen to cancel each other is mostly rounding: do not scale that up
        norm.running_var.copy_(variance.clamp(min=_LEAST_VARIANCE * variance.mean().item()))

    hooks = [m.register_forward_pre_hook(take) for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        spatial = backbone.eval()(windows)
    for hook in hooks:
        hook.remove()
    return spatial.flatten(2).transpose(1, 2).flatten(0, 1).numpy()


def _prototypes(spatial: NDArray[np.float32], classes: int, rng: np.random.Generator) -> Prototypes:
    """Prototypes around the feature vectors of the calibration windows.

    Swish leaves all vectors with a large part in common. Prototypes lie around what remains without it, so that their
    cosines tell windows apart.
    """
    unit = spatial / np.linalg.norm(spatial, axis=1, keepdims=True)
    unit -= unit.mean(axis=0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True) + 1e-12
    channels = unit.shape[1]
    vectors = np.empty((channels, classes, PROTOTYPES_PER_CLASS), np.float32)
    for begin in range(0, classes, _CLASSES_AT_ONCE):
        some = vectors[:, begin : begin + _CLASSES_AT_ONCE]
        count = some.shape[1] * PROTOTYPES_PER_CLASS
        drawn = unit[rng.integers(len(unit), size=count)]
        drawn += rng.standard_normal(drawn.shape, dtype=np.float32) / np.float32(np.sqrt(channels))
        drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
        some[:] = drawn.T.reshape(some.shape)
    strength = rng.uniform(1.0, 4.0, (classes, PROTOTYPES_PER_CLASS)).astype(np.float32)
    bias = (-2.0 + 0.3 * rng.standard_normal(classes)).astype(np.float32)
    return Prototypes(vectors, strength, bias)


def _calibration_windows(rng: np.random.Generator) -> Iterator[NDArray[np.float64]]:
    """Windows of 5 s of very different sounds, peaks from -80 to 0 dBFS, and one of silence."""
    kinds = (_noise, _chirps, _tones, _clicks, _pulses)
    levels = rng.permutation(np.linspace(-80.0, 0.0, _CALIBRATION_WINDOWS - 1))
    yield np.zeros(WINDOW_SAMPLES)
    for index, level in enumerate(levels):
        sound = kinds[index % len(kinds)](rng)
        # most recordings have a floor of noise under whatever sounds
        sound = sound / np.abs(sound).max() + _noise(rng) * 10 ** (rng.uniform(-90.0, -20.0) / 20)
        yield sound / np.abs(sound).max() * 10 ** (level / 20)


def _time_s() -> NDArray[np.float64]:
    return np.arange(WINDOW_SAMPLES) / _SAMPLE_RATE


def _noise(rng: np.random.Generator) -> NDArray[np.float64]:
    """Noise whose power falls with frequency by a random slope, under a slow random envelope; peak 1."""
    spectrum = np.fft.rfft(rng.standard_normal(WINDOW_SAMPLES))
    frequency = np.fft.rfftfreq(WINDOW_SAMPLES, 1 / _SAMPLE_RATE)
    spectrum *= np.maximum(frequency, 50.0) ** -rng.uniform(0.0, 1.2)
    sound = np.fft.irfft(spectrum, WINDOW_SAMPLES)
    sound *= 1.0 + rng.uniform(0.0, 0.9) * np.sin(2 * np.pi * (rng.uniform(0.1, 6.0) * _time_s() + rng.uniform()))
    return sound / np.abs(sound).max()


def _chirps(rng: np.random.Generator) -> NDArray[np.float64]:
    """Gliding notes with gaps, like birds."""
    t = _time_s()
    sound = np.zeros(WINDOW_SAMPLES)
    for _ in range(rng.integers(3, 25)):
        start, length = rng.uniform(0.0, 4.8), rng.uniform(0.03, 0.8)
        low, high = np.exp(rng.uniform(np.log(400.0), np.log(12_000.0), 2))
        note = (t >= start) & (t < start + length)
        along = (t[note] - start) / length
        phase = 2 * np.pi * length * (low * along + 0.5 * (high - low) * along**2)
        sound[note] += rng.uniform(0.2, 1.0) * np.sin(phase) * np.sin(np.pi * along) ** 2
    return sound


def _tones(rng: np.random.Generator) -> NDArray[np.float64]:
    """Steady harmonics of one to four sources, like insects, frogs and engines."""
    t = _time_s()
    sound = np.zeros(WINDOW_SAMPLES)
    for _ in range(rng.integers(1, 5)):
        fundamental = np.exp(rng.uniform(np.log(80.0), np.log(9_000.0)))
        for harmonic in range(1, int(min(8.0, 15_000.0 / fundamental)) + 1):
            sound += rng.uniform(0.1, 1.0) / harmonic * np.sin(2 * np.pi * (harmonic * fundamental * t + rng.uniform()))
    return sound


def _clicks(rng: np.random.Generator) -> NDArray[np.float64]:
    """Short decaying bursts at random times, like rain drops and steps."""
    sound = np.zeros(WINDOW_SAMPLES)
    decay = np.exp(-np.arange(1600) / rng.uniform(5.0, 400.0))
    for start in rng.integers(0, WINDOW_SAMPLES - 1600, rng.integers(3, 200)):
        sound[start : start + 1600] += rng.uniform(0.1, 1.0) * decay * rng.standard_normal(1600)
    return sound


def _pulses(rng: np.random.Generator) -> NDArray[np.float64]:
    """A tone switched on and off regularly, like crickets and alarms."""
    t = _time_s()
    gate = (t * rng.uniform(1.0, 40.0) % 1.0) < rng.uniform(0.1, 0.7)
    return gate.astype(np.float64) * np.sin(2 * np.pi * rng.uniform(300.0, 14_000.0) * t)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the return value is the exit code."""
    return run_command("standin", lambda: _run(arguments), "bce[export]")


def _run(arguments: Sequence[str] | None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bce.export.perch.standin",
        description="Write an ONNX file with Perch v2's published structure and seeded weights (scores mean nothing).",
    )
    parser.add_argument("out", metavar="OUT.onnx", type=Path)
    parser.add_argument("--classes", type=int, default=PERCH_CLASSES, help="classes of the classifier (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights (%(default)s)")
    parser.add_argument("--width", type=float, default=PERCH_WIDTH, help="of the network; Perch v2's is %(default)s")
    parser.add_argument("--form", choices=("no_dft", "dft"), default="no_dft", help="dense DFT matrix or DFT operator")
    parser.add_argument(
        "--swish", choices=("sigmoid", "decomposed"), default="sigmoid", help="lowering of sigmoid and swish"
    )
    parser.add_argument("--no-names", action="store_true", help="give tensors names that tell nothing")
    given = parser.parse_args(arguments)
    path = write_standin(
        given.out,
        classes=given.classes,
        seed=given.seed,
        width=given.width,
        form=given.form,
        swish=given.swish,
        names=not given.no_names,
    )
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {given.classes} classes, {notice(given.seed)}")


if __name__ == "__main__":
    raise SystemExit(main())

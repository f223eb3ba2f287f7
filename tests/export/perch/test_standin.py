"""The stand-in file: the published structure, numbers equal to their definition, weights that prove something."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

onnx = pytest.importorskip("onnx", reason="the stand-in needs the extra bce[export]")
torch = pytest.importorskip("torch", reason="the stand-in needs the extra bce[export]")

import onnxruntime as ort  # noqa: E402
import soundfile  # noqa: E402
import soxr  # noqa: E402
from scipy import signal  # noqa: E402

from bce.engine.errors import OptionsError  # noqa: E402
from bce.export.perch.backbone import ProtoClassifier, build, pooled  # noqa: E402
from bce.export.perch.published_graph import Form, Swish, log_mel, write_onnx  # noqa: E402
from bce.export.perch.standin import main, seeded_weights, write_standin  # noqa: E402
from bce.export.perch.weights import Weights  # noqa: E402

Windows = NDArray[np.float32]
Features = dict[str, NDArray[np.float64]]

OUTPUTS = ["embedding", "spatial_embedding", "spectrogram", "label"]
SMALL = 0.3
"""A width at which a network is built and run in a moment."""


def relative_l2(found: NDArray, expected: NDArray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def run(path: Path, samples: Windows) -> list[NDArray[np.float32]]:
    return ort.InferenceSession(path).run(None, {"inputs": samples})


@pytest.fixture(scope="session")
def small_weights() -> Weights:
    return seeded_weights(classes=7, seed=1, width=SMALL)


@pytest.fixture(scope="session")
def sounds() -> dict[str, Windows]:
    """Windows of 5 s: sounds as they occur, and extremes."""
    rng = np.random.default_rng(11)
    t = np.arange(160_000) / 32_000
    noise = rng.standard_normal(160_000)
    # voiced syllables: a gliding pitch with formants, four a second
    pulses = signal.sawtooth(2 * np.pi * np.cumsum(140 + 30 * np.sin(2 * np.pi * 0.7 * t)) / 32_000)
    voice = sum(signal.lfilter(*signal.iirpeak(f, 6, fs=32_000), pulses) for f in (600, 1400, 2700))
    drops = np.zeros(160_000)
    drops[rng.integers(0, 160_000, 900)] = rng.standard_normal(900)
    rain = signal.lfilter(*signal.butter(2, [800, 9000], "bandpass", fs=32_000), drops) + 0.01 * noise
    bird = np.sin(2 * np.pi * (3000 * t + 400 * np.sin(2 * np.pi * 5 * t) / 5)) * (np.sin(2 * np.pi * 1.5 * t) > 0.3)
    found = {
        "speech": 0.1 * voice * np.clip(np.sin(2 * np.pi * 4 * t), 0, 1) + 1e-4 * noise,
        "rain": rain / np.abs(rain).max() * 0.3,
        "bird": 0.05 * bird + 1e-3 * noise,
        "quiet noise": 1e-3 * noise,
        "noise": 0.1 * noise,
        "clipping": np.clip(0.8 * noise, -1.0, 1.0),
        "silence": np.zeros(160_000),
    }
    return {name: sound.astype(np.float32)[None] for name, sound in found.items()}


class Network:
    """The torch definition with the stand-in's weights, from log-mel to pooled features."""

    def __init__(self, weights: Weights) -> None:
        assert weights.prototypes is not None
        self.backbone = build(weights)
        self.classifier = ProtoClassifier(weights.prototypes)

    def __call__(self, windows: NDArray[np.floating]) -> Features:
        with torch.inference_mode():
            maps = self.backbone.block_maps(torch.from_numpy(windows.astype(np.float32)))
            spatial = self.backbone.head(maps[-1])
            features = {f"block_{k}": pooled(maps[k]) for k in (21, 24, 25)}
            features |= {"embedding": pooled(spatial), "label": self.classifier(spatial)}
        return {name: values.numpy().astype(np.float64) for name, values in features.items()}


def assert_follows(features: Features) -> None:
    for name, values in features.items():
        spread = np.linalg.norm(values - values.mean(axis=0)) / np.linalg.norm(values)
        assert spread >= 0.05, f"{name} follows the input by {spread:.3f} only"


def assert_well_conditioned(network: Network, windows: NDArray[np.float64], features: Features) -> None:
    noisy = windows + 1e-6 * np.random.default_rng(2).standard_normal(windows.shape)
    disturbed = network(noisy)
    for name, expected in features.items():
        for row, clean in zip(disturbed[name], expected, strict=True):
            assert relative_l2(row, clean) <= 1e-4, name


@pytest.fixture(scope="session")
def network(standin_weights: Weights) -> Network:
    return Network(standin_weights)


def test_features_follow_the_input_and_little_noise_moves_them_little(
    network: Network, sounds: dict[str, Windows]
) -> None:
    windows = log_mel(np.concatenate(list(sounds.values())))
    features = network(windows)
    assert_follows(features)
    assert_well_conditioned(network, windows, features)


def test_the_same_on_real_recordings(network: Network, shared: Path) -> None:
    audio = shared / "data" / "audio"
    taken = []
    for file in (
        "misc/opensoundscape_1min.wav",
        "misc/birdnet_soundscape.ogg",
        "scikit_maad/S4A03895_20190522_060000.wav",
        "scikit_maad/spinetail.wav",
    ):
        samples, rate = soundfile.read(audio / file, always_2d=True)
        samples = soxr.resample(samples.mean(axis=1), rate, 32_000)
        starts = np.linspace(0, len(samples) - 160_000, 2).astype(int)
        taken.append(np.stack([samples[start : start + 160_000] for start in starts]))
    windows = log_mel(np.concatenate(taken))
    features = network(windows)
    assert_follows(features)
    assert_well_conditioned(network, windows, features)


def test_one_recording_is_enough_to_see_the_features_move(network: Network, shared: Path) -> None:
    samples, rate = soundfile.read(shared / "data" / "audio" / "misc" / "opensoundscape_1min.wav")
    assert rate == 32_000
    assert_follows(network(log_mel(samples.reshape(12, 160_000)[::2])))


@pytest.mark.parametrize("batch", [1, 3])
def test_onnx_runtime_gives_the_numbers_of_the_definition(
    standin_onnx: Path, network: Network, sounds: dict[str, Windows], batch: int
) -> None:
    samples = np.concatenate([sounds["bird"], sounds["rain"], sounds["noise"]])[:batch]
    found = dict(zip(OUTPUTS, run(standin_onnx, samples), strict=True))
    assert [values.shape for values in found.values()] == [
        (batch, 1536),
        (batch, 16, 4, 1536),
        (batch, 500, 128),
        (batch, 300),
    ]
    expected = network(found["spectrogram"])
    assert relative_l2(found["embedding"], expected["embedding"]) <= 2e-5
    assert relative_l2(found["label"], expected["label"]) <= 2e-5
    np.testing.assert_allclose(found["spatial_embedding"].mean(axis=(1, 2)), found["embedding"], atol=1e-5)


def test_the_spectrogram_is_that_of_a_plain_loop(standin_onnx: Path, sounds: dict[str, Windows]) -> None:
    """The definition, frame by frame and triangle by triangle, with a DFT from scipy."""
    samples = sounds["bird"]
    spectrogram = run(standin_onnx, samples)[2][0]
    padded = np.pad(samples[0].astype(np.float64), 160)
    window = signal.get_window("hann", 640, fftbins=False)
    edges = 700 * np.expm1(np.linspace(1127 * np.log1p(60 / 700), 1127 * np.log1p(16_000 / 700), 130) / 1127)
    frequencies = 1127 * np.log1p(np.arange(513) * 31.25 / 700)
    for t in (0, 1, 137, 498, 499):
        magnitude = np.abs(np.fft.fft(padded[320 * t : 320 * t + 640] * window / 319.5, 1024)[:513])
        for band in range(128):
            low, centre, high = 1127 * np.log1p(edges[band : band + 3] / 700)
            weights = np.interp(frequencies, [low, centre, high], [0, 1, 0])
            mel = sum(w * m for w, m in zip(weights[1:], magnitude[1:], strict=True))
            assert abs(spectrogram[t, band] - 0.1 * np.log(max(mel, 1e-5))) <= 2e-4
    np.testing.assert_allclose(spectrogram, log_mel(samples)[0], atol=2e-4)
    assert run(standin_onnx, sounds["silence"])[2] == pytest.approx(0.1 * np.log(1e-5))


@pytest.mark.parametrize("form", ["no_dft", "dft"])
@pytest.mark.parametrize("swish", ["sigmoid", "decomposed"])
@pytest.mark.parametrize("names", [True, False])
def test_every_form_has_the_published_structure_and_the_same_numbers(
    small_weights: Weights, sounds: dict[str, Windows], tmp_path: Path, form: Form, swish: Swish, names: bool
) -> None:
    path = tmp_path / "standin.onnx"
    write_onnx(small_weights, path, form=form, swish=swish, names=names, notice="nothing meant")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    graph = model.graph
    count = Counter(node.op_type for node in graph.node)
    assert (count["Conv"], count["Transpose"], count["ReduceMax"]) == (79, 158, 1)
    assert (count["MatMul"], count["DFT"]) == ((54, 1) if form == "dft" else (55, 0))
    assert (count["Sigmoid"], count["Exp"]) == ((104, 0) if swish == "sigmoid" else (0, 104))
    constants = {tensor.name for tensor in graph.initializer}
    residuals = [node for node in graph.node if node.op_type == "Add" and not constants & set(node.input)]
    assert len(residuals) == 19
    assert [(entry.key, entry.value) for entry in model.metadata_props] == [("notice", "nothing meant")]
    assert [entry.version for entry in model.opset_import] == [18]
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    biases = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    assert all(np.abs(biases[node.input[2]]).max() > 0 for node in convolutions[1:])
    scoped = [node for node in convolutions if "MBConv_21/ProjectConv" in node.input[0]]
    assert len(scoped) == (1 if names else 0)
    for value in (*graph.input, *graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert [value.name for value in graph.output] == OUTPUTS

    samples = np.concatenate([sounds["bird"], sounds["rain"]])
    embedding, _, spectrogram, label = run(path, samples)
    # a rounding error of the log-mel near its floor is no matter of the network: that has its own test above
    expected = Network(small_weights)(spectrogram)
    assert relative_l2(embedding, expected["embedding"]) <= 2e-5
    assert relative_l2(label, expected["label"]) <= 2e-5
    assert np.abs(spectrogram - log_mel(samples)).max() <= 2e-4


def test_the_published_structure_holds_at_full_width(standin_onnx: Path) -> None:
    graph = onnx.load(standin_onnx).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    producers = {node.output[0]: node for node in graph.node}
    framing, stem = (node for node in graph.node if node.name in ("node_Conv_7", "node_Conv_8"))
    assert shapes[framing.input[1]] == (640, 1, 640, 1)
    assert shapes[stem.input[1]] == (40, 1, 3, 3)
    head = producers["label"]
    assert [shapes[name] for name in head.input if name in shapes] == [(1, 300)]
    matrices = {name: shape for name, shape in shapes.items() if shape == (1536, 1200)}
    assert [name.rsplit("/", 2)[1:] for name in matrices] == [["heads_protopnet_logits", "dot_general6_reshaped_0"]]
    # pads of the strided depthwise convolutions as they are in the published file: time begin, mel begin, ends
    pads = {
        node.name: [list(entry.ints) for entry in node.attribute if entry.name == "pads"]
        for node in graph.node
        if node.op_type == "Conv"
    }
    assert pads["node_Conv_23"] == [[2, 1, 2, 2]]
    assert pads["node_Conv_32"] == [[1, 0, 1, 1]]
    assert pads["node_Conv_62"] == [[1, 1, 2, 2]]


def test_prototypes_have_unit_length_and_weights_that_are_not_negative(standin_weights: Weights) -> None:
    prototypes = standin_weights.prototypes
    assert prototypes is not None
    assert prototypes.vectors.shape == (1536, 300, 4)
    np.testing.assert_allclose(np.linalg.norm(prototypes.vectors, axis=0), 1.0, atol=1e-5)
    assert prototypes.strength.min() >= 0
    assert prototypes.bias.mean() == pytest.approx(-2.0, abs=0.1)


def test_a_seed_gives_the_same_weights_and_another_seed_others(small_weights: Weights) -> None:
    again, other = (seeded_weights(classes=7, seed=seed, width=SMALL) for seed in (1, 2))
    for (_, _, first), (_, _, same), (_, _, different) in zip(
        small_weights.arrays(), again.arrays(), other.arrays(), strict=True
    ):
        assert np.array_equal(first, same)
        assert not np.array_equal(first, different)


def test_the_command_writes_a_file_and_says_that_its_scores_mean_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "small.onnx"
    assert main([str(path), "--classes", "5", "--width", str(SMALL), "--no-names", "--seed", "3"]) == 0
    printed = capsys.readouterr().out
    assert str(path) in printed
    assert "stand-in weights (seed 3): scores mean nothing" in printed
    metadata = ort.InferenceSession(path).get_modelmeta().custom_metadata_map
    assert metadata == {"notice": "stand-in weights (seed 3): scores mean nothing"}


@pytest.mark.parametrize("bad", [{"classes": 0}, {"seed": -1}, {"width": 0.0}])
def test_values_out_of_range_are_refused_before_anything_is_written(tmp_path: Path, bad: dict) -> None:
    with pytest.raises(OptionsError):
        write_standin(tmp_path / "never.onnx", **bad)
    assert list(tmp_path.iterdir()) == []

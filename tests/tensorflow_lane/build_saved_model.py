"""Build SavedModels and TFLite files as the published ones are made, from the stand-in's seeded weights.

The network is written in JAX after the published description (google-research/perch, ``chirp/models``), apart from
``bce.export.perch.backbone``: its parameters are a Flax tree, exported by jax2tf's native serialisation, so that the
graph is one opaque XlaCallModule and the variables are the tree's leaves without their names.

Run as a command, in a process of its own: ``python build_saved_model.py OUT saved_model tflite --seed 0``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tensorflow as tf
from jax.experimental import jax2tf

from bce.export.perch.architecture import Architecture
from bce.export.perch.published_graph import write_onnx
from bce.export.perch.standin import seeded_weights
from bce.export.perch.weights import ConvNorm, SqueezeExcite, Weights

Tree = dict[str, Any]


# --- the parameters, as Flax names them ---


def parameter_tree(weights: Weights, seed: int) -> Tree:
    """The weights as Flax keeps them: {"batch_stats": ..., "params": ..., } with BatchNorm apart."""
    rng = np.random.default_rng(seed)
    statistics: Tree = {}
    parameters: Tree = {}

    def conv(module: str, conv_name: str, norm_name: str, layer: ConvNorm) -> None:
        # any mean and variance will do when scale and bias make up for them; factors of two add no rounding of their
        # own, which the network would make larger
        mean = 0.1 * rng.standard_normal(layer.scale.shape)
        variance = 4.0 ** rng.integers(-1, 2, layer.scale.shape) - 1e-5
        statistics.setdefault(module, {})[norm_name] = {"mean": _f32(mean), "var": _f32(variance)}
        scale = layer.scale * np.sqrt(variance + 1e-5)
        parameters.setdefault(module, {})[norm_name] = {
            "scale": _f32(scale),
            "bias": _f32(layer.shift + mean * layer.scale),
        }
        parameters[module][conv_name] = {"kernel": _f32(layer.kernel.transpose(2, 3, 1, 0))}

    def gate(module: str, layer: SqueezeExcite) -> None:
        parameters[module]["SqueezeAndExcitation_0"] = {
            "Reduce": {"kernel": layer.reduce_kernel.T.copy(), "bias": layer.reduce_bias},
            "Expand": {"kernel": layer.expand_kernel.T.copy(), "bias": layer.expand_bias},
        }

    conv("Stem_0", "Conv_0", "BatchNorm_0", weights.stem)
    for index, block in enumerate(weights.blocks):
        name = f"MBConv_{index}"
        if block.expand is not None:
            conv(name, "ExpandConv", "ExpandBatchNorm", block.expand)
        conv(name, "DepthwiseConv", "DepthwiseBatchNorm", block.depthwise)
        conv(name, "ProjectConv", "ProjectBatchNorm", block.project)
        gate(name, block.gate)
    conv("Head_0", "Conv_0", "BatchNorm_0", weights.head)
    assert weights.prototypes is not None
    vectors = weights.prototypes.vectors.transpose(1, 0, 2)
    lengths = rng.uniform(20.0, 50.0, (vectors.shape[0], 1, vectors.shape[2]))
    head = {
        "bias": weights.prototypes.bias,
        "protop_kernel": weights.prototypes.strength,
        "prototypes": _f32(vectors * lengths),
    }
    return {
        "batch_stats": {"embedding_model": {"backbone": statistics}},
        "params": {"embedding_model": {"backbone": parameters}, "head": head},
    }


def _f32(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, np.float32)


# --- the network, as JAX computes it ---


def frontend(samples: jax.Array) -> jax.Array:
    """Samples [n, 160000] -> log-mel [n, 500, 128] (chirp ``frontend.SimpleMelspec``)."""
    frames = jax.lax.conv_general_dilated_patches(
        samples[:, :, None], (640,), (320,), [(160, 160)], dimension_numbers=("NWC", "WIO", "NWC")
    )
    window = np.hanning(640)
    spectrum = jnp.abs(jnp.fft.rfft(frames * _f32(window / window.sum()), 1024))

    return 0.1 * jnp.log(jnp.maximum(spectrum @ _f32(mel_triangles()), 1e-5))


def mel_triangles() -> np.ndarray:
    """[513, 128], linear on the HTK mel scale from 60 to 16,000 Hz."""

    def mel(hertz: np.ndarray) -> np.ndarray:
        return 1127.0 * np.log1p(hertz / 700.0)

    edges = np.linspace(mel(np.float64(60.0)), mel(np.float64(16_000.0)), 130)
    bins = mel(np.fft.rfftfreq(1024, 1 / 32_000))[:, None]
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    triangles = np.maximum(0.0, np.minimum((bins - lower) / (centre - lower), (upper - bins) / (upper - centre)))
    triangles[0] = 0.0
    return triangles


class Network:
    """The published network over a Flax tree; ``activation`` is swish in the published one."""

    def __init__(self, architecture: Architecture, activation: str = "swish") -> None:
        self.architecture = architecture
        self.act = {"swish": jax.nn.swish, "relu": jax.nn.relu}[activation]

    def __call__(self, tree: Tree, inputs: jax.Array) -> dict[str, jax.Array]:
        with jax.named_scope("MultiHeadClassifier"), jax.named_scope("MultiHeadClassifier._call_model"):
            spectrogram = frontend(inputs)
            with jax.named_scope("embedding_model"), jax.named_scope("backbone"):
                spatial = self.backbone(
                    tree["batch_stats"]["embedding_model"]["backbone"],
                    tree["params"]["embedding_model"]["backbone"],
                    spectrogram,
                )
            with jax.named_scope("heads_protopnet_logits"):
                label = classifier(tree["params"]["head"], spatial)
        return {
            "embedding": spatial.mean(axis=(1, 2)),
            "spatial_embedding": spatial,
            "spectrogram": spectrogram,
            "label": label,
        }

    def backbone(self, statistics: Tree, parameters: Tree, spectrogram: jax.Array) -> jax.Array:
        def conv(x: jax.Array, module: str, name: str, norm: str, **how: Any) -> jax.Array:
            with jax.named_scope(name):
                kernel = parameters[module][name]["kernel"]
                x = jax.lax.conv_general_dilated(
                    x, kernel, how.get("strides", (1, 1)), how.get("padding", "VALID"),
                    dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=how.get("groups", 1),
                )  # fmt: skip
            with jax.named_scope(norm):
                running, learned = statistics[module][norm], parameters[module][norm]
                return (x - running["mean"]) * (jax.lax.rsqrt(running["var"] + 1e-5) * learned["scale"]) + learned[
                    "bias"
                ]

        with jax.named_scope("Stem_0"):
            x = self.act(conv(spectrogram[..., None], "Stem_0", "Conv_0", "BatchNorm_0", strides=(2, 2)))
        for block in self.architecture.blocks:
            module, before = f"MBConv_{block.index}", x
            with jax.named_scope(module):
                if block.expand_ratio > 1:
                    x = self.act(conv(x, module, "ExpandConv", "ExpandBatchNorm"))
                strides = (block.stride, block.stride)
                x = conv(
                    x, module, "DepthwiseConv", "DepthwiseBatchNorm",
                    strides=strides, padding=block.padding, groups=block.expanded,
                )  # fmt: skip
                x = self.gate(parameters[module]["SqueezeAndExcitation_0"], self.act(x))
                x = conv(x, module, "ProjectConv", "ProjectBatchNorm")
                if block.residual:
                    x = x + before
        with jax.named_scope("Head_0"):
            return self.act(conv(x, "Head_0", "Conv_0", "BatchNorm_0"))

    def gate(self, parameters: Tree, x: jax.Array) -> jax.Array:
        with jax.named_scope("SqueezeAndExcitation_0"):
            pooled = x.mean(axis=(1, 2))
            with jax.named_scope("Reduce"):
                pooled = self.act(pooled @ parameters["Reduce"]["kernel"] + parameters["Reduce"]["bias"])
            with jax.named_scope("Expand"):
                pooled = pooled @ parameters["Expand"]["kernel"] + parameters["Expand"]["bias"]
            return x * jax.nn.sigmoid(pooled)[:, None, None, :]


def classifier(parameters: Tree, spatial: jax.Array) -> jax.Array:
    """The ProtoPNet head (chirp ``heads.ProtoPNetHead``)."""
    unit = spatial / (jnp.linalg.norm(spatial, axis=-1, keepdims=True) + 1e-5)
    prototypes = parameters["prototypes"]
    prototypes = prototypes / (jnp.linalg.norm(prototypes, axis=1, keepdims=True) + 1e-5)
    best = jnp.einsum("nhwd,cdp->nhwcp", unit, prototypes).max(axis=(1, 2))
    return (best * jax.nn.relu(parameters["protop_kernel"])).sum(axis=-1) + parameters["bias"]


# --- the files ---


class Anonymous(tf.Module):
    """Leaves of a tree as numbered variables, as Orbax' exporter keeps them."""

    def __init__(self, tree: Tree) -> None:
        super().__init__()
        self._tf_var_leaves = [tf.Variable(leaf) for leaf in jax.tree_util.tree_leaves(tree)]

    def variables_in_order(self) -> list[tf.Variable]:
        return self._tf_var_leaves


class Named(tf.Module):
    """The tree as variables under its own names."""

    def __init__(self, tree: Tree) -> None:
        super().__init__()
        self.model = jax.tree_util.tree_map(tf.Variable, tree)

    def variables_in_order(self) -> list[tf.Variable]:
        return jax.tree_util.tree_leaves(dict(self.model), is_leaf=lambda x: isinstance(x, tf.Variable))


def write_saved_model(
    network: Network,
    tree: Tree,
    folder: Path,
    platform: str = "cpu",
    batch: int | None = None,
    module_class: type[Anonymous] | type[Named] = Anonymous,
) -> None:
    """jax2tf's native serialisation, for one platform, with a symbolic batch unless one is given."""
    _, structure = jax.tree_util.tree_flatten(tree)
    module = module_class(tree)

    def infer_fn(leaves: Sequence[jax.Array], inputs: jax.Array) -> dict[str, jax.Array]:
        return network(jax.tree_util.tree_unflatten(structure, leaves), inputs)

    converted = jax2tf.convert(
        infer_fn,
        polymorphic_shapes=[None, f"({batch or 'batch'}, 160000)"],
        with_gradient=False,
        native_serialization_platforms=(platform,),
    )

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([batch, 160_000], tf.float32, name="inputs")])
    def serve(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return converted(module.variables_in_order(), inputs)

    module.serve = serve
    tf.saved_model.save(module, str(folder), signatures={"serving_default": serve})


def write_tflite(network: Network, tree: Tree, path: Path, precision: str = "float32") -> None:
    """The TFLite conversion at batch 1: a symbolic batch cannot be converted."""

    def infer_fn(inputs: jax.Array) -> dict[str, jax.Array]:
        return network(tree, inputs)

    convert(jax2tf.convert(infer_fn, with_gradient=False), path, precision)


def write_plain_tflite(network: PlainNetwork, path: Path) -> None:
    convert(network, path, "float32")


def convert(function: Callable[[tf.Tensor], dict[str, tf.Tensor]], path: Path, precision: str) -> None:
    module = tf.Module()
    module.serve = tf.function(
        function, autograph=False, input_signature=[tf.TensorSpec([1, 160_000], tf.float32, name="inputs")]
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions([module.serve.get_concrete_function()], module)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    if precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    path.write_bytes(converter.convert())


class PlainNetwork:
    """The same network by other hands: TensorFlow's own operators, other padding, means, activations and names.

    Args:
        weights: of the network.
        folded: whether BatchNorm is in the convolutions, or behind them as a factor and an offset that the converter
            is kept from folding.
    """

    def __init__(self, weights: Weights, folded: bool) -> None:
        self.weights, self.folded = weights, folded

    def __call__(self, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        padded = tf.pad(inputs, [[0, 0], [160, 160]])
        frames = tf.reshape(padded[:, :160_000], (-1, 500, 320))
        frames = tf.concat([frames, tf.reshape(padded[:, 320:], (-1, 500, 320))], axis=2)
        window = np.hanning(640)
        spectrum = tf.abs(tf.signal.rfft(frames * _f32(window / window.sum()), [1024]))
        spectrogram = 0.1 * tf.math.log(tf.maximum(tf.tensordot(spectrum, _f32(mel_triangles()), 1), 1e-5))
        x = tf.nn.silu(self.conv(spectrogram[..., None], self.weights.stem, 2))
        for block, layers in zip(self.weights.architecture.blocks, self.weights.blocks, strict=True):
            y = x if layers.expand is None else tf.nn.silu(self.conv(x, layers.expand))
            y = tf.pad(y, [(0, 0), *block.padding, (0, 0)])
            y = tf.nn.silu(self.conv(y, layers.depthwise, block.stride, depthwise=True))
            gate = tf.reduce_mean(y, axis=(1, 2), keepdims=True)
            gate = tf.nn.silu(
                tf.nn.conv2d(gate, as_hwio(layers.gate.reduce_kernel), 1, "VALID") + layers.gate.reduce_bias
            )
            gate = tf.nn.conv2d(gate, as_hwio(layers.gate.expand_kernel), 1, "VALID") + layers.gate.expand_bias
            y = self.conv(y * tf.sigmoid(gate), layers.project)
            x = x + y if block.residual else y
        spatial = tf.nn.silu(self.conv(x, self.weights.head))
        head = self.weights.prototypes
        assert head is not None
        unit = spatial / (tf.norm(spatial, axis=-1, keepdims=True) + 1e-5)
        channels = head.vectors.shape[0]
        cosines = tf.reshape(tf.tensordot(unit, head.vectors.reshape(channels, -1), 1), (-1, 16, 4, head.classes, 4))
        label = tf.reduce_sum(tf.reduce_max(cosines, axis=(1, 2)) * head.strength, axis=-1) + head.bias
        return {"a": label, "b": spectrogram, "c": tf.reduce_mean(spatial, axis=(1, 2))}

    def conv(self, x: tf.Tensor, layer: ConvNorm, stride: int = 1, depthwise: bool = False) -> tf.Tensor:
        kernel, bias = layer.folded() if self.folded else (layer.kernel, None)
        kernel = kernel.transpose(2, 3, 1, 0)
        if depthwise:
            y = tf.nn.depthwise_conv2d(x, kernel.transpose(0, 1, 3, 2), (1, stride, stride, 1), "VALID")
        else:
            y = tf.nn.conv2d(x, kernel, stride, "VALID")
        if bias is not None:
            return y + bias
        # the converter does not fold across a transposition
        apart = tf.transpose(y, (0, 3, 1, 2)) * layer.scale[:, None, None] + layer.shift[:, None, None]
        return tf.transpose(apart, (0, 2, 3, 1))


def as_hwio(matrix: np.ndarray) -> np.ndarray:
    return _f32(matrix.T[None, None])


FORMS = (
    "onnx",
    "saved_model",
    "cuda",
    "named",
    "relu",
    "tflite",
    "float16",
    "int8",
    "relu_tflite",
    "plain",
    "plain_apart",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="a folder; every form is written into it under its name")
    parser.add_argument("forms", nargs="+", choices=FORMS)
    parser.add_argument("--classes", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--width", type=float, default=1.2)
    given = parser.parse_args()
    weights = seeded_weights(given.classes, given.seed, given.width)
    tree = parameter_tree(weights, given.seed)
    swish, relu = (Network(weights.architecture, name) for name in ("swish", "relu"))
    out: Path = given.out
    writers: dict[str, Callable[[], None]] = {
        "onnx": lambda: write_onnx(weights, out / "onnx.onnx", form="no_dft", swish="sigmoid", names=True, notice=""),
        "saved_model": lambda: write_saved_model(swish, tree, out / "saved_model"),
        "cuda": lambda: write_saved_model(swish, tree, out / "cuda", platform="cuda"),
        "named": lambda: write_saved_model(swish, tree, out / "named", batch=1, module_class=Named),
        "relu": lambda: write_saved_model(relu, tree, out / "relu"),
        "tflite": lambda: write_tflite(swish, tree, out / "tflite.tflite"),
        "float16": lambda: write_tflite(swish, tree, out / "float16.tflite", "float16"),
        "int8": lambda: write_tflite(swish, tree, out / "int8.tflite", "int8"),
        "relu_tflite": lambda: write_tflite(relu, tree, out / "relu_tflite.tflite"),
        "plain": lambda: write_plain_tflite(PlainNetwork(weights, folded=True), out / "plain.tflite"),
        "plain_apart": lambda: write_plain_tflite(PlainNetwork(weights, folded=False), out / "plain_apart.tflite"),
    }
    out.mkdir(parents=True, exist_ok=True)
    for form in given.forms:
        writers[form]()


if __name__ == "__main__":
    main()

"""Heads trained in TensorFlow: through tf2onnx into a bundle, with TensorFlow's own logits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from support.damage import damaged

from bce.engine.errors import ExportError, OptionsError
from bce.export.heads.base import TrainedHead
from bce.export.perch.sources import read_source

BLOCKS = ("block_21", "block_25")
CLASSES = 20
Features = dict[str, NDArray[np.float32]]


@pytest.fixture(scope="module")
def widths(small: Path) -> dict[str, int]:
    table = read_source(small / "onnx.onnx").weights.architecture
    return {block.name: block.out_channels for block in table.blocks if block.name in BLOCKS}


@pytest.fixture(scope="module")
def features(widths: dict[str, int]) -> Features:
    rng = np.random.default_rng(1)
    return {name: rng.standard_normal((7, width)).astype(np.float32) for name, width in widths.items()}


def make_head(
    widths: dict[str, int], seed: int, activation: str = "gelu", classes: int = CLASSES, end: Any = None
) -> Any:
    """A Keras head, trained for a moment to tell random targets apart; ``end`` is the function behind its logits."""
    import keras

    keras.utils.set_random_seed(seed)
    inputs = [keras.Input((width,), name=name) for name, width in widths.items()]
    x = keras.layers.Concatenate()([keras.layers.Dense(24, activation=activation)(i) for i in inputs])
    x = keras.layers.Dropout(0.2)(keras.layers.LayerNormalization()(x))
    model = keras.Model(inputs, keras.layers.Dense(classes, activation=end)(x))
    model.compile("adam", keras.losses.BinaryCrossentropy(from_logits=end is None))
    rng = np.random.default_rng(seed)
    examples = [rng.standard_normal((256, width)).astype(np.float32) for width in widths.values()]
    targets = (examples[0][:, :1] > rng.standard_normal(classes)).astype(np.float32)
    model.fit(examples, targets, epochs=2, verbose=0)
    return model


def as_keras(model: Any, folder: Path) -> Path:
    model.save(folder / "head.keras")
    return folder / "head.keras"


def as_saved_model(model: Any, folder: Path) -> Path:
    """With a signature of named features: ``Model.export`` would give the same with several lines on the screen."""
    import tensorflow as tf

    specs = [tf.TensorSpec([None, x.shape[1]], tf.float32, name=x.name) for x in model.inputs]
    module = tf.Module()
    module.model = model
    module.serve = tf.function(lambda *x: {"scores": model(list(x), training=False)}, input_signature=specs)
    tf.saved_model.save(module, str(folder / "head"), signatures=module.serve)
    return folder / "head"


def as_tflite(model: Any, folder: Path) -> Path:
    import tensorflow as tf

    (folder / "head.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    return folder / "head.tflite"


def taxonomy(folder: Path, classes: int = CLASSES) -> Path:
    path = folder / "taxonomy.csv"
    rows = [f"class{i},{i},Genus species{i},name {i},Aves" for i in range(classes)]
    path.write_text("\n".join(["primary_label,inat_taxon_id,scientific_name,common_name,class_name", *rows]) + "\n")
    return path


def logits(head: Path, features: Features) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(head, providers=["CPUExecutionProvider"])
    return session.run(["logits"], features)[0]


@pytest.mark.parametrize("save", [as_keras, as_saved_model, as_tflite])
def test_a_trained_head_gives_tensorflows_logits(
    save: Callable[[Any, Path], Path], widths: dict[str, int], features: Features, tmp_path: Path
) -> None:
    from bce.export.heads.tensorflow_heads import load_tensorflow_head

    model = make_head(widths, seed=0)
    head = load_tensorflow_head(save(model, tmp_path))
    assert (head.blocks, head.classes) == (widths, CLASSES)
    given = [torch.from_numpy(features[name]) for name in widths]
    trained: TrainedHead = head
    assert (trained.kind, trained.parameter_count > 0) == ("tensorflow", True)
    onnx.checker.check_model(head.model, full_check=True)
    onnx.save(head.model, tmp_path / "head.onnx")
    expected = model([features[name] for name in widths], training=False).numpy()
    found = logits(tmp_path / "head.onnx", features)
    assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)
    assert np.linalg.norm(trained(given).numpy() - expected) <= 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("save", [as_keras, as_saved_model, as_tflite])
def test_a_sigmoid_at_the_end_is_taken_off(
    save: Callable[[Any, Path], Path], widths: dict[str, int], features: Features, tmp_path: Path
) -> None:
    """The logits are those of the same head without it, and not its probabilities."""
    import keras

    from bce.export.heads.loading import load_head

    model = make_head(widths, seed=0, end="sigmoid")
    fold = load_head(str(save(model, tmp_path)), tuple(f"c{i}" for i in range(CLASSES)), "none")
    assert fold.notes == ("ends in a sigmoid, which is taken off: logits are what goes into it",)
    model.layers[-1].activation = keras.activations.linear
    given = [features[name] for name in widths]
    expected = keras.Model(model.inputs, model.layers[-1](model.layers[-2].output))(given, training=False).numpy()
    assert expected.min() < 0
    fold.head.write_mean([fold.head], widths, tmp_path / "head.onnx")
    for found in (logits(tmp_path / "head.onnx", features), fold.head([torch.from_numpy(x) for x in given]).numpy()):
        assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("save", [as_keras, as_saved_model, as_tflite])
def test_other_ends_are_refused(save: Callable[[Any, Path], Path], widths: dict[str, int], tmp_path: Path) -> None:
    import tensorflow as tf

    from bce.export.heads.tensorflow_heads import load_tensorflow_head

    for place, (end, reason) in enumerate(
        (("softmax", "ends in Softmax"), (lambda x: 0.5 + 0.5 * tf.tanh(x / 2), "probabilities, logits are expected"))
    ):
        if save is as_keras and callable(end):
            continue  # such a file would hold code, and is not loaded
        folder = tmp_path / str(place)
        folder.mkdir()
        with pytest.raises(ExportError, match=reason) as caught:
            load_tensorflow_head(save(make_head(widths, seed=0, end=end), folder))
        assert "\n" not in str(caught.value)


def test_no_damage_of_a_keras_file_ends_in_a_traceback(
    widths: dict[str, int], features: Features, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from bce.export.heads.tensorflow_heads import load_tensorflow_head

    model = make_head(widths, seed=0)
    path, rng = as_keras(model, tmp_path), np.random.default_rng(0)
    whole, expected = path.read_bytes(), model([features[name] for name in widths], training=False).numpy()
    capfd.readouterr()
    refusals = []
    for trial in range(24):
        path.write_bytes(damaged(whole, trial, rng))
        try:
            found = load_tensorflow_head(path)([torch.from_numpy(features[name]) for name in widths])
        except ExportError as error:
            refusals.append(str(error))
        else:
            assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)
    assert len(refusals) > 15
    assert all(text.startswith(f"{path}: ") and text.isprintable() for text in refusals)
    assert capfd.readouterr() == ("", "")


def test_folds_go_into_a_bundle_as_their_mean(
    small: Path, widths: dict[str, int], features: Features, tmp_path: Path
) -> None:
    from bce.export.commands.perch import ExportOptions, export_bundle

    models = [make_head(widths, seed) for seed in (1, 2)]
    folds = []
    for index, model in enumerate(models):
        (tmp_path / str(index)).mkdir()
        folds.append(str(as_keras(model, tmp_path / str(index))))
    options = ExportOptions(
        perch=small / "onnx.onnx",
        out=tmp_path / "bundle",
        taxonomy=taxonomy(tmp_path),
        head=tuple(folds),
        preparation="none",
    )
    bundle = export_bundle(options)
    assert (bundle.manifest.head.kind, bundle.manifest.head.folds) == ("tensorflow", 2)
    assert tuple(bundle.manifest.blocks) == BLOCKS
    assert bundle.classes[:2] == ("class0", "class1")
    given = [features[name] for name in widths]
    expected = np.mean([model(given, training=False).numpy() for model in models], axis=0)
    found = logits(bundle.path / "head.onnx", features)
    assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)


def test_what_a_head_does_not_say_must_be_given(small: Path, widths: dict[str, int], tmp_path: Path) -> None:
    from bce.export.commands.perch import ExportOptions, export_bundle

    head = str(as_keras(make_head(widths, seed=0), tmp_path))

    def refused(**options: Any) -> str:
        with pytest.raises(OptionsError) as caught:
            export_bundle(ExportOptions(small / "onnx.onnx", tmp_path / "out", head=(head,), **options))
        return str(caught.value)

    assert "give --taxonomy" in refused(preparation="none")
    assert "give --preparation" in refused(taxonomy=taxonomy(tmp_path))
    few = taxonomy(tmp_path, classes=3)
    assert "gives 20 logits, the taxonomy has 3 classes" in refused(taxonomy=few, preparation="none")


def test_compiled_code_is_refused_by_its_name(widths: dict[str, int], tmp_path: Path) -> None:
    import jax.numpy as jnp
    import tensorflow as tf
    from jax.experimental import jax2tf

    from bce.export.heads.tensorflow_heads import load_tensorflow_head

    module = tf.Module()
    specs = [tf.TensorSpec([None, width], tf.float32, name=name) for name, width in widths.items()]
    compiled = jax2tf.convert(lambda a, b: jnp.tanh(a.sum(1, keepdims=True) + b), polymorphic_shapes=["(b, _)"] * 2)
    module.serve = tf.function(lambda a, b: {"logits": compiled(a, b)}, input_signature=specs, autograph=False)
    tf.saved_model.save(module, str(tmp_path / "jax"), signatures=module.serve)
    with pytest.raises(ExportError, match="XlaCallModule"):
        load_tensorflow_head(tmp_path / "jax")


def test_an_operator_without_onnx_is_refused_by_its_name(widths: dict[str, int], tmp_path: Path) -> None:
    import tensorflow as tf

    from bce.export.heads.tensorflow_heads import load_tensorflow_head

    module = tf.Module()
    specs = [tf.TensorSpec([None, width], tf.float32, name=name) for name, width in widths.items()]
    module.serve = tf.function(
        lambda a, b: {"logits": tf.math.bessel_i0e(b) + a[:, :1]}, input_signature=specs, autograph=False
    )
    tf.saved_model.save(module, str(tmp_path / "bessel"), signatures=module.serve)
    with pytest.raises(ExportError, match="BesselI0e") as caught:
        load_tensorflow_head(tmp_path / "bessel")
    assert "\n" not in str(caught.value)


def test_inputs_must_be_blocks(tmp_path: Path) -> None:
    from bce.export.heads.tensorflow_heads import load_tensorflow_head

    model = make_head({"embedding": 8}, seed=0)
    with pytest.raises(ExportError, match="expected inputs named after blocks, such as block_21, found 'embedding'"):
        load_tensorflow_head(as_keras(model, tmp_path))


def test_files_that_are_no_heads_are_refused(tmp_path: Path) -> None:
    from bce.export.heads.tensorflow_heads import load_tensorflow_head

    for name in ("text.keras", "text.tflite"):
        (tmp_path / name).write_text("no head at all")
        with pytest.raises(ExportError, match=name) as caught:
            load_tensorflow_head(tmp_path / name)
        assert "\n" not in str(caught.value)

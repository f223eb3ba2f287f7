"""Damaged and foreign SavedModels and TFLite files: each is refused by one line that names what differs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bce.engine.errors import ExportError
from bce.export.perch.architecture import architecture
from bce.export.perch.leaves import leaves
from bce.export.perch.sources import read_source

Leaves = dict[int, np.ndarray]


def save_leaves(folder: Path, arrays: dict[int, np.ndarray], root: str = "_tf_var_leaves") -> Path:
    """A SavedModel of numbered variables without any function."""
    import tensorflow as tf

    module = tf.Module()
    setattr(module, root, {str(number): tf.Variable(array) for number, array in arrays.items()})
    tf.saved_model.save(module, str(folder))
    return folder


def perch_leaves() -> Leaves:
    """Numbers of the right shapes: variances of one, the rest zero."""
    table = leaves(architecture(0.1), 5)
    return {
        number: (np.ones if path[-1] == "var" else np.zeros)(shape, np.float32)
        for number, (path, shape) in enumerate(table)
    }


def refusal(path: Path) -> str:
    with pytest.raises(ExportError) as caught:
        read_source(path)
    text = str(caught.value)
    assert text.startswith(str(path))
    assert "\n" not in text
    return text


def test_the_published_order_of_leaves() -> None:
    """Numbers and shapes that are known of the published checkpoint."""
    table = leaves(architecture(), 14_795)
    assert len(table) == 497
    assert sum(int(np.prod(shape)) for _, shape in table) == 101_757_263
    assert all(path[0] == "batch_stats" and path[-1] in ("mean", "var") for path, _ in table[:156])
    assert all(path[-1] in ("bias", "scale", "kernel") for path, _ in table[156:494])
    assert [(path[-1], shape) for path, shape in table[494:]] == [
        ("bias", (14_795,)),
        ("protop_kernel", (14_795, 4)),
        ("prototypes", (14_795, 1536, 4)),
    ]


def test_the_order_is_that_of_a_flattened_tree() -> None:
    """JAX itself flattens the tree in this order."""
    import jax

    table = leaves(architecture(0.1), 5)
    tree: dict = {}
    for path, _ in reversed(table):
        node = tree
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = path
    flat = jax.tree_util.tree_leaves(tree, is_leaf=lambda x: isinstance(x, tuple))
    assert flat == [path for path, _ in table]


def drop(number: int) -> Callable[[Leaves], None]:
    def change(arrays: Leaves) -> None:
        del arrays[number]

    return change


def swap(a: int, b: int) -> Callable[[Leaves], None]:
    def change(arrays: Leaves) -> None:
        arrays[a], arrays[b] = arrays[b], arrays[a]

    return change


def set_to(number: int, value: float) -> Callable[[Leaves], None]:
    def change(arrays: Leaves) -> None:
        arrays[number] = np.full_like(arrays[number], value)

    return change


def as_half(arrays: Leaves) -> None:
    arrays[200] = arrays[200].astype(np.float16)


def test_undamaged_variables_are_taken(tmp_path: Path) -> None:
    weights = read_source(save_leaves(tmp_path / "whole", perch_leaves())).weights
    assert weights.architecture == architecture(0.1)
    assert weights.prototypes is not None
    assert weights.prototypes.classes == 5


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (drop(40), "variable 40 of 0..496, batch_stats/embedding_model/MBConv_15/DepthwiseBatchNorm/mean"),
        (drop(496), "expected 494 variables, found 496"),
        (swap(2, 158), "variable 2 of 0..496, batch_stats/embedding_model/MBConv_0/DepthwiseBatchNorm/mean: expected"),
        (set_to(1, -1.0), "Head_0/BatchNorm_0/var: expected variances, found negative numbers"),
        (set_to(156, np.nan), "expected finite numbers, found NaN or infinity"),
        (as_half, "expected float32, found float16"),
    ],
)
def test_the_first_variable_that_differs_is_named(
    change: Callable[[Leaves], None], expected: str, tmp_path: Path
) -> None:
    arrays = perch_leaves()
    change(arrays)
    assert expected in refusal(save_leaves(tmp_path / "damaged", arrays))


def test_b0_is_refused_by_its_variables(tmp_path: Path) -> None:
    """EfficientNet-B0's 16 blocks are the first blocks of each stage at depth 1, at width 1."""
    of_b3 = (0, 2, 3, 5, 6, 8, 9, 10, 13, 14, 15, 18, 19, 20, 21, 24)
    numbers = {f"MBConv_{old}": f"MBConv_{new}" for new, old in enumerate(of_b3)}
    table = sorted(
        ((*path[:2], numbers.get(path[2], path[2]), *path[3:]), shape)
        for path, shape in leaves(architecture(1.0), 5)
        if path[2] in numbers or not path[2].startswith("MBConv_")
    )
    arrays = {number: np.ones(shape, np.float32) for number, (_, shape) in enumerate(table)}
    assert "expected shape" in refusal(save_leaves(tmp_path / "b0", arrays))


def test_something_else_is_refused(tmp_path: Path) -> None:
    other = save_leaves(tmp_path / "other", {0: np.zeros((3, 3), np.float32)}, root="dense")
    assert "neither numbered leaves nor Flax' names ('dense/0', ...)" in refusal(other)
    empty = save_leaves(tmp_path / "empty", {})
    assert "expected the variables of Perch's network, found none" in refusal(empty)
    (tmp_path / "folder").mkdir()
    assert "is not a SavedModel: it has no file saved_model.pb" in refusal(tmp_path / "folder")


@pytest.mark.parametrize("name", ["variables.index", "variables.data-00000-of-00001"])
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.9])
def test_a_checkpoint_cut_short_is_refused(name: str, kept: float, small: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(small / "saved_model", folder)
    file = folder / "variables" / name
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content))])
    assert "cut short or damaged" in refusal(folder)


def test_a_missing_checkpoint_is_named(small: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    shutil.copytree(small / "saved_model", folder)
    shutil.rmtree(folder / "variables")
    assert "it has no file variables/variables.index" in refusal(folder)


# --- TFLite -----------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kept=st.floats(0.0, 0.999))
def test_a_tflite_file_cut_short_is_refused(kept: float, small: Path, tmp_path: Path) -> None:
    content = (small / "tflite.tflite").read_bytes()
    path = tmp_path / "cut.tflite"
    path.write_bytes(content[: int(kept * len(content))])
    refusal(path)


def test_a_tflite_file_of_something_else_is_refused(tmp_path: Path) -> None:
    import tensorflow as tf

    def write(function: Callable, shape: list[int]) -> Path:
        module = tf.Module()
        module.serve = tf.function(function, input_signature=[tf.TensorSpec(shape, tf.float32, name="inputs")])
        concrete = module.serve.get_concrete_function()
        path = tmp_path / "other.tflite"
        path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([concrete], module).convert())
        return path

    kernel = np.ones((3, 3, 1, 8), np.float32)
    assert "expected float32 [batch, 160000] (5 s at 32 kHz), found float32 [1, 8]" in refusal(write(tf.tanh, [1, 8]))
    assert "expected a two-dimensional convolution of one channel, found none" in refusal(write(tf.tanh, [1, 160_000]))
    image = write(lambda x: tf.nn.conv2d(tf.reshape(tf.tanh(x), (1, 400, 400, 1)), kernel, 2, "SAME"), [1, 160_000])
    assert "log-mel: expected [1, 500, 128] (time, mel), found" in refusal(image)
    text = tmp_path / "text.tflite"
    text.write_text("not a model")
    assert "is not a TFLite file" in refusal(text)

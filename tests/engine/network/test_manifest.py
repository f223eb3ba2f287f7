"""``bundle.json``: what is read, what is refused and how it is said, what a bundle is tied to, and its page of docs."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bce.engine.errors import BundleError
from bce.engine.frontends.base import KINDS, FrontendSpec, make_frontend
from bce.engine.network.bundle import Bundle
from bce.engine.network.default import DEFAULT_BUNDLE
from bce.engine.network.manifest import Manifest
from bce.engine.post.options import PostprocessOptions, tuned_options

ROOT = Path(__file__).resolve().parents[3]

MANIFEST: dict[str, Any] = {
    "schema": 2,
    "name": "b",
    "source": {"file": "f.onnx", "sha256": "0" * 64, "form": "onnx", "licence": "Apache-2.0"},
    "family": "perch",
    "window": {"sample_rate": 32_000, "window_s": 5},
    "input": {"name": "log_mel", "shape": [500, 128]},
    "frontend": {"kind": "perch_log_mel", "preparation": "none"},
    "outputs": [
        {"name": "block_21", "kind": "block", "width": 232},
        {"name": "embedding", "kind": "embedding", "width": 1536},
        {"name": "label", "kind": "logits", "width": 3},
    ],
    "score": {"output": "label", "unknown": ["c"]},
    "head": {"kind": "own"},
    "variants": {"fp32": "backbone.onnx"},
    "files": {"backbone.onnx": "1" * 64, "classes.csv": "2" * 64},
}

SCHEMA_1: dict[str, Any] = {
    "name": "old",
    "source": {"file": "f.onnx", "sha256": "0" * 64, "form": "onnx", "licence": "Apache-2.0"},
    "blocks": {"block_21": 232, "block_25": 384},
    "outputs": ["block_21", "block_25", "embedding", "label"],
    "head": {"kind": "perch", "folds": 0, "parameters": 0},
    "preparation": "peak",
    "variants": {"fp32": "backbone.onnx"},
    "files": {"backbone.onnx": "1" * 64, "classes.csv": "2" * 64},
    "parity": {},
    "versions": {},
    "notice": "",
    "sample_rate": 32_000,
    "window_s": 5.0,
    "schema": 1,
}


def read(content: object) -> Manifest:
    return Manifest.from_json(json.dumps(content), "bundle.json")


def changed(path: str, value: object) -> dict[str, Any]:
    """The manifest with one field set, or removed where the value is ``...``."""
    content = copy.deepcopy(MANIFEST)
    *way, last = path.split(".")
    place: Any = content
    for step in way:
        place = place[int(step)] if step.isdecimal() else place.setdefault(step, {})
    if value is ...:
        del place[last]
    else:
        place[int(last) if last.isdecimal() else last] = value
    return content


def test_it_reads_back() -> None:
    manifest = read(MANIFEST)
    assert manifest.blocks == {"block_21": 232}
    assert manifest.output_names == ("block_21", "embedding", "label")
    assert (manifest.window.samples, manifest.grid.chunk_s) == (160_000, 5.0)
    assert manifest.frontend == FrontendSpec("perch_log_mel", {"preparation": "none"})
    assert manifest.placing.shifts_s == (-2.0, -1.0, 0.0, 1.0, 2.0)
    assert manifest.score is not None
    assert (manifest.score.space, manifest.score.unknown) == ("logit", ("c",))
    assert Manifest.from_json(manifest.to_json(), "again") == manifest


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([], "is not a bundle's manifest"),
        ({"name": "b"}, "it has no field 'schema'"),
        (changed("schema", 3), "has schema 3, this version reads 1 and 2"),
        (changed("colour", "red"), "has the unknown field 'colour': it was written by a newer version"),
        (changed("window.colour", 1), "has the unknown field 'window.colour'"),
        (changed("family", ...), "lacks the field 'family'"),
        (changed("source.licence", ...), "lacks the field 'source.licence'"),
        (changed("frontend", ...), "lacks the field 'frontend'"),
        (changed("frontend.kind", ...), "lacks the field 'frontend.kind'"),
        (changed("source", "f.onnx"), "field 'source' is 'f.onnx', expected an object"),
        (changed("window.sample_rate", "fast"), "field 'window.sample_rate' is 'fast', expected a whole number"),
        (changed("window.sample_rate", True), "field 'window.sample_rate' is True, expected a whole number"),
        (changed("window.sample_rate", 0), "sample rate is 0 Hz"),
        (changed("window.window_s", 1e-6), "windows of 1e-06 s are not a whole number of samples"),
        (changed("input.shape", [500, "128"]), r"field 'input.shape\[1\]' is '128', expected a whole number"),
        (changed("outputs", {}), "field 'outputs' is an object, expected a list"),
        (changed("outputs", []), "field 'outputs' names no output"),
        (changed("outputs.1.name", "label"), "names no output, or one twice"),
        (changed("outputs.1.width", None), "field 'outputs' does not say the width of embedding"),
        (changed("window.window_s", float("inf")), "windows of inf s are not a whole number of samples"),
        (changed("outputs.0.kind", "blocks"), r"field 'outputs\[0\].kind' is 'blocks', expected one of block, embedd"),
        (changed("head.kind", "own-ish"), "field 'head.kind' is 'own-ish', expected one of none, own, attention"),
        (changed("score", None), "field 'score' and a head of the kind 'own' do not go together"),
        (changed("score.output", "head"), "field 'score.output' is 'head', expected one of block_21"),
        (changed("score.space", "decibel"), "field 'score.space' is 'decibel'"),
        (changed("placing", {"shifts_s": [0.005]}), "shift 0.005 s is not a multiple of 0.01 s"),
        (changed("placing", {"shifts_s": [6]}), r"shift 6 s is outside -5\.\.5 s"),
        (changed("placing", {"reduce": "median"}), "field 'placing.reduce' is 'median', expected one of mean, max"),
        (changed("variants", {"int8": "backbone.onnx"}), "field 'variants' has no fp32 backbone"),
        (changed("variants.int8", "other.onnx"), "a file without a SHA-256 in 'files'"),
        (changed("files", {"../backbone.onnx": "1" * 64}), "expected the name of a file in the bundle's folder"),
        (changed("variants.fp32", "/etc/passwd"), "expected the name of a file in the bundle's folder"),
    ],
)
def test_what_does_not_fit_is_named(content: object, says: str) -> None:
    with pytest.raises(BundleError, match=says) as error:
        read(content)
    assert error.value.path == "bundle.json"
    assert "\n" not in str(error.value)


def places(content: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every field and item of some JSON is."""
    for key in content if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ():
        yield (*way, key)
        yield from places(content[key], (*way, key))


WHOLE = MANIFEST | {
    "placing": {"shifts_s": [0.0, 1.0], "reduce": "max"},
    "post": {"sigma": 1.0, "taxonomy": {"genus": 0.1}, "exclude": ["Insect"], "smooth_on": "logits"},
}
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from([1e308, 10**30]) | st.text(max_size=4),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=3), x, max_size=2),
)


@settings(max_examples=150, deadline=None)
@given(st.data())
@pytest.mark.parametrize("manifest", [WHOLE, SCHEMA_1], ids=["schema 2", "schema 1"])
def test_no_value_of_any_field_ends_in_a_traceback(manifest: dict[str, Any], data: st.DataObject) -> None:
    content = copy.deepcopy(manifest)
    *way, last = data.draw(st.sampled_from(list(places(manifest))))
    place: Any = content
    for step in way:
        place = place[step]
    place[last] = data.draw(ANYTHING)
    with suppress(BundleError):  # anything else is a traceback for the user
        found = read(content)
        tuned_options(found.post)
        make_frontend(found.frontend, found.window)


# schema 1 -------------------------------------------------------------------------------------------------------------


def test_schema_1_still_loads() -> None:
    manifest = read(SCHEMA_1)
    assert manifest.schema == 2
    assert (manifest.window.sample_rate, manifest.window.window_s) == (32_000, 5.0)
    assert (manifest.input.name, manifest.input.shape) == ("log_mel", (500, 128))
    assert manifest.frontend == FrontendSpec("perch_log_mel", {"preparation": "peak"})
    assert manifest.blocks == {"block_21": 232, "block_25": 384}
    assert [(o.name, o.kind) for o in manifest.outputs][2:] == [("embedding", "embedding"), ("label", "logits")]
    assert manifest.head.kind == "own"
    assert manifest.score is not None
    assert manifest.score.output == "label"


@pytest.mark.parametrize(("kind", "output"), [("none", None), ("attention", "head"), ("tensorflow", "head")])
def test_heads_of_schema_1(kind: str, output: str | None) -> None:
    manifest = read(SCHEMA_1 | {"head": {"kind": kind, "folds": 5, "parameters": 7}})
    assert manifest.head.kind == kind
    assert (None if manifest.score is None else manifest.score.output) == output


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"colour": 1}, "has the unknown field 'colour': schema 1 does not have it"),
        ({"outputs": None}, "is not a manifest of schema 1"),
        ({"head": {"kind": "sequence"}}, "field 'head.kind' is 'sequence'"),
        ({"head": {"kind": ["attention"]}}, "is not a manifest of schema 1"),
    ],
)
def test_damaged_manifests_of_schema_1(change: dict[str, Any], says: str) -> None:
    with pytest.raises(BundleError, match=says):
        read(SCHEMA_1 | change)


# identity -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("name", "other"),
        ("notice", "CC BY-NC-SA 4.0"),
        ("post", {"sigma": 2.0}),
        ("placing", {"shifts_s": [0.0]}),
        ("source.file", "other.onnx"),
        ("files", MANIFEST["files"] | {"priors.npz": "3" * 64, "classes.csv": "4" * 64}),
        ("parity", {"x": 1.0}),
        ("versions", {"bce": "9"}),
    ],
)
def test_writing_it_orphans_nothing(path: str, value: object) -> None:
    assert read(changed(path, value)).identity == read(MANIFEST).identity


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("files", MANIFEST["files"] | {"backbone.onnx": "9" * 64}),
        ("frontend.preparation", "peak"),
        ("window", {"sample_rate": 48_000, "window_s": 5}),
        ("input.name", "mel"),
        ("outputs.0.name", "block_24"),
    ],
)
def test_what_decides_the_features_is_part_of_it(path: str, value: object) -> None:
    assert read(changed(path, value)).identity != read(MANIFEST).identity


def test_a_bundle_keeps_its_identity_from_schema_1_to_2() -> None:
    old = read(SCHEMA_1)
    content = json.loads(old.to_json())
    for output, width in zip(content["outputs"][2:], (1536, 3), strict=True):
        output["width"] = width
    assert read(content).identity == old.identity


def test_the_embedded_bundle_has_this_schema() -> None:
    content = json.loads((DEFAULT_BUNDLE / "bundle.json").read_text())
    assert content["schema"] == 2
    assert Manifest.from_json(json.dumps(content), "x").to_json() == (DEFAULT_BUNDLE / "bundle.json").read_text()
    assert Bundle.load(DEFAULT_BUNDLE).frontend().shape == (500, 128)


# files ----------------------------------------------------------------------------------------------------------------


def test_files_are_checked(small_bundle: Bundle, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "b"
    shutil.copytree(small_bundle.path, folder)
    (folder / "classes.csv").write_text("primary_label,scientific_name\na,b\n")
    with pytest.raises(BundleError, match=r"classes\.csv: is not the file that was exported"):
        Bundle.load(folder)
    assert len(Bundle.load(folder, verify=False).classes) == 1
    (folder / "classes.csv").unlink()
    with pytest.raises(BundleError, match=r"classes\.csv: is missing from the bundle"):
        Bundle.load(folder)
    content = json.loads((folder / "bundle.json").read_text())
    del content["files"]["classes.csv"]
    (folder / "bundle.json").write_text(json.dumps(content))
    with pytest.raises(BundleError, match=r"lists no classes\.csv among its files"):
        Bundle.load(folder)
    with pytest.raises(BundleError, match="is not a bundle"):
        Bundle.load(tmp_path)
    (folder / "bundle.json").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(BundleError, match=r"bundle\.json: is not JSON"):
        Bundle.load(folder)


# the page of docs -----------------------------------------------------------------------------------------------------


def leaves(kind: Any, prefix: str = "") -> Iterator[str]:
    """Every field of a dataclass and of those in it, as the docs name it."""
    hints = get_type_hints(kind)
    for field in fields(kind):
        name = f"{prefix}{field.name}"
        yield name
        hint = hints[field.name]
        if get_origin(hint) in (Union, UnionType):
            hint = next(argument for argument in get_args(hint) if argument is not NoneType)
        if get_origin(hint) is tuple:
            hint = get_args(hint)[0]
        if is_dataclass(hint):
            yield from leaves(hint, f"{name}.")


def test_the_docs_have_every_field_and_no_other() -> None:
    text = (ROOT / "docs" / "bundle.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| `([\w.]+)` \|", text, re.MULTILINE)
    assert len(documented) == len(set(documented))
    expected = {name for name in leaves(Manifest) if name != "frontend.settings"}
    expected |= {f"post.{field.name}" for field in fields(PostprocessOptions)}
    files_and_kinds = {
        "bundle.json",
        "classes.csv",
        "priors.npz",
        "range.npz",
        "frontend.npz",
        "int8.npz",
        "parity.json",
        "head.onnx",
        *KINDS,
    }
    assert set(documented) - files_and_kinds == expected
    assert set(KINDS) <= set(documented)

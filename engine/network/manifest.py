"""``bundle.json``: what a bundle says of itself. ``docs/bundle.md`` has every field.

A manifest carries the model's whole geometry, so that nothing outside a model's family knows a sample rate or a shape.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from bce.engine.errors import BundleError, OptionsError, one_line, shown
from bce.engine.frontends.base import FrontendSpec
from bce.engine.geometry import SHIFT_SETS, SHIFT_STEP_S, ChunkGrid, WindowSpec, check_reach, check_shifts
from bce.engine.network.records import read_record

SCHEMA_VERSION = 2

FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
"""Names of a bundle's files: they cannot lead out of its folder, and mean the same in every file system."""

OutputKind = Literal["block", "embedding", "logits"]
HeadKind = Literal["none", "own", "attention", "scalar_mix", "tensorflow"]
Space = Literal["logit", "probability"]
Reduce = Literal["mean", "max"]


@dataclass(frozen=True)
class Source:
    """The published file that the weights come from.

    Attributes:
        file: its name.
        sha256: of the file; of the list of its files for a folder.
        form: "onnx", "saved_model", "tflite", ...
        licence: as the source states it.
        may_redistribute: whether the licence lets the bundle be passed on; null where that is not known.
    """

    file: str
    sha256: str
    form: str
    licence: str
    may_redistribute: bool | None = None


@dataclass(frozen=True)
class Input:
    """The input of the backbone graph.

    Attributes:
        name: in the graph.
        shape: of one window, without the batch.
    """

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Output:
    """One output of the backbone graph, float32 [batch, width].

    Attributes:
        name: in the graph.
        kind: features of a block, the embedding, or logits of classes.
        width: numbers per window; null only in bundles of schema 1, which do not say.
    """

    name: str
    kind: OutputKind
    width: int | None


@dataclass(frozen=True)
class Score:
    """Which numbers are the scores of the classes.

    Attributes:
        output: an output of the backbone graph, or "head" for the logits of ``head.onnx``.
        space: what those numbers are; probabilities are turned into logits.
        unknown: labels of classes that the model cannot hear; their scores are constant.
    """

    output: str
    space: Space = "logit"
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class Placing:
    """Where windows are put on a run's chunks, and how they become a row.

    Attributes:
        shifts_s: the shifts of each chunk's windows in seconds, used unless a run asks for others.
        reduce: the mean or the largest of the logits over the windows of a chunk; shifts are averaged.
        step_s: how far apart windows begin, at most, in a chunk that is longer than they are; null for their length.
    """

    shifts_s: tuple[float, ...] = SHIFT_SETS[5]
    reduce: Reduce = "mean"
    step_s: float | None = None


@dataclass(frozen=True)
class Head:
    """What turns features into logits.

    Attributes:
        kind: "none" for features only, "own" for a score that the backbone graph puts out itself, or the trained head
            in ``head.onnx``.
        folds: how many trained heads are averaged.
        parameters: those of all folds.
    """

    kind: HeadKind
    folds: int = 0
    parameters: int = 0

    @property
    def trained(self) -> bool:
        """Whether there is a ``head.onnx``."""
        return self.kind not in ("none", "own")


@dataclass(frozen=True)
class Manifest:
    """The content of ``bundle.json``.

    Attributes:
        name: what the bundle calls itself in messages and reports.
        source: the published file.
        family: the kind of network: "perch", ...
        window: sample rate in Hz and length in seconds of the windows.
        input: of the backbone graph.
        frontend: what makes the input out of a window: a kind and its settings.
        outputs: of the backbone graph, in order.
        score: which numbers are the scores; null for a bundle without scores.
        head: kind, folds and parameters of the head.
        variants: backbone file by precision: {"fp32": "backbone.onnx"}.
        files: SHA-256 of every file of the bundle but ``bundle.json``.
        placing: default shifts, and how windows become a row.
        post: values of post-processing that were tuned for this bundle, by their names in
            :class:`bce.engine.post.options.PostprocessOptions`; used unless a run asks for others.
        parity: the largest differences found at export, a summary of ``parity.json``.
        versions: what the bundle was made with.
        notice: shown wherever the bundle's scores are, such as a licence's terms; empty where there is none.
        schema: version of this schema.
    """

    name: str
    source: Source
    family: str
    window: WindowSpec
    input: Input
    frontend: FrontendSpec
    outputs: tuple[Output, ...]
    score: Score | None
    head: Head
    variants: dict[str, str]
    files: dict[str, str]
    placing: Placing = field(default_factory=Placing)
    post: dict[str, Any] = field(default_factory=dict)
    parity: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    notice: str = ""
    schema: int = SCHEMA_VERSION

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names of the backbone's outputs in order."""
        return tuple(output.name for output in self.outputs)

    @property
    def blocks(self) -> dict[str, int]:
        """Width of each block's features by name, in the order of the network: {"block_21": 232, ...}."""
        return {o.name: o.width for o in self.outputs if o.kind == "block" and o.width is not None}

    @property
    def grid(self) -> ChunkGrid:
        """The chunks of a run with this bundle unless it asks for others: as long as its windows."""
        return ChunkGrid(self.window.window_s)

    @property
    def identity(self) -> str:
        """What features, heads, priors and ledgers are tied to, as a SHA-256.

        It covers what decides the features: the float32 backbone, the windows, the frontend with its settings, and the
        names of the outputs. Names, notices, tuned values, heads and other precisions are outside of it.
        """
        backbone = self.files.get(self.variants.get("fp32", ""), "")
        return identity_of(backbone, self.window, self.input, self.frontend, self.output_names)

    def to_json(self) -> str:
        """The text of ``bundle.json``."""
        content = asdict(self)
        content["frontend"] = {"kind": self.frontend.kind, **self.frontend.settings}
        content = {"schema": content.pop("schema"), **content}
        return json.dumps(content, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, path: str | os.PathLike[str]) -> Manifest:
        """Parse and check a manifest of this schema, or of schema 1; bytes are UTF-8.

        Raises:
            BundleError: naming the field that is missing, unknown or wrong.
        """
        try:
            content = json.loads(text)
        except ValueError as error:  # not UTF-8, not JSON, or a number of thousands of digits
            raise BundleError(f"is not JSON ({one_line(str(error))})", path) from None
        except RecursionError:
            raise BundleError("is not a bundle's manifest: it is nested too deep", path) from None
        if not isinstance(content, dict) or "schema" not in content:
            raise BundleError("is not a bundle's manifest: it has no field 'schema'", path)
        schema = content["schema"]
        if schema == 1:
            from bce.engine.network.schema1 import upgraded

            content = upgraded(content, path)
        if content["schema"] != SCHEMA_VERSION:
            found = shown(content["schema"])
            raise BundleError(
                f"has schema {found}, this version reads 1 and {SCHEMA_VERSION}: export the bundle again", path
            )
        frontend = content.get("frontend")
        if isinstance(frontend, dict):
            settings = {name: value for name, value in frontend.items() if name != "kind"}
            content["frontend"] = {"settings": settings} | {k: v for k, v in frontend.items() if k == "kind"}
        try:
            manifest: Manifest = read_record(cls, content, path)
            check_reach(check_shifts(manifest.placing.shifts_s), manifest.window)
            step_s = manifest.placing.step_s
            if step_s is not None and not SHIFT_STEP_S <= step_s <= manifest.window.window_s:
                raise OptionsError(
                    f"field 'placing.step_s' is {step_s:g}, expected {SHIFT_STEP_S:g} to the windows' length"
                )
        except OptionsError as error:
            raise BundleError(error.reason, path) from None
        _check_together(manifest, path)
        unsaid = [output.name for output in manifest.outputs if output.width is None]
        if unsaid and schema == SCHEMA_VERSION:
            raise BundleError(f"field 'outputs' does not say the width of {unsaid[0]}", path)
        return manifest


def identity_of(
    backbone: str, window: WindowSpec, entry: Input, frontend: FrontendSpec, outputs: tuple[str, ...]
) -> str:
    """:attr:`Manifest.identity` before there is a manifest; ``backbone`` is the SHA-256 of the float32 graph."""
    content = {
        "backbone": backbone,
        "window": asdict(window),
        "input": asdict(entry),
        "frontend": asdict(frontend),
        "outputs": outputs,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _check_together(manifest: Manifest, path: str | os.PathLike[str]) -> None:
    """Refuse fields that do not fit each other, or their purpose."""
    if "\n" in manifest.name:
        raise BundleError(f"field 'name' is {shown(manifest.name)}, expected one line", path)
    if "fp32" not in manifest.variants:
        raise BundleError("field 'variants' has no fp32 backbone", path)
    if len(set(manifest.output_names)) != len(manifest.outputs) or not manifest.outputs:
        raise BundleError("field 'outputs' names no output, or one twice", path)
    named = {f"files.{name}": name for name in manifest.files}
    named |= {f"variants.{precision}": name for precision, name in manifest.variants.items()}
    for place, name in named.items():
        if not FILE_NAME.fullmatch(name):
            raise BundleError(
                f"field '{one_line(place)}' is {shown(name)}, expected the name of a file in the bundle's folder: "
                "letters, digits and . _ - +, at most 100",
                path,
            )
        if name not in manifest.files:
            raise BundleError(f"field '{place}' is '{name}', a file without a SHA-256 in 'files'", path)
        if place.startswith("variants.") and not name.endswith(".onnx"):
            raise BundleError(f"field '{place}' is '{name}', expected a graph: a name that ends in .onnx", path)
    score, kind = manifest.score, manifest.head.kind
    if (score is None) != (kind == "none"):
        raise BundleError(f"field 'score' and a head of the kind {kind!r} do not go together", path)
    if score is not None:
        expected = ("head",) if manifest.head.trained else manifest.output_names
        if score.output not in expected:
            raise BundleError(
                f"field 'score.output' is {shown(score.output)}, expected one of {', '.join(expected)} "
                f"for a head of the kind {kind!r}",
                path,
            )

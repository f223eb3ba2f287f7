"""Ways to tamper with the tiny bundle, and what is to be said of each: None where it must work all the same.

Whoever tampers also writes the manifest, so that its hashes vouch for what lies there, but where a name says otherwise.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper
from support import tiny_bundle as tiny

Tamper = Callable[[Path], object]


def field(path: str, value: Any) -> Tamper:
    """A field of the manifest, or none where the value is ``...``."""

    def tamper(folder: Path) -> None:
        content = json.loads((folder / "bundle.json").read_text())
        *way, last = path.split("/")
        place: Any = content
        for step in way:
            place = place[int(step)] if step.isdecimal() else place[step]
        if value is ...:
            del place[last]
        else:
            place[int(last) if last.isdecimal() else last] = value
        (folder / "bundle.json").write_text(json.dumps(content))

    return tamper


def manifest(content: bytes) -> Tamper:
    return lambda folder: (folder / "bundle.json").write_bytes(content)


def text(old: str, new: str) -> Tamper:
    """The manifest's text, for what no JSON writer writes."""

    def tamper(folder: Path) -> None:
        content = (folder / "bundle.json").read_text()
        assert content.count(old) == 1
        (folder / "bundle.json").write_text(content.replace(old, new))

    return tamper


def file(name: str, content: bytes | Callable[[], bytes], *, seal: bool = True) -> Tamper:
    """A file of the bundle, for which the manifest vouches or not."""

    def tamper(folder: Path) -> None:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content())
        if seal:
            tiny.seal(folder)

    return tamper


def link(name: str, target: str) -> Tamper:
    """A file moved away, and a link with its name to where it lies."""

    def tamper(folder: Path) -> None:
        place = folder / target
        place.parent.mkdir(exist_ok=True)
        (folder / name).rename(place)
        (folder / name).symlink_to(target)

    return tamper


def both(*tampers: Tamper) -> Tamper:
    def tamper(folder: Path) -> None:
        for one in tampers:
            one(folder)

    return tamper


def graph(name: str, make: Callable[[], onnx.ModelProto]) -> Tamper:
    return file(name, lambda: make().SerializeToString())


def apart(place: Callable[[onnx.ModelProto, onnx.TensorProto], None], name: str = "net.onnx") -> Tamper:
    """A graph in which some tensor keeps its numbers in a file that lies beside it."""

    def make() -> bytes:
        model, tensor = tiny.backbone(), onnx.TensorProto()
        tensor.name, tensor.data_type, tensor.data_location = "t", onnx.TensorProto.FLOAT, onnx.TensorProto.EXTERNAL
        tensor.dims.append(2)
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", "parity.json"
        place(model, tensor)
        return model.SerializeToString()

    return file(name, make)


def in_subgraph(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    inner = helper.make_graph([helper.make_node("Identity", ["t"], ["u"])], "inner", [], [], [tensor])
    outer = helper.make_graph([helper.make_node("If", ["x"], ["y"], then_branch=inner)], "outer", [], [])
    model.graph.node.append(helper.make_node("If", ["x"], ["y"], then_branch=outer))


def in_function(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    node = helper.make_node("Constant", [], ["y"], value=tensor)
    model.functions.append(helper.make_function("own", "f", [], ["y"], [node], [helper.make_opsetid("", 18)]))


def in_sparse(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    model.graph.sparse_initializer.add().values.CopyFrom(tensor)


def varint(value: int, overlong: int = 0) -> bytes:
    out = bytearray()
    while value > 127 or overlong:
        out.append(value & 127 | 128)
        value >>= 7
        overlong = max(0, overlong - 1) if value == 0 else overlong
    return bytes(out) + bytes([value])


def chunk(number: int, content: bytes, overlong: int = 0) -> bytes:
    return varint(number << 3 | 2) + varint(len(content), overlong) + content


def odd_spelling() -> bytes:
    """The value before its key, lengths in more bytes than they need, the place's number with a bit too many."""
    entry = chunk(2, b"parity.json", 2) + chunk(1, b"location", 2)
    tensor = b"\x08\x02\x10\x01" + chunk(8, b"t") + varint(14 << 3) + varint((1 << 32) + 1) + chunk(13, entry, 1)
    return tiny.backbone().SerializeToString() + chunk(7, chunk(5, tensor, 3), 2)


def npz(**arrays: Any) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)
    return out.getvalue()


def priors(**changed: Any) -> bytes:
    """The priors with some arrays in place of theirs; ``...`` for none."""
    whole = {
        "format": np.array(1),
        "classes": np.array(tiny.CLASSES),
        "sites": np.array(["S1"]),
        "windows": np.ones((2, 25), np.int64),
        "positives": np.zeros((2, 25, 3), np.int64),
        "shrinkage": np.array([8.0, 8.0, 4.0]),
    }
    return npz(**{name: array for name, array in (whole | changed).items() if array is not ...})


def zipped(content: bytes, name: str = "format.npy", method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr(name, content)
    return out.getvalue()


def npy(header: str, data: bytes = b"") -> bytes:
    head = header.encode("latin-1")
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + data


def bomb() -> bytes:
    """Two gigabytes of zeros, written down as such in the directory of the archive; the file is small."""
    content = bytearray(zipped(npy("{'descr': '<i8', 'fortran_order': False, 'shape': (1,), }", bytes(8))))
    at = content.rindex(b"PK\x01\x02") + 24
    content[at : at + 4] = (2 << 30).to_bytes(4, "little")
    return bytes(content)


NAN = float("nan")
OTHER = {"fp32": "net.onnx"}

NAMES: dict[str, tuple[Tamper, str | None]] = {
    "../ among the files": (field("files/..~net.onnx".replace("~", "\\"), "0" * 64), "expected the name of a file"),
    "a folder in a variant's name": (field("variants/fp32", "sub/net.onnx"), "field 'variants.fp32' is 'sub/net.onnx'"),
    "../ in a variant's name": (field("variants/fp32", "../net.onnx"), "field 'variants.fp32' is '../net.onnx'"),
    "an absolute path in a variant's name": (field("variants/fp32", "/etc/passwd"), "expected the name of a file"),
    "a name with a zero byte": (field("variants/fp32", "net\0.onnx"), "a text without control characters"),
    "a name with a line end": (
        field("files", {"a\nb": "0" * 64}),
        r"field 'files\.a\\nb' is 'a\\nb', expected the name",
    ),
    "a name of 300 letters": (field("files", {"a" * 300: "0" * 64}), "expected the name of a file"),
    "a name with a backslash": (field("variants/fp32", "..\\net.onnx"), "expected the name of a file"),
    "a name of two dots": (field("variants/fp32", ".."), "expected the name of a file"),
    "an empty name": (field("variants/fp32", ""), "expected the name of a file"),
    "a variant that is not hashed": (field("variants/int8", "other.onnx"), "'other.onnx', a file without a SHA-256"),
    "a variant of another form": (
        both(file("net.ort", b"ORTM"), field("variants/fp32", "net.ort")),
        "'net.ort', expected a graph: a name that ends in .onnx",
    ),
    "a head that is not hashed": (field("files/head.onnx", ...), r"bundle\.json: lists no head\.onnx among its files"),
    "classes that are not hashed": (field("files/classes.csv", ...), r"lists no classes\.csv among its files"),
    "priors that are not hashed": (field("files/priors.npz", ...), None),
    "a file that nobody names": (lambda folder: (folder / "more.txt").write_text("x") and None, None),
    "a link to another file of the bundle": (link("net.onnx", "real.onnx"), None),
    "a link out of the bundle": (link("net.onnx", "../net.onnx"), r"net\.onnx: is a link that leads out of the bundle"),
    "a link into a folder of the bundle": (link("net.onnx", "sub/net.onnx"), "is a link that leads out of the bundle"),
    "a manifest that is a link out": (link("bundle.json", "../b.json"), r"bundle\.json: is a link that leads out"),
    "a link that leads nowhere": (
        lambda folder: ((folder / "net.onnx").unlink(), (folder / "net.onnx").symlink_to("nowhere")),
        r"net\.onnx: is missing from the bundle",
    ),
    "a link in a circle": (
        lambda folder: ((folder / "net.onnx").unlink(), (folder / "net.onnx").symlink_to("net.onnx")),
        r"net\.onnx: is missing from the bundle",
    ),
    "a device in place of a file": (
        lambda folder: ((folder / "net.onnx").unlink(), os.mkfifo(folder / "net.onnx")),
        r"net\.onnx: is missing from the bundle",
    ),
    "a folder in place of a file": (
        lambda folder: ((folder / "net.onnx").unlink(), (folder / "net.onnx").mkdir()),
        r"net\.onnx: is missing from the bundle",
    ),
    "a file that is gone": (lambda folder: (folder / "head.onnx").unlink(), r"head\.onnx: is missing"),
    "a file that was changed": (file("head.onnx", b"x", seal=False), r"head\.onnx: is not the file that was exported"),
    "no manifest": (lambda folder: (folder / "bundle.json").unlink(), r"is not a bundle: it has no bundle\.json"),
}

JSON: dict[str, tuple[Tamper, str | None]] = {
    "an empty manifest": (manifest(b""), r"bundle\.json: is not JSON"),
    "half a manifest": (manifest(b'{"schema": 2, "na'), "is not JSON"),
    "a manifest that is not UTF-8": (manifest(b'{"schema": "\xff\xfe"}'), "is not JSON"),
    "a manifest in UTF-16 with a half": (manifest(b"\xff\xfe{\x00\x00\xd8"), "is not JSON"),
    "a manifest that is a list": (manifest(b"[1]"), "is not a bundle's manifest"),
    "a manifest that is a number": (manifest(b"2"), "is not a bundle's manifest"),
    "lists in lists": (manifest(b"[" * 100_000), "is nested too deep"),
    "objects in objects": (manifest(b'{"schema": 2, "a": ' + b'{"a":' * 100_000), "is nested too deep"),
    "a number of 5000 digits": (manifest(b'{"schema": ' + b"9" * 5000 + b"}"), "is not JSON"),
    "a schema of 4000 digits": (manifest(b'{"schema": ' + b"9" * 4000 + b"}"), r"has schema 9{80}\.\.\., this version"),
    "a schema that is a list": (manifest(b'{"schema": [[2]]}'), "has schema a list"),
    "a schema that is true": (text('"schema": 2', '"schema": true'), "schema 1 does not have it"),
    "a schema of 3": (field("schema", 3), "has schema 3, this version reads 1 and 2"),
    "a rate of 400 digits": (text('"sample_rate": 8000', f'"sample_rate": {"8" * 400}'), "sample_rate' is 8{80}"),
    "a rate of 0": (field("window/sample_rate", 0), "sample rate is 0 Hz"),
    "a rate below 0": (field("window/sample_rate", -8000), "sample rate is -8000 Hz"),
    "a rate that is a text": (
        field("window/sample_rate", "8000"),
        r"'window\.sample_rate' is '8000', expected a whole",
    ),
    "a window of NaN": (field("window/window_s", NAN), "windows of nan s"),
    "a window of 1e400 s": (text('"window_s": 1', '"window_s": 1e400'), "windows of inf s"),
    "a window of a day": (field("window/window_s", 86_400), "windows of 86400 s have more than 16777216 samples"),
    "a name of two lines": (field("name", "tiny\nbce-infer: done"), "'name' is 'tiny.*done', expected one line"),
    "a hundred thousand shifts": (field("placing/shifts_s", [i / 100 for i in range(100_000)]), "is outside"),
    "a window that is null": (field("window", None), "field 'window' is None, expected an object"),
    "another window than the graph's": (field("window/window_s", 2), r"'input\.shape' is \[8000\], its frontend makes"),
    "an input of huge shape": (field("input/shape", [1 << 40]), r"'input\.shape' is \[1099511627776\]"),
    "an input without a shape": (field("input/shape", []), r"'input\.shape' is \[\], its frontend makes"),
    "an input of another name": (field("input/name", "sound"), r"net\.onnx: takes samples \[8000\], but the manifest"),
    "a name with an escape code": (field("name", "\x1b[31mred"), "'name' is '.x1b.31mred', expected a text without"),
    "a notice of half a character": (text('"seeded', r'"\ud800seeded'), "'notice' is '.ud800seeded"),
    "a notice of two lines": (field("notice", "one\ntwo"), None),
    "an unknown field": (field("colour", "red"), "has the unknown field 'colour'"),
    "an unknown field of a megabyte": (field("x" * (1 << 20), 1), r"has the unknown field 'x{80}\.\.\.'"),
    "outputs that are an object": (field("outputs", {}), "field 'outputs' is an object, expected a list"),
    "an output less": (field("outputs", []), "names no output"),
    "an output of another name": (
        field("outputs/0/name", "block_2"),
        "puts out block_1, but the manifest names block_2",
    ),
    "an output of another width": (field("outputs/0/width", 5), r"puts out block_1 \[4\], but the manifest says 5"),
    "an output without a width": (field("outputs/0/width", None), "does not say the width of block_1"),
    "a score of an output": (
        field("score/output", "block_1"),
        r"field 'score\.output' is 'block_1', expected one of head",
    ),
    "no score": (field("score", None), "field 'score' and a head of the kind 'attention' do not go together"),
    "an unknown class that is none": (field("score/unknown", ["z\n"]), r"score\.unknown"),
    "a score of probabilities": (field("score/space", "probability"), None),
    "shifts of NaN": (field("placing/shifts_s", [NAN]), "shift nan s is not a multiple"),
    "no shifts": (field("placing/shifts_s", []), "shifts: at least one is needed"),
    "shifts of a day": (field("placing/shifts_s", [86_400]), r"shift 86400 s is outside -1\.\.1 s"),
    "a frontend that there is not": (field("frontend", {"kind": "wave\nform"}), r"'frontend\.kind' is 'wave.nform'"),
    "a frontend of another family": (
        field("frontend", {"kind": "perch_log_mel", "preparation": "none"}),
        "'window' is 1",
    ),
    "a setting that there is not": (field("frontend/colour", [1]), r"has the unknown field 'frontend\.colour'"),
    "files that are a list": (field("files", ["net.onnx"]), "field 'files' is a list, expected an object"),
    "hashes that are numbers": (field("files/net.onnx", 7), r"field 'files\.net\.onnx' is 7, expected a text"),
    "variants without fp32": (field("variants", {"int8": "net8.onnx"}), "'variants' has no fp32 backbone"),
    "parity of NaN": (field("parity", {"x": NAN}), None),
    "a head of 400 digits": (text('"folds": 1', f'"folds": {"1" * 400}'), r"'head\.folds' is 1{80}"),
    "an own head without its score": (
        field("head", {"kind": "own"}),
        r"field 'score\.output' is 'head', expected one of block_1",
    ),
    "schema 1 of Perch's head without a label": (
        manifest(
            json.dumps(
                {"schema": 1, "name": "b", "head": {"kind": "perch"}, "blocks": {"block_1": 4}, "outputs": ["block_1"]}
                | {"preparation": "none", "variants": OTHER, "files": {"net.onnx": "0" * 64}}
                | {"source": {"file": "f", "sha256": "", "form": "onnx", "licence": ""}}
            ).encode()
        ),
        r"field 'score\.output' is 'label', expected one of block_1",
    ),
    "a sigma of NaN": (field("post/sigma", NAN), r"bundle\.json: field 'post': sigma is nan"),
    "a sigma of 400 digits": (text('"sigma": 2.0', f'"sigma": {"2" * 400}'), r"field 'post': sigma is 2{80}\.\.\."),
    "a sigma that is a text": (field("post/sigma", "2"), r"field 'post\.sigma' is '2', expected a number"),
    "post that is a list": (field("post", [1]), "field 'post' is a list, expected an object"),
    "an unknown value of post": (field("post", {"si\x1bgma": 1}), "field 'post' is"),
    "amounts by level of a level": (field("post/taxonomy", {"genus": {"genus": 1}}), r"'post\.taxonomy' is an object"),
    "a group that there is not": (field("post/exclude", ["Z\nus"]), r"cannot exclude 'Z\\nus' from taxonomy smoothing"),
    "a family that the classes lack": (field("post/taxonomy", {"family": 0.1}), None),
}

GRAPHS: dict[str, tuple[Tamper, str | None]] = {
    "an empty graph": (file("net.onnx", b""), r"net\.onnx: is empty, expected an ONNX graph"),
    "a graph that is text": (file("net.onnx", b"no graph at all"), r"net\.onnx: is not an ONNX graph"),
    "half a graph": (file("net.onnx", lambda: tiny.backbone().SerializeToString()[:50_000]), "or cut short"),
    "a graph nested too deep": (
        file("net.onnx", lambda: _nested(300)),
        r"net\.onnx: is not an ONNX graph",
    ),
    "a graph of no operator": (graph("net.onnx", lambda: _operator("NoSuchThing")), "cannot be loaded by ONNX Runtime"),
    "weights elsewhere": (apart(lambda m, t: m.graph.initializer.append(t)), r"net\.onnx: keeps weights in another"),
    "weights elsewhere for int8": (
        apart(lambda m, t: m.graph.initializer.append(t), "net8.onnx"),
        r"net8\.onnx: keeps",
    ),
    "weights elsewhere for the head": (
        apart(lambda m, t: m.graph.initializer.append(t), "head.onnx"),
        r"head\.onnx: keeps",
    ),
    "a constant elsewhere": (
        apart(lambda m, t: m.graph.node.append(helper.make_node("Constant", [], ["y"], value=t))),
        "keeps weights in another file",
    ),
    "weights elsewhere in a graph in a graph": (apart(in_subgraph), "keeps weights in another file"),
    "weights elsewhere in a function": (apart(in_function), "keeps weights in another file"),
    "sparse weights elsewhere": (apart(in_sparse), "keeps weights in another file"),
    "weights elsewhere in an odd spelling": (file("net.onnx", odd_spelling), "keeps weights in another file"),
    "a graph of another width": (
        graph("net.onnx", lambda: tiny.backbone(5)),
        r"puts out block_1 \[5\], but the manifest",
    ),
    "a graph of another input": (graph("net.onnx", lambda: tiny.backbone(source="x")), "takes x "),
    "a graph of another output": (graph("net.onnx", lambda: tiny.backbone(target="y")), "puts out y, but"),
    "a graph of two outputs": (
        graph("net.onnx", lambda: _two_outputs()),
        "puts out block_1, sum, but the manifest names",
    ),
    "a graph of two inputs": (graph("net.onnx", lambda: _two_inputs()), r"takes samples \[8000\], more \[1\], but"),
    "a graph in float64": (
        graph("net.onnx", lambda: _identity(onnx.TensorProto.DOUBLE)),
        r"samples as tensor\(double\)",
    ),
    "a graph for four windows": (graph("net.onnx", lambda: _reshaped([4, 8000])), "samples for 4 windows at once"),
    "a graph that gives a number": (graph("net.onnx", lambda: _scalar()), "block_1 without any dimension"),
    "a graph that gives other rows than it says": (graph("net.onnx", lambda: _fewer()), r"net\.onnx: "),
    "a graph that fails when it runs": (graph("net.onnx", lambda: _failing()), r"net\.onnx: fails when it runs"),
    "a graph of NaN": (
        graph("net.onnx", lambda: _constant(NAN)),
        r"net\.onnx: gives block_1 with numbers that are not",
    ),
    "a head of NaN": (
        graph("head.onnx", lambda: tiny.graph({"block_1": ["batch", 4]}, {"logits": ["batch", 3]}, *_filled(3))),
        r"head\.onnx: gives logits with numbers that are not finite",
    ),
    "a head of another width": (
        graph("head.onnx", lambda: tiny.head(7)),
        r"classes\.csv: has 3 classes, but 'head' gives 7",
    ),
    "a head of other features": (graph("head.onnx", lambda: tiny.head(source="z")), r"head\.onnx: wants z, which"),
    "a head without logits": (
        graph("head.onnx", lambda: tiny.head(target="y")),
        r"head\.onnx: puts out y, expected logits",
    ),
    "a head of wider features": (
        graph("head.onnx", lambda: _wide_head()),
        r"head\.onnx: wants block_1 \[9\], the backbone",
    ),
    "a head for one window": (
        graph("head.onnx", lambda: _head_of_one()),
        "has block_1 for 1 windows at once, expected any",
    ),
    "a head without inputs": (graph("head.onnx", lambda: _head_of_nothing()), r"head\.onnx: takes nothing"),
}

TABLES: dict[str, tuple[Tamper, str | None]] = {
    "classes that are not UTF-8": (file("classes.csv", b"primary_label\n\xff\n"), r"classes\.csv: is not UTF-8 text"),
    "a class of 200 KB": (file("classes.csv", b"primary_label\n" + b"a" * 200_000), r"classes\.csv: line 2 is not CSV"),
    "no classes": (file("classes.csv", b""), r"classes\.csv: is empty"),
    "classes without names": (file("classes.csv", b"primary_label\na\n"), "has no column 'scientific_name'"),
    "classes of other columns": (
        file("classes.csv", b"x\x1b,y\na,b\n"),
        r"has no column 'primary_label', it has x\\x1b",
    ),
    "a class twice": (
        file("classes.csv", b"primary_label,scientific_name\na,A b\na,A c\n"),
        "names the class 'a' twice",
    ),
    "a class of two lines": (
        file("classes.csv", b'primary_label,scientific_name\n"a\nb",A b\n'),
        r"row 1 has a control character in its primary_label: 'a\\nb'",
    ),
    "priors that are text": (file("priors.npz", b"site,hour\n"), r"priors\.npz: is not a file of priors"),
    "priors cut short": (file("priors.npz", lambda: priors()[:-300]), "is not a file of priors, or damaged"),
    "priors of no arrays": (file("priors.npz", lambda: npz()), "lacks the array 'format'"),
    "priors of objects": (
        file("priors.npz", lambda: priors(classes=np.array([{}], object))),
        "is not a file of priors",
    ),
    "a bomb in place of priors": (
        file("priors.npz", bomb),
        r"unfolds to 2\.1 GB, expected a file of priors of at most 1",
    ),
    "priors that promise more than they have": (
        file("priors.npz", zipped(npy("{'descr': '<i8', 'fortran_order': False, 'shape': (1099511627776,), }"))),
        r"is not a file of priors, or damaged \(an array of \[1099511627776\] in",
    ),
    "priors of endless nothing": (
        file("priors.npz", zipped(npy("{'descr': '<U0', 'fortran_order': False, 'shape': (1099511627776,), }"))),
        "is not a file of priors",
    ),
    "priors with an open bracket": (file("priors.npz", zipped(npy("{'descr': ("))), "is not a file of priors"),
    "priors packed in no known way": (file("priors.npz", lambda: _method(77)), "is not a file of priors"),
    "priors of other classes": (
        file("priors.npz", lambda: priors(classes=np.array(["a", "b", "z"]))),
        r"priors\.npz: the priors do not know the class 'c': make them .* --prior-strength none runs without them",
    ),
    "priors of more classes": (
        file("priors.npz", lambda: priors(classes=np.array(list("dcba")), positives=np.zeros((2, 25, 4), np.int64))),
        None,
    ),
    "classes of priors in a square": (file("priors.npz", lambda: priors(classes=np.array([["a"]]))), "2 dimensions"),
    "windows of another shape": (file("priors.npz", lambda: priors(windows=np.ones((3, 25), np.int64))), "has shape"),
    "windows below 0": (file("priors.npz", lambda: priors(windows=-np.ones((2, 25), np.int64))), "counts fewer than 0"),
    "windows beyond counting": (file("priors.npz", lambda: priors(windows=np.full((2, 25), 1 << 62))), "more than"),
    "shrinkage of NaN": (file("priors.npz", lambda: priors(shrinkage=np.array([NAN, 1, 1]))), "shrinkage hour=nan"),
    "a format of the future": (file("priors.npz", lambda: priors(format=np.array(2))), "has format 2, this version"),
    "a format that is a list": (file("priors.npz", lambda: priors(format=np.array([1]))), "'format' has 1 dimensions"),
}

TAMPERINGS = NAMES | JSON | GRAPHS | TABLES


def _nested(depth: int) -> bytes:
    content = b"\x0a\x00"
    for _ in range(depth):
        content = chunk(1, chunk(5, chunk(6, content)))
    return chunk(7, content)


def _operator(name: str, kind: int = onnx.TensorProto.FLOAT) -> onnx.ModelProto:
    shapes = {"samples": ["batch", 8000]}, {"block_1": ["batch", 4]}
    return tiny.graph(*shapes, [helper.make_node(name, ["samples"], ["block_1"])], kind=kind)


def _two_outputs() -> onnx.ModelProto:
    model = tiny.backbone()
    model.graph.output.append(helper.make_tensor_value_info("sum", onnx.TensorProto.FLOAT, ["batch", 4]))
    return model


def _two_inputs() -> onnx.ModelProto:
    model = tiny.backbone()
    model.graph.input.append(helper.make_tensor_value_info("more", onnx.TensorProto.FLOAT, ["batch", 1]))
    return model


def _identity(kind: int) -> onnx.ModelProto:
    nodes = [helper.make_node("Slice", ["samples", "from", "to", "axis"], ["block_1"])]
    tensors = {"from": np.array([0]), "to": np.array([4]), "axis": np.array([1])}
    return tiny.graph({"samples": ["batch", 8000]}, {"block_1": ["batch", 4]}, nodes, tensors, kind=kind)


def _reshaped(shape: list[Any]) -> onnx.ModelProto:
    model = tiny.backbone()
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("samples", onnx.TensorProto.FLOAT, shape))
    return model


def _scalar() -> onnx.ModelProto:
    nodes = [helper.make_node("ReduceSum", ["samples"], ["block_1"], keepdims=0)]
    return tiny.graph({"samples": ["batch", 8000]}, {"block_1": []}, nodes)


def _fewer() -> onnx.ModelProto:
    """As many numbers as there are samples, in rows of four."""
    nodes = [helper.make_node("Reshape", ["samples", "to"], ["block_1"])]
    shapes = {"samples": ["batch", 8000]}, {"block_1": ["rows", 4]}
    return tiny.graph(*shapes, nodes, {"to": np.array([-1, 4])})


def _failing() -> onnx.ModelProto:
    """Samples taken for places in a list of two."""
    nodes = [
        helper.make_node("Cast", ["samples"], ["whole"], to=onnx.TensorProto.INT64),
        helper.make_node("Add", ["whole", "far"], ["place"]),
        helper.make_node("Gather", ["list", "place"], ["values"]),
        helper.make_node("Slice", ["values", "from", "to", "axis"], ["block_1"]),
    ]
    tensors = {"far": np.array(99), "list": np.zeros(2, np.float32)}
    tensors |= {"from": np.array([0]), "to": np.array([4]), "axis": np.array([1])}
    return tiny.graph({"samples": ["batch", 8000]}, {"block_1": ["batch", 4]}, nodes, tensors)


def _filled(width: int, value: float = NAN) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Nodes that make rows of one value out of any features."""
    nodes = [helper.make_node("MatMul", ["block_1", "w"], ["logits"])]
    return nodes, {"w": np.full((4, width), value, np.float32)}


def _constant(value: float) -> onnx.ModelProto:
    model = tiny.backbone()
    weights = np.full((8000, 4), value, np.float32)
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weights, "w"))
    return model


def _wide_head() -> onnx.ModelProto:
    nodes = [helper.make_node("MatMul", ["block_1", "w"], ["logits"])]
    return tiny.graph({"block_1": ["batch", 9]}, {"logits": ["batch", 3]}, nodes, {"w": tiny.weights(9, 3)})


def _head_of_one() -> onnx.ModelProto:
    nodes = [helper.make_node("MatMul", ["block_1", "w"], ["logits"])]
    return tiny.graph({"block_1": [1, 4]}, {"logits": [1, 3]}, nodes, {"w": tiny.weights(4, 3)})


def _head_of_nothing() -> onnx.ModelProto:
    return tiny.graph(
        {}, {"logits": [1, 3]}, [helper.make_node("Identity", ["w"], ["logits"])], {"w": tiny.weights(1, 3)}
    )


def _method(number: int) -> bytes:
    """An archive whose member is packed by a method that there is not."""
    content = bytearray(zipped(b"x", method=zipfile.ZIP_STORED))
    for mark, at in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        place = content.index(mark) + at
        content[place : place + 2] = number.to_bytes(2, "little")
    return bytes(content)

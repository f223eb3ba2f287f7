"""``bce-export`` from a file to a bundle that the engine can run, and what it does with what is wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.forms import assert_compiled
from support.proofs import quick_proof

torch = pytest.importorskip("torch", reason="exports need the extra bce[export]")

import onnxruntime as ort  # noqa: E402

from bce.engine.errors import ExportError, OptionsError, ParityError  # noqa: E402
from bce.engine.files import sha256  # noqa: E402
from bce.engine.frontends.base import FrontendSpec  # noqa: E402
from bce.engine.frontends.perch import WINDOW  # noqa: E402
from bce.engine.network.bundle import Bundle  # noqa: E402
from bce.engine.network.manifest import Head, Input, Output, Placing, Score, WindowSpec  # noqa: E402
from bce.engine.network.model import Model  # noqa: E402
from bce.engine.post.options import PostprocessOptions  # noqa: E402
from bce.engine.post.priors import Priors  # noqa: E402
from bce.engine.run.infer import postprocess_options  # noqa: E402
from bce.export.commands import perch  # noqa: E402
from bce.export.commands.export import main, parse_blocks  # noqa: E402
from bce.export.commands.perch import ExportOptions, export_source  # noqa: E402
from bce.export.heads.checkpoints import HeadCheckpoint, save_checkpoint  # noqa: E402
from bce.export.heads.modules import HeadConfig, build_head  # noqa: E402
from bce.export.heads.trained_on import sample_window  # noqa: E402
from bce.export.perch.exact import Exact, exact_log_mel  # noqa: E402
from bce.export.perch.published_graph import write_onnx  # noqa: E402
from bce.export.perch.sources import read_source  # noqa: E402
from bce.export.perch.weights import Weights  # noqa: E402
from bce.export.sources import Source  # noqa: E402

TAXONOMY = """primary_label,inat_taxon_id,scientific_name,common_name,class_name
x1,1,Aus cus,A bird,Aves
x2,2,Nobody knows,A lizard,Reptilia
x3,3,Bus xus,A frog,Amphibia
"""


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with taxonomy.csv and labels.csv for the 12 classes of the small network."""
    folder = tmp_path_factory.mktemp("tables")
    (folder / "taxonomy.csv").write_text(TAXONOMY)
    names = ["Aus bus", "Aus cus", "Bus aus", "Bus bus", *(f"Cus c{index}" for index in range(8))]
    (folder / "labels.csv").write_text("\n".join(["inat2024_fsd50k", *names]) + "\n")
    return folder


@pytest.fixture(scope="module")
def bundle(small_onnx: Path, tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with Perch's own head, made by the command."""
    out = tmp_path_factory.mktemp("made") / "perch"
    arguments = ["--perch", small_onnx, "--perch-labels", tables / "labels.csv", "--taxonomy", tables / "taxonomy.csv"]
    assert main([*map(str, arguments), "--head", "perch", "--blocks", "21,25", "--out", str(out)]) == 0
    return out


@pytest.fixture
def quick() -> Iterator[None]:
    """Two windows for the proof where the proof is not what is tested."""
    with quick_proof():
        yield


@pytest.fixture
def checkpoints(small_weights: Weights, tmp_path: Path) -> Callable[..., list[str]]:
    """Write folds of a small head over blocks 5 and 7, with changes."""

    def write(
        folds: int = 2,
        blocks: tuple[int, ...] = (5, 7),
        preparation: str = "none",
        narrow: int = 0,
        sample: dict[str, tuple[float, ...]] | None = None,
    ) -> list[str]:
        known = small_weights.architecture.blocks
        widths = {known[index].name: known[index].out_channels - narrow for index in blocks}
        paths = []
        for seed in range(folds):
            torch.manual_seed(seed)
            head = build_head(HeadConfig(d=16, ffn=24), tuple(widths.values()), 3).eval()
            path = tmp_path / f"fold{seed}.safetensors"
            made = HeadCheckpoint(head, ("x1", "x2", "x3"), widths, preparation, "a trial", sample=sample or {})  # type: ignore[arg-type]
            save_checkpoint(path, made)
            paths.append(str(path))
        return paths

    return write


def test_bundle_is_whole_and_says_what_it_is(bundle: Path, small_onnx: Path) -> None:
    loaded = Bundle.load(bundle)
    manifest = loaded.manifest
    assert sorted(os.listdir(bundle)) == ["backbone.onnx", "bundle.json", "classes.csv", "parity.json"]
    assert os.listdir(bundle.parent) == ["perch"]
    assert manifest.source.file == "small.onnx"
    assert manifest.source.sha256 == sha256(small_onnx)
    assert list(manifest.blocks) == ["block_21", "block_25"]
    assert manifest.output_names == ("block_21", "block_25", "label")
    assert manifest.head == Head("own")
    assert manifest.frontend == FrontendSpec("perch_log_mel", {"preparation": "none"})
    assert loaded.classes == ("x1", "x2", "x3")
    assert (bundle / "classes.csv").read_text() == TAXONOMY
    assert "stand-in" in manifest.notice
    assert 0 < manifest.parity["end_to_end_relative_l2"] <= 1e-4
    assert set(manifest.files) == set(os.listdir(bundle)) - {"bundle.json"}


def test_the_manifest_carries_the_whole_geometry(bundle: Path, small_weights: Weights) -> None:
    content = json.loads((bundle / "bundle.json").read_text())
    assert (content["schema"], content["family"]) == (2, "perch")
    manifest = Bundle.load(bundle).manifest
    widths = {block.name: block.out_channels for block in small_weights.architecture.blocks}
    assert manifest.window == WindowSpec(32_000, 5.0)
    assert manifest.input == Input("log_mel", (500, 128))
    assert manifest.outputs == (
        Output("block_21", "block", widths["block_21"]),
        Output("block_25", "block", widths["block_25"]),
        Output("label", "logits", 3),
    )
    # the lizard is not among the source's classes, and lizards do not borrow from their genus
    assert manifest.score == Score("label", "logit", unknown=("x2",))
    assert manifest.placing == Placing()
    assert (manifest.source.licence, manifest.source.may_redistribute) == ("unknown", None)
    assert Bundle.load(bundle).frontend().shape == (500, 128)


@pytest.mark.usefixtures("quick")
def test_a_licence_that_lets_a_bundle_be_passed_on_is_said_so(
    small_weights: Weights, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write_onnx(small_weights, tmp_path / "own.onnx", licence="Apache-2.0")
    out = tmp_path / "out"
    assert main(["--perch", str(tmp_path / "own.onnx"), "--blocks", "0", "--out", str(out)]) == 0
    manifest = Bundle.load(out).manifest
    assert (manifest.source.licence, manifest.source.may_redistribute) == ("Apache-2.0", True)
    assert [(output.name, output.kind) for output in manifest.outputs] == [("block_0", "block")]
    assert (manifest.score, manifest.head) == (None, Head("none"))  # features alone have no score
    capsys.readouterr()
    assert main(["--info", str(out)]) == 0
    assert "the bundle may be passed on" in capsys.readouterr().out


def test_bundle_gives_the_numbers_of_its_source(bundle: Path, small_onnx: Path) -> None:
    """From samples to features and logits, against ONNX Runtime running the source file itself."""
    from bce.engine.frontends.perch import log_mel as engine_log_mel

    rng = np.random.default_rng(5)
    time_s = np.arange(160_000) / 32_000
    samples = (0.1 * np.sin(2 * np.pi * 3000 * time_s) + 0.01 * rng.standard_normal(160_000)).astype(np.float32)
    outputs = ["block_21", "block_25", "label"]
    log_mel = engine_log_mel(samples, "none")[None]
    found = ort.InferenceSession(bundle / "backbone.onnx").run(outputs, {"log_mel": log_mel})
    reference = read_source(small_onnx).reference((21, 25))
    assert reference is not None
    expected = reference(samples[None])
    for name, value in zip(outputs[:2], found, strict=False):
        assert np.linalg.norm(value - expected[name]) <= 1e-4 * np.linalg.norm(expected[name])
    label = ort.InferenceSession(small_onnx).run(["label"], {"inputs": samples[None]})[0][0]
    np.testing.assert_allclose(found[2][0], [label[1], -10, max(label[2], label[3])], atol=1e-3)


def test_info(bundle: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["--info", str(bundle)]) == 0
    text = capsys.readouterr().out
    identity = Bundle.load(bundle).identity
    for part in (
        "5 s at 32000 Hz",
        "perch_log_mel, preparation none",
        "log_mel [500, 128]",
        "1 of the classes",
        "the SHA-256 is none of those that are published",
        identity,
    ):
        assert part in text
    for part in ("stand-in", "small.onnx", "label [3], logits", "perch", "x1, x2, x3", "numbers compared"):
        assert part in text
    rows = [line.split() for line in text.splitlines() if "end_to_end" in line]
    assert [row[1] for row in rows] == ["block_21", "block_25", "label"]
    assert all(float(row[2]) <= 1e-4 for row in rows)


@pytest.mark.usefixtures("quick")
def test_trained_head_with_priors_and_tuned_values(
    small_onnx: Path,
    small_weights: Weights,
    checkpoints: Callable[..., list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    out, post, priors = (tmp_path / name for name in ("trained", "post.json", "priors.npz"))
    names = ("block_5", "block_7")
    exact = Exact(small_weights, names)(exact_log_mel(sample_window(WINDOW)[None]))
    folds = checkpoints(sample={name: tuple(exact[name][0].tolist()) for name in names})
    values = {"sigma": 0.5, "taxonomy": {"genus": 0.3}, "prior_known": 1.0}
    post.write_text(json.dumps(values))
    Priors.count(("x3", "x2", "x1"), np.eye(3), ["S1"] * 3, [4] * 3).save(priors)
    arguments = ["--perch", str(small_onnx), "--head", *folds, "--out", str(out)]
    assert main([*arguments, "--post", str(post), "--priors", str(priors)]) == 0
    assert capsys.readouterr().out.count("was trained on this network") == 2
    loaded = Bundle.load(out)
    assert loaded.manifest.post == values
    assert postprocess_options(loaded) == PostprocessOptions(1.0, 0.5, 0.5, taxonomy=(("genus", 0.3),))
    assert sha256(out / "priors.npz") == sha256(priors)
    assert (loaded.manifest.head.kind, loaded.manifest.head.folds) == ("attention", 2)
    assert loaded.manifest.output_names == ("block_5", "block_7")
    assert loaded.manifest.score == Score("head")
    assert loaded.classes == ("x1", "x2", "x3")
    assert "a trial" in loaded.manifest.notice
    assert {c["measure"] for c in json.loads((out / "parity.json").read_text())["comparisons"]} >= {"head"}
    assert main(["--info", str(out)]) == 0
    assert "attention, 2 folds" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({"preparation": "peak"}, ["--preparation", "none"], "preparation 'peak', the bundle is to have 'none'"),
        ({}, ["--blocks", "5,6"], "trained on the blocks 5, 7, the bundle is to have 5, 6"),
        ({"narrow": 1}, [], "block_5 with"),
        ({}, ["--taxonomy", "TAXONOMY"], "class 0 is 'x1', expected 'other'"),
        ({}, ["--outputs", "embedding"], "add 'blocks'"),
    ],
)
def test_heads_that_disagree_are_refused(
    small_onnx: Path,
    checkpoints: Callable[..., list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    changes: dict[str, object],
    arguments: list[str],
    message: str,
) -> None:
    (tmp_path / "taxonomy.csv").write_text(TAXONOMY.replace("x1,", "other,"))
    arguments = [str(tmp_path / "taxonomy.csv") if a == "TAXONOMY" else a for a in arguments]
    out = tmp_path / "out"
    assert main(["--perch", str(small_onnx), "--head", *checkpoints(**changes), "--out", str(out), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_a_head_of_another_network_is_refused(
    small_onnx: Path, checkpoints: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Its blocks are as wide, so that nothing but its record tells."""
    widths = {block.name: block.out_channels for block in read_source(small_onnx).weights.architecture.blocks}
    rng = np.random.default_rng(0)
    folds = checkpoints(sample={n: tuple(rng.standard_normal(widths[n]).tolist()) for n in ("block_5", "block_7")})
    assert main(["--perch", str(small_onnx), "--head", *folds, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"bce-export: {folds[0]}: was trained on another network")
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "content", ["{", "[]", "null", "{}", '{"status": "x", "comparisons": 3}', '{"status": "x", "comparisons": [{}]}']
)
def test_info_of_a_damaged_proof_is_one_line(
    content: str, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    (copy / "parity.json").write_text(content)
    manifest = json.loads((copy / "bundle.json").read_text())
    manifest["files"]["parity.json"] = sha256(copy / "parity.json")
    (copy / "bundle.json").write_text(json.dumps(manifest))
    assert main(["--info", str(copy)]) == 2
    assert "parity.json: is no report of a proof" in capsys.readouterr().err


@pytest.mark.usefixtures("quick")
def test_an_existing_bundle_is_replaced_only_by_force(
    small_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "bundle"
    arguments = ["--perch", str(small_onnx), "--blocks", "0", "--out", str(out)]
    assert main(arguments) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert main(arguments) == 2
    assert "--force" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    (out / "recording.wav").write_text("of somebody")
    assert main([*arguments, "--force"]) == 2
    assert "holds recording.wav, which is no part of the bundle" in capsys.readouterr().err
    assert main([*arguments, "--force", "--check-audio", str(out / "recording.wav")]) == 2
    assert "is or holds the recordings" in capsys.readouterr().err
    assert (out / "recording.wav").read_text() == "of somebody"
    (out / "recording.wav").unlink()
    assert main([*arguments[:3], "1", *arguments[4:], "--force"]) == 0
    assert Bundle.load(out).manifest.output_names == ("block_1",)
    assert_compiled(Model(Bundle.load(out)).form)
    assert os.listdir(tmp_path) == ["bundle"]


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("bundle", "is to be written, and is or holds the input"),
        ("bundle/more", "lies in the bundle"),
        ("saved_model/out", "lies in the input"),
        ("saved_model", "is to be written, and is or holds the input"),
        ("x.onnx", "is to be written, and is or holds the input"),
        ("x.onnx/out", "is not a folder that can be written to"),
    ],
)
def test_no_output_holds_an_input_or_lies_in_one(
    out: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "bundle.json").write_text("{}")
    (tmp_path / "bundle" / "fold.pt").write_text("a head")
    (tmp_path / "saved_model").mkdir()
    (tmp_path / "x.onnx").write_text("a network")
    source = "saved_model" if out.startswith("saved") else "x.onnx"
    arguments = ["--perch", str(tmp_path / source), "--head", str(tmp_path / "bundle" / "fold.pt")]
    assert main([*arguments, "--out", str(tmp_path / out), "--force"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert (tmp_path / "bundle" / "fold.pt").read_text() == "a head"


def test_a_folder_of_something_else_is_left_alone(
    small_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "photos"
    out.mkdir()
    (out / "cat.jpg").write_text("meow")
    assert main(["--perch", str(small_onnx), "--out", str(out), "--force"]) == 2
    assert "not a bundle" in capsys.readouterr().err
    assert os.listdir(out) == ["cat.jpg"]


@pytest.mark.usefixtures("quick")
def test_a_missed_gate_writes_nothing(small_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "bundle"
    source = read_source(small_onnx)
    options = ExportOptions("", out, blocks=(0, 1), force=True)
    export_source(source, options)
    before = sha256(out / "bundle.json")

    def runner(blocks: object, outputs: object) -> object:
        reference = Source.reference(source, (0, 1))
        assert reference is not None

        def wrong(waveforms: np.ndarray) -> dict[str, np.ndarray]:
            arrays = reference(waveforms)
            return arrays | {"block_1": arrays["block_1"] * np.float32(1.001)}

        return wrong

    monkeypatch.setattr(perch, "read_source", None)
    false = Source(source.path, source.sha256, "onnx", "unknown", "", source.weights, runner)  # type: ignore[arg-type]
    with pytest.raises(ParityError, match="backbone block_1") as raised:
        export_source(false, options)
    assert "block_0" not in str(raised.value)
    assert sha256(out / "bundle.json") == before
    assert os.listdir(tmp_path) == ["bundle"]


@pytest.mark.usefixtures("quick")
def test_a_source_that_cannot_run_is_said_so(small_weights: Weights, tmp_path: Path) -> None:
    lines: list[str] = []
    source = Source(tmp_path / "saved_model", "0" * 64, "saved_model", "Apache-2.0", "", small_weights)
    export_source(source, ExportOptions("", tmp_path / "out", blocks=(1,), outputs=("embedding",)), lines.append)
    assert any("structure checked, numbers not" in line for line in lines)
    manifest = Bundle.load(tmp_path / "out").manifest
    assert manifest.parity == {}
    assert [(output.name, output.kind) for output in manifest.outputs] == [("embedding", "embedding")]


def test_zeros_behind_a_kernel_are_refused_as_well(small_weights: Weights, tmp_path: Path) -> None:
    """A residual block whose scale is 0 passes its input on, and every later output still hears."""

    def check(weights: Weights) -> list[str]:
        lines: list[str] = []
        lines += perch.zero_lines(Source(tmp_path / "x.onnx", "0" * 64, "onnx", "unknown", "", weights))
        return lines

    blocks = list(small_weights.blocks)
    project = blocks[20].project
    blocks[20] = replace(blocks[20], project=replace(project, scale=np.zeros_like(project.scale)))
    with pytest.raises(ExportError, match=r"x.onnx: block 20, project scale: 100% of its numbers are 0"):
        check(replace(small_weights, blocks=tuple(blocks)))
    prototypes = small_weights.prototypes
    assert prototypes is not None
    strength = np.zeros_like(prototypes.strength)
    with pytest.raises(ExportError, match=r"x.onnx: classifier, prototype strength: 100% of its numbers are 0"):
        check(replace(small_weights, prototypes=replace(prototypes, strength=strength)))
    strength[0] = 1  # prototypes that weigh nothing are for training to decide
    assert check(replace(small_weights, prototypes=replace(prototypes, strength=strength))) == []


def test_a_kernel_of_zeros_is_refused_and_some_zeros_are_said(small_weights: Weights, tmp_path: Path) -> None:
    def source(share: float) -> Source[Weights]:
        block = small_weights.blocks[7]
        kernel = block.project.kernel.copy()
        kernel.reshape(-1)[: round(share * kernel.size)] = 0
        damaged = replace(block, project=replace(block.project, kernel=kernel))
        blocks = (*small_weights.blocks[:7], damaged, *small_weights.blocks[8:])
        return Source(tmp_path / "x.onnx", "0" * 64, "onnx", "unknown", "", replace(small_weights, blocks=blocks))

    with pytest.raises(ExportError, match=r"x.onnx: block 7, project kernel: 95% of its numbers are 0"):
        export_source(source(0.95), ExportOptions("", tmp_path / "out"))
    lines: list[str] = []
    lines += perch.zero_lines(source(0.25))
    assert lines == ["source: block 7, project kernel: 25.0% of its numbers are 0, the file may be damaged"]
    lines += perch.zero_lines(source(0.0))
    assert len(lines) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --perch"),
        (["--perch", "x.onnx"], "give either --perch"),
        (["--perch", "x.onnx", "--out", "o", "--blocks", "26"], "block 26 does not exist"),
        (["--perch", "x.onnx", "--out", "o", "--blocks", "a"], "--blocks a"),
        (["--perch", "x.onnx", "--out", "o", "--outputs", "scores"], "output 'scores' is unknown"),
        (["--perch", "x.onnx", "--out", "o", "--preparation", "loud"], "preparation 'loud' is unknown"),
        (["--perch", "x.onnx", "--out", "o", "--head", "perch", "fold.pt"], "not both"),
        (
            ["--perch", "x.onnx", "--out", "o", "--head", "perch", "--any-backbone"],
            "about the network of a trained head",
        ),
        (["--perch", "x.onnx", "--out", "o"], "x.onnx"),
        (["--perch", "SMALL", "--out", "o", "--head", "fold.pt"], "no such head checkpoint"),
        (["--perch", "SMALL", "--out", "o", "--taxonomy", "none.csv"], "none.csv"),
        (["--perch", "SMALL", "--out", "o", "--head", "perch", "--taxonomy", "TAXONOMY"], "--perch-labels"),
        (["--perch", "SMALL", "--out", "o", "--check-audio", "none.wav"], "none.wav"),
        (["--info", "nowhere"], "not a bundle"),
    ],
)
def test_wrong_use_is_one_line(
    arguments: list[str],
    message: str,
    small_onnx: Path,
    tables: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    known = {"SMALL": str(small_onnx), "TAXONOMY": str(tables / "taxonomy.csv")}
    assert main([known.get(argument, argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_blocks_are_parsed() -> None:
    assert parse_blocks(None) is None
    assert parse_blocks("25,21") == (21, 25)
    assert parse_blocks("all") == tuple(range(26))
    with pytest.raises(OptionsError):
        ExportOptions("x", "o", blocks=(3, 2))


def test_help_needs_nothing_heavy() -> None:
    code = (
        "import sys\nfrom bce.export.commands.export import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('torch', 'onnx', 'numpy', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--check-audio" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_check_audio_is_what_is_compared_on(small_onnx: Path, shared: Path, tmp_path: Path) -> None:
    audio = shared / "data/audio/scikit_maad"
    arguments = ["--perch", str(small_onnx), "--blocks", "5", "--outputs", "blocks", "--check-audio", str(audio)]
    assert main([*arguments, "--out", str(tmp_path / "out"), "--preparation", "hoplite"]) == 0
    parity = json.loads((tmp_path / "out" / "parity.json").read_text())
    natural = {c["input"] for c in parity["comparisons"] if c["natural"]}
    assert "S4A03895_20190522_060000.wav" in natural
    assert parity["frontend"] == {"kind": "perch_log_mel", "preparation": "hoplite"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("{", "is not JSON"),
        ("[1]", "holds no JSON object"),
        ("[" * 100_000, "is not JSON"),
        ('{"sigmoid": 1}', "unknown field 'post.sigmoid'"),
        ('{"sigma": true}', "expected a number"),
        ('{"sigma": NaN}', "sigma is nan"),
        ('{"taxonomy": {"family": 0.1}}', "no family column"),
        ('{"exclude": ["Mammalia"], "taxonomy": {"class": 0.1}}', "cannot exclude 'Mammalia'"),
    ],
)
def test_tuned_values_that_are_none_are_refused_first(
    small_onnx: Path,
    checkpoints: Callable[..., list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    text: str | None,
    message: str,
) -> None:
    post, out = tmp_path / "post.json", tmp_path / "out"
    if text is not None:
        post.write_text(text)
    (tmp_path / "taxonomy.csv").write_text(TAXONOMY)
    arguments = ["--perch", str(small_onnx), "--post", str(post), "--taxonomy", str(tmp_path / "taxonomy.csv")]
    assert main([*arguments, "--head", *checkpoints(folds=1), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"bce-export: {post}: ")
    assert message in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_priors_of_other_classes_are_refused(
    small_onnx: Path, checkpoints: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    priors = tmp_path / "priors.npz"
    Priors.count(("x1", "x2"), np.eye(2), ["S1"] * 2, [4] * 2).save(priors)
    arguments = ["--perch", str(small_onnx), "--priors", str(priors), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--head", *checkpoints(folds=1)]) == 2
    assert capsys.readouterr().err.startswith(f"bce-export: {priors}: the priors do not know the class 'x3'")
    assert main(arguments) == 2
    assert "the bundle has no scores to use it on" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

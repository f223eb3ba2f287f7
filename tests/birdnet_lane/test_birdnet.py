"""BirdNET v2.4's own numbers: the bundle against LiteRT, what it hears, what it knows, other forms of the file."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from scipy.stats import spearmanr
from support.forms import host
from support.tflite_variants import cut_short, float16, int8, mutated, with_classes

from bce.engine import Bundle, Engine, EngineOptions
from bce.engine.audio.reader import AudioReader
from bce.engine.commands import infer as cli
from bce.engine.errors import ExportError
from bce.engine.geometry import ChunkGrid
from bce.engine.network.member import Member

pytest.importorskip("torch")

Array = NDArray[np.float32]
LABELS = "BirdNET_GLOBAL_6K_V2.4_Labels.txt"


def relative_l2(found: Array, expected: Array) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def probabilities(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


def logits_of(bundle: Bundle, path: Path, **options: object) -> Array:
    engine = Engine(bundle, EngineOptions(threads=2, **options))
    (result,) = engine.run([path])
    assert result.status == "ok", result.reason
    return result.logits


def test_every_real_window_gives_the_files_own_numbers(
    model: Path, whole: Bundle, sliced: Bundle, windows: dict[str, Array]
) -> None:
    from bce.export.birdnet.sources import read_source

    reference = read_source(model).reference((), ())
    assert reference is not None
    members = {name: Member(bundle, backend="onnxruntime") for name, bundle in (("all", whole), ("234", sliced))}
    places = [whole.taxonomy.index.get(name, -1) for name in sliced.taxonomy.columns["source_class"]]
    known = np.array(places) >= 0
    count, x = 0, np.empty((1, 2, 96, 511), np.float32)
    for name, recording in windows.items():
        for window in recording:
            expected = reference(window[None])
            fed = members["all"].model.features(expected["spectrogram"])
            members["all"].frontend.open(window).window(0, x[0])
            found = members["all"].model.features(x)
            assert relative_l2(x, expected["spectrogram"]) < 5e-6, name
            for output in ("embedding", "logits"):
                assert relative_l2(fed[output], expected[output]) < 1e-5, (name, output)
                assert relative_l2(found[output], expected[output]) < 1e-4, (name, output)
            part = members["234"].model.features(x)["logits"][0]
            np.testing.assert_array_equal(part[known], found["logits"][0][np.array(places)[known]])
            assert (part[~known] == -10).all()
            count += 1
    assert count > 300


def test_the_figures_of_birdnets_own_readme(whole: Bundle, audio: Path) -> None:
    found = probabilities(logits_of(whole, audio / "misc" / "birdnet_soundscape.flac"))[:4]
    best = [whole.taxonomy.labels[place] for place in found.argmax(axis=1)]
    assert best == ["Poecile atricapillus", "Poecile atricapillus", "Baeolophus bicolor", "Haemorhous mexicanus"]
    np.testing.assert_allclose(found.max(axis=1), [0.8140561, 0.3082859, 0.1864328, 0.639378], atol=1e-5)


def test_it_hears(whole: Bundle, audio: Path) -> None:
    index = whole.taxonomy.index
    thrush = probabilities(logits_of(whole, audio / "misc" / "opensoundscape_1min.wav"))[
        :, index["Hylocichla mustelina"]
    ]
    assert len(thrush) == 20
    assert (thrush >= 0.25).all()
    jura = probabilities(logits_of(whole, audio / "scikit_maad" / "S4A03895_20190522_060000.wav"))
    assert jura.max(axis=0).argmax() == index["Phylloscopus collybita"]
    assert jura.max() > 0.8
    night = probabilities(logits_of(whole, audio / "scikit_maad" / "S4A03895_20190522_000000.wav"))
    assert night.max() < 0.05


def test_it_hears_the_spinetail_where_its_labels_say(whole: Bundle, audio: Path) -> None:
    """Windows every half second that hold a second of what an expert marked."""
    lines = (audio / "scikit_maad" / "spinetail.txt").read_text().splitlines()
    spans = [line.split("\t")[:3] for line in lines if not line.startswith("\\")]
    songs = [(float(start), float(end)) for start, end, label in spans if label.strip() == "CRER"]
    member, best = Member(whole, backend="onnxruntime"), whole.taxonomy.index["Cranioleuca erythrops"]
    with AudioReader(audio / "scikit_maad" / "spinetail.wav", 48_000, ChunkGrid(3.0)) as reader:
        block = next(reader)
    opened, x = member.frontend.open(block.samples), np.empty((1, 2, 96, 511), np.float32)
    held = hits = 0
    for start in np.arange(0, 16.6, 0.5):  # those that end within the 19.54 s
        if sum(max(0.0, min(end, start + 3) - max(begin, start)) for begin, end in songs) >= 1:
            opened.window(int(start * 48_000), x[0])
            held += 1
            hits += member.model.features(x)["logits"][0].argmax() == best
    assert held == 24
    assert hits >= 23


def test_dogs_and_roosters(whole: Bundle, audio: Path) -> None:
    from sklearn.metrics import roc_auc_score

    folders = sorted(path for path in (audio / "esc10").iterdir() if path.is_dir())
    engine = Engine(whole, EngineOptions(threads=2, chunk_s=5.0))
    scores, kinds = [], []
    for folder in folders:
        for result in engine.run([folder]):
            scores.append(result.logits.max(axis=0))
            kinds.append(folder.name)
    table, kind = np.array(scores), np.array(kinds)
    assert table.shape == (120, 6522)
    index = whole.taxonomy.index
    assert roc_auc_score(kind == "001_Dog_bark", table[:, index["Dog"]]) > 0.9995
    assert roc_auc_score(kind == "009_Rooster", table[:, index["Gallus gallus"]]) >= 0.98


def test_the_classes_of_birdclef(sliced: Bundle, shared: Path, capsys: pytest.CaptureFixture) -> None:
    from bce.export.commands.export import main

    columns = sliced.taxonomy.columns
    why, found = columns["source_why"], columns["source_class"]
    assert Counter(
        "name" if name and not w else "synonym" if w else "none" for name, w in zip(found, why, strict=True)
    ) == {
        "name": 157,
        "synonym": 5,
        "none": 72,
    }
    assert main(["--info", str(sliced.path)]) == 0
    said = capsys.readouterr().out
    assert "157 by scientific name, 5 by another, 72 that the source lacks" in said
    assert "Tyto furcata: Tyto alba (split: eBird taxonomy update 2024" in said
    assert "must not be passed on" in said
    assert "CC BY-NC-SA" in said


def test_every_synonym_is_a_label_and_no_name_of_its_own(model: Path) -> None:
    from bce.export.birdnet.classes import SYNONYMS, read_labels

    labels = read_labels(model.with_name(LABELS), 6522)
    for synonym in SYNONYMS:
        assert synonym.label in labels.index
        assert synonym.name not in labels.index


@pytest.mark.parametrize("variant", [float16, int8])
def test_rounded_files_are_converted_and_their_loss_is_stated(variant, model: Path, tmp_path: Path) -> None:
    from bce.export.commands.birdnet import export_birdnet
    from bce.export.commands.options import BirdnetOptions

    path = variant(model, tmp_path / "rounded.tflite")
    lines: list[str] = []
    made = export_birdnet(BirdnetOptions(path, tmp_path / "out", labels=model.with_name(LABELS)), lines.append)
    parity = (made.path / "parity.json").read_text()
    assert "lossy source" in parity
    assert variant.__name__ in parity
    assert any("none of those that are published" in line for line in lines)
    assert made.manifest.source.may_redistribute is False


def test_another_number_of_classes(model: Path, tmp_path: Path) -> None:
    from bce.export.commands.birdnet import export_birdnet
    from bce.export.commands.options import BirdnetOptions

    path, labels = with_classes(model, tmp_path / "few.tflite", 100), tmp_path / "few.txt"
    lines = model.with_name(LABELS).read_text(encoding="utf-8").splitlines()
    labels.write_text("\n".join(lines[:100]), encoding="utf-8")
    made = export_birdnet(BirdnetOptions(path, tmp_path / "out", labels=labels))
    assert len(made.classes) == 100
    with pytest.raises(Exception, match="names 6522 classes, the network has 100"):
        export_birdnet(BirdnetOptions(path, tmp_path / "other", labels=model.with_name(LABELS)))


@pytest.mark.parametrize("share", [0.001, 0.3, 0.9, 0.9999])
def test_files_that_are_cut_short_are_one_line(model: Path, tmp_path: Path, share: float) -> None:
    from bce.export.birdnet.sources import read_source

    with pytest.raises(ExportError) as caught:
        read_source(cut_short(model, tmp_path / "cut.tflite", share))
    assert "cut.tflite" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["options", "outputs", "input", "itself"])
def test_spoilt_operators_are_one_line_or_change_nothing(model: Path, tmp_path: Path, kind: str) -> None:
    """Whichever operator it is: one that is not followed, as a shape's, may be spoilt in peace."""
    from bce.export.birdnet.sources import read_source

    refused = []
    for seed in range(25):
        try:
            read_source(mutated(model, tmp_path / "spoilt.tflite", kind, seed))
        except ExportError as error:
            refused.append(error)
    assert len(refused) > 3
    assert {str(error.path) for error in refused} == {str(tmp_path / "spoilt.tflite")}
    assert not any("\n" in error.reason for error in refused)


def test_labels_in_another_order_are_told(model: Path, whole: Bundle) -> None:
    from bce.export.birdnet.classes import read_labels
    from bce.export.birdnet.published import are_published_labels

    lines = model.with_name(LABELS).read_text(encoding="utf-8").splitlines()
    assert are_published_labels(lines)
    assert not are_published_labels(lines[::-1])
    assert read_labels(model.with_name(LABELS), 6522).labels == whole.classes


def test_another_networks_file_is_one_line(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from bce.export.commands.export import main

    other = next(model.parent.glob("*MData*.tflite"))
    labels = str(model.with_name(LABELS))
    assert main(["--birdnet", str(other), "--birdnet-labels", labels, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "is not BirdNET v2.4" in error
    assert "expected float32 [batch, 144000]" in error
    assert not (tmp_path / "out").exists()


def test_a_run_says_whose_scores_they_are(sliced: Bundle, audio: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    """The notice on the screen and in the report; confidences unless smoothing is asked for; five-second rows."""
    table, report = tmp_path / "t.csv", tmp_path / "r.json"
    recording = audio / "misc" / "birdnet_soundscape.flac"
    arguments = ["--bundle", str(sliced.path), "--chunk", "5", "--threads", "2", "--report", str(report)]
    assert cli.main([*arguments, "--out", str(table), str(recording)]) == 0
    assert "CC BY-NC-SA" in capsys.readouterr().err
    assert "CC BY-NC-SA" in report.read_text()
    assert cli.main([*arguments, "--out", str(tmp_path / "t.parquet"), "--quiet", str(recording)]) == 0
    assert b"CC BY-NC-SA" in pq.read_schema(tmp_path / "t.parquet").metadata[b"notice"]
    with open(table, newline="") as stream:
        header, *rows = csv.reader(stream)
    assert tuple(header[1:]) == sliced.classes
    assert [row[0].rpartition("_")[2] for row in rows] == [str(end) for end in range(5, 121, 5)]
    member = Member(sliced, grid=ChunkGrid(5.0))
    assert member.offsets_s == (0.0, 1.0, 2.0)
    expected = probabilities(logits_of(sliced, recording, chunk_s=5.0))
    np.testing.assert_allclose(np.array([row[1:] for row in rows], float), expected, atol=1e-6)


def test_kernels_give_the_same_numbers(whole: Bundle, windows: dict[str, Array]) -> None:
    """Compiled for this CPU in float32, and in bfloat16 near enough for all that reads scores."""
    target = host()
    trusted = Member(whole, backend="onnxruntime")
    precisions = ("fp32", "bf16") if target.bf16 else ("fp32",)
    forms = {precision: Member(whole, precision, "compiled") for precision in precisions}
    expected: list[Array] = []
    found: dict[str, list[Array]] = {name: [] for name in forms}
    x = np.empty((1, 2, 96, 511), np.float32)
    for window in (window for recording in windows.values() for window in recording):
        trusted.frontend.open(window).window(0, x[0])
        expected.append(trusted.model.features(x)["logits"][0])
        for name, member in forms.items():
            found[name].append(member.model.features(x)["logits"][0])
    want, exact = np.array(expected), np.array(found["fp32"])
    assert (np.linalg.norm(exact - want, axis=1) < 1e-5 * np.linalg.norm(want, axis=1)).all()
    if "bf16" in forms:
        low = np.array(found["bf16"])
        ranks = [spearmanr(a, b).statistic for a, b in zip(want, low, strict=True)]
        assert np.mean(ranks) > 0.999
        assert (want.argmax(axis=1) == low.argmax(axis=1)).mean() >= 0.98
        assert np.abs(probabilities(want) - probabilities(low)).max() < 0.1

"""BirdNET's range model: the published file against LiteRT, other forms of it, and what a place does to a run."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tflite_variants import cut_short, float32, with_activation

from bce.engine import Bundle
from bce.engine.commands import infer as cli
from bce.engine.errors import ExportError, ParityError
from bce.engine.post.range_model import RANGE, Dense, RangeModel, week_of

pytest.importorskip("torch")

LABELS = "BirdNET_GLOBAL_6K_V2.4_Labels.txt"
ITHACA = "42.5,-76.5"


@pytest.fixture(scope="module")
def published(model: Path) -> Path:
    from bce.export.birdnet.locate import locate

    found = locate(model).range_model
    if found is None:
        pytest.skip("no range model lies beside BirdNET's file")
    return found


@pytest.fixture(scope="module")
def ranges(published: Path) -> RangeModel:
    from bce.export.birdnet.range_model import read_range_model

    return read_range_model(published)


@pytest.fixture(scope="module")
def litert(published: Path) -> Callable[[float, float, int], Any]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(published))
    interpreter.allocate_tensors()
    entry, out = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def run(latitude: float, longitude: float, week: int) -> Any:
        interpreter.set_tensor(entry, np.array([[latitude, longitude, week]], np.float32))
        interpreter.invoke()
        return interpreter.get_tensor(out)[0]

    return run


@pytest.fixture(scope="module")
def names(model: Path) -> list[str]:
    lines = model.with_name(LABELS).read_text(encoding="utf-8").splitlines()
    return [line.partition("_")[0] for line in lines]


def test_probabilities_are_the_files_own(ranges: RangeModel, litert: Callable[[float, float, int], Any]) -> None:
    rng = np.random.default_rng(1)
    assert ranges.classes == 6522
    for week in (-1, *range(1, 49)):
        for _ in range(4):
            latitude, longitude = float(rng.uniform(-90, 90)), float(rng.uniform(-180, 180))
            expected = litert(latitude, longitude, week)
            np.testing.assert_allclose(ranges.probabilities(latitude, longitude, week), expected, atol=1e-5, rtol=0)


def test_its_own_proof(ranges: RangeModel, published: Path) -> None:
    from bce.export.birdnet.published import published_name
    from bce.export.birdnet.range_model import prove_range_model

    assert 0 < prove_range_model(ranges, published) <= 1e-5
    from bce.engine.files import sha256

    assert published_name(sha256(published)) == "BirdNET_GLOBAL_6K_V2.4_MData_Model_V2_FP16.tflite"
    *dense, last = ranges.layers
    other = last.bias.copy()
    other[0] += 0.01
    moved = RangeModel(
        ranges.offsets, ranges.factors, ranges.turn, ranges.phases, ranges.gain, (*dense, Dense(last.kernel, other))
    )
    with pytest.raises(ParityError, match="range model: probabilities differ by"):
        prove_range_model(moved, published)
    with pytest.raises(ParityError, match="gives"):
        prove_range_model(ranges.cut([0, 1]), published)


def test_the_birds_of_the_pantanal(
    ranges: RangeModel, litert: Callable[[float, float, int], Any], names: list[str], shared: Path
) -> None:
    with open(shared / "data" / "official_csv" / "taxonomy.csv", newline="", encoding="utf-8") as stream:
        wanted = {row["scientific_name"] for row in csv.DictReader(stream)}
    birds = np.array([name in wanted for name in names])
    assert birds.sum() == 157
    for latitude, longitude, those, all_species in ((-16.5, -56.5, 152, 1142), (-19.5, -56.5, 153, 1015)):
        p, expected = ranges.probabilities(latitude, longitude), litert(latitude, longitude, -1)
        assert (p[birds] >= 0.03).sum() == (expected[birds] >= 0.03).sum() == those
        assert (p >= 0.03).sum() == (expected >= 0.03).sum() == all_species


def test_what_it_was_never_shown_is_not_absent(ranges: RangeModel, names: list[str]) -> None:
    """Noises, frogs, insects and mammals are unlikely everywhere to it; birds are not."""
    from bce.export.birdnet.range_model import learnt

    known = dict(zip(names, learnt(ranges).tolist(), strict=True))
    assert sum(not value for value in known.values()) == 172
    for name in ("Dog", "Noise", "Human vocal", "Siren", "Lithobates catesbeianus", "Gryllus rubens", "Canis lupus"):
        assert not known[name], name
    for name in ("Turdus merula", "Clamator coromandus", "Aptenodytes patagonicus", "Poecile atricapillus"):
        assert known[name], name


def test_a_file_in_float32_is_the_same_model(ranges: RangeModel, published: Path, tmp_path: Path) -> None:
    """As the package `birdnet` keeps it: no operators that widen."""
    from bce.export.birdnet.range_model import prove_range_model, read_range_model
    from bce.export.readers.tflite_graph import TfliteGraph

    path = float32(published, tmp_path / "meta-model.tflite")
    assert not any(op.name == "DEQUANTIZE" for op in TfliteGraph(path).operators)
    found = read_range_model(path)
    for one, other in zip(found.layers, ranges.layers, strict=True):
        np.testing.assert_array_equal(one.kernel, other.kernel)
    np.testing.assert_array_equal(found.probabilities(1, 2, 3), ranges.probabilities(1, 2, 3))
    assert prove_range_model(found, path) <= 1e-5


def test_other_networks_are_named_by_what_differs(model: Path, published: Path, tmp_path: Path) -> None:
    from bce.export.birdnet.range_model import read_range_model

    with pytest.raises(ExportError, match=r"is not BirdNET's range model: input: expected float32 \[1, 3\]"):
        read_range_model(model)
    for number in (1, 4):
        path = with_activation(published, tmp_path / "other.tflite", number)
        with pytest.raises(ExportError, match=f"dense layer {number}: expected"):
            read_range_model(path)
    with pytest.raises(ExportError, match="cannot be read"):
        read_range_model(tmp_path / "none.tflite")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.9999])
def test_files_that_are_cut_short_are_one_line(published: Path, tmp_path: Path, share: float) -> None:
    from bce.export.birdnet.range_model import read_range_model

    with pytest.raises(ExportError) as caught:
        read_range_model(cut_short(published, tmp_path / "cut.tflite", share))
    assert "cut.tflite" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bundles_have_it(whole: Bundle, sliced: Bundle, ranges: RangeModel, capsys: pytest.CaptureFixture[str]) -> None:
    from bce.export.commands.export import main

    all_of_them, part = (RangeModel.load(bundle.path / RANGE) for bundle in (whole, sliced))
    expected = ranges.probabilities(-19.5, -56.5, 40)
    found = all_of_them.probabilities(-19.5, -56.5, 40)
    np.testing.assert_array_equal(found[all_of_them.known], expected[all_of_them.known])
    assert all_of_them.known.sum() == 6350
    cut = dict(zip(sliced.taxonomy.scientific_names, part.probabilities(-19.5, -56.5, 40), strict=True))
    sources = dict(zip(sliced.taxonomy.scientific_names, sliced.taxonomy.columns["source_class"], strict=True))
    for name, value in cut.items():
        source = sources[name]
        if source and source != "Dog":
            assert value == pytest.approx(expected[whole.taxonomy.index[source]], abs=1e-6)
        else:
            assert np.isnan(value)
    assert (whole.path / RANGE).stat().st_size < 14.9e6
    assert main(["--info", str(sliced.path)]) == 0
    assert "range.npz" in capsys.readouterr().out


def test_it_may_be_left_out(model: Path, published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from bce.export.commands.export import main

    labels = ["--birdnet-labels", str(model.with_name(LABELS))]
    bare = tmp_path / "bare"
    assert main(["--birdnet", str(model), *labels, "--range-model", "none", "--out", str(bare)]) == 0
    assert not (bare / RANGE).exists()
    capsys.readouterr()
    assert main(["--birdnet", str(model), *labels, "--range-model", str(model), "--out", str(tmp_path / "b")]) == 2
    assert "is not BirdNET's range model" in capsys.readouterr().err
    assert main(["--perch", "x.onnx", "--range-model", str(published), "--out", str(tmp_path / "b")]) == 2
    assert "--range-model is for --birdnet" in capsys.readouterr().err


def test_a_bird_of_another_continent_is_masked(whole: Bundle, shared: Path, tmp_path: Path) -> None:
    """The chestnut-winged cuckoo lives in South Asia; BirdNET hears one in a soundscape of New York State."""
    audio = shared / "data" / "audio" / "misc" / "birdnet_soundscape.flac"

    def heard(*flags: str) -> list[tuple[str, str]]:
        out = tmp_path / "detections.csv"
        command = ["--bundle", str(whole.path), "--threads", "2", "--threshold", "0.1", "--quiet"]
        assert cli.main([*command, "--detections", str(out), *flags, str(audio)]) == 0
        with open(out, newline="", encoding="utf-8") as stream:
            return [tuple(row.values()) for row in csv.DictReader(stream)]  # type: ignore[misc]

    everywhere, here = heard(), heard("--place", ITHACA)
    cuckoos = [row for row in everywhere if "Clamator coromandus" in row]
    assert cuckoos
    assert not any("Clamator coromandus" in row for row in here)
    assert any("Poecile atricapillus" in row for row in here)
    assert set(here) < set(everywhere)  # what is left has the score that it had
    ranges = RangeModel.load(whole.path / RANGE)
    p = dict(zip(whole.taxonomy.scientific_names, ranges.probabilities(42.5, -76.5, week_of(None)), strict=True))
    assert all(any(p.get(field, 1) < 0.03 for field in row) for row in set(everywhere) - set(here))

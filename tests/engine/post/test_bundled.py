"""What a bundle brings for the post-processing of its scores, and what a run says of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("onnx", reason="the tiny bundle's graphs are written with onnx")

from support import tiny_bundle as tiny
from support.sounds import write_sound

from bce.engine.commands.infer import main
from bce.engine.network.bundle import Bundle
from bce.engine.post.bundled import bundle_postprocessor, bundled_priors, postprocess_options
from bce.engine.post.options import PostprocessOptions, kept_values

BROUGHT = "of these the bundle brings: "


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("tiny") / "bundle"
    tiny.write_files(folder)
    tiny.seal(folder)
    return Bundle.load(folder)


def test_its_tuned_values_are_the_defaults_of_a_run(bundle: Bundle) -> None:
    options = postprocess_options(bundle)
    assert options == PostprocessOptions(sigma=2.0, taxonomy=(("genus", 0.1),), exclude=("Dus",))
    assert bundle_postprocessor(bundle, options).describe() == [
        "prior: strength 0.5 at sites with labels, 0.5 at others (2 sites, 3 labelled windows)",
        "Gaussian: sigma 2 chunks, on logits",
        "taxonomy: genus 0.1, without Dus, on probabilities",
        BROUGHT + "sigma 2.0, taxonomy genus=0.1, exclude Dus",
    ]


def test_what_a_run_has_of_its_own_is_not_called_the_bundles(bundle: Bundle) -> None:
    options = replace(postprocess_options(bundle), sigma=1.0, exclude=())
    assert bundle_postprocessor(bundle, options).describe()[-1] == BROUGHT + "taxonomy genus=0.1"
    assert not any(BROUGHT in line for line in bundle_postprocessor(bundle, PostprocessOptions.raw()).describe())


def test_with_all_off_nothing_is_called_the_bundles() -> None:
    values = {"sigma": 1.0, "taxonomy": {}, "exclude": []}
    assert kept_values(values, PostprocessOptions.raw()) == ()
    assert kept_values(values, PostprocessOptions(taxonomy=())) == ("sigma 1.0", "taxonomy none")


def test_priors_that_are_given_stand_in_for_its_own(bundle: Bundle, tmp_path: Path) -> None:
    own = bundled_priors(bundle)
    assert own is not None
    assert own.classes == tiny.CLASSES
    assert own.path == bundle.path / "priors.npz"
    own.without(own).save(tmp_path / "none.npz")
    line = bundle_postprocessor(bundle, postprocess_options(bundle), tmp_path / "none.npz").describe()[0]
    assert "(2 sites, 0 labelled windows)" in line


def test_a_run_says_what_the_bundle_brings(bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    audio = write_sound(tmp_path / "a.wav", 2.0, 1, tiny.RATE)
    command = ["--bundle", str(bundle.path), "--threads", "1", "--out", str(tmp_path / "s.csv"), str(audio)]
    assert main([*command, "--sigma", "1"]) == 0
    assert BROUGHT + "taxonomy genus=0.1, exclude Dus" in capsys.readouterr().err

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter1d

from bce.engine.errors import BundleError, OptionsError, TableError
from bce.engine.geometry import ChunkGrid
from bce.engine.post.options import (
    PostprocessOptions,
    parse_prior_strength,
    parse_sigma,
    parse_taxonomy_smoothing,
    tuned_options,
)
from bce.engine.post.postprocessor import Postprocessor
from bce.engine.post.priors import Priors
from bce.engine.post.steps import Groups, add_prior, gaussian_weights, postprocess, smooth_taxonomy, smooth_time
from bce.engine.recording import Recording
from bce.engine.results import Outcome, Part
from bce.engine.taxonomy import Taxonomy

DTYPES = st.sampled_from([np.float32, np.float64])
GRID = ChunkGrid(5.0)
LENGTHS = st.lists(st.integers(0, 9), min_size=1, max_size=5)


def offsets_of(lengths: list[int]) -> np.ndarray:
    return np.cumsum([0, *lengths]).astype(np.int64)


def tolerance(dtype: type) -> float:
    return 1e-5 if dtype == np.float32 else 1e-12


@settings(max_examples=80, deadline=None)
@given(LENGTHS, st.integers(1, 6), st.floats(0.05, 12.0), DTYPES, st.integers(0, 2**32 - 1))
def test_gaussian_is_scipys_and_the_plain_one(
    plain: ModuleType, lengths: list[int], classes: int, sigma: float, dtype: type, seed: int
) -> None:
    offsets = offsets_of(lengths)
    scores = np.random.default_rng(seed).normal(size=(offsets[-1], classes), scale=4).astype(dtype)
    out = smooth_time(scores, offsets, sigma)
    assert out.dtype == dtype
    np.testing.assert_allclose(out, plain.gaussian(scores, offsets, sigma), atol=10 * tolerance(dtype))
    for first, end in pairwise(offsets):
        if end > first:
            expected = gaussian_filter1d(scores[first:end].astype(np.float64), sigma, axis=0, mode="nearest")
            np.testing.assert_allclose(out[first:end], expected, atol=10 * tolerance(dtype))


def test_gaussian_keeps_a_constant_and_a_single_chunk() -> None:
    constant = np.full((7, 2), 3.25)
    np.testing.assert_allclose(smooth_time(constant, np.array([0, 6, 7]), 1.0), constant, rtol=1e-15)


def test_gaussian_takes_any_layout() -> None:
    scores = np.random.default_rng(0).normal(size=(4, 12)).T
    expected = smooth_time(np.ascontiguousarray(scores), np.array([0, 12]), 1.0)
    np.testing.assert_array_equal(smooth_time(scores, np.array([0, 12]), 1.0), expected)


@pytest.mark.parametrize("sigma", [1e-300, 0.1, 1.0, 100.0])
def test_weights_sum_to_one(sigma: float) -> None:
    weights = gaussian_weights(sigma)
    assert len(weights) % 2 == 1
    assert weights.sum() == pytest.approx(1)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.sampled_from("abcde"), min_size=1, max_size=8),
    st.sets(st.sampled_from("ab")),
    st.floats(0, 1),
    st.integers(0, 6),
    DTYPES,
    st.integers(0, 2**32 - 1),
)
def test_taxonomy_is_the_plain_one(
    plain: ModuleType, names: list[str], exclude: set[str], amount: float, rows: int, dtype: type, seed: int
) -> None:
    scores = np.random.default_rng(seed).random((rows, len(names))).astype(dtype)
    columns = {"primary_label": [str(i) for i in range(len(names))], "scientific_name": names}
    ids = Taxonomy.from_columns(columns).groups("genus", exclude)
    before = scores.copy()
    out = smooth_taxonomy(scores, [Groups.of(ids, amount)])
    np.testing.assert_allclose(out, plain.taxonomy(scores, names, amount, exclude), atol=tolerance(dtype))
    np.testing.assert_array_equal(scores, before)
    for c, name in enumerate(names):
        if names.count(name) == 1 or name in exclude:
            np.testing.assert_array_equal(out[:, c], scores[:, c])


@pytest.fixture(scope="module")
def taxonomy() -> Taxonomy:
    return Taxonomy.from_columns(
        {
            "primary_label": ("a", "b", "c", "d", "e"),
            "scientific_name": ("Rana alba", "Rana nigra", "Avis alba", "Insect son01", "Insect son02"),
            "class_name": ("Amphibia", "Amphibia", "Aves", "Insecta", "Insecta"),
        }
    )


@pytest.fixture(scope="module")
def labelled() -> list[tuple[str, int, set[int]]]:
    rng = np.random.default_rng(1)
    return [
        (str(rng.choice(["S1", "S2"])), int(rng.choice([3, 4, 20])), set(np.flatnonzero(rng.random(5) < 0.4).tolist()))
        for _ in range(60)
    ]


@pytest.fixture(scope="module")
def priors(labelled: list[tuple[str, int, set[int]]]) -> Priors:
    present = np.array([[c in labels for c in range(5)] for _, _, labels in labelled])
    return Priors.count("abcde", present, [s for s, _, _ in labelled], [h for _, h, _ in labelled])


def recording(site: str | None, minute: int = 30) -> Recording:
    start = None if site is None else datetime(2025, 1, 1, 3, minute, 58, tzinfo=UTC)
    return Recording(Path("r.ogg"), "r", 1, site, start)


def whole(rec: Recording, logits: np.ndarray) -> Part:
    """A recording in one part."""
    return Part(rec, 0, logits, outcome=Outcome(status="ok"))


@pytest.mark.parametrize(("site", "strength"), [("S1", 0.5), ("S9", 0.2), (None, 0.2)])
def test_whole_recording_is_the_plain_pipeline(
    plain: ModuleType,
    taxonomy: Taxonomy,
    priors: Priors,
    labelled: list[tuple[str, int, set[int]]],
    site: str | None,
    strength: float,
) -> None:
    logits = np.random.default_rng(2).normal(size=(30, 5), scale=3).astype(np.float32)
    start_s = np.arange(30) * 5
    rec = recording(site, minute=59)
    processed = Postprocessor(PostprocessOptions(prior_unknown=0.2), taxonomy, GRID, priors).add(whole(rec, logits))
    hours = [plain.chunk_hour(rec.start_time, s) for s in start_s]
    log_odds = np.array([plain.prior_log_odds(labelled, 5, site, hour) for hour in hours])
    groups = [(["R", "R", "A", "I", "I"], 0.15), (taxonomy.class_names, 0.05)]
    np.testing.assert_allclose(processed.scores, plain.pipeline(logits, log_odds, strength, 1.0, groups), atol=1e-12)
    assert processed.scores.dtype == np.float64
    assert sum(processed.prior.values()) == 30
    assert len(processed.prior) == 1
    assert len(set(hours)) == (1 if site is None else 2)


def test_ragged_batch_is_each_recording_alone(taxonomy: Taxonomy) -> None:
    rng = np.random.default_rng(3)
    offsets = offsets_of([1, 12, 0, 5])
    logits = rng.normal(size=(18, 5))
    boost = (rng.normal(size=(4, 5)), rng.integers(0, 4, 18).astype(np.int32))
    groups = [Groups.of(taxonomy.groups("class"), 0.3)]
    table, row = boost
    whole = postprocess(add_prior(logits, table, row), offsets, PostprocessOptions(), groups)
    for first, end in pairwise(offsets):
        alone = add_prior(logits[first:end], table, row[first:end])
        np.testing.assert_array_equal(alone, logits[first:end] + table[row[first:end]])
        own = postprocess(alone, np.array([0, end - first]), PostprocessOptions(), groups)
        np.testing.assert_array_equal(whole[first:end], own)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=6),
    st.floats(0.0, 4.0),
    st.sampled_from(["logits", "probabilities"]),
    st.integers(0, 2**32 - 1),
)
def test_scores_are_the_same_however_a_recording_is_cut(
    taxonomy: Taxonomy, priors: Priors, lengths: list[int], sigma: float, smooth_on: str, seed: int
) -> None:
    lengths = [max(1, lengths[0]), *lengths[1:]] if len(lengths) > 1 else lengths
    options = PostprocessOptions(sigma=sigma, smooth_on=smooth_on)  # type: ignore[arg-type]
    logits = np.random.default_rng(seed).normal(size=(sum(lengths), 5), scale=3).astype(np.float32)
    rec, processor = recording("S1", minute=59), Postprocessor(options, taxonomy, GRID, priors)
    expected = processor.add(whole(rec, logits))
    edges = offsets_of(lengths).tolist()
    for _ in range(2):  # nothing of the first recording is left for the second
        cut = []
        for number, (first, end) in enumerate(pairwise(edges), start=1):
            outcome = Outcome(status="ok") if number == len(lengths) else None
            cut.append(processor.add(Part(rec, first, logits[first:end], outcome=outcome)))
        assert [part.first_chunk for part in cut] == np.cumsum([0, *(len(p.scores) for p in cut)])[:-1].tolist()
        np.testing.assert_array_equal(np.concatenate([part.scores for part in cut]), expected.scores)
        assert cut[-1].prior == expected.prior
        assert all(part.outcome is None for part in cut[:-1])


def test_a_bundle_brings_values_that_it_was_tuned_to() -> None:
    assert tuned_options({}) == PostprocessOptions()
    values = {"sigma": 2, "taxonomy": {"class": 0.1, "genus": 0.2}, "exclude": ["Insect"], "smooth_on": "probabilities"}
    expected = PostprocessOptions(
        sigma=2, taxonomy=(("genus", 0.2), ("class", 0.1)), exclude=("Insect",), smooth_on="probabilities"
    )
    assert tuned_options(values) == expected
    for wrong, says in [
        ({"sigmas": 1}, "has the unknown field 'post.sigmas'"),
        ({"sigma": -1}, "field 'post': sigma is -1"),
        ({"sigma": "wide"}, "field 'post.sigma' is 'wide', expected a number"),
        ({"sigma": True}, "field 'post.sigma' is True, expected a number"),
        ({"smooth_on": 1}, "field 'post.smooth_on' is 1, expected a text"),
        ({"exclude": "Insect"}, "field 'post.exclude' is 'Insect', expected a list of texts"),
        ({"exclude": [["Insect"]]}, "expected a list of texts"),
        ({"taxonomy": {"order": 0.1}}, "field 'post': taxonomy smoothing names order"),
        ({"taxonomy": 3}, "field 'post.taxonomy' is 3, expected an object of amounts by level"),
        ({"taxonomy": {"genus": "much"}}, "expected an object of amounts by level"),
    ]:
        with pytest.raises(BundleError, match=says):
            tuned_options(wrong)


def test_smoothing_probabilities(plain: ModuleType) -> None:
    logits = np.random.default_rng(4).normal(size=(12, 3), scale=4)
    out = postprocess(logits, np.array([0, 12]), PostprocessOptions(smooth_on="probabilities"))
    np.testing.assert_allclose(out, plain.gaussian(plain.sigmoid(logits), [0, 12], 1.0), atol=1e-12)


def test_raw_is_the_sigmoid_and_leaves_the_logits(plain: ModuleType, taxonomy: Taxonomy, priors: Priors) -> None:
    logits = np.random.default_rng(5).normal(size=(3, 5)).astype(np.float32)
    before = logits.copy()
    raw = Postprocessor(PostprocessOptions.raw(), taxonomy, GRID, priors)
    processed = raw.add(whole(recording("S1"), logits))
    np.testing.assert_allclose(processed.scores, plain.sigmoid(logits), rtol=1e-12)
    np.testing.assert_array_equal(logits, before)
    assert processed.prior == {}
    assert raw.describe() == ["prior: off", "Gaussian: off", "taxonomy: off"]


def test_says_what_runs(taxonomy: Taxonomy, priors: Priors) -> None:
    lines = Postprocessor(PostprocessOptions(prior_unknown=0.2, exclude=("Insect",)), taxonomy, GRID, priors).describe()
    assert lines == [
        "prior: strength 0.5 at sites with labels, 0.2 at others (2 sites, 60 labelled windows)",
        "Gaussian: sigma 1 chunks, on logits",
        "taxonomy: genus 0.15, class 0.05, without Insect, on probabilities",
    ]


def test_steps_without_what_they_need_are_left_out_unless_asked_for() -> None:
    bare = Taxonomy.from_columns({"primary_label": ["a", "b"], "scientific_name": ["X a", "X b"]})
    processor = Postprocessor(PostprocessOptions(), bare, GRID)
    assert processor.describe()[0] == "prior: off (there are no priors (the bundle has none, none were given))"
    assert processor.describe()[2] == "taxonomy: genus 0.15, on probabilities (the class table has no class column)"
    with pytest.raises(OptionsError, match="cannot run the prior step that was asked for: there are no priors"):
        Postprocessor(PostprocessOptions(), bare, GRID, required=["prior"])
    with pytest.raises(OptionsError, match="the class table has no class column"):
        Postprocessor(PostprocessOptions(), bare, GRID, required=["taxonomy"])


def test_priors_of_other_classes_are_refused(taxonomy: Taxonomy) -> None:
    other = Priors.count(("a", "b"), np.ones((1, 2), dtype=bool), ["S1"], [3])
    with pytest.raises(TableError, match="do not know the class 'c'"):
        Postprocessor(PostprocessOptions(), taxonomy, GRID, other)


def test_excluding_nobody_is_refused(taxonomy: Taxonomy) -> None:
    with pytest.raises(OptionsError, match="cannot exclude 'Insekt'"):
        Postprocessor(PostprocessOptions(exclude=("Insekt",)), taxonomy, GRID)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PostprocessOptions(prior_known=-0.1), r"prior strength known is -0.1, expected 0 \(off\) to 10"),
        (lambda: PostprocessOptions(prior_unknown=float("nan")), "prior strength unknown is nan"),
        (lambda: PostprocessOptions(sigma=-1), r"sigma is -1, expected 0 \(off\) to 100"),
        (lambda: PostprocessOptions(sigma=float("inf")), "sigma is inf"),
        (lambda: PostprocessOptions(smooth_on="ranks"), "smooth-on is 'ranks'"),  # type: ignore[arg-type]
        (lambda: PostprocessOptions(taxonomy=(("genus", 1.5),)), "taxonomy smoothing genus is 1.5"),
        (lambda: PostprocessOptions(taxonomy=(("class", 0.1), ("genus", 0.1))), "expected genus, family, class"),
        (lambda: parse_prior_strength("half"), "prior strength 'half' is not a number"),
        (lambda: parse_prior_strength("known=0.5"), "must name known and unknown"),
        (lambda: parse_prior_strength("known=0.5,known=0.2"), "names known twice"),
        (lambda: parse_prior_strength("known=0.5,unknown"), "is incomplete"),
        (lambda: parse_taxonomy_smoothing("order=0.1"), "names 'order'"),
        (lambda: parse_taxonomy_smoothing("0.1"), "is incomplete"),
        (lambda: parse_taxonomy_smoothing(""), "is incomplete"),
        (lambda: parse_sigma("wide"), "sigma 'wide' is not a number"),
    ],
)
def test_bad_options(make: Callable[[], object], message: str) -> None:
    with pytest.raises(OptionsError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_option_texts() -> None:
    assert parse_prior_strength("0.5") == (0.5, 0.5)
    assert parse_prior_strength("unknown=0.2, known=0.5") == (0.5, 0.2)
    assert parse_prior_strength("none") == (0.0, 0.0)
    assert parse_taxonomy_smoothing("class=0.05,genus=0.15") == (("genus", 0.15), ("class", 0.05))
    assert parse_taxonomy_smoothing("none") == ()
    assert parse_sigma("none") == 0.0
    assert parse_sigma("1.5") == 1.5


def test_options_do_not_wait_for_numba() -> None:
    imports = "bce.engine.post.options, bce.engine.post.postprocessor, bce.engine.commands.blend"
    code = f"import sys, {imports}; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""The range model's step of post-processing, against loops over chunks and classes."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.ranges import plain_probabilities, seeded_range_model

from bce.engine.errors import BundleError, OptionsError
from bce.engine.geometry import ChunkGrid
from bce.engine.post.deployments import Deployment, Deployments, Place
from bce.engine.post.options import PostprocessOptions, tuned_options
from bce.engine.post.postprocessor import Postprocessor
from bce.engine.post.ranges import RangeBasis, Ranges
from bce.engine.recording import Recording
from bce.engine.results import Outcome, Part
from bce.engine.taxonomy import Taxonomy

GRID = ChunkGrid(5.0)
NAMES = ["Rana a", "Rana b", "Rana c", "Avis a", "Avis b", "Sola a", "Avis c", "Rana d"]
CLASSES = ["Amphibia", "Amphibia", "Amphibia", "Aves", "Aves", "Aves", "Aves", "Amphibia"]
GENERA = [name.split()[0] for name in NAMES]
UNKNOWN = 4
"""The class that the model does not know."""
PLACE = Place(46.5, 6.2)
JUNE = datetime(2025, 6, 20, 3, 0, 0, tzinfo=UTC)
THRESHOLD = 0.5


@pytest.fixture(scope="module")
def taxonomy() -> Taxonomy:
    labels = [f"c{number}" for number in range(len(NAMES))]
    return Taxonomy.from_columns({"primary_label": labels, "scientific_name": NAMES, "class_name": CLASSES})


WHOLE = seeded_range_model(len(NAMES), seed=5)
MODEL = WHOLE.cut([-1 if number == UNKNOWN else number for number in range(len(NAMES))])


def recording(time: datetime | None = JUNE, site: str | None = "S1") -> Recording:
    return Recording(Path("r.ogg"), "r", 1, site, time)


def whole(rec: Recording, logits: np.ndarray) -> Part:
    return Part(rec, 0, logits, outcome=Outcome(status="ok"))


def masked_by_hand(week: int) -> list[bool]:
    p = plain_probabilities(WHOLE, PLACE.latitude, PLACE.longitude, week)
    return [number != UNKNOWN and value < THRESHOLD for number, value in enumerate(p)]


def loops(logits: np.ndarray, masked: list[bool], sigma: float, amounts: dict[str, float]) -> np.ndarray:
    """Gaussian, sigmoid, taxonomy without those that are masked; one number after the other."""
    chunks, classes = logits.shape
    radius = int(4 * sigma + 0.5)
    weights = [math.exp(-0.5 * (k / sigma) ** 2) for k in range(-radius, radius + 1)] if sigma else [1.0]
    out = np.zeros((chunks, classes))
    for t in range(chunks):
        for c in range(classes):
            near = [float(logits[min(max(t + k, 0), chunks - 1), c]) for k in range(-radius, radius + 1)]
            mean = sum(w * x for w, x in zip(weights, near, strict=True)) / sum(weights)
            out[t, c] = 0.0 if masked[c] else 1 / (1 + math.exp(-mean))
    for level in ("genus", "class"):
        names, before = {"genus": GENERA, "class": CLASSES}[level], out.copy()
        for t in range(chunks):
            for c in range(classes):
                relatives = [o for o in range(classes) if names[o] == names[c] and not masked[o]]
                if not masked[c] and len(relatives) > 1:
                    mean = sum(before[t, o] for o in relatives) / len(relatives)
                    out[t, c] = (1 - amounts[level]) * before[t, c] + amounts[level] * mean
    return out


@pytest.mark.parametrize(("time", "week"), [(JUNE, 23), (None, -1)])
@pytest.mark.parametrize("sigma", [0.0, 1.0])
def test_masked_classes_are_not_there(taxonomy: Taxonomy, time: datetime | None, week: int, sigma: float) -> None:
    options = PostprocessOptions(sigma=sigma, range_threshold=THRESHOLD)
    logits = np.random.default_rng(1).normal(size=(9, len(NAMES)), scale=4).astype(np.float32)
    masked = masked_by_hand(week)
    assert 2 <= sum(masked) <= 5
    processor = Postprocessor(options, taxonomy, GRID, required=["range"], ranges=Ranges(MODEL, PLACE))
    found = processor.add(whole(recording(time), logits))
    expected = loops(logits, masked, sigma, dict(options.taxonomy))
    np.testing.assert_allclose(found.scores, expected, atol=1e-12)
    gone, there = found.scores[:, masked], found.scores[:, ~np.array(masked)]
    assert (gone == 0).all()
    assert there.min() > 0
    assert found.range == RangeBasis(46.5, 6.2, None if week == -1 else week, sum(masked))


def test_nothing_lifts_a_masked_class_and_it_pulls_nobody(taxonomy: Taxonomy) -> None:
    options = PostprocessOptions(range_threshold=THRESHOLD)
    masked = np.array(masked_by_hand(23))
    ranges = Ranges(MODEL, PLACE)
    rng = np.random.default_rng(2)
    quiet = rng.normal(size=(12, len(NAMES))).astype(np.float32)
    loud = np.where(masked, np.float32(30), quiet)
    one, other = (
        Postprocessor(options, taxonomy, GRID, ranges=ranges).add(whole(recording(), logits)).scores
        for logits in (quiet, loud)
    )
    np.testing.assert_array_equal(one, other)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.1, 10), st.integers(0, 2**32 - 1))
def test_a_prior_adds_the_log_odds(plain: ModuleType, taxonomy: Taxonomy, strength: float, seed: int) -> None:
    options = PostprocessOptions(range_mode="prior", range_strength=strength)
    logits = np.random.default_rng(seed).normal(size=(6, len(NAMES)), scale=3).astype(np.float32)
    found = Postprocessor(options, taxonomy, GRID, ranges=Ranges(MODEL, PLACE)).add(whole(recording(), logits))
    p = plain_probabilities(WHOLE, PLACE.latitude, PLACE.longitude, 23)
    clipped = [min(max(value, 1e-4), 1 - 1e-4) for value in p]
    log_odds = [0.0 if n == UNKNOWN else math.log(value / (1 - value)) for n, value in enumerate(clipped)]
    groups = [(GENERA, 0.15), (CLASSES, 0.05)]
    expected = plain.pipeline(logits, np.array([log_odds] * 6), strength, 1.0, groups)
    np.testing.assert_allclose(found.scores, expected, atol=2e-4)  # the model is float32, log-odds are up to 92
    assert found.range == RangeBasis(46.5, 6.2, 23, 0)


def test_log_odds_are_bounded(taxonomy: Taxonomy) -> None:
    sure = seeded_range_model(len(NAMES), seed=5)
    last = sure.layers[-1]
    last.bias[:] = np.where(np.arange(len(NAMES)) % 2, 80, -200)
    found = Ranges(sure, PLACE).of(recording(), PostprocessOptions(range_mode="prior"))
    assert found.log_odds is not None
    np.testing.assert_allclose(np.abs(found.log_odds), math.log((1 - 1e-4) / 1e-4), rtol=1e-9)
    assert (np.sign(found.log_odds) == np.where(np.arange(len(NAMES)) % 2, 1, -1)).all()


def test_each_recording_has_its_own_place(taxonomy: Taxonomy, tmp_path: Path) -> None:
    there = (Deployment("S1", PLACE), Deployment("S2", Place(-19.5, -56.5)))
    options = PostprocessOptions(range_threshold=THRESHOLD)
    processor = Postprocessor(options, taxonomy, GRID, ranges=Ranges(MODEL, Deployments(there, tmp_path / "d.csv")))
    logits = np.random.default_rng(3).normal(size=(4, len(NAMES))).astype(np.float32)
    plain = Postprocessor(options, taxonomy, GRID).add(whole(recording(), logits)).scores
    found = {site: processor.add(whole(recording(JUNE, site), logits)) for site in ("S1", "S2", "S3", None)}
    assert found["S1"].range is not None
    assert found["S2"].range is not None
    assert (found["S2"].range.latitude, found["S2"].range.longitude) == (-19.5, -56.5)
    assert ((found["S1"].scores == 0).all(axis=0) == masked_by_hand(23)).all()
    assert not np.array_equal(found["S1"].scores, found["S2"].scores)
    for site in ("S3", None):
        np.testing.assert_array_equal(found[site].scores, plain)
        assert found[site].range is None


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=2, max_size=5), st.sampled_from(["mask", "prior"]))
def test_scores_are_the_same_however_a_recording_is_cut(taxonomy: Taxonomy, lengths: list[int], mode: str) -> None:
    options = PostprocessOptions(range_mode=mode, range_threshold=THRESHOLD)  # type: ignore[arg-type]
    processor = Postprocessor(options, taxonomy, GRID, ranges=Ranges(MODEL, PLACE))
    logits = np.random.default_rng(4).normal(size=(sum(lengths), len(NAMES))).astype(np.float32)
    rec = recording()
    expected, found, first = processor.add(whole(rec, logits)), [], 0
    for number, length in enumerate(lengths, start=1):
        outcome = Outcome(status="ok") if number == len(lengths) else None
        found.append(processor.add(Part(rec, first, logits[first : first + length], outcome=outcome)))
        first += length
    np.testing.assert_array_equal(np.concatenate([part.scores for part in found]), expected.scores)
    assert [part.range for part in found] == [*[None] * (len(lengths) - 1), expected.range]


def test_says_what_runs(taxonomy: Taxonomy) -> None:
    def line(options: PostprocessOptions, ranges: Ranges | str | None = None) -> list[str]:
        described = Postprocessor(options, taxonomy, GRID, ranges=ranges).describe()
        return [said for said in described if said.startswith("range")]

    ranges = Ranges(MODEL, PLACE)
    assert line(PostprocessOptions(), ranges) == [
        "range: classes below 0.03 masked, at 46.5, 6.2 (7 of 8 classes known)"
    ]
    assert line(PostprocessOptions(range_mode="prior", range_strength=0.5), ranges) == [
        "range: prior of strength 0.5, at 46.5, 6.2 (7 of 8 classes known)"
    ]
    assert line(PostprocessOptions(), "nobody knows where") == ["range: off (nobody knows where)"]
    assert line(PostprocessOptions()) == []
    assert line(PostprocessOptions.raw(), ranges) == []
    assert line(PostprocessOptions(range_threshold=0.0), ranges) == []
    with pytest.raises(OptionsError, match="cannot run the range step that was asked for: nobody knows where"):
        Postprocessor(PostprocessOptions(), taxonomy, GRID, required=["range"], ranges="nobody knows where")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: PostprocessOptions(range_mode="on"), "range is 'on', expected one of off, mask, prior"),  # type: ignore[arg-type]
        (lambda: PostprocessOptions(range_threshold=1.5), r"range threshold is 1.5, expected 0 \(off\) to 1"),
        (lambda: PostprocessOptions(range_strength=-1), r"range strength is -1, expected 0 \(off\) to 10"),
    ],
)
def test_what_is_out_of_range_is_named(make: Callable[[], PostprocessOptions], says: str) -> None:
    with pytest.raises(OptionsError, match=says):
        make()


def test_a_bundle_may_bring_values() -> None:
    values = {"range_mode": "prior", "range_threshold": 0.1, "range_strength": 0.5}
    assert tuned_options(values) == PostprocessOptions(range_mode="prior", range_threshold=0.1, range_strength=0.5)
    with pytest.raises(BundleError, match=r"field 'post\.range_mode' is 1, expected a text"):
        tuned_options({"range_mode": 1})
    with pytest.raises(BundleError, match="field 'post': range is 'ask'"):
        tuned_options({"range_mode": "ask"})

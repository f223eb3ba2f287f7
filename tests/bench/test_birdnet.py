"""What lower precision changes, counted by loops; the table, and the page that shows it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

pytest.importorskip("psutil", reason="benchmarks need the extra bce[bench]")

from bce.bench.birdnet import BirdnetBenchOptions
from bce.bench.figures import read_json
from bce.bench.ranks import LOUD, Changes
from bce.bench.tables import put_into, table
from bce.engine.errors import OptionsError

ROOT = Path(__file__).resolve().parents[2]
PAGE, RESULT = ROOT / "docs" / "birdnet.md", ROOT / "bench" / "results" / "birdnet.json"


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), windows=st.integers(2, 12), classes=st.integers(3, 20))
def test_changes(seed: int, windows: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    trusted = rng.normal(-2, 2, (windows, classes))
    found = trusted + rng.normal(0, 0.3, trusted.shape)
    changes = Changes.between(trusted, found)
    loud = [w for w in range(windows) if max(1 / (1 + np.exp(-z)) for z in trusted[w]) >= LOUD]
    kept = [w for w in range(windows) if np.argmax(trusted[w]) == np.argmax(found[w])]
    assert changes.windows == windows
    assert changes.loud == len(loud)
    assert changes.top1 == pytest.approx(len(kept) / windows)
    assert changes.top1_loud == pytest.approx(len(set(loud) & set(kept)) / len(loud) if loud else 1.0)
    assert changes.rank_correlation == pytest.approx(
        np.mean([spearmanr(trusted[w], found[w]).statistic for w in range(windows)])
    )
    centred = [trusted[w, c] - trusted[:, c].mean() for w in range(windows) for c in range(classes)]
    off = [found[w, c] - trusted[w, c] for w in range(windows) for c in range(classes)]
    assert changes.relative_l2 == pytest.approx(np.sqrt(np.sum(np.square(off)) / np.sum(np.square(centred))))
    assert changes.largest_change == pytest.approx(
        max(abs(1 / (1 + np.exp(-a)) - 1 / (1 + np.exp(-b))) for a, b in zip(trusted.flat, found.flat, strict=True))
    )


def test_the_same_logits_change_nothing() -> None:
    trusted = np.random.default_rng(0).normal(size=(4, 9))
    changes = Changes.between(trusted, trusted)
    assert (changes.relative_l2, changes.top1, changes.largest_change) == (0, 1, 0)
    assert changes.rank_correlation == pytest.approx(1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"audio": ()}, "give real recordings"),
        ({"audio": ("x",), "windows": 0}, "at least one window"),
        ({"audio": ("x",), "rounds": 1}, "two rounds"),
    ],
)
def test_bad_options_are_named(options: dict, message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        BirdnetBenchOptions("birdnetlib", **options)


def test_the_page_is_what_its_result_says(tmp_path: Path) -> None:
    page = tmp_path / "birdnet.md"
    shutil.copy(PAGE, page)
    put_into(page, [RESULT])
    assert page.read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8"), (
        "bce-bench table --into docs/birdnet.md bench/results/birdnet.json"
    )


def test_the_table_has_every_form() -> None:
    content = read_json(RESULT)
    lines = "\n".join(table(content))
    for entry in content["speed"]:
        assert f"| {entry['name']} | {entry['ms']['median']:.2f} |" in lines
    for entry in content["precision"]:
        assert f"| {entry['name']} | {entry['relative_l2']:.1e} |" in lines

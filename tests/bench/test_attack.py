"""Verdicts on made-up runs; a small attack from end to end; the page that is made of a large one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("psutil", reason="benchmarks need the extra bce[bench]")

from bce.bench.attack import AttackOptions, attack, counts, run_counts
from bce.bench.attack_files import Bench, Verdict
from bce.bench.attack_places import PREVIOUS, Job, Place, Scenario
from bce.bench.attack_process import Ended, read_rows
from bce.bench.attack_recordings import FORMS, Intact, Victim, sound
from bce.bench.attack_tables import attack_tables
from bce.bench.cli import main
from bce.bench.materials import Work
from bce.bench.tables import put_into
from bce.engine.errors import OptionsError

ROOT = Path(__file__).resolve().parents[2]
TRUTH = np.arange(12.0).reshape(6, 2)


def write_rows(path: Path, rows: dict[str, np.ndarray]) -> None:
    lines = ["row_id,a,b"]
    for stem, logits in rows.items():
        for number, row in enumerate(1 / (1 + np.exp(-logits)), start=1):
            lines.append(f"{stem}_{5 * number},{row[0]!r},{row[1]!r}".replace("np.float64(", "").replace(")", ""))
    path.write_text("\n".join(lines) + "\n")


def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "bundle", 5.0, tmp_path, truth={"whole": TRUTH})


def verdict(
    tmp_path: Path, rows: np.ndarray, status: str = "ok", *, form: str = "flac", damage: str = "noise", **entry: Any
) -> Verdict:
    victim = Victim("x", tmp_path, damage, Intact(tmp_path / "whole.wav", FORMS[form], 30.0), (7.0, 8.0))
    said = {"status": status, "reason": None, "filled": 0, "delivered_s": 30.0} | entry
    return bench(tmp_path)._verdict(victim, rows, said)


def test_rows_are_right_or_wrong(tmp_path: Path) -> None:
    off = TRUTH.copy()
    off[[1, 4]] += 0.01
    found = verdict(tmp_path, TRUTH)
    assert (found.fate, found.wrong, found.broken) == ("right", (), False)
    found = verdict(tmp_path, off)
    assert (found.fate, found.wrong, found.displaced, found.broken) == ("wrong", (1, 4), 1, True)
    assert verdict(tmp_path, off, "short_read").fate == "flagged wrong"
    assert not verdict(tmp_path, off, form="wav").broken  # nobody could have known
    assert verdict(tmp_path, off, form="wav", damage="cut").broken  # the header knows
    # what is filled is not judged, what is missing in silence is wrong
    assert verdict(tmp_path, off, "short_read", filled=5).fate == "flagged"
    assert verdict(tmp_path, off, "failed", filled=6).fate == "failed"
    assert verdict(tmp_path, TRUTH[:4]).wrong == (4, 5)
    assert verdict(tmp_path, TRUTH[:4], "short_read").fate == "flagged"
    assert verdict(tmp_path, np.zeros((61, 2)), "failed", filled=61).broken


def test_the_row_of_the_end_is_judged_apart(tmp_path: Path) -> None:
    end = TRUTH[:4].copy()
    end[3] += 1
    judge = bench(tmp_path)
    victim = Victim("x", tmp_path, "cut", Intact(tmp_path / "whole.wav", FORMS["flac"], 30.0), (17.0, 30.0))
    for delivered_s, ends in ((17.0, 1), (20.5, 0)):
        judge.ends.clear()
        entry = {"status": "short_read", "reason": None, "filled": 0, "delivered_s": delivered_s}
        assert judge._verdict(victim, end, entry).wrong == (3,)
        assert len(judge.ends) == ends


def test_tables_are_read_as_they_should_be(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    write_rows(path, {"a_b": TRUTH[:2], "c": TRUTH})
    found = read_rows(path)
    assert list(found) == ["a_b", "c"]
    np.testing.assert_allclose(found["c"], TRUTH, atol=1e-9)
    for text in ("c_5,0.5,0.5\nc_15,0.5,0.5\n", "c_5,nan,0.5\n", "c_5,0.5,1.5\n", "c_5,0.5,0.5\nc_5,0.5,0.5\n"):
        path.write_text("row_id,a,b\n" + text)
        with pytest.raises(ValueError):
            read_rows(path)


def test_what_a_disturbed_run_left(tmp_path: Path) -> None:
    write_rows(tmp_path / "whole.csv", {"whole": TRUTH})
    job = Job(bench(tmp_path), tmp_path, (tmp_path / "whole.csv").read_bytes(), 1.0)
    place = Place(job, "x")

    def left(code: int, errors: str = "", *, hung: bool = False) -> tuple[str, str]:
        found = place.ended("kill", 0, None, Ended(code, errors, hung))
        return found.left, (found.broken or "").split(":")[0]

    assert place.out.read_bytes() == PREVIOUS
    assert left(-9) == left(1) == ("nothing", "")
    assert left(0) == ("nothing", "says that all is well, but there is no table")
    assert left(-1) == ("nothing", "died of signal 1")
    assert left(-9, hung=True) == ("nothing", "hangs")
    assert left(1, "Traceback (most recent call last)\nE: x") == ("nothing", "traceback")
    rescued = tmp_path / "rescued.csv"
    write_rows(rescued, {"whole": TRUTH[:3]})
    assert left(1, f"bce-infer: kept in {rescued}.") == ("rescued", "")
    write_rows(rescued, {"whole": TRUTH + 1})
    assert left(1, f"bce-infer: kept in '{rescued}'") == ("rescued", "rows of whole are wrong or missing")
    place.out.write_bytes(job.table)
    assert left(0) == left(-9) == ("table", "")
    write_rows(place.out, {"whole": TRUTH[:3]})
    assert left(0) == ("part", "says that all is well, but the table is not whole")
    assert left(1) == ("part", "")
    place.report.write_text('{"recordings": [{"recording": "/x/whole.wav", "rows": 4, "filled": 0}]}')
    assert left(130) == ("part", "rows of whole are wrong or missing")
    place.out.write_bytes(job.table[: job.table.rfind(b",")])
    assert left(1) == ("part", "half written")
    place.out.unlink()
    assert left(1) == ("nothing", "the earlier result is gone")


def test_every_half_second_sounds_different() -> None:
    rate = 8000
    whole = sound(6.0, rate, 2, np.random.default_rng(0))
    assert whole.shape == (48_000, 2)
    assert np.abs(whole).max() < 1
    spectra = np.abs(np.fft.rfft(whole[:, 0].reshape(12, -1)))
    assert len(set(spectra.argmax(axis=1))) == 12


def test_a_small_attack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four files and a kill, every program started for real: the one test of how the parts play together."""
    monkeypatch.delenv("BCE_BUNDLE", raising=False)
    options = AttackOptions(repeats=1, every=31, kills=1, signals=0, faults=0)
    found = attack(options, Work(tmp_path / "work"))
    assert (found["kind"], found["files"], sum(row["files"] for row in found["counts"])) == ("attack", 4, 4)
    assert [row["name"] for row in found["broken"] if row["fate"] == "lost"] == []
    assert found["broken_runs"] == []
    assert "| kill -9 | 1 |" in "\n".join(attack_tables(found))
    assert list((tmp_path / "work").iterdir()) == []  # it cleans up


def test_a_wrong_pattern_is_said_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["attack", "--only", "mp4-*", "--work", str(tmp_path)]) == 2
    assert "no damaged file is called 'mp4-*'" in capsys.readouterr().err
    with pytest.raises(OptionsError, match="repeats, every and threads"):
        AttackOptions(repeats=0)
    with pytest.raises(OptionsError, match="name a folder to be made"):
        AttackOptions(keep=tmp_path)


def test_counts_and_tables() -> None:
    verdicts = [
        Verdict("a", "cut", "flac", True, "flagged", intact_rows=6, rows=6, computed=4),
        Verdict("b", "cut", "flac", True, "wrong", "ok", None, 6, 6, 6, wrong=(1,), displaced=1),
        Verdict("c", "cut", "wav", False, "lost", reason="hangs"),
    ]
    scenarios = [Scenario("SIGHUP", 0, 1.0, -1, broken="died"), Scenario("SIGHUP", 1, 1.0, 130)]
    content = {
        "counts": counts(verdicts),
        "runs": run_counts(scenarios),
        "broken": [verdict.to_json() for verdict in verdicts if verdict.broken],
        "broken_runs": [scenario.to_json() for scenario in scenarios if scenario.broken],
        "machine": {"versions": {"bce": "1", "libsndfile": "2"}, "cpus": 2},
        "files": 3,
        "intact": 1,
        "seed": 1,
        "wall_s": 60,
        "peak_bytes": 1,
    }
    text = "\n".join(attack_tables(content))
    assert "| flac | 2 | 0 | 1 | 0 | 1 | 0 | 0 | 1 | 1 | 75% |" in text
    assert "| wav | 1 | 0 | 0 | 0 | 0 | 0 | 1 | 0 | 1 |  |" in text
    assert "| SIGHUP | 2 | 0 | 0 | 0 | 1 | 1 |" in text
    assert text.endswith("Broken promises, the first 3 of 3: b (ok); c (hangs); SIGHUP 0 (died).")


def test_the_page_is_what_its_result_says(tmp_path: Path) -> None:
    result, page = ROOT / "bench" / "results" / "attack.json", ROOT / "docs" / "reliability.md"
    copy = tmp_path / page.name
    shutil.copy(page, copy)
    put_into(copy, [result])
    assert copy.read_text(encoding="utf-8") == page.read_text(encoding="utf-8")

"""``bce-infer`` and its outputs where something goes wrong: what stood there stays, what was computed is kept."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from support import disks
from support import second_family as family
from support.sounds import write_sound

from bce.engine import Bundle, EngineOptions, OptionsError
from bce.engine.commands.blend import main as blend
from bce.engine.commands.infer import main
from bce.engine.errors import TableError
from bce.engine.files import Beside, Scratch
from bce.engine.frontends.base import KINDS
from bce.engine.locks import held
from bce.engine.run.infer import infer
from bce.engine.run.options import RunOptions
from bce.engine.tables.scores import read_scores
from bce.engine.tables.sinks import ScoreTableSink

pytest.importorskip("onnx", reason="the second family's graph is written with onnx")

STEMS = ("a", "b", "c", "d")


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(KINDS, family.KIND, "support.second_family")
        yield


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return family.write_bundle(tmp_path_factory.mktemp("second") / "bundle", (0.0,))


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sounds")
    for seed, stem in enumerate(STEMS):
        write_sound(folder / f"{stem}.wav", 6.0, seed, family.RATE)
    return folder


@pytest.fixture(scope="module")
def table(bundle: Bundle, recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What an undisturbed run writes."""
    out = tmp_path_factory.mktemp("good") / "s.csv"
    assert main(["--bundle", str(bundle.path), "--quiet", "--out", str(out), str(recordings)]) == 0
    return out.read_bytes()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the results of yesterday, which is the current one; the system's temporary one lies beside it."""
    for name in ("out", "elsewhere"):
        (tmp_path / name).mkdir()
    for name in ("s.csv", "f.parquet", "run.json"):
        (tmp_path / "out" / name).write_text("of yesterday")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "elsewhere"))
    monkeypatch.chdir(tmp_path / "out")
    return tmp_path / "out"


Run = Callable[..., int]


@pytest.fixture
def run(bundle: Bundle, recordings: Path) -> Run:
    def run(*more: object, out: str = "s.csv") -> int:
        common = ["--bundle", str(bundle.path), "--threads", "1", "--quiet", "--out", out]
        return main([*common, *map(str, more), str(recordings)])

    return run


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def untouched(place: Path, *changed: str) -> bool:
    """Whether all is as it was yesterday, but for what is named, and nothing is added."""
    old = {"s.csv", "f.parquet", "run.json"} - set(changed)
    return set(names(place)) == old | set(changed) and all((place / n).read_text() == "of yesterday" for n in old)


def after_rows_of(monkeypatch: pytest.MonkeyPatch, stem: str, happens: Callable[[], None]) -> None:
    """Something happens in mid-run, when a recording's rows have been taken."""
    real = ScoreTableSink.add

    def add(self: ScoreTableSink, part) -> None:
        real(self, part)
        if part.recording.stem == stem:
            happens()

    monkeypatch.setattr(ScoreTableSink, "add", add)


def raises(error: BaseException) -> Callable[[], None]:
    def happens() -> None:
        raise error

    return happens


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    return said


# what stood there stays ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (MemoryError(), 1, "there is not enough memory"),
        (OSError(5, "Input/output error", "a.wav"), 1, "a.wav: Input/output error"),
        (TableError("has scores that are NaN", "b.wav"), 1, "b.wav: has scores that are NaN"),  # not 2: it had begun
        (KeyboardInterrupt(), 130, "interrupted"),
        (ZeroDivisionError(), None, ""),
    ],
)
@pytest.mark.parametrize("sample", [False, True])
def test_a_run_that_fails_leaves_what_was_there(
    place: Path, run: Run, monkeypatch: pytest.MonkeyPatch, capsys, error, code: int | None, says: str, sample: bool
) -> None:
    more: list[object] = ["--features", "f.parquet", "--report", "run.json"]
    if sample:
        more += ["--sample-submission", write_sample(place.parent / "sample.csv", [f"{stem}_3" for stem in STEMS])]
    after_rows_of(monkeypatch, "b", raises(error))
    if code is None:
        with pytest.raises(type(error)):
            run(*more)
    else:
        assert run(*more) == code
        assert says in one_line(capsys)
    assert untouched(place)


def write_sample(path: Path, row_ids: list[str], classes: tuple[str, ...] = family.CLASSES) -> Path:
    lines = ["row_id," + ",".join(classes), *(f"{name},0.2,0.2,0.2,0.2,0.2" for name in row_ids)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--sample-submission", "../none.csv"], "none.csv: is not there"),
        (["--sample-submission", "../other_classes.csv"], "classes that differ"),
        (["--sample-submission", "../other_rows.csv"], "no rows for 3 of 4 recordings"),
        (["--sample-submission", "../off.csv"], "row id 'a_4'"),
        (["--sample-submission", "s.csv"], "s.csv: "),
        (["--priors", "../none.npz"], "none.npz"),
        (["--precision", "int8"], "has no int8"),
        (["--features", "s.csv"], "s.csv: features are written as parquet"),
        (["--features", "f.npz"], "f.npz: features are written as parquet"),
        (["--features", "no/f.parquet"], "no/f.parquet: its folder does not exist"),
        (["--report", "no/run.json"], "no/run.json: its folder does not exist"),
        (["--report", "s.csv"], "s.csv: and s.csv are both to be written"),
        (["--report", "../out/f.parquet", "--features", "f.parquet"], "are both to be written"),
        (["--features-per", "window"], "--features-per says how features are written: give --features as well"),
        (["--shifts", "-9,0"], "shift"),
    ],
)
def test_a_run_that_is_refused_leaves_what_was_there(
    place: Path, run: Run, capsys: pytest.CaptureFixture[str], more: list[str], says: str
) -> None:
    write_sample(place.parent / "other_rows.csv", ["a_3"])
    write_sample(place.parent / "other_classes.csv", ["a_3"], ("a", "b", "c", "d", "x"))
    write_sample(place.parent / "off.csv", [f"{stem}_4" for stem in STEMS])
    assert run(*more) == 2
    assert says in one_line(capsys)
    assert untouched(place)


def test_a_dry_run_that_fails_leaves_what_was_there(
    place: Path, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sample's values are read when it is written: the last one is none."""
    sample = write_sample(place.parent / "sample.csv", ["a_3", "a_6"])
    sample.write_text(sample.read_text()[:-4] + "x\n")
    command = ["--bundle", str(bundle.path), "--quiet", "--out", "s.csv", "--sample-submission", str(sample)]
    assert main(command) == 2
    assert "is not a score table" in one_line(capsys)
    assert untouched(place)


def test_a_dry_run_writes_the_sample_and_says_no_more(
    place: Path, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = write_sample(place.parent / "sample.csv", ["=a_3"])
    command = ["--bundle", str(bundle.path), "--sample-submission", str(sample), "--out", "new.csv"]
    assert main([*command, "--features", "new.parquet", "--safe-csv"]) == 3
    assert "wrote new.csv\n" in (said := capsys.readouterr().err)
    assert "new.parquet" not in said
    assert (place / "new.csv").read_text().splitlines()[1].startswith("'=a_3,")


# places --------------------------------------------------------------------------------------------------------------


def test_no_output_overwrites_what_is_read(
    place: Path, run: Run, bundle: Bundle, recordings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(recordings, place / "in")
    shutil.copytree(bundle.path, place / "bundle")
    (place / "link.json").symlink_to("in/b.wav")
    (place / "hard.parquet").hardlink_to(place / "in" / "c.wav")
    sample = write_sample(place / "sample.csv", [f"{stem}_3" for stem in STEMS])
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    for more, says in (
        (["--report", "in/a.wav"], "in/a.wav: is to be read"),
        (["--report", "link.json"], "link.json: is to be read (in/b.wav)"),
        (["--features", "hard.parquet"], "hard.parquet: is to be read (in/c.wav)"),
        (["--out", "sample.csv", "--sample-submission", sample], "sample.csv: is to be read"),
        (["--out", "bundle/s.csv"], "bundle/s.csv: lies in bundle"),
        (["--report", "bundle/parity.json"], "bundle/parity.json: lies in bundle"),
    ):
        assert main(["--bundle", "bundle", "--quiet", *map(str, more), "in"]) == 2
        assert says in one_line(capsys)
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before


def test_a_blend_does_not_overwrite_its_tables(place: Path, table: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "one.csv").write_bytes(table)
    (place / "two.csv").symlink_to("one.csv")
    for out in ("one.csv", "./one.csv", "two.csv"):
        assert blend(["one.csv", "two.csv", "--out", out]) == 2
        assert "is to be read" in one_line(capsys)
    assert (place / "one.csv").read_bytes() == table


def test_a_second_run_into_a_file_is_refused(place: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("s.csv", "f.parquet", "run.json"):
        with held(place / name):
            assert run("--features", "f.parquet", "--report", "run.json") == 2
        assert f"{name}: process {os.getpid()} on " in one_line(capsys)
        assert untouched(place)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_file_name_as_long_as_they_may_be(place: Path, run: Run, suffix: str) -> None:
    out = f"{'n' * (254 - len(suffix))}.{suffix}"
    assert run("--features", f"{'f' * 247}.parquet", out=out) == 0
    assert len(read_scores(out).row_ids) == 2 * len(STEMS)


# what was computed is kept -------------------------------------------------------------------------------------------


def rescued(said: str) -> list[Path]:
    return [Path(name) for name in re.findall(r"what was to be written there is in ([^;\n]+)", said)]


def test_an_output_folder_that_is_removed(
    place: Path, run: Run, table: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "deep").mkdir()
    after_rows_of(monkeypatch, "b", lambda: shutil.rmtree(place / "deep"))
    assert run("--features", "deep/f.parquet", out="deep/s.csv") == 1
    said = one_line(capsys)
    assert "deep/s.csv: No such file or directory: what was to be written there is in" in said
    scores, features = rescued(said)
    assert scores.parent == features.parent == place.parent / "elsewhere"
    assert scores.read_bytes() == table
    assert pq.read_metadata(features).num_rows == 2 * len(STEMS)
    assert untouched(place)


def test_an_output_folder_that_is_renamed_and_another_one_in_its_place(
    place: Path, run: Run, table: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table has its place again, whatever lay there meanwhile."""

    def swap() -> None:
        (place / "deep").rename(place / "moved")
        (place / "deep").mkdir()

    (place / "deep").mkdir()
    after_rows_of(monkeypatch, "b", swap)
    assert run(out="deep/s.csv") == 0
    assert (place / "deep" / "s.csv").read_bytes() == table
    assert names(place / "moved") == []


def test_a_disk_that_fills_up_in_mid_run(
    place: Path, run: Run, table: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    disks.fill(monkeypatch, place, 100)
    assert run("--features", "f.parquet") == 1
    said = one_line(capsys)
    scores, features = rescued(said)
    assert "No space left on device" in said
    assert scores.read_bytes() == table
    assert pq.read_metadata(features).num_rows == 2 * len(STEMS)
    assert untouched(place)


def test_room_for_the_table_alone(place: Path, run: Run, table: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    disks.fill(monkeypatch, place, 100, (Scratch,))
    assert run() == 0
    assert (place / "s.csv").read_bytes() == table


def test_one_output_that_is_lost_costs_no_other(
    place: Path, run: Run, table: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = Beside.keep

    def keep(self: Beside) -> None:
        if self.path.name == "run.json":
            (place / "run.json").unlink()
            (place / "run.json").mkdir()
        real(self)

    monkeypatch.setattr(Beside, "keep", keep)
    assert run("--report", "run.json") == 1
    said = one_line(capsys)
    assert "run.json: Is a directory: what was to be written there is in" in said
    assert (place / "s.csv").read_bytes() == table
    assert json.loads(rescued(said)[0].read_text())["totals"]["rows"] == 2 * len(STEMS)


# signals and screens -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_keeps_what_was_computed(
    place: Path, run: Run, table: bytes, monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    handlers = [signal.getsignal(signal.Signals[name]) for name in ("SIGINT", "SIGTERM", "SIGHUP")]
    after_rows_of(monkeypatch, "a", lambda: os.kill(os.getpid(), signal.Signals[number]))
    assert run("--report", "run.json") == 130
    rows = (place / "s.csv").read_bytes()
    assert table.startswith(rows)
    assert rows.count(b"\n") > 2
    assert json.loads((place / "run.json").read_text())["totals"]["interrupted"] == number
    assert untouched(place, "s.csv", "run.json")
    assert [signal.getsignal(signal.Signals[name]) for name in ("SIGINT", "SIGTERM", "SIGHUP")] == handlers


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_under_nohup_a_run_goes_on(place: Path, run: Run, table: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        after_rows_of(monkeypatch, "a", lambda: os.kill(os.getpid(), signal.SIGHUP))
        assert run() == 0
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (place / "s.csv").read_bytes() == table


def test_control_characters_of_names_are_escaped(
    place: Path, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "in").mkdir()
    (place / "in" / "\x1b[31mred\n.wav").write_text("no audio")
    assert main(["--bundle", str(bundle.path), "--out", "\x1b[2Jt.csv", "in"]) == 3
    said = capsys.readouterr().err
    assert r"in/\x1b[31mred\n.wav: failed: " in said
    assert r"wrote \x1b[2Jt.csv" in said
    assert "\x1b" not in said
    assert main(["--bundle", str(bundle.path), "--quiet", "--out", "\x1b[2Jt.txt", "in"]) == 2
    assert r"bce-infer: \x1b[2Jt.txt: ends in" in one_line(capsys)


# options -------------------------------------------------------------------------------------------------------------


def test_a_list_of_shifts_may_begin_with_a_minus(place: Path, run: Run, bundle: Bundle, recordings: Path) -> None:
    assert run("--shifts", "-1.5,0,1.5", "--report", "run.json") == 0
    assert json.loads((place / "run.json").read_text())["settings"]["shifts_s"] == [-1.5, 0.0, 1.5]
    given = (place / "s.csv").read_bytes()
    assert run("--shifts=-1.5,0,1.5") == 0
    assert (place / "s.csv").read_bytes() == given
    assert run("--shifts", "-.5,0") == 0


def test_one_option_for_features(place: Path, bundle: Bundle, recordings: Path) -> None:
    asked = {"paths": (recordings,), "out": None, "features_out": Path("w.parquet"), "quiet": True}
    infer(bundle, RunOptions(**asked))
    assert pq.read_metadata("w.parquet").num_rows == 2 * len(STEMS)
    infer(bundle, RunOptions(**asked, features_per="window", engine=EngineOptions(shifts_s=(0.0, 0.5))))
    assert pq.read_metadata("w.parquet").num_rows == 3 * len(STEMS)  # of four windows, one is moved onto another
    for options, says in (
        ({**asked, "engine": EngineOptions(features="window")}, "features are 'window', the run's are 'chunk'"),
        ({**asked, "features_out": None, "engine": EngineOptions(features="chunk")}, "the run's are not written"),
    ):
        with pytest.raises(OptionsError, match=says):
            infer(bundle, RunOptions(**options))
    with pytest.raises(OptionsError, match="features_per is 'row'"):
        RunOptions(**asked, features_per="row")


def test_safe_csv(place: Path, bundle: Bundle, recordings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "in").mkdir()
    for stem in ("=1+1", "-x", "fine"):
        shutil.copyfile(recordings / "a.wav", place / "in" / f"{stem}.wav")
    common = ["--bundle", str(bundle.path), "--quiet"]
    assert main([*common, "--out", "plain.csv", "in"]) == 0
    assert main([*common, "--out", "safe.csv", "--safe-csv", "in"]) == 0
    plain, safe = read_scores("plain.csv"), read_scores("safe.csv")
    assert plain.row_ids == ("-x_3", "-x_6", "=1+1_3", "=1+1_6", "fine_3", "fine_6")
    assert safe.row_ids == ("'-x_3", "'-x_6", "'=1+1_3", "'=1+1_6", "fine_3", "fine_6")
    np.testing.assert_array_equal(plain.scores, safe.scores)
    assert blend(["plain.csv", "--out", "blend.csv", "--safe-csv", "--quiet"]) == 0
    assert read_scores("blend.csv").row_ids == safe.row_ids
    assert main([*common, "--out", "t.parquet", "--safe-csv", "in"]) == 2
    assert "--safe-csv is for CSV tables" in one_line(capsys)


def test_safe_csv_heads_its_columns(place: Path) -> None:
    for name in ("x", "y"):
        (place / f"{name}.csv").write_text('row_id,=cmd,+1,-2,"@a,b",plain\n"\tr_5",-0.5,0.5,0,1,2\n')
    assert blend(["x.csv", "y.csv", "--out", "out.csv", "--safe-csv", "--quiet"]) == 0
    text = (place / "out.csv").read_text()
    assert text == "row_id,'=cmd,'+1,'-2,\"'@a,b\",plain\n'\tr_5,-0.5,0.5,0,1,2\n"

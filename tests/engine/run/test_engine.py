"""The engine's manners: options, one run after the other, stops, its end."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest

pytest.importorskip("onnx", reason="the tiny bundle's graphs are written with onnx")

from support import tiny_bundle as tiny
from support.sounds import write_sound

from bce.engine import Bundle, BundleError, Engine, EngineOptions, OptionsError
from bce.engine.run.infer import RunOptions, infer
from bce.engine.tables.score_writer import ScoreWriter

NAN = float("nan")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("tiny") / "bundle"
    tiny.write_files(folder)
    tiny.seal(folder)
    return Bundle.load(folder)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("sounds")
    return [write_sound(folder / f"r{number}.wav", 30.0, number, tiny.RATE) for number in range(4)]


@pytest.fixture
def engine(bundle: Bundle) -> Engine:
    return Engine(bundle, EngineOptions(threads=1))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"threads": 0}, "threads is 0, it must be a whole number of at least 1"),
        ({"threads": True}, "threads is True, it must be a whole number"),
        ({"threads": 2.0}, r"threads is 2\.0, it must be a whole number"),
        ({"threads": 99_999_999_999}, "threads is 99999999999, it must be at most 1,024"),
        ({"stall_s": "x"}, "stall is 'x', it must be a number of seconds"),
        ({"shifts_s": 5}, "shifts are 5, they must be a list of seconds"),
        ({"threads": "2"}, "threads is '2', it must be a whole number"),
        ({"precision": "banana"}, "precision is 'banana', it must be one of fp32, int8, bf16"),
        ({"precision": "bf16", "backend": "onnxruntime"}, "the onnxruntime backend runs fp32 and int8, not bf16"),
        ({"precision": "int8", "backend": "openvino"}, "the openvino backend runs fp32 and bf16, not int8"),
        ({"objects": 3}, "objects is 3, it must be a folder"),
        ({"backend": "x"}, "backend is 'x', it must be one of auto, compiled, onnxruntime, openvino"),
        ({"features": "row"}, "features is 'row', it must be one of None, chunk, window"),
        ({"features": ["chunk"]}, "features is a list, it must be one of None, chunk, window"),
        ({"shifts_s": ()}, "at least one is needed"),
        ({"shifts_s": (NAN,)}, "shift nan s is not a multiple of 0.01 s"),
        ({"shifts_s": (0.0055,)}, "shift 0.0055 s is not a multiple of 0.01 s"),
        ({"shifts_s": (0.0, 0.0)}, "shift 0 s is given twice"),
        ({"shifts_s": ("0",)}, "shift '0' is not a number of seconds"),
    ],
)
def test_options_that_there_are_not_are_refused_where_they_are_made(wrong: dict, says: str) -> None:
    with pytest.raises(OptionsError, match=says):
        EngineOptions(**wrong)


def test_shifts_lie_on_their_grid() -> None:
    assert EngineOptions(shifts_s=[0.1 + 0.2, -1]).shifts_s == (0.3, -1.0)  # type: ignore[arg-type]


def test_a_precision_that_the_bundle_lacks_is_named_with_those_that_it_has(tmp_path: Path) -> None:
    tiny.write_files(tmp_path / "b")
    tiny.seal(tmp_path / "b")
    manifest = tmp_path / "b" / "bundle.json"
    manifest.write_text(manifest.read_text().replace(', "int8": "net8.onnx"', ""))
    with pytest.raises(
        BundleError, match="has no int8 backbone, only fp32: export it with --precision fp32,int8 --calibrate FOLDER"
    ):
        Engine(Bundle.load(tmp_path / "b"), EngineOptions(precision="int8"))


def statuses(engine: Engine, recordings: list[Path]) -> list[str]:
    return [result.status for result in engine.run(recordings)]


def test_a_stop_ends_the_run_in_progress_and_no_other(engine: Engine, recordings: list[Path]) -> None:
    found = []
    for result in engine.run(recordings):
        if not found:
            engine.stop("enough")
        found.append(result)
    assert found[-1].status == "not_run"
    assert found[-1].reason == "the run was stopped: enough"
    assert statuses(engine, recordings) == ["ok"] * 4


def test_a_stop_before_a_run_ends_that_one_and_no_other(engine: Engine, recordings: list[Path]) -> None:
    engine.stop("never began")
    assert statuses(engine, recordings) == ["not_run"] * 4
    assert statuses(engine, recordings) == ["ok"] * 4


def test_a_run_that_was_left_does_not_stand_in_the_way(engine: Engine, recordings: list[Path]) -> None:
    for _ in engine.run(recordings):
        break
    assert statuses(engine, recordings) == ["ok"] * 4


def test_two_runs_at_once_are_refused(engine: Engine, recordings: list[Path]) -> None:
    first, second = engine.run(recordings), engine.run(recordings)
    assert next(first).status == "ok"
    with pytest.raises(OptionsError, match="has a run in progress"):
        next(second)
    assert [result.status for result in first] == ["ok"] * 3, "the one in progress goes on"
    assert statuses(engine, recordings) == ["ok"] * 4


def test_a_closed_engine_says_so(bundle: Bundle, recordings: list[Path]) -> None:
    with Engine(bundle, EngineOptions(threads=1)) as engine:
        model = weakref.ref(engine.member.model)
        assert statuses(engine, recordings[:1]) == ["ok"]
    gc.collect()
    assert model() is None
    engine.close()
    for use in (lambda: engine.run(recordings), lambda: engine.score(recordings), lambda: engine.member):
        with pytest.raises(OptionsError, match="the engine is closed: make another one"):
            use()


def test_a_run_lets_go_of_the_network_before_it_writes_the_table(
    bundle: Bundle, recordings: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models: list[weakref.ref[object]] = []
    alive_at_close: list[bool] = []
    close = ScoreWriter.close

    def watched(self: ScoreWriter, *, fill: bool) -> object:
        gc.collect()
        alive_at_close.append(models[0]() is not None)
        return close(self, fill=fill)

    monkeypatch.setattr(ScoreWriter, "close", watched)
    asked = RunOptions(tuple(recordings), tmp_path / "s.csv", engine=EngineOptions(threads=2), quiet=True)
    infer(bundle, asked, lambda engine: models.append(weakref.ref(engine.member.model)))
    assert alive_at_close == [False]


def test_a_second_plain_stop_does_not_undo_a_cut(engine: Engine) -> None:
    engine.stop("the time is up", abandon=True)
    engine.stop("again")
    assert engine.stop_switch.cut
    assert engine.stop_switch.abandon


def test_a_run_is_cut_by_its_own_switch(
    engine: Engine, recordings: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    compute = engine.member.compute
    monkeypatch.setattr(engine.member, "compute", lambda *args: asked.append(args[3]) or compute(*args))
    assert statuses(engine, recordings[:1]) == ["ok"]
    engine.stop("the next run", abandon=True)
    assert asked
    assert not any(cut() for cut in asked)  # a straggler of the run before goes by that run's switch

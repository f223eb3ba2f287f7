"""What an engine gives back."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest

from bce.engine import Bundle, Engine, EngineOptions
from bce.engine.run.infer import RunOptions, infer
from bce.engine.tables.score_writer import ScoreWriter


def test_a_run_lets_go_of_the_network_before_it_writes_the_table(
    small_bundle: Bundle, soundscapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models: list[weakref.ref[object]] = []
    alive_at_close: list[bool] = []
    close = ScoreWriter.close

    def watched(self: ScoreWriter, *, fill: bool) -> object:
        gc.collect()
        alive_at_close.append(models[0]() is not None)
        return close(self, fill=fill)

    monkeypatch.setattr(ScoreWriter, "close", watched)
    options = RunOptions(
        paths=(soundscapes,), out=tmp_path / "s.csv", engine=EngineOptions(threads=2, shifts_s=(0.0,)), quiet=True
    )
    infer(small_bundle, options, lambda engine: models.append(weakref.ref(engine.member.model)))
    assert alive_at_close == [False]


def test_an_engine_runs_again_until_it_is_closed(small_bundle: Bundle, soundscapes: Path) -> None:
    engine = Engine(small_bundle, EngineOptions(threads=1, shifts_s=(0.0,)))
    for _ in range(2):
        assert sum(len(result.logits) for result in engine.run([soundscapes])) == 44
    model = weakref.ref(engine.member.model)
    engine.close()
    gc.collect()
    assert model() is None

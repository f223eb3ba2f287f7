"""Bundles that someone tampered with: each works all the same, or is refused in one line that names the file."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the tiny bundle's graphs are written with onnx")

from support import tiny_bundle as tiny  # noqa: E402
from support.tampering import TAMPERINGS  # noqa: E402

from bce.engine.audio.reader import AudioBlock  # noqa: E402
from bce.engine.errors import BundleError  # noqa: E402
from bce.engine.network.bundle import Bundle  # noqa: E402
from bce.engine.network.member import Member  # noqa: E402
from bce.engine.network.onnx_file import MESSAGES  # noqa: E402
from bce.engine.post.bundled import bundle_postprocessor, postprocess_options  # noqa: E402
from bce.engine.recording import Recording  # noqa: E402
from bce.engine.results import Outcome, Part  # noqa: E402

SOUND = (0.1 * np.random.default_rng(1).standard_normal(3 * tiny.RATE)).astype(np.float32)


def use(folder: Path) -> np.ndarray:
    """All that a run does with a bundle: the scores of three seconds, float64 [3, 3]."""
    bundle = Bundle.load(folder)
    processor = bundle_postprocessor(bundle, postprocess_options(bundle))
    member = Member(bundle)
    Member(bundle, "int8")
    block = AudioBlock(SOUND, 0, 0, 3, len(SOUND), bundle.manifest.window.samples)
    logits = member.compute(block, bundle.manifest.placing.shifts_s, "chunk").logits
    return processor.add(Part(Recording(Path("a.wav"), "a"), 0, logits, outcome=Outcome(status="ok"))).scores


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "bundle"
    tiny.write_files(folder)
    tiny.seal(folder)
    return folder


@pytest.fixture
def folder(honest: Path, tmp_path: Path) -> Path:
    return shutil.copytree(honest, tmp_path / "bundle")


def test_the_honest_bundle_works(folder: Path) -> None:
    scores = use(folder)
    assert scores.shape == (3, 3)
    assert ((scores > 0) & (scores < 1)).all()


@pytest.mark.parametrize("name", TAMPERINGS)
def test_a_tampered_bundle_works_or_is_refused_in_one_line(name: str, folder: Path) -> None:
    tamper, says = TAMPERINGS[name]
    tamper(folder)
    if says is None:
        assert use(folder).shape == (3, 3)
        return
    with pytest.raises(BundleError, match=says) as error:
        use(folder)
    line = str(error.value)
    assert line.startswith(str(folder))
    assert "\n" not in line
    assert line.isprintable()
    assert len(line) < len(str(folder)) + 500


@pytest.mark.parametrize("seed", range(20))
def test_flipped_bytes_work_or_are_refused(seed: int, folder: Path) -> None:
    """In every file of the bundle, vouched for: what comes out is scores or one line."""
    rng = np.random.default_rng(seed)
    for name in ("net.onnx", "head.onnx", "classes.csv", "priors.npz"):
        content = bytearray((folder / name).read_bytes())
        for at in rng.integers(0, min(len(content), 600), 3):
            content[at] = rng.integers(0, 256)
        (folder / name).write_bytes(bytes(content))
        tiny.seal(folder)
        with suppress(BundleError):  # anything else is a traceback for the user
            use(folder)


def test_the_walk_knows_every_message_that_holds_tensors() -> None:
    """Against the definition that onnx brings: every message from which fields lead to a tensor, and these fields."""
    messages: dict[str, dict[int, str]] = {}

    def collect(message: Any) -> None:
        if message.name not in messages:
            inner = [field for field in message.fields if field.message_type is not None]
            messages[message.name] = {field.number: field.message_type.name for field in inner}
            for field in inner:
                collect(field.message_type)

    collect(onnx.ModelProto.DESCRIPTOR)
    leading = {"TensorProto"}
    for _ in messages:
        leading |= {name for name, fields in messages.items() if leading & set(fields.values())}
    expected = {
        name: {number: inner for number, inner in messages[name].items() if inner in leading} for name in leading
    }
    assert expected == MESSAGES

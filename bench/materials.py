"""What is measured on: a model file, its bundle, recordings. Made once in a work folder, or the user's own."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from bce.bench.processes import run
from bce.engine.audio.recordings import find_recordings
from bce.engine.errors import BceError, OptionsError
from bce.engine.files import beside, folder_beside, sha256
from bce.engine.network.bundle import Bundle

CLASSES = 234
"""Of the made-up head: as many as BirdCLEF+ 2026 has."""
FOLDS = 5
CALIBRATION = 16
"""Minutes on which int8 is made: they fill both groups of its windows, and nothing is measured on them."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Work:
    """A folder for what is made once and kept, and a way to say so."""

    folder: Path
    say: Say = lambda line: None

    def made_file(self, name: str, make: Callable[[Path], object]) -> Path:
        """A file of the work folder, made first if it is not there."""
        return self._made(name, make, beside)

    def made_folder(self, name: str, make: Callable[[Path], object]) -> Path:
        """A folder of the work folder, filled first if it is not there."""
        return self._made(name, make, folder_beside)

    def _made(
        self,
        name: str,
        make: Callable[[Path], object],
        place: Callable[[Path], AbstractContextManager[Path]],
    ) -> Path:
        path = self.folder / name
        if not path.exists():
            self.say(f"making {path}")
            self.folder.mkdir(parents=True, exist_ok=True)
            with place(path) as partial:
                make(partial)
        return path


def model_file(work: Work, given: Path | None) -> Path:
    """The published graph: the given file, or a stand-in of 413 MB with its structure and seeded weights."""
    if given is not None:
        if not given.is_file():
            raise OptionsError("there is no such model file", given)
        return given

    def make(path: Path) -> None:
        from bce.export.perch.standin import write_standin

        write_standin(path)

    return work.made_file("stand_in_no_dft.onnx", make)


def headless(work: Work, model: Path) -> Path:
    """The published graph cut down to its embedding, otherwise as it is."""

    def make(path: Path) -> None:
        import onnx

        from bce.export.readers.onnx_graph import OnnxGraph, load

        graph = OnnxGraph(load(model)[0])
        nodes = graph.leading_to(["embedding"])
        used = {name for node in nodes for name in node.input}
        cut = onnx.ModelProto(ir_version=graph.model.ir_version)
        cut.opset_import.extend(graph.model.opset_import)
        cut.graph.name = graph.model.graph.name
        cut.graph.node.extend(nodes)
        cut.graph.initializer.extend(tensor for name, tensor in graph.initializers.items() if name in used)
        cut.graph.input.extend(graph.inputs)
        cut.graph.output.extend(value for value in graph.model.graph.output if value.name == "embedding")
        onnx.save(cut, path)

    return work.made_file(f"headless_{sha256(model)[:12]}.onnx", make)


def bundle(work: Work, given: Path | None, model: Callable[[], Path], precisions: Sequence[str] = ("fp32",)) -> Bundle:
    """The given bundle, or one of blocks 21, 24 and 25 with a head of seeded weights, made from the model file.

    Args:
        work: where it is made.
        given: a bundle with a head.
        model: the file that it is made from, asked for only if it is made.
        precisions: of the backbone of the one that is made.

    Raises:
        OptionsError: the given bundle has no head, so that nothing could be scored.
    """
    if given is not None:
        found = Bundle.load(given)
        if found.manifest.head.kind == "none":
            raise OptionsError("has no head: a benchmark from recordings to scores needs one", given)
        return found
    source = model()
    int8 = "int8" in precisions
    calibrated = f"_of_{CALIBRATION}" if int8 else ""
    path = work.folder / f"bundle_{sha256(source)[:12]}_{'_'.join(precisions)}{calibrated}"
    if not path.exists():
        head = work.made_folder(f"head_{CLASSES}", _make_head)
        program = "import sys; from bce.export.commands.export import main; sys.exit(main())"
        command = [sys.executable, "-c", program, "--perch", str(source), "--out", str(path)]
        command += ["--head", *map(str, sorted(head.glob("*.safetensors")))]
        if int8:
            command += ["--precision", ",".join(precisions), "--calibrate", str(_calibration(work))]
        work.say(f"making {path}")
        run(command)  # it leaves a whole bundle or none
    return Bundle.load(path)


def _make_head(folder: Path) -> None:
    """Folds of an attention head as if trained: fresh weights cost what trained ones do."""
    import torch

    from bce.export.heads.checkpoints import HeadCheckpoint, save_checkpoint
    from bce.export.heads.modules import HeadConfig, build_head
    from bce.export.perch.architecture import DEFAULT_BLOCKS, architecture

    widths = {block.name: block.out_channels for block in architecture().blocks if block.index in DEFAULT_BLOCKS}
    labels = tuple(f"class_{index}" for index in range(CLASSES))
    for fold in range(FOLDS):
        with torch.random.fork_rng():
            torch.manual_seed(fold)
            head = build_head(HeadConfig(), tuple(widths.values()), CLASSES).eval()
        notice = "a head with seeded weights"
        save_checkpoint(folder / f"fold_{fold}.safetensors", HeadCheckpoint(head, labels, widths, "none", notice))


def recordings(work: Work, given: Sequence[Path] | None, count: int) -> Path:
    """A folder of so many one-minute ogg recordings: links to the given ones, in turn, or synthetic soundscapes."""
    if given:
        found = [recording.path for recording in find_recordings(given)]
        if len(found) < count:
            raise OptionsError(f"{len(found)} recordings are too few: give {count} or ask for fewer", given[0])
        return linked(work, found[:count], count)

    return _soundscapes(work, f"soundscapes_{count}", count, seed=0)


def _calibration(work: Work) -> Path:
    """Synthetic soundscapes that are none of those that are measured on."""
    return _soundscapes(work, f"calibration_{CALIBRATION}", CALIBRATION, seed=1)


def _soundscapes(work: Work, name: str, count: int, seed: int) -> Path:
    def make(path: Path) -> None:
        from bce.tools.data.synth.dataset import write_dataset
        from bce.tools.data.synth.options import SynthOptions

        write_dataset(path, SynthOptions(seed=seed, test_only=True, test_soundscapes=count), quiet=True)

    return work.made_folder(name, make) / "test_soundscapes"


def linked(work: Work, sources: Sequence[Path], count: int) -> Path:
    """A folder with so many links to recordings, in turn; the names are BirdCLEF's, distinct. Made anew each time."""
    folder = work.folder / f"links_{count}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number in range(count):
        source = sources[number % len(sources)].resolve()
        name = f"BC0000_Bench_{number + 1:05}_S{number % 8 + 1:02}_20250101_{number % 24:02}0000{source.suffix}"
        (folder / name).symlink_to(source)
    return folder


def long_recording(work: Work, hours: float, sample_rate: int) -> Path:
    """One FLAC recording of many hours: in each minute a few seconds of faint noise, digital silence between them.

    The network takes the same time whatever it hears, and so the file stays small.

    Args:
        work: where it is made.
        hours: how long it is.
        sample_rate: in Hz.
    """

    def make(path: Path) -> None:
        samples = 60 * sample_rate
        noise = np.random.default_rng(0).integers(-4, 5, samples // 20).astype(np.int16)
        minute = np.concatenate([noise, np.zeros(samples - len(noise), np.int16)])
        with soundfile.SoundFile(path, "w", sample_rate, 1, format="FLAC", subtype="PCM_16") as file:
            for _ in range(round(hours * 60)):
                file.write(minute)

    return work.made_file(f"BC0000_Bench_00001_S01_20250101_000000_{hours:g}h.flac", make)


def describe(bundle: Bundle, model: Path | None = None) -> dict[str, Any]:
    """What a benchmark ran on; says so if the bundle is not made from the model file it is compared with."""
    manifest = bundle.manifest
    found: dict[str, Any] = {
        "bundle": manifest.name,
        "bundle_identity": bundle.identity,
        "source": manifest.source.file,
        "source_sha256": manifest.source.sha256,
        "notice": manifest.notice,
        "head": manifest.head.kind,
        "folds": manifest.head.folds,
        "outputs": list(manifest.output_names),
        "precisions": list(bundle.precisions),
        "parity": manifest.parity,
    }
    if model is not None:
        found["model"] = model.name
        found["model_mb"] = round(model.stat().st_size / 1e6, 1)
        if sha256(model) != manifest.source.sha256:
            raise BceError(f"is made from another file than {model}: give the file it was made from", bundle.path)
    return found

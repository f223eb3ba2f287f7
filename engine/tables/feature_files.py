"""Block features as a parquet file: what ``bce-infer --features`` writes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bce.engine.errors import OptionsError
from bce.engine.files import Beside
from bce.engine.geometry import ChunkGrid, WindowSpec
from bce.engine.results import Part


class FeatureSink:
    """Writes features part by part, one row group each, beside the file and renames at the end.

    Columns: ``row_id`` (stem and end second of the chunk; with features per window the window's own end),
    ``path``, ``site``, ``start_time`` (UTC), ``start_s``, ``end_s``, then one column of fixed-size float32 lists per
    output of the backbone ("block_21", ...).

    Args:
        out: a path that ends in ``.parquet``.
        widths: output names and their widths.
        window: the model's windows.
        grid: the run's chunks.
        bundle: the bundle's identity; kept in the file's metadata, as what follows is.
        backbone: what ran it.
        notice: the bundle's.

    Raises:
        OptionsError: ``out`` ends otherwise.
        OSError: it cannot be written.
    """

    def __init__(
        self,
        out: str | os.PathLike[str],
        widths: dict[str, int],
        window: WindowSpec,
        grid: ChunkGrid,
        *,
        bundle: str = "",
        backbone: str = "",
        notice: str = "",
    ) -> None:
        path = check_feature_file(out)
        self._schema = pa.schema(
            [
                ("row_id", pa.string()),
                ("path", pa.string()),
                ("site", pa.string()),
                ("start_time", pa.timestamp("ms", tz="UTC")),
                ("start_s", pa.float64()),
                ("end_s", pa.float64()),
                *((name, pa.list_(pa.float32(), width)) for name, width in widths.items()),
            ],
            metadata={"bundle": bundle, "backbone": backbone, "notice": notice},
        )
        self._widths = widths
        self._window = window
        self._grid = grid
        self._file = Beside(path)
        try:
            if self._file.trouble is not None:  # nothing has run yet: say it now
                raise self._file.trouble
            self._writer = pq.ParquetWriter(self._file, self._schema, compression="zstd")
        except BaseException:
            self._file.discard()
            raise

    def add(self, part: Part) -> None:
        """Append the features of some chunks; a part without any adds nothing."""
        rows = len(next(iter(part.features.values()), ()))
        if not rows:
            return
        per_window = len(part.window_start_s) > 0
        start_s = part.window_start_s if per_window else self._grid.start_s(part.first_chunk, rows)
        end_s = start_s + (self._window.window_s if per_window else self._grid.chunk_s)
        recording = part.recording
        columns = [
            pa.array([f"{recording.stem}_{_seconds(end)}" for end in end_s]),
            pa.array([recording.path_text] * rows),
            pa.array([recording.site] * rows, pa.string()),
            pa.array([recording.start_time] * rows, pa.timestamp("ms", tz="UTC")),
            pa.array(start_s),
            pa.array(end_s),
            *(
                pa.FixedSizeListArray.from_arrays(pa.array(part.features[name].ravel()), width)
                for name, width in self._widths.items()
            ),
        ]
        self._writer.write_table(pa.Table.from_arrays(columns, schema=self._schema), row_group_size=rows)

    def finish(self) -> None:
        """Finish the file and give it its name."""
        self._writer.close()
        self._file.keep()

    def abort(self) -> None:
        """Leave nothing behind."""
        self._writer.is_open = False  # else it writes its end when it is collected
        self._file.discard()


def check_feature_file(path: str | os.PathLike[str]) -> Path:
    """The path as a Path, if features can be written to it.

    Raises:
        OptionsError: it does not end in ``.parquet``.
    """
    file = Path(path)
    if file.suffix.lower() != ".parquet":
        raise OptionsError("features are written as parquet: give a name that ends in .parquet", file)
    return file


def _seconds(value: np.floating) -> str:
    """Seconds to 10 ms, without zeros at the end: 5, 12.5, 86395.25."""
    return f"{value:.2f}".rstrip("0").rstrip(".")

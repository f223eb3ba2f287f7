"""Block features as a parquet file: what ``bce-infer --features`` writes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bce.engine.errors import OptionsError
from bce.engine.network.bundle import WINDOW_S
from bce.engine.results import RecordingResult


class FeatureWriter:
    """Writes features recording by recording, one row group each, beside the file and renames at the end.

    Columns: ``row_id`` (stem and end second of the chunk; with features per window the window's own end),
    ``path``, ``site``, ``start_time`` (UTC), ``start_s``, ``end_s``, then one column of fixed-size float32 lists per
    output of the backbone ("block_21", ...).

    Args:
        out: a path that ends in ``.parquet``.
        widths: output names and their widths.
        notice: kept in the file's metadata, with ``bundle``.
        bundle: SHA-256 of the bundle's manifest.
    """

    def __init__(
        self, out: str | os.PathLike[str], widths: dict[str, int], *, bundle: str = "", notice: str = ""
    ) -> None:
        self._out = Path(out)
        if self._out.suffix != ".parquet":
            raise OptionsError("features are written as parquet: give a name that ends in .parquet", out)
        self._partial = self._out.with_name(self._out.name + ".partial")
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
            metadata={"bundle": bundle, "notice": notice},
        )
        self._widths = widths
        self._writer = pq.ParquetWriter(self._partial, self._schema, compression="zstd")

    def add(self, result: RecordingResult) -> None:
        """Append the features of one recording; a recording without any adds nothing."""
        if not result.features:
            return
        rows = len(next(iter(result.features.values())))
        if not rows:
            return
        start_s = result.window_start_s if len(result.window_start_s) else np.arange(rows) * WINDOW_S
        recording = result.recording
        columns = [
            pa.array([f"{recording.stem}_{end:g}" for end in start_s + WINDOW_S]),
            pa.array([str(recording.path)] * rows),
            pa.array([recording.site] * rows, pa.string()),
            pa.array([recording.start_time] * rows, pa.timestamp("ms", tz="UTC")),
            pa.array(start_s),
            pa.array(start_s + WINDOW_S),
            *(
                pa.FixedSizeListArray.from_arrays(pa.array(result.features[name].ravel()), width)
                for name, width in self._widths.items()
            ),
        ]
        self._writer.write_table(pa.Table.from_arrays(columns, schema=self._schema), row_group_size=rows)

    def close(self) -> None:
        """Finish the file and give it its name."""
        self._writer.close()
        os.replace(self._partial, self._out)

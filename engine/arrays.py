"""Files of named arrays (``.npz``) of unknown origin: read whole, or refused."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import IO, Any

from numpy.lib import format as npy
from numpy.typing import NDArray

from bce.engine.errors import TableError, one_line

MOST_BYTES = 1 << 30
"""Of all arrays of a file together: a few kilobytes can be packed to unfold into a full memory."""


def read_arrays(path: str | os.PathLike[str], what: str) -> dict[str, NDArray[Any]]:
    """All arrays of a file by name. Pickled objects are refused: to read them is to run them.

    Args:
        path: the file, as ``numpy.savez`` writes it.
        what: it should be, for messages: "a file of priors".

    Raises:
        TableError: the file cannot be read, is not of this form, is damaged, or holds more than 1 GB.
    """
    file = Path(path)
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            size = sum(member.file_size for member in members)
            if size > MOST_BYTES:
                raise TableError(f"unfolds to {size / 1e9:.1f} GB, expected {what} of at most 1 GB", file)
            found: dict[str, NDArray[Any]] = {}
            for member in members:
                with archive.open(member) as stream:
                    found[member.filename.removesuffix(".npy")] = _array(stream, member.file_size)
            return found
    except TableError:
        raise
    except OSError as error:
        raise TableError(f"cannot be read as {what} ({error.strerror or one_line(str(error))})", file) from None
    except Exception as error:  # zipfile, its decompressors, numpy and its header's parser each have their own
        raise TableError(f"is not {what}, or damaged ({one_line(str(error)) or type(error).__name__})", file) from None


def _array(stream: IO[bytes], size: int) -> NDArray[Any]:
    """One array; what its header promises is compared with the member's size before memory is taken for it."""
    version = npy.read_magic(stream)
    header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = header(stream)
    count = 1
    for length in shape:
        count *= length
    if count * max(1, dtype.itemsize) > size:
        raise ValueError(f"an array of {list(shape)} in {size} bytes")
    stream.seek(0)
    array: NDArray[Any] = npy.read_array(stream, allow_pickle=False)
    return array

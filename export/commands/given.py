"""What goes into a bundle as it was given: tuned values of post-processing, and a table of site and hour."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Protocol

from bce.engine.errors import BundleError, OptionsError, TableError
from bce.engine.geometry import ChunkGrid
from bce.engine.post.options import Step, tuned_options
from bce.engine.post.postprocessor import Postprocessor
from bce.engine.post.priors import Priors
from bce.engine.taxonomy import Taxonomy


class PostprocessingFiles(Protocol):
    """Where they were given."""

    @property
    def priors(self) -> str | os.PathLike[str] | None:
        """A table of site and hour."""

    @property
    def post(self) -> str | os.PathLike[str] | None:
        """Tuned values, as JSON."""


def read_post(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Tuned values of post-processing out of a JSON file: what a bundle's manifest has in its field ``post``.

    Raises:
        OptionsError: the file cannot be read, holds no JSON object, or a value that there is not.
    """
    try:
        content = json.loads(Path(path).read_bytes())
        if not isinstance(content, dict):
            raise OptionsError('holds no JSON object: expected values by name, such as {"sigma": 1.0}', path)
        tuned_options(content)
    except OSError as error:
        raise OptionsError(f"cannot be read ({error.strerror})", path) from None
    except (ValueError, RecursionError, OverflowError) as error:
        raise OptionsError(f"is not JSON ({error})", path) from None
    except BundleError as error:
        raise OptionsError(error.reason, path) from None
    return content


def check_postprocessing(
    files: PostprocessingFiles,
    priors: Priors | None,
    post: dict[str, Any],
    classes: Taxonomy | None,
    grid: ChunkGrid,
) -> None:
    """Refuse priors and tuned values that a run of the bundle could not use.

    Args:
        files: where they come from, for messages.
        priors, post: what they hold.
        classes: of the bundle; None for one without scores.
        grid: the chunks of a run.

    Raises:
        OptionsError: naming the file and why.
    """
    for flag, path in (("--priors", files.priors), ("--post", files.post)):
        if path is not None and classes is None:
            raise OptionsError(f"{flag}: the bundle has no scores to use it on, give --head", path)
    if classes is None:
        return
    if priors is not None:
        try:
            priors.for_classes(classes.labels)
        except TableError as error:
            raise OptionsError(error.reason, files.priors) from None
    # priors may also come with a run; the class table is the bundle's own
    asked: tuple[Step, ...] = ("taxonomy",) if "taxonomy" in post else ()
    try:
        Postprocessor(tuned_options(post), classes, grid, priors, asked)
    except (OptionsError, TableError) as error:
        raise OptionsError(error.reason, files.post) from None

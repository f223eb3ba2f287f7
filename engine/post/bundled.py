"""The post-processing of a bundle's scores: with the values and the priors that it brings, unless a run has others."""

from __future__ import annotations

import os
from collections.abc import Collection

from bce.engine.errors import BundleError, OptionsError, TableError
from bce.engine.geometry import ChunkGrid
from bce.engine.network.bundle import MANIFEST, PRIORS, Bundle
from bce.engine.post.options import PostprocessOptions, Step, kept_values, tuned_options
from bce.engine.post.postprocessor import Postprocessor
from bce.engine.post.priors import Priors


def postprocess_options(bundle: Bundle) -> PostprocessOptions:
    """The post-processing that a bundle was tuned to, and the defaults where it was not.

    Raises:
        BundleError: its manifest names a step, a value or a group that there is not.
    """
    manifest = bundle.manifest
    taxonomy = bundle.taxonomy if manifest.post and manifest.score is not None else None
    try:
        options = tuned_options(manifest.post)
        if taxonomy is not None:
            Postprocessor(options, taxonomy, manifest.grid)  # knows which groups there are
    except (BundleError, OptionsError) as error:
        raise BundleError(error.reason, bundle.path / MANIFEST) from None
    return options


def bundled_priors(bundle: Bundle) -> Priors | None:
    """The priors that a bundle brings, or None.

    Raises:
        BundleError: they are not what they should be, or lack a class of the bundle.
    """
    file = bundle.file(PRIORS)
    if file is None:
        return None
    try:
        return Priors.load(file).for_classes(bundle.classes)
    except TableError as error:
        raise BundleError(f"{error.reason}; --prior-strength none runs without them", file) from None


def bundle_postprocessor(
    bundle: Bundle,
    options: PostprocessOptions,
    priors: str | os.PathLike[str] | None = None,
    required: Collection[Step] = (),
    grid: ChunkGrid | None = None,
) -> Postprocessor:
    """What turns a bundle's logits into the scores of a table.

    Args:
        bundle: with scores.
        options: what to do.
        priors: a site x hour table in place of the bundle's own.
        required: steps that the user asked for by name.
        grid: the chunks of the run; None for the bundle's own.

    Raises:
        OptionsError: a required step lacks what it needs, or an excluded group does not exist.
        TableError: the priors that are given cannot be read, or lack a class.
        BundleError: so do the bundle's own.
    """
    found = None
    if options.uses_prior:
        found = bundled_priors(bundle) if priors is None else Priors.load(priors)
    brought = kept_values(bundle.manifest.post, options)
    return Postprocessor(options, bundle.taxonomy, grid or bundle.manifest.grid, found, required, brought)

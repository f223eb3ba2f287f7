"""The post-processing of a bundle's scores: with the values and the priors that it brings, unless a run has others."""

from __future__ import annotations

import os
from collections.abc import Collection

from bce.engine.errors import BundleError, OptionsError, TableError
from bce.engine.geometry import ChunkGrid
from bce.engine.network.bundle import MANIFEST, PRIORS, Bundle
from bce.engine.post.deployments import Places
from bce.engine.post.options import PostprocessOptions, Step, kept_values, tuned_options
from bce.engine.post.postprocessor import Postprocessor
from bce.engine.post.priors import Priors
from bce.engine.post.range_model import RANGE, RangeModel
from bce.engine.post.ranges import Ranges

NO_RANGE_MODEL = f"the bundle has no range model ({RANGE})"
NO_PLACE = "it is not known where the recordings were made: --place LAT,LON or --deployments CSV says it"


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


def bundled_range_model(bundle: Bundle) -> RangeModel | None:
    """The range model that a bundle brings, or None.

    Raises:
        BundleError: it is not what it should be, or has other classes than the bundle.
    """
    file = bundle.file(RANGE)
    if file is None:
        return None
    model, classes = RangeModel.load(file), len(bundle.classes)
    if model.classes != classes:
        raise BundleError(f"has {model.classes} classes, its bundle {classes}; --range off runs without it", file)
    return model


def bundle_postprocessor(
    bundle: Bundle,
    options: PostprocessOptions,
    priors: str | os.PathLike[str] | None = None,
    required: Collection[Step] = (),
    grid: ChunkGrid | None = None,
    places: Places | None = None,
) -> Postprocessor:
    """What turns a bundle's logits into the scores of a table.

    Args:
        bundle: with scores.
        options: what to do.
        priors: a site x hour table in place of the bundle's own.
        required: steps that the user asked for by name.
        grid: the chunks of the run; None for the bundle's own.
        places: where the recordings were made, for the bundle's range model, which is then required; None where that is
            not known.

    Raises:
        OptionsError: a required step lacks what it needs, or an excluded group does not exist.
        TableError: the priors that are given cannot be read, or lack a class.
        BundleError: so do the bundle's own.
    """
    found = None
    if options.uses_prior:
        found = bundled_priors(bundle) if priors is None else Priors.load(priors)
    if places is not None:
        required = (*required, "range")
    ranges: Ranges | str | None = None
    if options.uses_range:
        ranges = _ranges(bundle, places, asked="range" in required)
    elif "range" in required and options.range_mode != "off":
        raise OptionsError(
            f"range: {options.range_mode} with a threshold or strength of 0 does nothing: give --range off, or more"
        )
    brought = kept_values(bundle.manifest.post, options)
    return Postprocessor(options, bundle.taxonomy, grid or bundle.manifest.grid, found, required, brought, ranges)


def _ranges(bundle: Bundle, places: Places | None, *, asked: bool) -> Ranges | str | None:
    """The step, or why there is none; None where nobody asks for one and the bundle has none."""
    if bundle.file(RANGE) is None:
        return NO_RANGE_MODEL if asked else None
    if places is None:
        return NO_PLACE
    model = bundled_range_model(bundle)
    return None if model is None else Ranges(model, places)

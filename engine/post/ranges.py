"""What the range model says of a run's recordings: each has its own place, and the week in which it starts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bce.engine.post.deployments import Places
from bce.engine.post.options import PostprocessOptions
from bce.engine.post.range_model import ALL_YEAR, RangeModel, week_of
from bce.engine.recording import Recording

CLIP = 1e-4
"""Probabilities are kept this far from 0 and 1 before their log-odds are taken: within +-9.21, as those of priors."""


@dataclass(frozen=True)
class RangeBasis:
    """What a recording's ranges rest on.

    Attributes:
        latitude, longitude: of its place, in degrees.
        week: 1..48 of its start; None where its date is not known: of the whole year.
        masked: how many classes are masked.
    """

    latitude: float
    longitude: float
    week: int | None
    masked: int


@dataclass(frozen=True, eq=False)
class Ranged:
    """What is done to a recording.

    Attributes:
        masked: classes that are not there, bool [classes]; None where none are masked.
        log_odds: what is added to the logits, float64 [classes]; None for nothing.
        basis: what that rests on; None where the place is not known.
    """

    masked: NDArray[np.bool_] | None = None
    log_odds: NDArray[np.float64] | None = None
    basis: RangeBasis | None = None


@dataclass(frozen=True, eq=False)
class Ranges:
    """The step of a run: a range model for its classes, and where its recordings were made."""

    model: RangeModel
    places: Places

    def of(self, recording: Recording, options: PostprocessOptions) -> Ranged:
        """What is done to a recording; nothing where its place is not known.

        Classes that the model does not know are left alone.
        """
        place = self.places.place_of(recording)
        if place is None or not options.uses_range:
            return Ranged()
        week = week_of(recording.start_time)
        p = self.model.probabilities(place.latitude, place.longitude, week)
        masked, log_odds = None, None
        if options.range_mode == "mask":
            masked = p < options.range_threshold  # NaN, of classes that are not known, is not
        else:
            q = np.clip(p.astype(np.float64), CLIP, 1 - CLIP)
            log_odds = np.nan_to_num(options.range_strength * (np.log(q) - np.log1p(-q)), nan=0.0)
        count = 0 if masked is None else int(masked.sum())
        told = None if week == ALL_YEAR else week
        return Ranged(masked, log_odds, RangeBasis(place.latitude, place.longitude, told, count))

    def describe(self, options: PostprocessOptions) -> str:
        """The step in a line."""
        known = f"{int(self.model.known.sum())} of {self.model.classes} classes known"
        if options.range_mode == "mask":
            does = f"classes below {options.range_threshold:g} masked"
        else:
            does = f"prior of strength {options.range_strength:g}"
        return f"range: {does}, at {self.places} ({known})"

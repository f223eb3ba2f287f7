"""The recordings of a synthetic data set, one by one and in memory.

Each has a stream of random numbers of its own, so that it is the same whatever else is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bce.tools.data.synth.options import CHUNK_S, SynthOptions
from bce.tools.data.synth.scenes import (
    SEEN_SITES,
    UNSEEN_SITES,
    Scene,
    World,
    draw_focal_singers,
    draw_singers,
    make_site,
    make_world,
    render,
)

Split = Literal["Train", "Test"]

_STREAM = {"Train": 101, "Test": 102, "focal": 103}  # apart from the world's own streams


@dataclass(frozen=True)
class Soundscape:
    """A soundscape: its file name and the labels of each chunk."""

    filename: str
    labels: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class FocalClip:
    """A focal clip: its row of train.csv, and the labels heard behind its own."""

    filename: str
    species: int
    secondary: tuple[str, ...]
    latitude: float
    longitude: float
    rating: float


world_of = cache(make_world)
"""The world of a seed and a number of species, drawn once."""


def soundscape(options: SynthOptions, split: Split, index: int) -> tuple[Soundscape, Scene]:
    """Make one soundscape, in memory.

    Args:
        index: its number in its split, from 0.
    """
    world = world_of(options.world, options.species)
    rng = np.random.default_rng([options.world, options.seed, _STREAM[split], index])
    site = _site_of(split, index)
    new_year = datetime(2024 if split == "Train" else 2025, 1, 1, tzinfo=UTC)
    start = new_year + timedelta(seconds=int(rng.integers(365 * 86_400)))
    singers = draw_singers(world, site, start.hour, options.duration_s, rng)
    scene = render(world, world.sites[site], start.hour, singers, options.duration_s, rng)
    name = f"BC0000_Syn{split}_{index + 1:04d}_{world.sites[site].name}_{start:%Y%m%d_%H%M%S}.ogg"
    return Soundscape(name, tuple(_labels(world, row) for row in scene.present)), scene


def focal_clip(options: SynthOptions, species: int, index: int) -> tuple[FocalClip, Scene]:
    """Make one focal clip of a species (its place in the taxonomy), in memory: 5 to 30 s by a recordist somewhere."""
    world = world_of(options.world, options.species)
    kind = world.species[species]
    rng = np.random.default_rng([options.world, options.seed, _STREAM["focal"], kind.inat_taxon_id * 1000 + index])
    site = make_site(rng, "", seen=True)
    duration_s = round(min(CHUNK_S + rng.exponential(7), 30.0), 2)
    singers = draw_focal_singers(world, species, duration_s, rng)
    scene = render(world, site, int(rng.integers(24)), singers, duration_s, rng)
    heard: NDArray[np.bool_] = np.any(scene.present, axis=0) & (np.arange(options.species) != species)
    rating = float(np.clip(round(11 - singers[0].distance_m / 2) / 2, 0.5, 5))
    filename = f"{kind.primary_label}/SYN{kind.inat_taxon_id}-{index + 1:03d}.ogg"
    return FocalClip(filename, species, _labels(world, heard), site.latitude, site.longitude, rating), scene


def _site_of(split: Split, index: int) -> int:
    """Place of a recording's site: the seen ones in turn, but for every fourth test recording."""
    if split == "Test" and index % 4 == 3:
        return SEEN_SITES + index // 4 % UNSEEN_SITES
    return (index - index // 4 if split == "Test" else index) % SEEN_SITES


def _labels(world: World, present: NDArray[np.bool_]) -> tuple[str, ...]:
    return tuple(world.labels[k] for k in np.flatnonzero(present))

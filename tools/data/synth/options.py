"""What synthetic data sets are like: the form of their recordings, and what may be asked for."""

from __future__ import annotations

from dataclasses import dataclass

from bce.engine.errors import OptionsError
from bce.tools.ranges import LARGEST_SEED, check_ranges

SAMPLE_RATE = 32_000
CHUNK_S = 5
"""Soundscapes are labelled in chunks of so many seconds."""
MIN_SPECIES, MAX_SPECIES = 4, 48
MOST_JOBS = 256


@dataclass(frozen=True)
class SynthOptions:
    """What to make.

    Attributes:
        seed: of the recordings; another seed gives other recordings of the same world.
        world: seed of the species' voices, the sites and who sings where and when.
        species: number of classes, 4..48.
        clips_per_species: focal clips of each class, 0..999.
        train_soundscapes, test_soundscapes: number of recordings, 0..99999; every fourth of the test is of an
            unseen site.
        duration_s: of each soundscape, a multiple of 5 s up to an hour.
        test_only: make the test soundscapes and their tables alone.
        jobs: processes; None takes the CPUs that this process may use.

    Raises:
        OptionsError: a value is out of range.
    """

    seed: int = 0
    world: int = 0
    species: int = 24
    clips_per_species: int = 20
    train_soundscapes: int = 96
    test_soundscapes: int = 48
    duration_s: int = 60
    test_only: bool = False
    jobs: int | None = None

    def __post_init__(self) -> None:
        check_ranges(
            self,
            seed=(0, LARGEST_SEED),
            world=(0, LARGEST_SEED),
            species=(MIN_SPECIES, MAX_SPECIES),
            clips_per_species=(0, 999),
            train_soundscapes=(0, 99_999),
            test_soundscapes=(0, 99_999),
            duration_s=(CHUNK_S, 3600),
            jobs=(1, MOST_JOBS),
        )
        if self.duration_s % CHUNK_S:
            raise OptionsError(f"duration_s is {self.duration_s}, it must be a multiple of {CHUNK_S}")

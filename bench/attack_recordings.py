"""The recordings that are attacked: formats, intact recordings whose every row differs, and damaged copies of them."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from bce.bench import damage

_STEP_S = 0.5
"""The sound changes so often: rows that are half a second off are others."""
_LENGTHS_S = (21.3, 34.0, 42.5, 27.25, 61.7)
_WRITE_S = 1
"""libsndfile's Vorbis encoder overflows its stack on long writes."""


@dataclass(frozen=True)
class Form:
    """A format that is attacked.

    Attributes:
        name: of the format, in names of files and in tables.
        suffix: of its files.
        container, coding: as libsndfile calls them.
        checked: whether its data carry checksums, so that a reader can notice any damage to them.
        rates: in Hz, in turn; 0 stands for the bundle's own.
        special: the damages that know this format, by name.
    """

    name: str
    suffix: str
    container: str
    coding: str
    checked: bool
    rates: tuple[int, ...]
    special: Mapping[str, damage.Damage]

    @property
    def damages(self) -> dict[str, damage.Damage]:
        """All damages of this format, by name."""
        return {**damage.DAMAGES, **self.special}


_ANY_RATE = (0, 48_000, 44_100, 0, 22_050)
_OGG: dict[str, damage.Damage] = {"lying": damage.ogg_lying, "pages_lost": damage.ogg_page_lost}
_RIFF: dict[str, damage.Damage] = {"lying": damage.lying(damage.RIFF_FIELDS)}
FORMS = {
    form.name: form
    for form in (
        Form("wav", ".wav", "WAV", "PCM_16", False, _ANY_RATE, _RIFF),
        Form("float", ".wav", "WAV", "FLOAT", False, _ANY_RATE, _RIFF | {"wild": damage.wild_floats}),
        Form("adpcm", ".wav", "WAV", "MS_ADPCM", False, _ANY_RATE, _RIFF),
        Form("w64", ".w64", "W64", "PCM_16", False, _ANY_RATE, {"lying": damage.lying(damage.W64_FIELDS)}),
        Form("aiff", ".aiff", "AIFF", "PCM_16", False, _ANY_RATE, {"lying": damage.lying(damage.AIFF_FIELDS)}),
        Form("au", ".au", "AU", "PCM_16", False, _ANY_RATE, {"lying": damage.lying(damage.AU_FIELDS)}),
        Form("mp3", ".mp3", "MP3", "MPEG_LAYER_III", False, _ANY_RATE, {"lying": damage.lying(damage.MP3_FIELDS)}),
        Form("flac", ".flac", "FLAC", "PCM_16", True, _ANY_RATE, {"lying": damage.lying(damage.FLAC_FIELDS)}),
        Form("vorbis", ".ogg", "OGG", "VORBIS", True, _ANY_RATE, _OGG),
        Form("opus", ".opus", "OGG", "OPUS", True, (48_000, 24_000, 48_000, 16_000, 48_000), _OGG),
    )
}


@dataclass(frozen=True)
class Intact:
    """A recording that nothing happened to.

    Attributes:
        path: of the file.
        form: its format.
        duration_s: its length.
    """

    path: Path
    form: Form
    duration_s: float


@dataclass(frozen=True)
class Victim:
    """A damaged copy.

    Attributes:
        name: format, damage and number: with the attack's seed all that is needed to make it again.
        path: of the file.
        damage: what happened to it.
        intact: what it was.
        touched_s: the stretch of time that was damaged, as bytes go: exact where every second has as many.
    """

    name: str
    path: Path
    damage: str
    intact: Intact
    touched_s: tuple[float, float]


def rng_of(seed: int, name: str) -> np.random.Generator:
    """A generator for one thing alone, so that it is the same with or without the others."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def sound(seconds: float, rate: int, channels: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Another tone over noise of another strength every half second: float32 [samples, channels] below full scale."""
    samples, step = round(seconds * rate), round(_STEP_S * rate)
    steps = -(-samples // step)
    time_s = np.arange(step) / rate
    out = np.empty((steps, step, channels), np.float32)
    for index in range(steps):
        tones = rng.uniform(300, 0.4 * rate, channels)
        tone = np.sin(2 * np.pi * np.outer(time_s, tones)) * rng.uniform(0.02, 0.4)
        out[index] = tone + rng.uniform(0.005, 0.1) * rng.uniform(-1, 1, (step, channels))
    return out.reshape(-1, channels)[:samples]


def write_intact(folder: Path, form: Form, number: int, seed: int, bundle_rate: int) -> Intact:
    """Write one of the intact recordings of a format; every third has two channels.

    Args:
        folder: where it goes.
        form: its format.
        number: which, from 0 on; length and rate go with it.
        seed: of the attack.
        bundle_rate: in Hz, what recordings are resampled to.
    """
    name = f"{form.name}-intact-{number:02}"
    rate = form.rates[number % len(form.rates)] or bundle_rate
    seconds, channels = _LENGTHS_S[number % len(_LENGTHS_S)], 2 if number % 3 == 2 else 1
    samples = sound(seconds, rate, channels, rng_of(seed, name))
    path = folder / f"{name}{form.suffix}"
    with soundfile.SoundFile(path, "w", rate, channels, form.coding, format=form.container) as file:
        for start in range(0, len(samples), _WRITE_S * rate):
            file.write(samples[start : start + _WRITE_S * rate])
    return Intact(path, form, len(samples) / rate)


def victim_name(form: Form, how: str, number: int) -> str:
    """Name of a damaged copy."""
    return f"{form.name}-{how}-{number:02}"


def write_victim(folder: Path, intact: Intact, how: str, number: int, seed: int) -> Victim:
    """Write a damaged copy of a recording.

    Args:
        folder: where it goes.
        intact: what is damaged.
        how: the name of one of the format's damages.
        number: which of them, from 0 on.
        seed: of the attack.
    """
    name = victim_name(intact.form, how, number)
    before = intact.path.read_bytes()
    after = intact.form.damages[how](before, rng_of(seed, name))
    path = folder / f"{name}{intact.form.suffix}"
    path.write_bytes(after)
    start, end = damage.touched(before, after)
    a_byte = intact.duration_s / len(before)
    return Victim(name, path, how, intact, (start * a_byte, end * a_byte))

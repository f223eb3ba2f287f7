"""Synthetic soundscapes: a world of species, sites and hours, and what a recorder hears there.

A :class:`World` is the truth behind a data set: who lives where and sings when, how each site and its recorder sound.
:func:`render` puts singers at distances into weather and noise and says which 5-s chunks hold which species. All is
drawn from the generator that it is given, so any recording can be made again alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, signal

from bce.tools.data.synth.options import CHUNK_S, SAMPLE_RATE
from bce.tools.data.synth.voices import (
    LEVEL_FRAME,
    Individual,
    Species,
    Voice,
    draw_individual,
    level_frames,
    make_species,
    sing,
)

SEEN_SITES = 8
UNSEEN_SITES = 3

AUDIBLE_DB = 3.0
"""A species is audible in a 100-ms frame that is this much above the chunk's background in the species' own band."""

AUDIBLE_FRAMES = 3
"""A chunk holds a species that is audible in this many of its frames: 0.3 s."""

_SOURCE_DB = 30.0  # above a calm ambience in the species' band, at the nearest distance
_NEAREST_M, _FARTHEST_M = 5.0, 90.0
_SPECTRUM = 1024

# local hours (UTC-4) around which the classes sing, and their spread
_PEAKS = {"Aves": ((6.5, 3.0), (16.5, 2.5)), "Amphibia": ((21.0, 3.5),), "Insecta": ((0.0, 4.0), (13.0, 3.0)),
          "Mammalia": ((5.0, 2.5), (19.0, 3.0))}  # fmt: skip
_UTC_MINUS_LOCAL = 4


@dataclass(frozen=True)
class Site:
    """A place with its recorder.

    Attributes:
        name: as in file names, "S01".
        seen: whether the training recordings come from here too.
        latitude, longitude: in degrees, in no particular place.
        gain_db: level of the calm ambience in the file, dB re full scale (RMS).
        tilt: slope of the ambience's power spectrum, power ~ f**-tilt.
        noise_db: the recorder's own white noise against the ambience, in dB (RMS).
        reverb_s: time in which echoes fall by 60 dB.
        hum_hz: pitches of the insects that hum here all night; they are no class.
    """

    name: str
    seen: bool
    latitude: float
    longitude: float
    gain_db: float
    tilt: float
    noise_db: float
    reverb_s: float
    hum_hz: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class World:
    """The truth behind a data set.

    Attributes:
        seed: what it was drawn from.
        species: classes in output order.
        sites: the seen ones first.
        activity: chance that a species sings in a recording, float64 [species, sites, 24 UTC hours], in (0, 1).
    """

    seed: int
    species: tuple[Species, ...]
    sites: tuple[Site, ...]
    activity: NDArray[np.float64]

    @property
    def labels(self) -> tuple[str, ...]:
        """Primary labels in output order."""
        return tuple(species.primary_label for species in self.species)


@dataclass(frozen=True)
class Singer:
    """One individual in a scene.

    Attributes:
        species: its place in the world's species.
        individual: how it differs from its species.
        distance_m: from the recorder.
        from_s, until_s: when it may begin a bout.
        pause_s: mean silence between its bouts.
    """

    species: int
    individual: Individual
    distance_m: float
    from_s: float
    until_s: float
    pause_s: float


@dataclass(frozen=True, eq=False)
class Scene:
    """A rendered recording.

    Attributes:
        samples: float32 [n] in [-1, 1]: the recorder's output.
        present: bool [chunks, species]: what is audible in each chunk.
        singers: who took part, audible or not.
        background: float32 [n]: all that is no species, before gain and clipping.
        tracks: each species' own sound by its place, float32 [n], before gain and clipping.
        gain: factor from tracks and background to samples.
    """

    samples: NDArray[np.float32]
    present: NDArray[np.bool_]
    singers: tuple[Singer, ...]
    background: NDArray[np.float32]
    tracks: dict[int, NDArray[np.float32]]
    gain: float


def make_world(seed: int = 0, species: int = 24) -> World:
    """Draw a world: the voices' drift, sites, and who sings where and when.

    Raises:
        OptionsError: the number of species is out of range.
    """
    catalogue = make_species(species, seed)
    number = SEEN_SITES + UNSEEN_SITES
    sites = tuple(
        make_site(np.random.default_rng([seed, 2, i]), f"S{i + 1:02d}", i < SEEN_SITES) for i in range(number)
    )
    # sites of one habitat share most of their species
    habitat = np.arange(len(sites)) % 3
    activity = np.stack([_activity(np.random.default_rng([seed, 3, s.inat_taxon_id]), s, habitat) for s in catalogue])
    return World(seed, catalogue, sites, activity)


def make_site(rng: np.random.Generator, name: str, seen: bool) -> Site:
    """A place and a recorder like no other."""
    return Site(
        name=name,
        seen=seen,
        latitude=round(float(rng.uniform(-1, 1)), 4),
        longitude=round(float(rng.uniform(-1, 1)), 4),
        gain_db=float(rng.uniform(-52, -30)),
        tilt=float(rng.uniform(0.8, 1.6)),
        noise_db=float(rng.uniform(-32, -16)),
        reverb_s=float(rng.uniform(0.2, 1.0)),
        hum_hz=tuple(float(f) for f in rng.uniform(3200, 9500, rng.integers(0, 3))),
    )


def _activity(rng: np.random.Generator, species: Species, habitat: NDArray[np.int64]) -> NDArray[np.float64]:
    """Chance of one species at [sites, hours]."""
    lives = rng.permutation([1.0, rng.uniform(0.2, 0.9), 0.05])[
        habitat
    ]  # at home in one habitat, a stranger in another
    lives = lives * rng.choice([1.0, 1.0, 1.0, 0.2], len(habitat))
    hours = np.zeros(24)
    for peak, spread in _PEAKS[species.class_name]:
        away = (np.arange(24) + 0.5 - _UTC_MINUS_LOCAL - peak - rng.normal(0, 1.0) + 12) % 24 - 12
        hours += rng.uniform(0.5, 1.0) * np.exp(-0.5 * (away / spread) ** 2)
    return np.clip(0.85 * np.outer(lives, np.minimum(hours, 1.0) + 0.06), 0.004, 0.9)


def draw_singers(world: World, site: int, hour: int, duration_s: float, rng: np.random.Generator) -> tuple[Singer, ...]:
    """Who sings in a recording at a site (its place) and UTC hour: each species by its chance in ``world.activity``."""
    singers = []
    for k in np.flatnonzero(rng.random(len(world.species)) < world.activity[:, site, hour]):
        voice = world.species[k].voice
        length = duration_s * rng.uniform(0.4, 1.0)
        start = rng.uniform(-0.2 * duration_s, duration_s - 0.6 * length)
        far = np.exp(rng.uniform(np.log(_NEAREST_M), np.log(_FARTHEST_M)))
        for _ in range(rng.integers(*voice.individuals, endpoint=True)):
            distance = float(np.clip(far * np.exp(rng.normal(0, 0.35)), _NEAREST_M, 1.3 * _FARTHEST_M))
            pause = voice.pause_s * float(rng.uniform(0.5, 1.6))
            singers.append(Singer(int(k), draw_individual(rng), distance, start, start + length, pause))
    return tuple(singers)


def draw_focal_singers(world: World, species: int, duration_s: float, rng: np.random.Generator) -> tuple[Singer, ...]:
    """A recordist's clip: one near individual of a species throughout, at times others behind it."""
    voice = world.species[species].voice
    near = float(rng.uniform(_NEAREST_M, 18))
    # it has begun to sing when the recorder is switched on
    singers = [Singer(species, draw_individual(rng), near, 0.0, duration_s, 0.35 * voice.pause_s)]
    others = [k for k in range(len(world.species)) if k != species]
    for k in rng.choice(others, rng.choice([0, 1, 2], p=[0.6, 0.3, 0.1]), replace=False):
        far = float(rng.uniform(25, _FARTHEST_M))
        pause = world.species[k].voice.pause_s
        singers.append(Singer(int(k), draw_individual(rng), far, 0.0, duration_s, pause))
    return tuple(singers)


def render(
    world: World, site: Site, hour: int, singers: tuple[Singer, ...], duration_s: float, rng: np.random.Generator
) -> Scene:
    """Let singers sing at a site and record it.

    Args:
        hour: UTC hour of the start; the night hums.
        duration_s: length; at least 1 s.
    """
    n = round(duration_s * SAMPLE_RATE)
    background = make_background(site, hour, n, rng)
    tracks: dict[int, NDArray[np.float32]] = {}
    for singer in singers:
        track = tracks.setdefault(singer.species, np.zeros(n, np.float32))
        _perform(track, world.species[singer.species].voice, singer, site, rng)
    spectra = chunk_spectra(background)
    present = np.zeros((len(spectra), len(world.species)), bool)
    for k, track in tracks.items():
        present[:, k] = audible(track, spectra, world.species[k].voice.band_hz)
    gain = 10 ** ((site.gain_db + rng.normal(0, 3)) / 20)
    mix = background.copy()
    for track in tracks.values():
        mix += track
    return Scene(np.clip(gain * mix, -1, 1).astype(np.float32), present, singers, background, tracks, float(gain))


def chunk_spectra(background: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean power in each FFT bin of each chunk: float32 [chunks, bins]; a chunk's sum is its mean square.

    As everywhere, a tail under 1 s makes no chunk.
    """
    size = CHUNK_S * SAMPLE_RATE
    spectra = []
    for start in range(0, len(background) - SAMPLE_RATE + 1, size):
        chunk = background[start : start + size]
        # every other segment is enough for a mean over 5 s
        segments = chunk[: len(chunk) // _SPECTRUM * _SPECTRUM].reshape(-1, _SPECTRUM)[::2]
        window = np.hanning(_SPECTRUM).astype(np.float32)
        power = np.square(np.abs(fft.rfft(segments * window, axis=1))).mean(axis=0)
        spectra.append(2 * power / (_SPECTRUM * np.square(window).sum()))
    return np.stack(spectra)


def audible(
    track: NDArray[np.float32], spectra: NDArray[np.float32], band_hz: tuple[float, float]
) -> NDArray[np.bool_]:
    """Which chunks hold a species: in at least 0.3 s of 100-ms frames it is 3 dB above the background in its band.

    Args:
        track: the species' sound alone, at the recorder.
        spectra: of the background, from :func:`chunk_spectra`.
        band_hz: the species' band.

    Returns:
        bool [chunks].
    """
    low, high = (round(f * _SPECTRUM / SAMPLE_RATE) for f in band_hz)
    noise = spectra[:, low : high + 1].sum(axis=1)
    frames = level_frames(track)
    per_chunk = CHUNK_S * SAMPLE_RATE // LEVEL_FRAME
    frames = np.pad(frames, (0, per_chunk))[: len(noise) * per_chunk].reshape(-1, per_chunk)
    return np.sum(frames > noise[:, None] * 10 ** (AUDIBLE_DB / 10), axis=1) >= AUDIBLE_FRAMES


def _perform(track: NDArray[np.float32], voice: Voice, singer: Singer, site: Site, rng: np.random.Generator) -> None:
    """Add all bouts of a singer to its species' track."""
    n = len(track)
    echo = _echo(site.reverb_s, singer.distance_m, rng)
    calm = calm_power(voice.band_hz)
    loudness = np.sqrt(calm) * 10 ** ((_SOURCE_DB + rng.normal(0, 2)) / 20) * _NEAREST_M / singer.distance_m
    ways: dict[int, NDArray[np.complex64]] = {}  # what the way to the recorder does, by FFT size
    at = singer.from_s + rng.exponential(0.5 * singer.pause_s)
    while at < singer.until_s:
        bout = sing(voice, singer.individual, rng)
        length = len(bout) + len(echo)
        size = 1 << (length - 1).bit_length()
        if size not in ways:
            ways[size] = fft.rfft(echo, size) * air_loss(fft.rfftfreq(size, 1 / SAMPLE_RATE), singer.distance_m)
        level = np.float32(loudness * np.exp(rng.normal(0, 0.15)))
        heard = level * fft.irfft(fft.rfft(bout, size) * ways[size], size)[:length]
        start = round(at * SAMPLE_RATE)
        first, last = max(start, 0), min(start + length, n)
        if first < last:
            track[first:last] += heard[first - start : last - start]
        at += len(bout) / SAMPLE_RATE + rng.exponential(singer.pause_s) + 0.15


def air_loss(frequency_hz: NDArray[np.float64], distance_m: float) -> NDArray[np.float32]:
    """Amplitude factor of air and leaves over a distance: 0.05 dB/m at 4 kHz, as frequency to the power 1.5."""
    loss_db = 0.05 * (frequency_hz / 4000) ** 1.5 * (distance_m - _NEAREST_M)
    return (10 ** (-np.minimum(loss_db, 80) / 20)).astype(np.float32)


def _echo(reverb_s: float, distance_m: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Impulse response: the direct sound and a decaying hiss whose share grows with distance; of unit energy."""
    n = max(int(0.6 * reverb_s * SAMPLE_RATE), 64)
    tail = rng.standard_normal(n, dtype=np.float32) * np.exp(-6.9 / (reverb_s * SAMPLE_RATE) * np.arange(n)).astype(
        np.float32
    )
    share = 0.08 + 0.3 * min(distance_m / _FARTHEST_M, 1.0)
    tail *= np.sqrt(share / np.square(tail).sum())
    tail[0] = np.sqrt(1 - share)
    return tail


def calm_power(band_hz: tuple[float, float]) -> float:
    """Share of a calm ambience (unit power, the middle site's tilt and noise) that lies in a band."""
    frequency = fft.rfftfreq(_SPECTRUM, 1 / SAMPLE_RATE)
    power = np.square(_ambience(frequency, tilt=1.2, noise_db=-24))
    inside = (frequency >= band_hz[0]) & (frequency <= band_hz[1])
    return float(power[inside].sum() / power.sum())


def _ambience(frequency_hz: NDArray[np.float64], tilt: float, noise_db: float) -> NDArray[np.float64]:
    """Amplitude spectrum: power ~ f**-tilt above 100 Hz, nothing at DC, and white noise underneath."""
    slope = np.where(frequency_hz > 0, np.maximum(frequency_hz, 100.0), np.inf) ** -tilt
    slope *= len(frequency_hz) / slope.sum()
    return np.sqrt(slope + 10 ** (noise_db / 10))


def make_background(site: Site, hour: int, n: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """All that is no species, float32 [n]: ambience of RMS about 1, wind, rain, humming insects, recorder noise."""
    size = fft.next_fast_len(n, real=True)
    spectrum = fft.rfft(rng.standard_normal(size, dtype=np.float32))
    frequency = fft.rfftfreq(size, 1 / SAMPLE_RATE)
    spectrum *= _ambience(frequency, site.tilt + rng.normal(0, 0.1), site.noise_db).astype(np.float32)
    background = fft.irfft(spectrum, size)[:n]
    if rng.random() < 0.4:
        background += _wind(n, rng) * np.float32(np.exp(rng.uniform(np.log(0.5), np.log(5))))
    if rng.random() < 0.15:
        background += _rain(n, rng) * np.float32(np.exp(rng.uniform(np.log(0.1), np.log(1.2))))
    night = (hour - _UTC_MINUS_LOCAL) % 24 >= 18 or (hour - _UTC_MINUS_LOCAL) % 24 < 6
    for pitch in site.hum_hz if night else ():
        background += _hum(pitch * np.exp(rng.normal(0, 0.02)), n, rng) * np.float32(rng.uniform(0.05, 0.4))
    return background


def _slow_noise(n: int, rate_hz: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Gaussian noise of unit variance drawn ``rate_hz`` times a second and joined by straight lines."""
    step = SAMPLE_RATE / rate_hz
    knots = rng.standard_normal(int(n / step) + 2)
    return np.interp(np.arange(n), np.arange(len(knots)) * step, knots).astype(np.float32)


def _wind(n: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Rumble below about 500 Hz that comes in gusts; RMS about 1."""
    decimation = 16
    low = signal.lfilter([0.2], [1, -0.8], rng.standard_normal(n // decimation + 2))
    rumble = signal.resample_poly(3 * low, decimation, 1)[:n].astype(np.float32)
    return rumble * np.exp(0.6 * _slow_noise(n, 0.5, rng) - 0.2)


def _rain(n: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Hiss and drops; RMS about 1."""
    hiss = rng.standard_normal(n, dtype=np.float32)
    drops = np.zeros(n, np.float32)
    hits = rng.integers(0, n, int(n / SAMPLE_RATE * rng.uniform(5, 80)))
    drops[hits] = rng.exponential(30, len(hits)) * rng.choice([-1, 1], len(hits))
    b, a = signal.butter(2, [900, 9000], "bandpass", fs=SAMPLE_RATE)
    return signal.lfilter(b.astype(np.float32), a.astype(np.float32), hiss + drops).astype(np.float32)


def _hum(pitch_hz: float, n: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """One steady insect chorus: a narrow band of noise whose level drifts; RMS about 1."""
    phase = 2 * np.pi * pitch_hz / SAMPLE_RATE * np.arange(n) + np.cumsum(0.03 * _slow_noise(n, 400, rng))
    return np.sin(phase).astype(np.float32) * np.exp(0.2 * _slow_noise(n, 1, rng)) * np.float32(1.4)

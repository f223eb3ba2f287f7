"""Made-up species and how they sound.

A species is a row of a table: a :class:`Voice` says which band, contour, tempo and texture its syllables have, and
:func:`sing` turns it into samples. Species of one genus share most of their row and differ by a detail (tempo, the way
a sweep goes, roughness), as relatives do. All numbers are invented; no real animal is imitated.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bce.engine.errors import OptionsError
from bce.tools.data.synth.options import MAX_SPECIES, MIN_SPECIES, SAMPLE_RATE

LEVEL_FRAME = 3_200
"""Samples of the frames over which a level is meant: 100 ms."""

Note = tuple[float, float, float]
"""A syllable's pitch inside the voice's band (0 low, 1 high): at its start, at its end, and its bow between them."""

UP: Note = (0.0, 1.0, 0.0)
DOWN: Note = (1.0, 0.0, 0.0)
ARCH: Note = (0.0, 0.0, 1.0)
LOW: Note = (0.0, 0.0, 0.0)
MIDDLE: Note = (0.5, 0.5, 0.0)
HIGH: Note = (1.0, 1.0, 0.0)


@dataclass(frozen=True)
class Voice:
    """The recipe of a species' song, a bout of syllables.

    Attributes:
        low_hz, high_hz: range of the fundamental.
        notes: pitch of the syllables, taken in turn.
        rate_hz: syllables per second.
        duty: share of a syllable's period that sounds, in (0, 1].
        syllables: fewest and most syllables of a bout.
        pause_s: mean silence between two bouts of one individual.
        harmonics: amplitudes of the fundamental and its multiples.
        attack: share of the syllable until its full level, in (0, 1).
        pulse_hz, pulse_depth: amplitude modulation inside a syllable (a pulse train, roughness); depth in [0, 1].
        vibrato_hz, vibrato: frequency modulation, as a share of the pitch.
        breath_hz, breath: width and share of noise around each harmonic; share in [0, 1].
        individuals: fewest and most that sing at once.
    """

    low_hz: float
    high_hz: float
    notes: tuple[Note, ...]
    rate_hz: float
    duty: float
    syllables: tuple[int, int]
    pause_s: float
    harmonics: tuple[float, ...] = (1.0, 0.06)
    attack: float = 0.25
    pulse_hz: float = 0.0
    pulse_depth: float = 0.0
    vibrato_hz: float = 0.0
    vibrato: float = 0.0
    breath_hz: float = 0.0
    breath: float = 0.0
    individuals: tuple[int, int] = (1, 2)

    @property
    def band_hz(self) -> tuple[float, float]:
        """The band that holds nearly all of the song's energy, individuals' pitches included."""
        power = np.cumsum(np.square(self.harmonics))
        top = 1 + int(np.searchsorted(power, 0.98 * power[-1]))
        noise = self.breath_hz if self.breath else 0.0
        low = 0.88 * self.low_hz - noise - self.pulse_hz
        return max(low, 60.0), min(1.12 * self.high_hz * top + noise + self.pulse_hz, 0.49 * SAMPLE_RATE)


@dataclass(frozen=True)
class Species:
    """A class of the data set, with the columns of taxonomy.csv."""

    primary_label: str
    inat_taxon_id: int
    scientific_name: str
    common_name: str
    class_name: str
    voice: Voice


@dataclass(frozen=True)
class Individual:
    """How one singer differs from its species' recipe: factors on pitch, tempo and duty, and tilt of the harmonics."""

    pitch: float
    tempo: float
    duty: float
    tilt: float


_WHISTLE = Voice(2500, 3500, (LOW, MIDDLE, HIGH), 2.2, 0.8, (3, 6), 4.0, attack=0.2)
_TRILL = Voice(4000, 5600, (DOWN,), 11.0, 0.6, (12, 24), 4.0, attack=0.3)
_SWEEP = Voice(1500, 4300, (UP,), 1.8, 0.75, (2, 4), 4.0, harmonics=(1.0, 0.15, 0.04), attack=0.4)
_STACK = Voice(650, 900, (ARCH,), 1.6, 0.8, (2, 4), 4.5, harmonics=(0.5, 0.8, 1.0, 0.9, 0.6, 0.35), attack=0.15)
_PULSES = Voice(950, 1250, (MIDDLE,), 8.0, 0.5, (10, 26), 2.5, harmonics=(1.0, 0.4, 0.12), attack=0.1)
_CHORUS = Voice(2000, 2700, (UP,), 1.5, 0.14, (8, 24), 1.0, attack=0.3, individuals=(3, 6))
_STRIDULATION = Voice(4700, 5000, (MIDDLE,), 2.8, 0.5, (8, 30), 1.5, attack=0.3, pulse_hz=31, pulse_depth=1.0)
_BARK = Voice(
    300, 520, (DOWN,), 3.2, 0.5, (2, 4), 4.0, harmonics=(0.7, 1.0, 0.9, 0.8, 0.5, 0.35, 0.2, 0.15), attack=0.1,
    breath_hz=120, breath=0.5,
)  # fmt: skip
_MOAN = Voice(
    190, 330, (ARCH,), 0.5, 0.9, (1, 2), 5.0, harmonics=(0.8, 1.0, 0.6, 0.45, 0.3, 0.12), attack=0.4,
    vibrato_hz=4.5, vibrato=0.02, breath_hz=20, breath=0.2,
)  # fmt: skip

_GENERA: tuple[tuple[str, str, str, str, tuple[tuple[str, Voice], ...]], ...] = (
    # genus ending, class, common name, code, (how it is told from its relatives, voice)
    ("cantor", "Aves", "Whistler", "whi", (
        ("Rising", _WHISTLE),
        ("Falling", replace(_WHISTLE, notes=(HIGH, MIDDLE, LOW))),
        ("Quavering", replace(_WHISTLE, notes=(HIGH, LOW), vibrato_hz=14, vibrato=0.025)),
    )),
    ("trilla", "Aves", "Triller", "tri", (
        ("Slow", _TRILL),
        ("Middling", replace(_TRILL, rate_hz=18, syllables=(18, 36))),
        ("Hurried", replace(_TRILL, rate_hz=29, syllables=(28, 56))),
    )),
    ("voluta", "Aves", "Sweeper", "swe", (
        ("Upward", _SWEEP),
        ("Downward", replace(_SWEEP, notes=(DOWN,))),
        ("Arching", replace(_SWEEP, notes=(ARCH,))),
    )),
    ("corvus", "Aves", "Cawer", "caw", (
        ("Drawling", _STACK),
        ("Chattering", replace(_STACK, rate_hz=6.0, syllables=(6, 14), notes=(DOWN,))),
        ("Hoarse", replace(_STACK, pulse_hz=70, pulse_depth=0.9, breath_hz=90, breath=0.3)),
    )),
    ("rana", "Amphibia", "Ticker Frog", "tic", (
        ("Slow", _PULSES),
        ("Middling", replace(_PULSES, rate_hz=15, syllables=(14, 40))),
        ("Rattling", replace(_PULSES, rate_hz=34, syllables=(20, 60), duty=0.6)),
    )),
    ("hyla", "Amphibia", "Peeper", "pee", (
        ("One-note", _CHORUS),
        ("Two-note", replace(_CHORUS, notes=(LOW, HIGH), rate_hz=3.4, duty=0.4, syllables=(2, 12))),
    )),
    ("gryllus", "Insecta", "Cricket", "cri", (
        ("Chirping", _STRIDULATION),
        ("Droning", replace(_STRIDULATION, low_hz=5900, high_hz=6200, rate_hz=0.25, duty=0.9, syllables=(1, 3),
                            pulse_hz=47, pause_s=2.5)),
        ("Zipping", replace(_STRIDULATION, low_hz=7600, high_hz=8800, notes=(UP,), rate_hz=1.3, duty=0.4,
                            syllables=(3, 10), pulse_hz=0, pulse_depth=0, breath_hz=900, breath=1.0)),
    )),
    ("canis", "Mammalia", "Barker", "bar", (
        ("Gruff", _BARK),
        ("Yelping", replace(_BARK, low_hz=560, high_hz=900, rate_hz=1.5, duty=0.35, breath=0.25, syllables=(2, 5))),
    )),
    ("lupus", "Mammalia", "Moaner", "moa", (
        ("Mellow", _MOAN),
        ("Throbbing", replace(_MOAN, notes=(DOWN,), pulse_hz=9, pulse_depth=0.9)),
    )),
)  # fmt: skip

_EPITHETS = ("simplex", "duplex", "triplex")
# the second half of the catalogue: the same genera's cousins, elsewhere in pitch and tempo
_COUSINS = {"whi": (0.55, 1.5), "tri": (1.45, 0.72), "swe": (1.7, 1.9), "caw": (1.8, 0.7), "tic": (0.5, 0.75),
            "pee": (1.45, 0.6), "cri": (0.66, 0.7), "bar": (2.1, 0.7), "moa": (2.2, 1.7)}  # fmt: skip


def _cousin(voice: Voice, pitch: float, tempo: float) -> Voice:
    return replace(
        voice,
        low_hz=voice.low_hz * pitch,
        high_hz=voice.high_hz * pitch,
        rate_hz=voice.rate_hz * tempo,
        pulse_hz=voice.pulse_hz * tempo,
        breath_hz=voice.breath_hz * pitch,
    )


def make_species(number: int, world: int = 0) -> tuple[Species, ...]:
    """The first ``number`` species of a world, in the order of their labels (as in taxonomy.csv).

    Args:
        number: 4..48; any number holds all four classes, 24 or more hold every genus' two or three species.
        world: seed that moves each genus a little in pitch and tempo, so that another world needs another model.

    Raises:
        OptionsError: ``number`` is outside its range.
    """
    if not MIN_SPECIES <= number <= MAX_SPECIES:
        raise OptionsError(f"{number} species: {MIN_SPECIES} to {MAX_SPECIES} can be made")
    ranked: list[tuple[tuple[int, int, int], Species]] = []
    for cousin, (prefix, tag) in enumerate((("Syntho", "syn"), ("Ficto", "fic"))):
        for place, (ending, class_name, common, code, members) in enumerate(_GENERA):
            rng = np.random.default_rng([world, 1, cousin, place])
            drift = np.exp(rng.uniform(-0.06, 0.06, 2))
            pitch, tempo = drift * (_COUSINS[code] if cousin else (1.0, 1.0))
            for member, (detail, voice) in enumerate(members):
                taxon = 9_000_000 + 1000 * cousin + 10 * place + member + 1
                kind = f"{detail} {prefix}-{common.lower()}"
                label = f"{tag}{code}{member + 1}" if class_name == "Aves" else str(taxon)
                name = f"{prefix}{ending} {_EPITHETS[member]}"
                species = Species(label, taxon, name, kind, class_name, _cousin(voice, float(pitch), float(tempo)))
                # one species of each class first, then of each genus, then their relatives
                first = place not in (0, 4, 6, 7)
                ranked.append(((cousin, 0 if not first and member == 0 else 1 + member, place), species))
    ranked.sort(key=lambda pair: pair[0])
    return tuple(sorted((species for _, species in ranked[:number]), key=lambda s: s.primary_label))


def draw_individual(rng: np.random.Generator) -> Individual:
    """One singer of a species; its deviations are smaller than what tells relatives apart."""
    pitch, tempo, duty, tilt = rng.standard_normal(4).clip(-2, 2)
    return Individual(
        pitch=float(np.exp(0.03 * pitch)),
        tempo=float(np.exp(0.05 * tempo)),
        duty=float(np.exp(0.08 * duty)),
        tilt=float(0.25 * tilt),
    )


def sing(voice: Voice, individual: Individual, rng: np.random.Generator) -> NDArray[np.float32]:
    """One bout, dry and close.

    Returns:
        float32 samples at 32 kHz, scaled so that the loudest 100 ms have a mean power of 1.
    """
    rate = voice.rate_hz * individual.tempo
    count = int(rng.integers(voice.syllables[0], voice.syllables[1], endpoint=True))
    n = max(int(count / rate * SAMPLE_RATE), LEVEL_FRAME)
    t = np.arange(n) / SAMPLE_RATE
    turn = t * rate
    syllable = np.minimum(turn.astype(np.int64), count - 1)
    x = (turn - syllable) / min(voice.duty * individual.duty, 0.97)
    (sounding,) = np.nonzero(x < 1.0)
    t, syllable, x = t[sounding], syllable[sounding], x[sounding]

    notes = np.asarray(voice.notes).T
    start, end, bow = notes[:, 0] if len(voice.notes) == 1 else notes[:, syllable % len(voice.notes)]
    place = start + (end - start) * x + bow * 4 * x * (1 - x)
    pitch = (voice.low_hz + (voice.high_hz - voice.low_hz) * place) * individual.pitch
    pitch *= np.exp(0.008 * rng.standard_normal(count))[syllable]
    if voice.vibrato:
        pitch *= 1 + voice.vibrato * np.sin(2 * np.pi * voice.vibrato_hz * t)
    turns = np.cumsum(pitch) / SAMPLE_RATE
    phase = (2 * np.pi * (turns - np.floor(turns))).astype(np.float32)  # float32 sines are several times faster

    call = np.zeros(len(t), np.float32)
    for number, amplitude in enumerate(voice.harmonics, 1):
        if number * pitch.max() < 0.48 * SAMPLE_RATE:
            call += np.float32(amplitude * number**-individual.tilt) * np.sin(np.float32(number) * phase)
    if voice.breath:
        grain = max(int(SAMPLE_RATE / (2 * voice.breath_hz)), 1)
        knots = rng.standard_normal(n // grain + 2)
        call *= 1 - voice.breath + voice.breath * np.interp(sounding, np.arange(len(knots)) * grain, knots)
    if voice.pulse_depth:
        call *= 1 - voice.pulse_depth * (0.5 + 0.5 * np.cos(2 * np.pi * voice.pulse_hz * individual.tempo * t))
    edge = np.minimum(x / voice.attack, (1 - x) / (1 - voice.attack))
    call *= np.sin(0.5 * np.pi * edge) * np.exp(0.12 * rng.standard_normal(count))[syllable]

    bout = np.zeros(n, np.float32)
    bout[sounding] = call
    return bout / np.sqrt(level_frames(bout).max())


def level_frames(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean power of each whole 100-ms frame, float32 [frames]."""
    whole = len(samples) // LEVEL_FRAME * LEVEL_FRAME
    return np.square(samples[:whole].reshape(-1, LEVEL_FRAME)).mean(axis=1)

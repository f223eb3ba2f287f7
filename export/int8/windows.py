"""Calibration windows: network inputs out of recordings in two groups that share none, one to choose on, one to judge.

Quiet windows are among them by design. A window's own range sets the steps of its activations, and where little of a
map stands out of its bias that range is far too coarse; recordings that were chosen for their calls would hide it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bce.engine.errors import AudioError, OptionsError
from bce.engine.frontends.base import Frontend
from bce.engine.geometry import WindowSpec
from bce.export.int8.listening import SILENT_DB, Cut, Heard, Samples, counted, heard, level_db, recordings_of

Say = Callable[[str], None]

MOST_RECORDINGS = 192
GROUP_WINDOWS = 96
"""Of a group, before some are repeated more quietly."""
FEWEST_WINDOWS = 16
"""That sound, in all."""
FEWEST_OF_OTHERS = 4
"""Windows that sound outside the longest recording; with fewer, that recording is taken alone."""
MOST_AUDIO_S = 7200.0
"""Read in all, shared among the recordings."""
LEAST_AUDIO_S = 150.0
"""Read of each recording, whatever their number."""
QUIET_DB = -60.0
"""Level below which a window counts as quiet."""
QUIETER_DB = (-40.0, -60.0)
"""By so much every fourth window is repeated, in turn."""
NOISE_DB = -90.0
"""Level of the noise that stands for a microphone in a silent place: about a step of 16 bits."""


@dataclass(frozen=True, eq=False)
class Group:
    """Some windows.

    Attributes:
        inputs: float32 [n, *shape of the network's input].
        quiet: bool [n], those at less than -60 dB, and those made quieter.
        level_db: float64 [n], RMS about the mean re full scale.
        made: bool [n], those made quieter, of noise or silent.
    """

    inputs: NDArray[np.float32]
    quiet: NDArray[np.bool_]
    level_db: NDArray[np.float64]
    made: NDArray[np.bool_]

    def joined(self, other: Group) -> Group:
        """Both groups' windows."""
        return Group(
            np.concatenate([self.inputs, other.inputs]),
            np.concatenate([self.quiet, other.quiet]),
            np.concatenate([self.level_db, other.level_db]),
            np.concatenate([self.made, other.made]),
        )

    def halves(self) -> tuple[Group, Group]:
        """Two groups: of the windows as they were recorded, and of those made quieter, the first and the second half.

        Windows stand recording by recording, so that the halves share the windows of one recording at most.
        """
        made = np.flatnonzero(self.made)
        natural = np.flatnonzero(~self.made)
        first = np.concatenate([natural[: len(natural) // 2], made[: len(made) // 2]])
        second = np.setdiff1d(np.arange(len(self.inputs)), first)
        one, other = (
            Group(self.inputs[some], self.quiet[some], self.level_db[some], self.made[some]) for some in (first, second)
        )
        return one, other


@dataclass(frozen=True, eq=False)
class Windows:
    """What int8 is made on and judged on.

    Attributes:
        calibrate: for moments and sensitivities.
        judge: for the gate: of other recordings.
        recordings: how many were used.
        independent: whether the groups share no recording.
        notes: what is to be known of them, one line each.
    """

    calibrate: Group
    judge: Group
    recordings: int
    independent: bool
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Cuts:
    """The same as samples, before there is a frontend.

    Attributes:
        calibrate, judge: windows of either group.
        window: rate and length.
        recordings, independent, notes: see :class:`Windows`.
    """

    calibrate: tuple[Cut, ...]
    judge: tuple[Cut, ...]
    window: WindowSpec
    recordings: int
    independent: bool
    notes: tuple[str, ...]

    def windows(self, frontend: Frontend) -> Windows:
        """The network's inputs, prepared as the engine does it."""
        groups = enumerate((self.calibrate, self.judge))
        calibrate, judge = (_prepared(cuts, frontend, self.window, seed) for seed, cuts in groups)
        return Windows(calibrate, judge, self.recordings, self.independent, self.notes)


def calibration_cuts(paths: Sequence[str | os.PathLike[str]], window: WindowSpec, say: Say = lambda line: None) -> Cuts:
    """Windows of recordings, decoded as the engine does it.

    At most 192 recordings, spread evenly over those given, which go to the groups in turn. Of each, windows are spread
    evenly over its audio, and its quietest; silent ones are passed over. Every fourth is repeated 40 or 60 dB below;
    near-silent noise and digital silence stand at the end.

    Args:
        paths: recordings and folders of them.
        window: rate and length of the windows.
        say: told each note.

    Raises:
        OptionsError: a path does not exist; nothing sounds; or fewer than 16 windows do.
        AudioError: a folder holds no recordings, or none can be read.
    """
    notes: list[str] = []

    def note(line: str) -> None:
        notes.append(line)
        say(line)

    found, copies = recordings_of(paths)
    if copies:
        note(f"{counted(copies, 'recording')} left out: copies of others")
    chosen = [found[place] for place in _even(len(found), MOST_RECORDINGS)]
    every = _heard(chosen, window, note)
    given = ", ".join(os.fspath(path) for path in paths)
    _check(every, len(chosen), given, window, note)
    groups, independent = _groups([one for one in every if one.sounding])
    if not independent:
        note(
            "all windows are of one recording: int8 is judged on its second half, which is not independent of the first"
        )
    calibrate, judge = (tuple(cuts) for cuts in groups)
    used = sum(one.sounding > 0 for one in every) if independent else 1
    return Cuts(calibrate, judge, window, used, independent, tuple(notes))


def _heard(paths: Sequence[Path], window: WindowSpec, note: Say) -> list[Heard]:
    """What is in the recordings that can be read."""
    wanted = max(4, -(-2 * GROUP_WINDOWS // len(paths)))
    most_s = max(LEAST_AUDIO_S, MOST_AUDIO_S / len(paths))
    every, troubles = [], []
    for path in paths:
        try:
            every.append(heard(path, window, wanted, most_s))
        except AudioError as error:
            troubles.append(error)
            note(f"left out: {error}")
    if not every:
        raise AudioError(
            f"none of {counted(len(paths), 'recording')} can be read ({troubles[0].reason}): int8 needs whole ones",
            troubles[0].path,
        )
    if cut := sum(not one.whole for one in every):
        note(f"of {counted(cut, 'recording')} only about the first {most_s:.0f} s were read")
    return every


def _check(every: Sequence[Heard], chosen: int, given: str, window: WindowSpec, note: Say) -> None:
    """Refuse what int8 cannot be made on, and say what it is made on."""
    sounding, silent = sum(one.sounding for one in every), sum(one.silent for one in every)
    length = f"{window.window_s:g} s"
    if not sounding:
        raise OptionsError(
            f"all {counted(silent, 'window')} of {length} are silent (below {SILENT_DB:g} dB re full scale): int8 has "
            "to be calibrated on recordings in which something sounds",
            given,
        )
    if sounding < FEWEST_WINDOWS:
        raise OptionsError(
            f"{counted(sounding, 'window')} of {length} that sound in {counted(len(every), 'recording')}: int8 has to "
            f"be calibrated on at least {FEWEST_WINDOWS}, and better on ten times as many",
            given,
        )
    if silent:
        share = silent / (sounding + silent)
        note(f"{silent} of {sounding + silent} windows ({share:.0%}) are silent, and were passed over")
    if low := [one.source_rate for one in every if one.source_rate < window.sample_rate]:
        note(
            f"recordings with a sample rate below {window.sample_rate} Hz: {len(low)} of {len(every)}, the lowest "
            f"{min(low)} Hz; nothing above half of it was heard in them"
        )


def _groups(every: Sequence[Heard]) -> tuple[tuple[list[Cut], list[Cut]], bool]:
    """The windows of both groups, and whether they are of different recordings."""
    longest = max(every, key=lambda one: one.sounding)
    if sum(one.sounding for one in every) - longest.sounding < FEWEST_OF_OTHERS:
        return _halves(longest), False
    sides: tuple[list[Heard], list[Heard]] = ([], [])
    for place, one in enumerate(every):
        sizes = [sum(min(other.sounding, GROUP_WINDOWS) for other in side) for side in sides]
        turn = place % 2
        sides[1 - turn if sizes[turn] > 2 * sizes[1 - turn] else turn].append(one)
    groups = [_filled(side) for side in sides]
    return (groups[0], groups[1]), True


def _filled(side: Sequence[Heard]) -> list[Cut]:
    """The windows of a group: the same number of each recording, but where short ones leave room for more."""
    there = [len({cut.start for cut in (*one.spread, *one.quietest)}) for one in side]
    each = -(-GROUP_WINDOWS // len(side))
    while each < max(there) and sum(min(count, each + 1) for count in there) <= GROUP_WINDOWS:
        each += 1
    return [cut for one in side for cut in _chosen(one.spread, one.quietest, each)]


def _halves(one: Heard) -> tuple[list[Cut], list[Cut]]:
    """The windows of a recording's first half, by how many sound, and of its second."""
    spread = sorted(one.spread, key=lambda cut: cut.start)
    middle = spread[len(spread) // 2].start
    first, second = (
        _chosen(
            [cut for cut in spread if (cut.start >= middle) == late],
            [cut for cut in one.quietest if (cut.start >= middle) == late],
            GROUP_WINDOWS,
        )
        for late in (False, True)
    )
    return first, second


def _chosen(spread: Sequence[Cut], quietest: Sequence[Cut], count: int) -> list[Cut]:
    """At most so many windows: a fourth the quietest, the others spread evenly; by their places."""
    few = quietest[: max(1, count // 4)] if count > 1 else ()
    by_start = {cut.start: cut for cut in few}
    others = [cut for cut in spread if cut.start not in by_start]
    by_start |= {others[place].start: others[place] for place in _even(len(others), count - len(by_start))}
    return [by_start[start] for start in sorted(by_start)]


def _even(count: int, most: int) -> list[int]:
    """At most so many places, spread evenly over 0..count - 1."""
    return [int(place) for place in np.unique(np.linspace(0, count - 1, min(count, most)).round())] if count else []


def _prepared(cuts: Sequence[Cut], frontend: Frontend, window: WindowSpec, seed: int) -> Group:
    """Inputs of windows as they are, of some more quietly, of noise, of silence."""
    samples = [*(cut.samples for cut in cuts), *_quiet(cuts, window, seed)]
    levels = np.array([level_db(one) for one in samples])
    inputs = np.empty((len(samples), *frontend.shape), np.float32)
    for one, out in zip(samples, inputs, strict=True):
        frontend.open(one).window(0, out)
    made = np.arange(len(samples)) >= len(cuts)
    return Group(inputs, made | (levels < QUIET_DB), levels, made)


def _quiet(cuts: Sequence[Cut], window: WindowSpec, seed: int) -> Iterator[Samples]:
    for place, cut in enumerate(cuts[::4]):
        yield cut.samples * np.float32(10 ** (QUIETER_DB[place % len(QUIETER_DB)] / 20))
    noise = np.random.default_rng(seed).standard_normal(window.samples)
    yield (noise * 10 ** (NOISE_DB / 20)).astype(np.float32)
    yield np.zeros(window.samples, np.float32)

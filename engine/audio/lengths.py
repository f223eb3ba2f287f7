"""How long a recording is by its header, and how much of that its bytes can bear."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bce.engine.audio import ogg
from bce.engine.audio.containers import Layout
from bce.engine.audio.flac import StreamInfo
from bce.engine.audio.flac_frames import FrameWalk
from bce.engine.audio.soundfiles import BYTES_A_SAMPLE, ForwardFile

UNKNOWN_FRAMES = 1 << 62  # libsndfile gives a number near 2**63 for a stream whose header tells no length
MOST_MISSING = 10
"""Times the audio that is there, up to which a header is believed: a copy that broke off still tells its length."""
FRAMES_A_BYTE = {"VORBIS": 2048, "OPUS": 2048, "MPEG_LAYER_I": 24, "MPEG_LAYER_II": 24, "MPEG_LAYER_III": 24}
"""At most, by coding. Digital silence is two bytes for a packet of 4096 sample frames in Vorbis, and for one of 2880 in
Opus; a frame of MPEG audio of 576 has 24 bytes at the lowest bit rate."""
MOST_FRAMES_A_BYTE = 6554
"""At most, in any other coding: 65,535 sample frames of silence in the 10 bytes of a FLAC frame."""

PLAIN_FRAMES_A_BYTE = 10
"""Of FLAC: a length that asks for more is held to the frames that are there."""
LONGEST_PACKET = {"VORBIS": 8192, "OPUS": 5760}
"""In units of an Ogg page's position, by coding."""


@dataclass(frozen=True)
class Length:
    """In sample frames.

    Attributes:
        stated: by the header, or what follows on one that was never finished; None where it does not say.
        promised: the same where it is believed; else None.
        readable: at which reading ends, though the decoder may go on; None where only it knows.
    """

    stated: int | None
    promised: int | None
    readable: int | None = None


def length(file: ForwardFile, path: Path, layout: Layout | None, stream: StreamInfo | None) -> Length:
    """How long an opened recording is.

    Raises:
        OSError: the file cannot be read.
    """
    unit = _unit(file, layout)
    if layout is not None and unit is not None:
        unit_bytes, unit_frames = unit
        held = layout.size // unit_bytes * unit_frames
        if layout.stated is None:
            return Length(held, held, held)
        stated = layout.stated // unit_bytes * unit_frames
        if stated <= held:
            frames = min(stated, file.frames)  # in which libsndfile counts some padding, too
            return Length(frames, frames, frames)
        return Length(stated, stated if stated <= MOST_MISSING * held else None, held)
    if file.frames >= UNKNOWN_FRAMES or (file.format == "OGG" and not ogg.is_whole(path)):
        return Length(None, None)  # of an Ogg stream the last page tells it
    if file.format == "OGG" and not ogg.end_follows(path, LONGEST_PACKET.get(file.subtype, 65_535)):
        return Length(file.frames, None)
    size = path.stat().st_size
    if stream is None:
        most = size * FRAMES_A_BYTE.get(file.subtype, MOST_FRAMES_A_BYTE)
        return Length(file.frames, file.frames if file.frames <= most else None)
    most = MOST_MISSING * stream.most_frames(size)
    if size * PLAIN_FRAMES_A_BYTE < file.frames <= most:  # silence, or a lie: the frames tell
        walk = FrameWalk(path, stream.audio_at)
        walk.walk_to(file.frames / MOST_MISSING)
        walk.close()
        most = MOST_MISSING * walk.frames
    # a tag may lie behind the audio, which the decoder takes for damage
    return Length(file.frames, file.frames if file.frames <= most else None, file.frames)


def _unit(file: ForwardFile, layout: Layout | None) -> tuple[int, int] | None:
    """(bytes, sample frames) of what cannot be cut in two; None where such pieces differ in size."""
    if file.subtype in BYTES_A_SAMPLE:
        return BYTES_A_SAMPLE[file.subtype] * file.channels, 1
    if file.format == "AIFF" and file.subtype == "IMA_ADPCM":
        return 34 * file.channels, 64
    return None if layout is None else layout.block

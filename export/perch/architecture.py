"""Perch v2's network as one table: the only place that knows its shape.

The network is chirp's EfficientNet-B3 of V1-style MBConv blocks (google-research/perch,
``chirp/models/efficientnet.py``), fed with a log-mel spectrogram of one channel. A width factor scales every
channel count by the same rule, so that a smaller model of the same 26-block layout is built from the same table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

from bce.engine.errors import OptionsError
from bce.engine.frontends.perch import SHAPE

PERCH_WIDTH = 1.2
"""EfficientNet-B3's width factor, the one of the published file."""

FRAMES, MELS = SHAPE
"""The log-mel input of one window: 500 frames (time) by 128 bands (mel)."""

BLOCKS, EMBEDDING, LABEL = "blocks", "embedding", "label"
"""What a backbone graph may put out: features of blocks by their names, the embedding, the classifier's logits."""
DEFAULT_BLOCKS = (21, 24, 25)
"""The blocks that hear species best by a nearest-neighbour probe, and what Perch heads are trained on."""

PROTOTYPES_PER_CLASS = 4
NORM_EPSILON = 1e-5
"""Flax' default for BatchNorm, which the published network uses."""

_DEPTH = 1.4
# kernel, stride, expand ratio, channels and repeats of EfficientNet-B0's seven stages
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
_STEM_CHANNELS, _HEAD_CHANNELS = 32, 1280


@dataclass(frozen=True)
class Block:
    """One MBConv block. Sizes are (time, mel); paddings are (begin, end)."""

    index: int
    stage: int
    kernel: int
    stride: int
    expand_ratio: int
    in_channels: int
    expanded: int
    out_channels: int
    squeezed: int
    in_size: tuple[int, int]
    out_size: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    residual: bool

    @property
    def name(self) -> str:
        """The name of the block's features: ``block_21``."""
        return f"block_{self.index}"


@dataclass(frozen=True)
class Architecture:
    """The whole network: stem, blocks, head."""

    width: float
    stem_channels: int
    stem_size: tuple[int, int]
    blocks: tuple[Block, ...]
    head_channels: int

    @property
    def map_size(self) -> tuple[int, int]:
        """(time, mel) size of the last feature map: 16 x 4."""
        return self.blocks[-1].out_size


def round_channels(channels: float) -> int:
    """Round a scaled channel count to a multiple of 8, never down by more than 10 % (EfficientNet's rule)."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def _strided_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """(begin, end) zeros along one axis: for an even size at stride 2 the extra zero is at the end."""
    half = kernel // 2
    return (half, half) if stride == 1 else (half - (1 - size % 2), half)


def _valid_size(size: int, kernel: int, stride: int) -> int:
    return (size - kernel) // stride + 1


def candidate_widths() -> tuple[float, ...]:
    """Width factors to try on a network of unknown width: Perch's own, then round numbers before others, because
    neighbouring widths may round to the same channels."""
    return tuple(dict.fromkeys([PERCH_WIDTH, *(n / d for d in (1, 2, 10, 20, 100) for n in range(1, 4 * d + 1))]))


@cache
def architecture(width: float = PERCH_WIDTH) -> Architecture:
    """The 26-block network at a width factor; the default is Perch v2's own.

    Args:
        width: scales every channel count, in (0, 4]. 1.2 gives Perch v2.

    Raises:
        OptionsError: the width is out of range.
    """
    if not 0 < width <= 4:
        raise OptionsError(f"width {width} is out of range: give a factor in (0, 4]")
    stem_channels = round_channels(_STEM_CHANNELS * width)
    size = stem_size = (_valid_size(FRAMES, 3, 2), _valid_size(MELS, 3, 2))
    channels = stem_channels
    blocks: list[Block] = []
    for stage, (kernel, stage_stride, expand_ratio, base, repeats) in enumerate(_STAGES, start=1):
        out_channels = round_channels(base * width)
        for repeat in range(math.ceil(repeats * _DEPTH)):
            stride = stage_stride if repeat == 0 else 1
            time, mel = (_strided_padding(n, kernel, stride) for n in size)
            out_size = (
                _valid_size(size[0] + sum(time), kernel, stride),
                _valid_size(size[1] + sum(mel), kernel, stride),
            )
            blocks.append(
                Block(
                    index=len(blocks),
                    stage=stage,
                    kernel=kernel,
                    stride=stride,
                    expand_ratio=expand_ratio,
                    in_channels=channels,
                    expanded=channels * expand_ratio,
                    out_channels=out_channels,
                    squeezed=channels // 4,
                    in_size=size,
                    out_size=out_size,
                    padding=(time, mel),
                    residual=repeat > 0,
                )
            )
            channels, size = out_channels, out_size
    return Architecture(width, stem_channels, stem_size, tuple(blocks), round_channels(_HEAD_CHANNELS * width))


LAST_BLOCK = architecture().blocks[-1].index
"""Blocks are 0 to this one, at every width."""

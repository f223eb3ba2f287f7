"""BirdNET v2.4's network as a table: what a file must hold to be one.

Sizes are those of the published file (``BirdNET_GLOBAL_6K_V2.4_Model_FP32.tflite``), which BirdNET-Analyzer's
``docs/models.rst`` describes as "EfficientNetB0-like". Maps are [channels, mel, time].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

EMBEDDING = "embedding"
LOGITS = "logits"
OUTPUTS = (EMBEDDING, LOGITS)

BRANCH_CHANNELS = 2
STEM_CHANNELS = 24
STEM_KERNEL = (4, 8)
STEM_STRIDE = 2
STEM_PADDING = ((1, 1), (3, 4))
"""(begin, end) along mel and time: TensorFlow's SAME for 96 x 511."""
POOL = (1, 2)
KERNEL = 3
"""Of every depthwise convolution, with a zero on each side, and of the head's convolution, without any."""
EMBEDDING_CHANNELS = 1024


@dataclass(frozen=True)
class Block:
    """One MBConv block.

    Attributes:
        index: from 0.
        in_channels, expanded, out_channels: of its maps.
        squeezed: channels inside its gate; None without one.
        stride: of its depthwise convolution; at 1 the block's input is added to its output.
    """

    index: int
    in_channels: int
    expanded: int
    out_channels: int
    squeezed: int | None
    stride: int

    @property
    def residual(self) -> bool:
        return self.stride == 1


_STAGES = ((3, 72, 36, None), (4, 288, 72, 18), (5, 864, 108, 27), (4, 1536, 192, 48))
"""(blocks, expanded channels, channels, channels inside the gates)."""


def _blocks() -> Iterator[Block]:
    index, channels = 0, STEM_CHANNELS
    for count, expanded, out_channels, squeezed in _STAGES:
        for number in range(count):
            yield Block(index, channels, expanded, out_channels, squeezed, 1 if number else 2)
            index, channels = index + 1, out_channels


BLOCKS = tuple(_blocks())
LAST_CHANNELS = BLOCKS[-1].out_channels

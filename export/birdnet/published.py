"""Published files of BirdNET v2.4 by their SHA-256."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

PUBLISHED = {
    "55f3e4055b1a13bfa9a2452731d0d34f6a02d6b775a334362665892794165e4c": "BirdNET_GLOBAL_6K_V2.4_Model_FP32.tflite",
    "1226f23fc20362617deb09178f366111b70cf085c2c82893f2814e5acedce6c2": (
        "BirdNET_GLOBAL_6K_V2.4_MData_Model_V2_FP16.tflite"
    ),
}
"""Names of the files whose SHA-256 is known."""
LABELS = "b50b77b7c3dfe40cd637e8cccdca0173a0a4ddee8867b830ff3c1a566f477f16"
"""SHA-256 of the published labels, ``BirdNET_GLOBAL_6K_V2.4_Labels.txt``: lines without an end behind the last."""


def are_published_labels(lines: Sequence[str]) -> bool:
    """Whether the lines of a file of labels are those that are published."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest() == LABELS


def published_name(digest: str) -> str | None:
    """The name of the published file with a SHA-256; None where it is none of those that are known here."""
    return PUBLISHED.get(digest)

"""Published files of BirdNET v2.4 by their SHA-256."""

from __future__ import annotations

PUBLISHED = {
    "55f3e4055b1a13bfa9a2452731d0d34f6a02d6b775a334362665892794165e4c": "BirdNET_GLOBAL_6K_V2.4_Model_FP32.tflite",
    "1226f23fc20362617deb09178f366111b70cf085c2c82893f2814e5acedce6c2": (
        "BirdNET_GLOBAL_6K_V2.4_MData_Model_V2_FP16.tflite"
    ),
}
"""Names of the files whose SHA-256 is known."""


def published_name(digest: str) -> str | None:
    """The name of the published file with a SHA-256; None where it is none of those that are known here."""
    return PUBLISHED.get(digest)

"""ONNX Runtime, imported here and nowhere else, so that it never reports to anyone.

Since 1.32 it keeps a device id and a database of events below the user's cache folder and sends them to a host of its
maker. It looks at this variable once, when it is imported; what its ``disable_telemetry_events`` does comes too late.
Whoever wants the reports sets ``ORT_DISABLE_TELEMETRY=0``.
"""

from __future__ import annotations

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort

__all__ = ["ort"]

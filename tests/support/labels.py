"""What tables of labelled windows begin with, and two recordings of BirdCLEF's names."""

from __future__ import annotations

HEADER = "filename,start,end,primary_label\n"
A, B = "BC2026_Train_0001_S08_20250606_235955", "BC2026_Train_10012_S22_20250607_040000"

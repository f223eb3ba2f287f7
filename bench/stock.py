"""Today's way, as competition notebooks do it: one plain script, nothing of bce.

python stock.py --model perch_v2_no_dft.onnx --threads 2 --shifts=-2,-1,0,1,2 --out submission.csv FOLDER

Each recording is decoded whole, its twelve windows go through the published graph as one batch of ONNX Runtime with
N threads, once per shift; the logits of the shifts are averaged, the wanted columns become probabilities and a CSV.
"""

from __future__ import annotations

import argparse
import csv
import os
from pathlib import Path

import numpy as np
import soundfile

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read once, when it is imported

import onnxruntime as ort

SAMPLE_RATE, WINDOW_S = 32_000, 5
WINDOW = SAMPLE_RATE * WINDOW_S
SUFFIXES = (".ogg", ".flac", ".wav")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("submission.csv"))
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--shifts", default="0")
    parser.add_argument("--classes", type=int, default=234, help="columns of the submission")
    args = parser.parse_args()

    options = ort.SessionOptions()
    options.intra_op_num_threads = args.threads
    session = ort.InferenceSession(str(args.model), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    label = [output.name for output in session.get_outputs()].index("label")
    shifts = [round(float(shift) * SAMPLE_RATE) for shift in args.shifts.split(",")]

    with open(args.out, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row_id", *(f"class_{index}" for index in range(args.classes))])
        for path in sorted(p for p in args.folder.iterdir() if p.suffix in SUFFIXES):
            audio, rate = soundfile.read(path, dtype="float32")
            if rate != SAMPLE_RATE or audio.ndim != 1:
                raise SystemExit(f"{path}: {rate} Hz, {audio.ndim} dimensions; 32 kHz mono is expected")
            chunks = len(audio) // WINDOW
            reach = max(map(abs, shifts))
            padded = np.pad(audio[: chunks * WINDOW], reach)
            logits = np.zeros((chunks, args.classes), np.float32)
            for shift in shifts:
                start = reach + shift
                batch = padded[start : start + chunks * WINDOW].reshape(chunks, WINDOW)
                # a taxonomy's 234 classes are picked out of the 14,795 by index
                logits += session.run(None, {name: batch})[label][:, : args.classes]
            scores = 1 / (1 + np.exp(-logits / len(shifts)))
            for chunk, row in enumerate(scores, start=1):
                writer.writerow([f"{path.stem}_{chunk * WINDOW_S}", *row.tolist()])


if __name__ == "__main__":
    main()

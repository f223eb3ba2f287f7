"""Proof that the base install is enough to run a bundle. Run with the Python of such an install:

    python tests/base_install.py

Makes recordings, runs ``bce-infer`` with the embedded model over them as a user would, and checks the table, the exit
code, and that nothing heavy is installed or imported.
"""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import soundfile

from bce.engine.compiled.targets import host_target

HEAVY = ("torch", "tensorflow", "onnx", "matplotlib", "sklearn")
RATE = 32_000


def check(holds: bool, what: str) -> None:
    print(f"{'ok' if holds else 'FAILED'}: {what}")
    if not holds:
        sys.exit(1)


def write_recordings(folder: Path) -> None:
    """Two recordings of noise, of a minute and of 12 s, and a file that is none."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number, seconds in enumerate((60.0, 12.0), start=1):
        name = f"BC2026_Test_{number:04}_S01_20250101_030000.ogg"
        with soundfile.SoundFile(folder / name, "w", RATE, 1) as file:
            for _ in range(round(seconds)):  # libsndfile's Vorbis encoder overflows its stack on long writes
                file.write(0.1 * rng.standard_normal(RATE))
    (folder / "broken.ogg").write_text("not audio")


def read_scores(table: Path) -> np.ndarray:
    """The scores of a submission, float64 [rows, classes]."""
    with open(table, newline="") as file:
        return np.array([row[1:] for row in list(csv.reader(file))[1:]], dtype=float)


def main() -> None:
    scripts = Path(sys.executable).parent
    for name in HEAVY:
        check(find_spec(name) is None, f"{name} is not installed")

    modules = "import sys, bce.engine; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", modules], capture_output=True, text=True, check=True).stdout.split()
    check("numpy" not in loaded, "importing bce.engine does not even load numpy")

    with tempfile.TemporaryDirectory() as folder:
        recordings = Path(folder) / "recordings"
        write_recordings(recordings)
        out = Path(folder) / "submission.csv"
        command = [scripts / "bce-infer", "--threads", "2", "--out", out, recordings]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        print(run.stderr)
        check(run.returncode == 3, "bce-infer says with exit code 3 that a recording failed")
        check("broken.ogg" in run.stderr, "and names it")
        wanted = "ONNX Runtime fp32, because " if host_target() is None else "compiled fp32, "
        check(f"backbone: {wanted}" in run.stderr, f"the backbone is {wanted.rstrip(' ,')}")
        values = read_scores(out)
        check(len(values) == 12 + 3 + 12, "the table has a row for every chunk")
        check(bool(((values > 0) & (values < 1)).all()), "all scores are probabilities")
        check(len(np.unique(values[:12, 0])) == 12, "and they follow the audio")
    for command in ("bce-infer", "bce-blend", "bce-tools"):
        subprocess.run([scripts / command, "--version"], check=True)
    for tool in ("synth", "priors", "evaluate"):
        subprocess.run([scripts / "bce-tools", tool, "--help"], check=True, stdout=subprocess.DEVNULL)
    print("the base install is enough")


if __name__ == "__main__":
    main()

"""Proof that kernels compiled elsewhere run with the old packages of Kaggle's image. Run with the Python of such an
install, and a folder that ``bce-export --compile-for all`` wrote for the embedded model:

    python tests/kaggle_lane.py OBJECTS

Runs the embedded model over recordings with these objects, in ONNX Runtime, and without the objects. Checks the scores,
and by the run's own report what ran.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from base_install import check, read_scores, write_recordings

from bce.engine.compiled.targets import travelling_targets

OLD = {"numba": "0.60.0", "llvmlite": "0.43.0", "numpy": "2.0.2"}


def run(folder: Path, name: str, *options: str) -> tuple[np.ndarray, dict[str, Any], str]:
    """The scores of a run, what its report says of the backbone, and what it said."""
    table, report = folder / f"{name}.csv", folder / f"{name}.json"
    command = [Path(sys.executable).parent / "bce-infer", "--threads", "2", "--raw", *options]
    done = subprocess.run(
        [*command, "--out", table, "--report", report, folder / "recordings"],
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stderr)
    check(done.returncode == 3, f"{name}: bce-infer is done, but for the file that is no recording")
    return read_scores(table), json.loads(report.read_text())["backbone"], done.stderr


def main() -> None:
    objects = Path(sys.argv[1]).resolve()
    for name, expected in OLD.items():
        check(version(name) == expected, f"{name} is Kaggle's: {expected}")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_recordings(folder / "recordings")
        scores, backbone, said = run(folder, "objects", "--objects", str(objects))
        trusted, onnx, _ = run(folder, "onnxruntime", "--backend", "onnxruntime")
        alone, fallen_back, why = run(folder, "alone")

        best = travelling_targets()[0]
        ran = {"backend": "compiled", "precision": "fp32", "isa": best.isa, "cpu": best.cpu, "origin": str(objects)}
        check(ran.items() <= backbone.items(), f"the kernels for {best.cpu} ran out of the folder: {backbone}")
        check("backbone: compiled fp32" in said, "and the run says so")
        check(onnx["backend"] == "onnxruntime", "ONNX Runtime ran where it was asked for")
        distance = float(np.abs(scores - trusted).max())
        check(distance < 1e-4, f"the scores are ONNX Runtime's: at most {distance:.1e} from them")
        check(len(np.unique(scores[:12, 0])) == 12, "and follow the audio")
        check(fallen_back["backend"] == "onnxruntime", "without objects ONNX Runtime runs")
        reason = "llvmlite 0.43.0 cannot compile the kernels, 0.45 or newer can: make them elsewhere"
        check(sum(reason in line for line in why.splitlines()) == 1, "and one line says why, and what to do")
        check(bool((alone == trusted).all()), "with the same scores to the last bit")
        _, forced, _ = run(folder, "avx2", "--objects", str(only_avx2(objects, folder / "avx2-objects")))
        check(forced["isa"] == "avx2", "a folder with nothing but the AVX2 form runs that")
    print("kernels that were compiled elsewhere run on Kaggle's packages")


def only_avx2(objects: Path, folder: Path) -> Path:
    """Those of the objects that are for AVX2, in a folder of their own."""
    folder.mkdir()
    for path in objects.glob("haswell-*"):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


if __name__ == "__main__":
    main()

"""OpenVINO held to AVX2, in a process of its own: oneDNN reads its limit once, when OpenVINO is loaded.

The process loads once and then goes over the windows whenever it is asked to, so that its rounds stand among those of
the other contestants.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from bce.bench.backbones import BackboneAlone, NotHere, openvino
from bce.bench.contestants import ALONE, Contestant, backbone
from bce.engine.errors import BceError
from bce.engine.network.bundle import Bundle
from bce.engine.network.openvino_backbone import load_openvino

NAME = "OpenVINO fp32, held to AVX2"
LIMIT = {"ONEDNN_MAX_CPU_ISA": "AVX2"}
_READY = "ready"


class Capped:
    """The process, until the end of a ``with``.

    Args:
        bundle: whose backbone runs.
        inputs: float32 [windows, *shape of one].
        threads: at least 1.
        folder: for a file of the inputs.

    Raises:
        NotHere: OpenVINO is not installed, or took wider vectors nonetheless.
    """

    def __init__(self, bundle: Bundle, inputs: NDArray[np.float32], threads: int, folder: Path) -> None:
        path = folder / "capped_inputs.npy"
        np.save(path, inputs)
        command = [sys.executable, "-m", "bce.bench.capped", str(bundle.path), str(path), str(threads)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **LIMIT}, text=True
        )
        answer = self._line()
        if answer != _READY:
            self.close()
            raise NotHere(answer or "its process ended")
        self.contestant = Contestant(f"{ALONE}{NAME}", threads, self._run)

    def _run(self) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        answer = self._line()
        if not answer.isdigit():
            raise BceError(f"{NAME}: its process ended")
        return int(answer)

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def close(self) -> None:
        """End the process, which ends with its input."""
        self._process.communicate()

    def __enter__(self) -> Capped:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def main() -> None:
    """Say that all is ready, or why not; then a pass over the windows for each line of the input."""
    bundle, inputs, threads = Bundle.load(sys.argv[1]), np.load(sys.argv[2]), int(sys.argv[3])
    try:
        form = BackboneAlone(NAME, openvino(bundle, "fp32", threads).run)
    except BceError as error:
        print(error.reason, flush=True)
        return
    wider = _wider(bundle)
    if wider:
        print(f"OpenVINO took {wider} in spite of the limit", flush=True)
        return
    contestant = backbone(form, inputs, threads)
    print(_READY, flush=True)
    for _ in sys.stdin:
        print(contestant.run(), flush=True)


def _wider(bundle: Bundle) -> str:
    """A kernel for a 1x1 convolution that is not one of AVX2; empty where there is none."""
    core = load_openvino().Core()
    graph = core.read_model(bundle.backbone())
    graph.reshape([1, *bundle.manifest.input.shape])
    compiled = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    taken = [node.get_rt_info()["primitiveType"].value for node in compiled.get_runtime_model().get_ops()]
    products = [name for name in taken if "1x1" in name]
    if not products:
        return "kernels that do not say what they are"
    return next((name for name in products if "avx2" not in name), "")


if __name__ == "__main__":
    main()

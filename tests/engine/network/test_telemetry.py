"""ONNX Runtime and OpenVINO are imported so that they report to nobody."""

from __future__ import annotations

import importlib.util
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.sounds import write_sound

SWITCHES = ("ORT_DISABLE_TELEMETRY", "CI", "TF_BUILD", "JENKINS_URL")
"""Variables that keep one or the other from reporting."""
SOCKET_CALL = {"x86_64": 41, "aarch64": 198}

NO_SOCKETS = """
import ctypes, struct
code = struct.pack("HBBI" * 4, 0x20, 0, 0, 0, 0x15, 0, 1, {number}, 6, 0, 0, 0x80000000, 6, 0, 0, 0x7FFF0000)
held = ctypes.create_string_buffer(code)
program = struct.pack("HxxxxxxQ", 4, ctypes.addressof(held))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0, "no new privileges"
assert libc.prctl(22, 2, program, 0, 0) == 0, "a filter of system calls"
"""
"""Linux ends the process (SIGSYS) at its first call of ``socket``, in whichever thread and library."""


def child(code: str, home: Path) -> subprocess.CompletedProcess[str]:
    """A Python of its own, without sockets where that can be had, whose user has a new home."""
    number = SOCKET_CALL.get(platform.machine()) if sys.platform == "linux" else None
    guard = "" if number is None else NO_SOCKETS.format(number=number)
    kept = {name: value for name, value in os.environ.items() if name not in SWITCHES}
    own = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    home.mkdir()
    return subprocess.run(
        [sys.executable, "-c", guard + code], env=kept | own, capture_output=True, text=True, check=False, timeout=120
    )


def test_a_run_writes_nothing_into_the_home_and_opens_no_socket(tmp_path: Path) -> None:
    tiny = pytest.importorskip("support.tiny_bundle", reason="the tiny bundle's graphs are written with onnx")
    tiny.write_files(tmp_path / "bundle")
    tiny.seal(tmp_path / "bundle")
    audio, out = write_sound(tmp_path / "a.wav", 3.0, 1, tiny.RATE), tmp_path / "s.csv"
    arguments = ["--bundle", str(tmp_path / "bundle"), "--raw", "--threads", "1", "--out", str(out), str(audio)]
    ran = child(f"from bce.engine.commands.infer import main; raise SystemExit(main({arguments!r}))", tmp_path / "home")
    assert ran.returncode == 0, ran.stderr
    assert out.is_file()
    assert list((tmp_path / "home").rglob("*")) == []


def test_openvino_writes_nothing_into_the_home_and_opens_no_socket(tmp_path: Path) -> None:
    """It starts a process to send what it has to say: that one would leave its id in the home."""
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("needs the extra bce[openvino]")
    code = (
        "from bce.engine.network.openvino_backbone import load_openvino; load_openvino().Core()\n"
        "import sys; print('openvino_telemetry' in sys.modules)"
    )
    ran = child(code, tmp_path / "home")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "False\n"
    assert list((tmp_path / "home").rglob("*")) == []


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() not in SOCKET_CALL, reason="a filter of Linux")
def test_the_guard_above_sees_a_socket(tmp_path: Path) -> None:
    ran = child("import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM)", tmp_path / "home")
    assert ran.returncode == -signal.SIGSYS, ran.stderr


def test_a_users_own_setting_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    from bce.engine.network import onnx_runtime

    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    importlib.reload(onnx_runtime)
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "0"
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY")
    importlib.reload(onnx_runtime)
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"

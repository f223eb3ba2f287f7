"""An object file gives back what was put in, or says that it does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bce.engine.compiled.object_files import file_name, object_key, pack, unpack
from bce.engine.compiled.targets import TRAVELLING, Target

TARGET = Target("znver4", "avx512", bf16=True)
CODE = bytes(range(256)) * 3
KEY = object_key("define void @f()", TARGET)
FILE = pack(CODE, TARGET, "fp32", KEY)


@given(st.binary())
def test_what_is_put_in_comes_out(code: bytes) -> None:
    assert unpack(pack(code, TARGET, "bf16", KEY), KEY) == code


@given(st.integers(0, len(FILE) - 1), st.integers(1, 255))
def test_a_changed_byte_never_gives_other_code(place: int, change: int) -> None:
    damaged = bytearray(FILE)
    damaged[place] ^= change
    try:
        code = unpack(bytes(damaged), KEY)
    except ValueError:
        return
    assert code == CODE  # it says something else of who made it


@given(st.integers(0, len(FILE) - 1))
def test_a_cut_file_is_noticed(length: int) -> None:
    with pytest.raises(ValueError, match=r"^(is|holds) "):
        unpack(FILE[:length], KEY)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no file of kernels"),
        (b"\x7fELF\x02\x01\x01", "no file of kernels"),
        (FILE.replace(b"bce kernels 1", b"bce kernels 9"), "no file of kernels"),
        (b"bce kernels 1\n[1, 2]\ncode", "does not say what it holds"),
        (b"bce kernels 1\n" + b"[" * 100_000 + b"\ncode", "does not say what it holds"),
        (b'bce kernels 1\n{"key": "x"}\ncode', "does not say what it holds"),
        (pack(CODE, TARGET, "fp32", "another"), "another network"),
    ],
)
def test_a_foreign_file_is_noticed(content: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        unpack(content, KEY)


def test_keys_differ_where_code_does() -> None:
    others = [
        object_key("define void @g()", TARGET),
        object_key("define void @f()", replace(TARGET, cpu="znver5")),
        object_key("define void @f()", replace(TARGET, bf16=False)),
        object_key("define void @f()", TARGET, maker="0.50"),
    ]
    assert len({KEY, *others}) == 5
    assert object_key("define void @f()", TARGET) == KEY


def test_names_tell_targets_and_precisions_apart() -> None:
    names = {file_name(target, precision, KEY) for target in TRAVELLING.values() for precision in ("fp32", "bf16")}
    assert len(names) == 2 * len(TRAVELLING)

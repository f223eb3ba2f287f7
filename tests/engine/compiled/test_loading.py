"""Where code comes from: a named folder, the cache, the compiler. Whatever has become of them, it is the right code."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import llvmlite.binding as llvm
import numba
import pytest
from support.tiny_kernels import PRODUCTS, SUMS, combine, combining, module

from bce.engine.compiled import compilation, loading
from bce.engine.compiled.compilation import compile_object
from bce.engine.compiled.loading import load_code, write_object
from bce.engine.compiled.object_files import pack
from bce.engine.compiled.targets import TRAVELLING, Target, host_target, travelling_targets
from bce.engine.errors import CompiledError, OptionsError

ADD, MULTIPLY = combining("fadd"), combining("fmul")


def origin() -> str:
    """Where a new process would have its code from; the code is right."""
    gc.collect()  # else it is in memory still
    code = load_code(ADD, "fp32")
    assert combine(code) == SUMS
    return code.origin


def test_compiled_once_then_out_of_the_cache(kernels: Path) -> None:
    assert [origin(), origin(), origin()] == ["compiled", "cache", "cache"]
    assert len(list(kernels.iterdir())) == 1
    assert kernels.stat().st_mode & 0o777 == 0o700
    assert next(kernels.iterdir()).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: bytes(len(content)),
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: b"\x7fELF not ours",
    ],
    ids=["emptied", "cut", "cut by a byte", "zeros", "a bit", "foreign"],
)
def test_a_damaged_file_is_made_anew(kernels: Path, damage: Callable[[bytes], bytes]) -> None:
    origin()
    (file,) = kernels.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    assert [origin(), origin()] == ["compiled", "cache"]


def test_another_llvmlite_compiles_anew(kernels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    origin()
    monkeypatch.setattr(loading, "version", lambda: "0.99.0")
    assert [origin(), origin()] == ["compiled", "cache"]


@pytest.mark.parametrize("is_there", [True, False], ids=["with a cache", "without"])
def test_eight_threads_at_first_use_compile_once(
    kernels: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    if not is_there:
        kernels.parent.mkdir(parents=True)
        kernels.touch()
    compiled = []

    def counted(ir: str, target: Target) -> bytes:
        compiled.append(threading.get_ident())
        return compile_object(ir, target)

    monkeypatch.setattr(loading, "compile_object", counted)
    together = threading.Barrier(8)

    def use(_: int) -> tuple[object, list[float]]:
        together.wait()
        code = load_code(ADD, "fp32")
        return code, combine(code)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(use, range(8)))
    assert len(compiled) == 1
    assert len({id(code) for code, _ in found}) == 1
    assert all(values == SUMS for _, values in found)


def test_beside_other_users_of_llvmlite(kernels: Path) -> None:
    """Numba compiles in one thread what has nothing to do with the kernels of another."""

    def with_numba() -> int:
        compiled = numba.njit(lambda x: x * 3 + 1)
        return compiled(4)

    with ThreadPoolExecutor(2) as pool:
        other = pool.submit(with_numba)
        while not other.done():
            assert combine(load_code(ADD, "fp32")) == SUMS
            for file in kernels.iterdir():
                file.unlink()
        assert other.result() == 13


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_of_a_process_that_compiles_can_compile(kernels: Path) -> None:
    compiling = threading.Event()

    def slow(target: Target) -> str:
        compiling.set()
        time.sleep(0.2)
        return ADD(target)

    with ThreadPoolExecutor(1) as pool:
        parent = pool.submit(load_code, slow, "fp32")
        compiling.wait()
        child = os.fork()
        if child == 0:
            signal.alarm(60)  # ends it where it waits for ever
            right = False
            try:
                right = combine(load_code(MULTIPLY, "fp32")) == PRODUCTS
            finally:
                os._exit(0 if right else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert combine(parent.result()) == SUMS


# folders that the user names ------------------------------------------------------------------------------------------


@pytest.fixture
def objects(kernels: Path, tmp_path: Path) -> Path:
    """A folder with the sum for every CPU."""
    folder = tmp_path / "objects"
    folder.mkdir()
    for target in TRAVELLING.values():
        write_object(ADD(target), target, "fp32", folder)
    return folder


def test_a_named_folder_comes_first(objects: Path, kernels: Path) -> None:
    code = load_code(ADD, "fp32", [objects])
    assert combine(code) == SUMS
    assert (code.origin, code.target) == (str(objects), travelling_targets()[0])
    assert not kernels.exists()


def test_the_form_that_is_asked_for(objects: Path) -> None:
    assert load_code(ADD, "fp32", [objects], isa="avx2").target == TRAVELLING["haswell"]


def test_objects_run_where_llvmlite_is_too_old_to_make_them(objects: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llvm, "llvm_version_info", (14, 0, 6))
    monkeypatch.setattr(compilation, "version", lambda: "0.43.0")
    assert combine(load_code(ADD, "fp32", [objects])) == SUMS
    with pytest.raises(CompiledError) as error:
        load_code(MULTIPLY, "fp32", [objects])
    target = host_target()
    assert str(error.value) == (
        f"{objects}: holds no fp32 kernels of this network for this CPU ({target.cpu}, {target.isa}), and llvmlite "
        "0.43.0 cannot compile the kernels, 0.45 or newer can: make them elsewhere with bce-export --compile-for, and "
        "name their folder with --objects"
    )


def test_objects_of_other_cpus_are_left_alone(objects: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where they are all that there is."""
    for file in objects.glob("*avx2*"):
        file.unlink()
    monkeypatch.setattr(llvm, "get_host_cpu_features", lambda: dict.fromkeys(Target("", "avx2").needs, True))
    code = load_code(ADD, "fp32", [objects])
    assert (code.origin, code.target.isa) == ("compiled", "avx2")


def test_a_smaller_form_waits_until_nothing_better_can_be_had(objects: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if travelling_targets()[0].isa == "avx2":
        pytest.skip("this CPU has no larger one")
    for file in objects.glob("*avx512*"):
        file.unlink()
    with monkeypatch.context() as old:
        old.setattr(llvm, "llvm_version_info", (14, 0, 6))
        code = load_code(ADD, "fp32", [objects])
        assert (code.origin, code.target.isa) == (str(objects), "avx2")
    assert load_code(ADD, "fp32", [objects]).target.isa == "avx512"


def test_objects_of_other_networks_and_precisions_are_left_alone(
    objects: Path, caplog: pytest.LogCaptureFixture
) -> None:
    code = load_code(MULTIPLY, "fp32", [objects])
    assert code.origin == "compiled"
    assert combine(code) == PRODUCTS
    assert load_code(ADD, "bf16", [objects]).origin == "compiled"
    assert [line.split(" of this network")[0] for line in caplog.messages] == [
        f"{objects}: holds no fp32 kernels",
        f"{objects}: holds no bf16 kernels",
    ]


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:-1]], ids=["emptied", "cut"])
def test_a_damaged_object_is_named(objects: Path, damage: Callable[[bytes], bytes]) -> None:
    best = next(objects.glob(f"{travelling_targets()[0].cpu}-*"))
    best.write_bytes(damage(best.read_bytes()))
    with pytest.raises(OptionsError, match="make it anew with bce-export --compile-for") as error:
        load_code(ADD, "fp32", [objects])
    assert error.value.path == str(best)


def test_an_object_under_anothers_name_is_named(objects: Path) -> None:
    best = next(objects.glob(f"{travelling_targets()[0].cpu}-*"))
    target = travelling_targets()[0]
    best.write_bytes(pack(compile_object(MULTIPLY(target), target), target, "fp32", "of another network"))
    with pytest.raises(OptionsError, match="another network"):
        load_code(ADD, "fp32", [objects])


@pytest.mark.parametrize("there", [True, False], ids=["a file", "nothing"])
def test_a_folder_that_is_none(kernels: Path, tmp_path: Path, there: bool) -> None:
    if there:
        (tmp_path / "objects").touch()
    with pytest.raises(OptionsError, match="is no folder of kernels that can be read"):
        load_code(ADD, "fp32", [tmp_path / "objects"])


# what cannot be compiled ----------------------------------------------------------------------------------------------


def test_no_form_for_the_cpu(kernels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llvm, "get_host_cpu_features", dict)
    with pytest.raises(CompiledError, match="this CPU has no "):
        load_code(ADD, "fp32")


def test_what_llvm_does_not_take(kernels: Path) -> None:
    with pytest.raises(CompiledError, match="cannot compile the kernels: ") as error:
        load_code(module("define void @f() #0 { nonsense }"), "fp32")
    assert "\n" not in str(error.value)


def test_a_module_for_another_target_is_a_mistake(kernels: Path) -> None:
    with pytest.raises(ValueError, match="attributes are missing"):
        load_code(lambda target: ADD(Target("z80", "avx2")), "fp32")
    assert host_target() is not None

"""A training leaves torch as it found it, whatever it was and however it ends."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the extra bce[tools]")

from bce.tools.learn.torch_settings import flushes_denormal, torch_set_to  # noqa: E402


def least_is_zero() -> bool:
    """By Python's and numpy's arithmetic, which the processor's state holds for as well."""
    of_numpy = np.float32(1e-40) * np.float32(0.5) == 0
    assert (float("1e-310") * 0.5 == 0) == of_numpy
    return bool(of_numpy)


def fail_within(threads: int, flush_denormal: bool, before: bool) -> None:
    with torch_set_to(threads, flush_denormal=flush_denormal):
        assert torch.get_num_threads() == threads
        assert least_is_zero() == flushes_denormal() == (before or flush_denormal)
        raise KeyError


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("within", [False, True])
def test_what_was_set_is_set_again(before: bool, within: bool) -> None:
    threads = torch.get_num_threads()
    try:
        if not torch.set_flush_denormal(before):
            pytest.skip("this processor cannot flush denormal numbers")
        with pytest.raises(KeyError):
            fail_within(threads + 1, within, before)
        assert torch.get_num_threads() == threads
        assert least_is_zero() == flushes_denormal() == before
    finally:
        torch.set_flush_denormal(False)

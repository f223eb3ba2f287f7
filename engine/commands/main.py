"""What every command does with what can go wrong: one line for the user, and an exit code."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from typing import TextIO, cast

from bce.engine.errors import BceError, RunError
from bce.engine.screen import Screen

DONE, FAILED, WRONG_USE, INCOMPLETE, INTERRUPTED = 0, 1, 2, 3, 130
"""The exit codes: all done; anything else; wrong use, nothing ran; complete but rows were filled; interrupted."""


def run_command(name: str, run: Callable[[], int | None], extra: str = "bce") -> int:
    """Run the body of a command and say in one line what went wrong.

    What the body says on standard error may go nowhere, its terminal closed or its reader gone: it runs on.

    Args:
        name: of the command, for messages.
        run: parses and does the work; its value is the exit code, None means all done.
        extra: what to install where a package is missing: "bce[tools]".

    Returns:
        The exit code.
    """
    _open_closed_streams()
    stderr = sys.stderr
    sys.stderr = cast(TextIO, Screen(stderr))
    try:
        return _run(name, run, extra)
    finally:
        sys.stderr = stderr


def _run(name: str, run: Callable[[], int | None], extra: str) -> int:
    try:
        try:
            return run() or DONE
        finally:
            sys.stdout.flush()  # a reader that has gone away is noticed here and not at the interpreter's end
    except RunError as error:
        return _say(name, str(error), FAILED)
    except BceError as error:
        return _say(name, str(error), WRONG_USE)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "bce":
            raise
        return _say(name, f"needs the package '{error.name}': pip install '{extra}'", WRONG_USE)
    except BrokenPipeError:
        # whoever read the output has enough of it; what is left in the buffer has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:  # a full disk, a file that vanished
        return _say(name, f"{error.filename or 'writing'}: {error.strerror or error}", FAILED)
    except MemoryError:
        return _say(name, "there is not enough memory", FAILED)
    except ImportError as error:  # a library that does not fit into memory
        if error.name is not None and error.name.split(".")[0] == "bce":
            raise
        return _say(name, f"a library cannot be loaded: {error}", FAILED)
    except KeyboardInterrupt:
        return _say(name, "interrupted", INTERRUPTED)
    except Exception as error:
        if str(error) == "can't start new thread":  # Python has no kind of its own for it
            return _say(name, "the system starts no more threads (a limit, or memory): ask for fewer", FAILED)
        if type(error).__module__.startswith("onnxruntime"):  # mostly memory that it did not get
            return _say(name, f"ONNX Runtime: {error}", FAILED)
        raise


def _say(name: str, line: str, code: int) -> int:
    Screen(sys.stderr).say(f"{name}: {line}")
    return code


def _open_closed_streams() -> None:
    """Let standard streams that were closed (``2>&-``) lead nowhere.

    Else the next file to be opened, a table, gets such a stream's number, and whatever a C library says is in it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for as long as the process lives
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that it cannot say is no reason to end

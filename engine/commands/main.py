"""What every command does with what can go wrong: one line for the user, and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from bce.engine.errors import BceError

DONE, FAILED, WRONG_USE, INCOMPLETE, INTERRUPTED = 0, 1, 2, 3, 130
"""The exit codes: all done; anything else; wrong use, nothing ran; complete but rows were filled; interrupted."""


def run_command(name: str, run: Callable[[], int | None], extra: str = "bce") -> int:
    """Run the body of a command and say in one line what went wrong.

    Args:
        name: of the command, for messages.
        run: parses and does the work; its value is the exit code, None means all done.
        extra: what to install where a package is missing: "bce[tools]".

    Returns:
        The exit code.
    """
    try:
        try:
            return run() or DONE
        finally:
            sys.stdout.flush()  # a reader that has gone away is noticed here and not at the interpreter's end
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
    except KeyboardInterrupt:
        return _say(name, "interrupted", INTERRUPTED)


def _say(name: str, line: str, code: int) -> int:
    print(f"{name}: {line}", file=sys.stderr)
    return code

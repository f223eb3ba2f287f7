"""What people see of a command: text that no terminal obeys, on a stream that may be gone."""

from __future__ import annotations

from typing import Any, TextIO


def printable(text: str) -> str:
    """Text with escapes in place of what cannot be seen: control characters, line ends, bytes that are no text.

    Names of files may hold any of these, and a terminal would do what they say.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class Screen:
    """A stream for people. Where nobody reads it any more, it is silent: that must not end a run.

    Args:
        stream: where to; None for nowhere, as Python has it for a stream that is closed.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text as it is."""
        if self._stream is not None:
            try:
                return self._stream.write(text)
            except UnicodeEncodeError as error:  # characters that it does not have
                return self.write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))
            except RuntimeError:  # a signal's handler spoke in the middle of a word
                pass
            except (OSError, ValueError):  # its reader has gone, it was closed, its disk is full
                self._stream = None
        return len(text)

    def flush(self) -> None:
        """Show what was written."""
        if self._stream is not None:
            try:
                self._stream.flush()
            except RuntimeError:
                pass
            except (OSError, ValueError):
                self._stream = None

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        try:
            return self._stream is not None and self._stream.isatty()
        except ValueError:
            return False

    def say(self, line: str) -> None:
        """Write a line, with what cannot be seen escaped."""
        self.write(printable(line) + "\n")
        self.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

"""Standard streams made safe: closed ones, full disks, and terminals whose encoding lacks characters."""

import contextlib
import os
import sys
from collections.abc import Callable
from typing import Any


def prepare() -> None:
    """Make the standard streams safe to print on; called once, before work begins.

    A stream that was closed when Python started becomes the null device, also for libraries that print by its number: else the
    next file that is opened gets this number, and their lines. Letters that a stream lacks are printed as escapes. Lines for a
    standard error that cannot be written are lost, and nothing else is.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
    os.environ.setdefault("CPL_LOG", os.devnull)  # GDAL's own lines; what they say is in the errors that it raises
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123 (for as long as we run)
        if hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="backslashreplace")
    if sys.stderr is sys.__stderr__:  # else somebody, such as a test, reads along
        sys.stderr = Forgiving(sys.stderr)
    if sys.stdout is sys.__stdout__:
        sys.stdout = Telling(sys.stdout)


def drop_output() -> None:
    """Send what is still to be printed to the null device, so that Python does not fail on it when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


class OutputError(OSError):
    """Standard output cannot be written, though somebody still reads it."""


class Telling:
    """A text stream that raises OutputError when it cannot be written; a closed pipe still raises BrokenPipeError."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        """The length of the text."""
        return self._try(self._stream.write, text)

    def flush(self) -> None:
        """Raises OutputError if there is no room; then all that follows is dropped."""
        self._try(self._stream.flush)

    def _try(self, action: Callable, *words: str) -> Any:
        try:
            return action(*words)
        except BrokenPipeError:
            raise
        except OSError as error:
            drop_output()
            raise OutputError(*error.args) from None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Forgiving:
    """A text stream on which writing never fails."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        """The length of the text, written or not."""
        try:
            return self._stream.write(text)
        except OSError:
            return len(text)

    def flush(self) -> None:
        """Flush, if it can be."""
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

"""The log of a run, for people: what is said on the screen, and more, with the time, in a text file."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from tqdm import tqdm

from tools.base.errors import DiskFullError, UserError

FULL = (errno.ENOSPC, errno.EDQUOT)


class Log:
    """A text file that lines are added to; it is there from the first line on. Use it in a `with`: an error is its last line.

    path: of the file; None for a process that leaves it to another one to speak.
    """

    def __init__(self, path: Path | None):
        self.path = path

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, kind, error, _) -> None:
        if isinstance(error, UserError | KeyboardInterrupt):
            self.note(f"stopped: {error or 'Ctrl-C'}")

    def note(self, text: str) -> None:
        """Add a line to the file alone. A full disk, which is said elsewhere, costs the line and nothing else."""
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S}  {text}\n")
        except OSError as error:
            if error.errno not in FULL:
                raise

    def say(self, text: str) -> None:
        """Add a line and show it, above a progress bar if there is one."""
        self.note(text)
        tqdm.write(text)

    def warn(self, text: str) -> None:
        """Add a warning and show it."""
        self.note(f"warning: {text}")
        if self.path is not None:
            tqdm.write(f"warning: {text}", file=sys.stderr)

    @contextmanager
    def training_goes_on(self, without: str) -> Iterator[None]:
        """A full disk within this block becomes a warning, which says that `without` was not written."""
        try:
            yield
        except DiskFullError as error:
            self.warn(f"{without} was not written, training goes on: {error}")
        except OSError as error:
            if error.errno not in FULL:
                raise
            self.warn(f"{without} was not written, training goes on: the disk is full at {self.path.parent}.")

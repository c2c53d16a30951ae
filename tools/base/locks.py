"""A lock beside each output: two runs never write into one place at a time."""

import contextlib
import errno
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tools.base.errors import UserError

try:
    import fcntl
except ImportError:  # Windows, where outputs go without locks
    fcntl = None


@contextlib.contextmanager
def locked(output: str | Path) -> Iterator[None]:
    """Within this block no other run writes to `output`, a file or folder that need not exist yet.

    The lock is a file beside it, .NAME.lock; it is the system that holds it, and lets go of it when the process ends, however
    that is, so that what a dead run left is taken over. On file systems without locks there is none. Raises UserError, with
    the process that has the lock, if another one does.
    """
    output = Path(output).resolve()
    file = _take(output) if fcntl else None
    try:
        yield
    finally:
        if file:
            with contextlib.suppress(OSError):
                Path(file.name).unlink()  # while it is still locked: nobody else can have it yet
            file.close()


def _take(output: Path) -> IO | None:
    """The open, locked file; None if there can be none here, which whoever writes the output will say."""
    make_folder(output.parent)
    path = output.parent / f".{output.name}.lock"
    while True:
        try:
            file = path.open("a+", encoding="utf-8")
        except OSError:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{output} is being written by {_holder(file)}: wait for it, or choose another place.") from None
        except OSError:
            file.close()
            return None
        if _is_at(path, file):
            _sign(file)
            return file
        file.close()  # it was the lock of a run that just ended


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, if they are missing. Raises UserError, with what is in the way, if that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        last = next((path for path in [folder, *folder.parents] if path.exists()), folder)
        reason = str(error.strerror).lower() if last.is_dir() else "a file stands where a folder is wanted"
        raise UserError(f"{folder} cannot be made ({reason} at {last}): choose another place.") from None


def _is_at(path: Path, file: IO) -> bool:
    """Whether an open file is the one that stands at a path."""
    with contextlib.suppress(OSError):
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    return False


def _sign(file: IO) -> None:
    with contextlib.suppress(OSError):  # a full disk
        file.truncate(0)
        about = {"script": Path(sys.argv[0]).name, "process": os.getpid(), "machine": socket.gethostname()}
        file.write(json.dumps(about | {"since": time.strftime("%H:%M:%S")}))
        file.flush()


def _holder(file: IO) -> str:
    """The run that has the lock, in words."""
    with file, contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        file.seek(0)
        about = json.loads(file.read())
        return "{script} (process {process} on {machine}, since {since})".format(**about)
    return "another run"

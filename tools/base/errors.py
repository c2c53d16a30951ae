"""What a user sees when something goes wrong: one sentence and an exit code, never a traceback."""

import contextlib
import errno
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path

import tools
from tools.base import faults, streams


class UserError(Exception):
    """A mistake that the user can mend. The message is one sentence: what happened, the value, what to do."""

    code = 2  # of the script when it leaves


class PartlyFailedError(UserError):
    """Some of many things could not be done; the others are."""

    code = 1


class DiskFullError(UserError):
    """There is no room for a file."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint such as " Did you mean 'patch_size'?", or "" where nothing known is close to `name`."""
    lower = {k.lower(): k for k in known}
    close = get_close_matches(str(name).lower(), lower, n=1, cutoff=0.6)
    return f" Did you mean '{lower[close[0]]}'?" if close else ""


def listing(names: Iterable, most: int = 8) -> str:
    """'a, b, c (+2 more)': a list that stays readable in one sentence."""
    names = [str(n) for n in names]
    more = f" (+{len(names) - most} more)" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def run(main: Callable[[], None]) -> None:
    """Call `main`; say what ends it in one sentence and leave with its exit code.

    2: a mistake of the user's, a full disk, too little memory. 1: partly done. 70: a fault of ours, whose traceback goes to a
    file, or with ORTHONETS_TRACEBACK=1 to the screen. 130, 143, 129: stopped by Ctrl-C, SIGTERM, SIGHUP.
    """
    streams.prepare()
    _listen()
    try:
        tools.stop_with_care()
        main()
        sys.stdout.flush()
        tools.stop_at_once()
        return _end_at_once() if _one_of_many() else None
    except BrokenPipeError:  # the reader of our output went away (`... | head`)
        streams.drop_output()
        sys.exit(141)
    except (Exception, KeyboardInterrupt) as error:
        tools.stop_at_once()
        sentence, code = _in_words(error)
    _leave(sentence, code)  # out here, where progress bars are closed and the sentence is the last line


class Stopped(KeyboardInterrupt):
    """A signal that ends the script, which first tidies up."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number


def _listen() -> None:
    """SIGTERM and a terminal that closes end a script as Ctrl-C does; `nohup`, for one, has it ignore the latter."""

    def stop(number: int, _frame) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise Stopped(number)

    for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
        number = getattr(signal, name, None)
        main = threading.current_thread() is threading.main_thread()
        if number and main and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, stop)


def _in_words(error: BaseException) -> tuple[str, int]:
    """The sentence that says what ended a script, and the exit code."""
    if isinstance(error, UserError):
        return str(error), error.code
    if isinstance(error, KeyboardInterrupt):
        return "stopped.", 128 + getattr(error, "number", signal.SIGINT)
    if isinstance(error, streams.OutputError):
        return f"standard output cannot be written ({error.strerror}): send it elsewhere; finished files are whole.", 2
    if isinstance(error, OSError) and error.errno in _EXPECTED_OS_ERRORS:
        where = f" at {os.fsdecode(error.filename)}" if isinstance(error.filename, str | bytes) else ""
        return f"{_EXPECTED_OS_ERRORS[error.errno]}{where}.", 2
    if re.match(r"DataLoader worker .*(killed by signal|exited unexpectedly)", str(error)):
        return _READER_ENDED, 2  # PyTorch raises it wherever the main process is when one that reads for it ends
    if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
        return _TOO_LITTLE_MEMORY, 2
    return faults.report(error), faults.EXIT_CODE


_NO_MEMORY = ("CUDA out of memory", "can't allocate memory", "not enough memory", "Unable to allocate")
_TOO_LITTLE_MEMORY = (
    "there is too little memory: close other programs, or set BATCH_SIZE, TEST_BATCH_SIZE or TILE_MEMORY_MB to a smaller"
    " number."
)
_READER_ENDED = (
    "a process that reads the database was ended from outside, as where memory, or shared memory (/dev/shm), runs out: set"
    " WORKERS to a smaller number, or to 0, and go on from the newest snapshot with --restore."
)
_EXPECTED_OS_ERRORS = {
    errno.ENOSPC: "the disk is full; nothing was left under a final name: free some space or write elsewhere",
    errno.EDQUOT: "your disk quota is used up; nothing was left under a final name: free some space or write elsewhere",
    errno.EACCES: "permission denied: choose a place that you may read and write",
    errno.EROFS: "the file system is read-only: write elsewhere",
    errno.ENOTDIR: "a file stands where a folder is wanted: choose another place",
    errno.EISDIR: "a folder stands where a file is wanted: choose another name",
    errno.EPERM: "that is not permitted: choose a place that you may read and write",
    errno.ENAMETOOLONG: "a name is too long for the file system: choose a shorter one",
    errno.ELOOP: "links lead to each other in a circle: name the file itself",
    errno.EMFILE: "too many files are open: raise the limit (ulimit -n 4096)",
    errno.EIO: "the disk or the network it lies on fails: check it, then run this again",
    errno.ESTALE: "the disk or the network it lies on fails: check it, then run this again",
}


def _one_of_many() -> bool:
    """Whether torchrun started this process beside others."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def _end_at_once() -> None:
    """All is done and written. Python's way out meets threads of gloo's, which DDP keeps, and now and then aborts on them."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _leave(sentence: str, code: int) -> None:
    path = Path(sys.argv[0])
    script = path.parent.name if path.name == "__main__.py" else path.name  # a package that `python -m` runs
    sentence = " ".join(sentence.split("\n"))
    if _one_of_many():
        script += f", process {os.environ['RANK']}"  # counted from 0, as torchrun does
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    print(f"{script}: {sentence}", file=sys.stderr)
    if "TORCHELASTIC_ERROR_FILE" in os.environ:  # torchrun quotes it in its own report
        told = {"message": sentence, "extraInfo": {"timestamp": str(int(time.time()))}}
        Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(json.dumps({"message": told}), encoding="utf-8")
    sys.exit(code)

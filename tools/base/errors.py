"""What a user sees when something goes wrong: one sentence and exit code 2, never a traceback."""

import errno
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path


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
    """Call `main`; say a user's mistake or a full disk in one sentence and leave with exit code 2 (1: partly done)."""
    try:
        main()
        return _end_at_once() if _one_of_many() else None
    except UserError as error:
        sentence, code = str(error), error.code
    except KeyboardInterrupt:
        sentence, code = "stopped.", 130
    except BrokenPipeError:  # the reader of our output went away (`... | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        if error.errno not in _EXPECTED_OS_ERRORS:
            raise
        where = f" at {error.filename}" if error.filename else ""
        sentence, code = f"{_EXPECTED_OS_ERRORS[error.errno]}{where}.", 2
    except RuntimeError as error:  # PyTorch raises it wherever the main process is when one that reads for it ends
        if not re.match(r"DataLoader worker .*(killed by signal|exited unexpectedly)", str(error)):
            raise
        sentence, code = _READER_ENDED, 2
    _leave(sentence, code)  # out here, where progress bars are closed and the sentence is the last line


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
    if _one_of_many():
        script += f", process {os.environ['RANK']}"  # counted from 0, as torchrun does
    sys.stdout.flush()
    print(f"{script}: {sentence}", file=sys.stderr)
    if "TORCHELASTIC_ERROR_FILE" in os.environ:  # torchrun quotes it in its own report
        told = {"message": sentence, "extraInfo": {"timestamp": str(int(time.time()))}}
        Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(json.dumps({"message": told}), encoding="utf-8")
    sys.exit(code)

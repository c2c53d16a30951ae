"""The last resort: an unexpected exception becomes one sentence that says it is our bug, and a file with the traceback."""

import os
import platform
import sys
import tempfile
import traceback
from datetime import datetime
from pathlib import Path

EXIT_CODE = 70  # EX_SOFTWARE of sysexits.h: an internal software error
SHOW = "ORTHONETS_TRACEBACK"  # environment variable: 1 shows tracebacks on the screen
_REPOSITORY = Path(__file__).parent.parent.parent


def report(error: BaseException) -> str:
    """The sentence that reports a bug of ours. Its traceback goes to a file, or to the screen (SHOW, or no room)."""
    text = _text(error)
    where = None if os.environ.get(SHOW, "0") not in ("", "0") else _kept(text)
    if where is None:
        print(text, file=sys.stderr)
    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200].rstrip(". ")
    shown = f"the traceback is in {where} ({SHOW}=1 shows it at once)" if where else "the traceback stands above"
    return (
        f"this is a fault of ours, not of yours ({reason}, {_place(error)}): please report it, {shown}; what was there before"
        " is as it was."
    )


def _text(error: BaseException) -> str:
    lines = traceback.format_exception(type(error), error, error.__traceback__)
    return f"{' '.join(sys.argv)}\nPython {platform.python_version()} on {platform.platform()}\n\n{''.join(lines)}"


def _kept(text: str) -> Path | None:
    """The file that the text is now in; None if no folder takes it."""
    name = f"orthonets_fault_{datetime.now():%Y%m%d_%H%M%S}_{os.getpid()}.txt"
    try:
        path = Path(tempfile.gettempdir()) / name
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError:
        return None
    return path


def _place(error: BaseException) -> str:
    """The last line of our own code in the traceback."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).is_relative_to(_REPOSITORY)]
    frames = [f for f in frames if "site-packages" not in f.filename]
    if not frames:
        return "outside of our files"
    return f"{Path(frames[-1].filename).relative_to(_REPOSITORY)}, line {frames[-1].lineno}"

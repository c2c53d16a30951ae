"""Two folders exchange their names at once, if the system can; else the next start mends what a kill in between left."""

import ctypes
import os
import shutil
from pathlib import Path

_HERE, _EXCHANGE = -100, 2  # AT_FDCWD, RENAME_EXCHANGE of Linux


def replace_folder(new: Path, final: Path) -> None:
    """Give a whole folder its final name; what had that name is removed."""
    if not final.exists():
        new.rename(final)
        return
    if exchange(new, final):
        shutil.rmtree(new, ignore_errors=True)
        return
    old = _aside(final)
    shutil.rmtree(old, ignore_errors=True)
    final.rename(old)
    new.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def exchange(one: Path, other: Path) -> bool:
    """Whether two folders, or files, have exchanged their names; False where the system or its disk has no such call."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):  # no Linux, or an old one
        return False
    return rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0


def recover(final: Path) -> None:
    """Give a folder its name back that a run, killed between two renames, left without one; called while it is locked."""
    old = _aside(final)
    if old.is_dir() and not final.exists():
        old.rename(final)


def _aside(final: Path) -> Path:
    return final.with_name(f".{final.name}.old")

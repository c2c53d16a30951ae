"""Swap two folders atomically if the system can; otherwise the next run repairs what a kill between two renames left."""

import ctypes
import os
import shutil
from pathlib import Path

_HERE, _EXCHANGE = -100, 2  # AT_FDCWD, RENAME_EXCHANGE of Linux


def replace_folder(new: Path, final: Path) -> None:
    """Rename a finished folder to its final name; an older folder of that name is removed."""
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
    """Swap two folders, or files, atomically. Returns False if the system or the file system has no such call."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):  # no Linux, or an old one
        return False
    return rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0


def recover(final: Path) -> None:
    """Restore a folder that a run left under a temporary name, killed between two renames. Call it with the lock held."""
    old = _aside(final)
    if old.is_dir() and not final.exists():
        old.rename(final)


def _aside(final: Path) -> Path:
    return final.with_name(f".{final.name}.old")

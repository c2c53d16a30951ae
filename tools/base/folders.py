"""Outputs that are whole or not there: made under a temporary name, renamed when done, with a details.json inside."""

import contextlib
import errno
import json
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from tools.base.errors import DiskFullError, UserError

DETAILS = "details.json"
_A_FULL_DISK = 1 << 20  # bytes left: LMDB, for one, wants more at a time


@contextlib.contextmanager
def whole_folder(final: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder that becomes `final` when the block ends well, and is removed when it does not.

    Raises UserError, before anything is made, where `final` exists and `overwrite` is not set, or is no output of ours;
    what `final` held stays as it was until the new folder is whole.
    """
    refuse_existing(Path(final), overwrite)
    final = Path(final).resolve()  # "." has no name to be replaced by, and a link stays where it leads
    temporary = final.with_name(final.name + ".partial")
    shutil.rmtree(temporary, ignore_errors=True)  # what a killed run left
    temporary.mkdir(parents=True)
    try:
        with disk_full_is_said(final.parent):
            yield temporary
            replace_folder(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def refuse_existing(final: Path, overwrite: bool) -> None:
    """Raise UserError where `final` holds something and may not be replaced."""
    if not final.exists() or (final.is_dir() and not any(final.iterdir())):
        return
    if not overwrite:
        raise UserError(f"{final} exists already: choose another name, remove it, or add --overwrite.")
    if not (final / DETAILS).is_file():
        raise UserError(f"{final} is no output of ours (it has no {DETAILS}): choose another name, or remove it yourself.")


def replace_folder(new: Path, final: Path) -> None:
    """Give a whole folder its final name; what had that name is removed."""
    old = final.with_name(f".{final.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    new.rename(final)
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def whole_file(final: str | Path) -> Iterator[Path]:
    """A temporary path, with the same suffix, that becomes `final` when the block ends well."""
    final = Path(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.stem}.partial{final.suffix}")
    try:
        with disk_full_is_said(final.parent):
            yield temporary
            temporary.replace(final)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def disk_full_is_said(folder: Path) -> Iterator[None]:
    """Turn what a library raises on a full disk (GDAL, LMDB, PyTorch, each something else) into one sentence."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        full = "No space left" in str(error) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        if full or shutil.disk_usage(folder).free < _A_FULL_DISK:
            raise DiskFullError(f"the disk is full at {folder}; what was there is as it was: free some space.") from error
        raise


def write_json(path: str | Path, what: Any) -> None:
    """Write JSON that a person can read, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(what, indent=1, ensure_ascii=False, default=_plain) + "\n", encoding="utf-8")


def plain(what: Any) -> Any:
    """What `write_json` would make of something and one would read again: lists for tuples, text for paths."""
    return json.loads(json.dumps(what, default=_plain))


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def write_details(folder: str | Path, **what: Any) -> None:
    """Say in `folder`/details.json what made it, from which files and with which settings."""
    write_json(Path(folder) / DETAILS, {"made": datetime.now().astimezone().isoformat(timespec="seconds"), **what})


def read_details(folder: str | Path) -> dict[str, Any]:
    """What details.json of `folder` says. Raises UserError where it is missing or no JSON."""
    path = Path(folder) / DETAILS
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} has no {DETAILS}, so it is not a finished output of ours: make it again.") from None
    except ValueError:
        raise UserError(f"{path} is damaged: make {folder} again.") from None


def require(details: dict[str, Any], folder: str | Path, script: str, **wanted: Any) -> None:
    """Raise UserError, naming the first difference, unless the details of `folder` say what the config wants."""
    for name, value in wanted.items():
        if details.get(name) != value:
            raise UserError(
                f"{folder} was made with {name} = {details.get(name)}, the config says {value}: make it again with"
                f" {script} --overwrite, or change the config."
            )

"""Outputs that are whole or not there: made under a temporary name, renamed when done, with a details.json inside."""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from tools.base import contents
from tools.base.errors import DiskFullError, UserError
from tools.base.exchange import recover, replace_folder
from tools.base.forms import Form, read_json
from tools.base.locks import locked, make_folder

DETAILS = "details.json"
_A_FULL_DISK = 1 << 20  # bytes left: LMDB, for one, wants more at a time


@contextlib.contextmanager
def whole_folder(final: str | Path, overwrite: bool = False, made_by: str | None = None) -> Iterator[Path]:
    """A temporary folder that becomes `final` when the block ends well, and is removed when it does not.

    made_by: what details.json says of the script. What others put into `final` stays there. Raises UserError, before anything
    is made, if `final` exists and `overwrite` is not set, if something else made it, or if another run writes it; what `final`
    held stays as it was until the new folder is whole.
    """
    refuse_existing(Path(final), overwrite, made_by)
    final = Path(final).resolve()  # "." has no name to be replaced by, and a link stays where it leads
    with locked(final):
        recover(final)
        refuse_existing(final, overwrite, made_by)
        temporary = final.with_name(final.name + ".partial")
        shutil.rmtree(temporary, ignore_errors=True)  # what a killed run left
        make_folder(temporary)
        try:
            with disk_full_is_said(final.parent):
                yield temporary
                list_contents(temporary, contents.files_of(temporary))
                replace(temporary, final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def refuse_existing(final: Path, overwrite: bool, made_by: str | None = None, inputs: Iterable[str | Path] = ()) -> None:
    """Raise UserError if `final` holds something and may not be replaced, or if inputs are in it, or it in one of them.

    made_by: what details.json of such an output says of the script; None if it does not matter.
    """
    if fault := contents.nested(final, inputs):
        raise UserError(fault)
    if not os.path.lexists(final) or (final.is_dir() and all(contents.is_leftover(path.name) for path in final.iterdir())):
        return
    if not overwrite:
        raise UserError(f"{final} exists already: choose another name, remove it, or add --overwrite.")
    if not (final / DETAILS).is_file():
        raise UserError(f"{final} is no output of ours (it has no {DETAILS}): choose another name, or remove it yourself.")
    maker = read_details(final).get("made by", made_by)
    if made_by and maker != made_by:
        raise UserError(f"{final} was made by {maker}, not by {made_by}: choose another name, or remove it yourself.")


def list_contents(folder: Path, files: Iterable[Path]) -> None:
    """Say in details.json which files (as seen from the folder) are the output's; nothing if it has no details."""
    if (folder / DETAILS).is_file():
        write_json(folder / DETAILS, read_details(folder) | {"contents": contents.described(files)})


def replace(new: Path, final: Path) -> None:
    """Give a whole folder its final name; of what had that name, all that its script had made is removed, and nothing else."""
    if (final / DETAILS).is_file() and (listed := read_details(final).get("contents")):
        contents.keep(contents.foreign(final, listed), final, new)
    replace_folder(new, final)


@contextlib.contextmanager
def whole_file(final: str | Path) -> Iterator[Path]:
    """A temporary path, with the same suffix, that becomes `final` when the block ends well."""
    final = Path(final)
    make_folder(final.parent)
    temporary = final.with_name(f".{final.stem}.partial{final.suffix}")
    try:
        with disk_full_is_said(final.parent):
            _try_out(temporary, final)
            yield temporary
            temporary.replace(final)
    finally:
        temporary.unlink(missing_ok=True)


def _try_out(temporary: Path, final: Path) -> None:
    """Raise UserError if a folder that is there takes no files, as /proc."""
    try:
        temporary.touch()
        temporary.unlink()
    except FileNotFoundError:
        raise UserError(f"{final} cannot be written: {final.parent} takes no files; choose another place.") from None


@contextlib.contextmanager
def disk_full_is_said(folder: Path) -> Iterator[None]:
    """Turn what a library raises on a full disk (GDAL, LMDB, PyTorch, each something else) into one sentence."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        number = getattr(error, "errno", None)
        full = "No space left" in str(error) or number in (errno.ENOSPC, errno.EDQUOT)
        if full or (number is None and _is_full(folder)):
            raise DiskFullError(f"the disk is full at {folder}; what was there is as it was: free some space.") from error
        raise


def _is_full(folder: Path) -> bool:
    usage = shutil.disk_usage(folder)
    return usage.total > 0 and usage.free < _A_FULL_DISK  # /proc, for one, has no size


def write_json(path: str | Path, what: Any) -> None:
    """Write JSON that a person can read, whole or not at all."""
    with whole_file(path) as temporary:
        text = json.dumps(what, indent=1, ensure_ascii=False, default=_plain) + "\n"
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # a name that is not UTF-8, as JSON escapes it


def plain(what: Any) -> Any:
    """A value as it is after a round trip through JSON: lists for tuples, text for paths."""
    return json.loads(json.dumps(what, default=_plain))


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def write_details(folder: str | Path, **what: Any) -> None:
    """Say in `folder`/details.json what made it, from which files and with which settings."""
    write_json(Path(folder) / DETAILS, {"made": datetime.now().astimezone().isoformat(timespec="seconds"), **what})


def read_details(folder: str | Path, form: Form | None = None) -> dict[str, Any]:
    """What details.json of `folder` says. Raises UserError if it is missing, no JSON, or not of the form that is asked for."""
    path = Path(folder) / DETAILS
    if not os.path.lexists(folder):
        raise UserError(
            f"{folder} does not exist: make it first (extract_images.py makes patches, create_db.py databases, inference.py"
            " maps)."
        )
    if not os.path.lexists(path):
        raise UserError(f"{folder} has no {DETAILS}, so it is not a finished output of ours: make it again.")
    return read_json(path, {"contents?": {str: object}} | (form or {}), f"make {folder} again")


def require(details: dict[str, Any], folder: str | Path, script: str, **wanted: Any) -> None:
    """Raise UserError, naming the first difference, unless the details of `folder` say what the config wants."""
    for name, value in wanted.items():
        if details.get(name) != value:
            raise UserError(
                f"{folder} was made with {name} = {details.get(name)}, the config says {value}: make it again with"
                f" {script} --overwrite, or change the config."
            )

"""What a folder held when a script finished it, so that --overwrite takes away what the script made and nothing else."""

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tools.base.errors import UserError, listing

_MOST_NAMES = 100  # of one folder, that details.json lists; of more it has their number, suffixes and a hash
_LEFTOVER = re.compile(r"\..*\.partial.*|\..*\.lock")  # names that killed runs of ours leave

Contents = dict[str, Any]  # folder (as seen from the output, "." for itself) -> its files


def described(files: Iterable[Path]) -> Contents:
    """What details.json says of the files of an output; files: as seen from its folder."""
    folders: dict[str, list[str]] = {}
    for file in files:
        folders.setdefault(file.parent.as_posix(), []).append(file.name)
    return {folder: _short(sorted(names)) for folder, names in sorted(folders.items())}


def is_leftover(name: str) -> bool:
    """Whether a file or folder of this name is what a killed run of ours leaves."""
    return _LEFTOVER.fullmatch(name) is not None


def files_of(folder: Path) -> list[Path]:
    """All files in a folder and below, as seen from it; links to folders count as files."""
    found = []
    for home, folders, names in os.walk(folder):
        links = [name for name in folders if (Path(home) / name).is_symlink()]
        found += [(Path(home) / name).relative_to(folder) for name in names + links]
    return found


def _short(names: list[str]) -> Any:
    if len(names) <= _MOST_NAMES:
        return names
    return {"files": len(names), "suffixes": sorted({Path(n).suffix for n in names}), "names_sha256": _hash(names)}


def _hash(names: list[str]) -> str:
    return hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()


def foreign(folder: Path, contents: Mapping[str, Any]) -> list[Path]:
    """The files in a folder and below, as seen from it, that are not of its contents.

    Raises UserError if they cannot be told from those that are.
    """
    found: dict[str, list[str]] = {}
    for file in files_of(folder):
        if not is_leftover(file.parts[0]):
            found.setdefault(file.parent.as_posix(), []).append(file.name)
    return [Path(home) / name for home, names in found.items() for name in _others(folder, home, names, contents.get(home, []))]


def _others(folder: Path, home: str, names: list[str], ours: Any) -> list[str]:
    if isinstance(ours, list):
        return sorted(set(names) - set(ours))
    alike = sorted(name for name in names if Path(name).suffix in ours["suffixes"])
    if len(alike) >= ours["files"] and _hash(alike) != ours["names_sha256"]:
        raise UserError(
            f"{folder / home} holds files that look like those which were made there, but are not ({len(alike)} now,"
            f" {ours['files']} then): move yours elsewhere, or remove {folder} yourself."
        )
    return sorted(set(names) - set(alike))


def keep(files: Iterable[Path], old: Path, new: Path) -> None:
    """Link (or copy) files of an old folder into the new one. Raises UserError if the new one has files of the same names."""
    files = list(files)
    if taken := [file for file in files if os.path.lexists(new / file)]:
        raise UserError(f"{old} holds {listing(taken)}, which was not made there and would be replaced: move it elsewhere.")
    for file in files:
        (new / file).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(old / file, new / file, follow_symlinks=False)  # no room, and no time
        except OSError:
            shutil.copy2(old / file, new / file, follow_symlinks=False)


def nested(output: Path, inputs: Iterable[str | Path]) -> str | None:
    """The error text if inputs lie inside the output folder, or the output inside an input folder; None if neither."""
    output = output.resolve()
    for given in inputs:
        with contextlib.suppress(OSError, ValueError, RuntimeError):  # remote, or no path at all
            path = Path(given).resolve()
            if path.is_relative_to(output) and path.exists():
                return f"{given} is an input and lies in {output}, where the output goes: choose another place for the output."
            if path.is_dir() and output.is_relative_to(path):
                return f"{output}, where the output goes, lies in the input {given}: choose another place for the output."
    return None

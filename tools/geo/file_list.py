"""Files named on a command line: files, folders, patterns, lists, and remote files as GDAL takes them."""

import glob
from collections.abc import Iterable
from pathlib import Path

from tools.base.errors import UserError
from tools.base.folders import DETAILS
from tools.geo import raster

File = str | Path  # remote files are text: a Path would make one slash of two


def find(words: Iterable[str | Path]) -> list[File]:
    """The rasters that files, folders, patterns, lists and remote addresses name, in this order, sorted within each.

    A file is taken as it is named, there or not; folders and patterns give what has the suffix of a raster. Raises UserError
    where one of those gives nothing.
    """
    files: list[File] = []
    for word in map(str, words):
        if Path(word).name == DETAILS:  # our own, which FOLDER/* names as well
            continue
        files += [word] if raster.is_remote(word) else _local(word)
    return files


def _local(word: str) -> list[File]:
    path = Path(word)
    refuse_special(path)
    if word.startswith("@") or path.suffix.lower() == ".txt":
        return _listed(word.removeprefix("@"))
    if path.is_dir():
        return _some(sorted(path.iterdir()), f"the folder {path}")
    if glob.has_magic(word) and not path.exists():
        return _some(sorted(map(Path, glob.glob(word, recursive=True))), f"the pattern {word}")  # noqa: PTH207 (Path.glob takes no absolute pattern)
    return [path]


def refuse_special(path: Path) -> None:
    """Raise UserError for a path that exists but is no regular file, such as a pipe: reading it would block forever."""
    try:
        special = path.exists() and not path.is_file() and not path.is_dir()
    except (OSError, ValueError) as error:  # a name that is too long, or no name at all
        raise UserError(f"{str(path)[:100]!r} cannot be the name of a file ({error}).") from None
    if special:
        raise UserError(f"{path} is no file but a pipe or a device: save it as a file.")


def _listed(name: str) -> list[File]:
    """The files that a list names, one on a line, as seen from where the script runs; lines that begin with # say nothing."""
    try:
        lines = [line.strip() for line in Path(name).read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{name} cannot be read as a list of files ({error}).") from None
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise UserError(f"the list {name} names no file.")
    return find(lines)


def _some(paths: Iterable[Path], what: str) -> list[File]:
    rasters = [p for p in paths if p.suffix.lower() in raster.SUFFIXES and not p.name.startswith(".")]
    if not rasters:
        raise UserError(f"{what} holds no raster ({', '.join(raster.SUFFIXES)}).")
    return rasters


def find_local(words: Iterable[str | Path]) -> list[Path]:
    """The same on this machine. Raises UserError where a file that is named does not exist."""
    files = list(map(Path, find(words)))
    for file in files:
        if not file.exists():
            raise UserError(f"{file} does not exist.")
    return files

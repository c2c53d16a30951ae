"""The run that --overwrite replaces: set aside until the first snapshot of the new one is whole; without one, it comes back.

Its files go to .before in their folder. A run that was killed leaves them there, and the next one puts them in their place.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.base.contents import files_of
from tools.base.locks import locked, make_folder
from tools.record import recorder
from tools.weights import snapshots

_ASIDE, _MOVING = snapshots.ASIDE, f"{snapshots.ASIDE}.moving"  # the latter while files are on their way, in either direction


@contextmanager
def replaced(home: Path, folders: Callable[[], list[Path]], writer: bool) -> Iterator[None]:
    """Within this block no other run writes into `home`; after it, nothing is aside.

    folders: those in which runs may be set aside, as they are then. writer: whether this rank writes files. Raises UserError if
    another run is at work there.
    """
    if not writer:
        yield
        return
    with locked(home):
        make_folder(home)
        try:
            _settle(folders())
            yield
        finally:
            _settle(folders())
            if not any(home.iterdir()):
                home.rmdir()


def set_aside(folder: Path, more: Iterable[Path] = ()) -> None:
    """Move the files of a run, and more of them, to .before in their folder; those of others stay."""
    if (folder / _ASIDE).is_dir():  # as that of a later fold, once the first one has begun
        snapshots.remove(folder)
        recorder.remove(folder)
        return
    files = [path for path in [*snapshots.files(folder), *recorder.files(folder), *more] if path.exists()]
    (folder / _MOVING).mkdir(parents=True, exist_ok=True)
    for path in files:
        _move(path, folder / _MOVING / path.relative_to(folder))
    recorder.remove_empty(folder)
    (folder / _MOVING).rename(folder / _ASIDE)  # now all of them are there, and the new run may begin


def forget(folder: Path) -> None:
    """The first snapshot of the new run is whole: what was set aside goes. The empty .before says so until the run ends."""
    for path in (folder / _ASIDE).iterdir() if (folder / _ASIDE).is_dir() else ():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _settle(folders: list[Path]) -> None:
    """Let go of what is aside if any of the new runs has a snapshot, else bring it all back."""
    new = any(snapshots.found(folder) for folder in folders if (folder / _ASIDE).is_dir())
    for folder in folders:
        if (folder / _ASIDE).is_dir():
            if new:
                shutil.rmtree(folder / _ASIDE)
            else:
                snapshots.remove(folder)  # the best weights and the records of a run that came to nothing
                recorder.remove(folder)
                (folder / _ASIDE).rename(folder / _MOVING)
        _bring_back(folder)
        if folder != folders[0] and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _bring_back(folder: Path) -> None:
    if (folder / _MOVING).is_dir():
        for path in files_of(folder / _MOVING):
            _move(folder / _MOVING / path, folder / path)
        shutil.rmtree(folder / _MOVING)


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)

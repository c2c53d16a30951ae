"""What patches and databases were made of: which files, how large, of what time, and how labels were named.

The next scripts compare it with the config: a modality that points to other files now, or classes that are joined otherwise,
would be trained and labelled with what the database never saw.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tools.base.errors import UserError, listing
from tools.base.folders import plain
from tools.data.dataset import TileId, tile_name
from tools.data.settings import DataSettings
from tools.geo import raster
from tools.labels.settings import ClassSettings

MAPPING = ("SOURCE_CLASSES", "CLASS_MAPPING", "LABEL_ATTRIBUTE", "LABEL_BACKGROUND", "LABEL_AREA")


def record(data: DataSettings, classes: ClassSettings) -> dict[str, Any]:
    """For details.json: the root of the tiles, their files by modality, the nodata value of each, RESIZE, classes' mapping."""
    files = {m: {tile_name(t): stamp(data, m, t) for t in data.all_ids} for m in data.with_labels}
    nodata = {m: raster.inspect(data.dataset.path(m, data.train_ids[0])).nodata for m in data.modalities}
    return {
        "root": str(Path(data.DATASET_DIR).resolve()), "files": files, "nodata": nodata, "resize": plain(data.RESIZE),
        "mapping": mapping(classes),
    }  # fmt: skip


def mapping(classes: ClassSettings) -> dict[str, Any]:
    """How the classes of the ground truth become ours, as JSON values."""
    return plain({name: getattr(classes, name) for name in MAPPING})


def stamp(data: DataSettings, modality: str, tile: TileId) -> list | None:
    """[file below the root, bytes, time of change in ns] of a modality of a tile, None where the file is not there."""
    path = data.dataset.path(modality, tile)
    try:
        about = path.stat()
    except OSError:
        return None
    return [Path(os.path.relpath(path, data.DATASET_DIR)).as_posix(), about.st_size, about.st_mtime_ns]


def check(recorded: Mapping[str, Any] | None, data: DataSettings, classes: ClassSettings, folder: Path) -> None:
    """Raise UserError where the config names other files, or joins classes otherwise, than patches or databases were made of.

    recorded: what `record` said then, None in folders of earlier versions. Files that were moved with the whole dataset are the
    same; those that are not there any more are not asked for.
    """
    if recorded is None:
        return
    for modality, tile, before, now in _pairs(recorded, data):
        if before[0] != now[0] and before[1:] != now[1:]:
            raise UserError(
                f"{folder} was made of {before[0]} as {modality} of tile {tile}, folders['{modality}'] is {now[0]} now: make it"
                " again with extract_images.py and create_db.py, or set folders back."
            )
    if recorded.get("resize") != plain(data.RESIZE):
        raise UserError(
            f"{folder} was made with RESIZE = {recorded.get('resize')}, the config says {data.RESIZE}: make it again with"
            " extract_images.py and create_db.py, or set it back."
        )
    for name, value in mapping(classes).items():
        if recorded["mapping"].get(name) != value:
            raise UserError(
                f"{folder} was made with {name} = {recorded['mapping'].get(name)}, the config says {value}: make labels,"
                " patches and database again, or set it back."
            )


def notes(recorded: Mapping[str, Any] | None, data: DataSettings, folder: Path) -> list[str]:
    """Warnings: files that have changed since patches or databases were made of them."""
    if recorded is None:
        return []
    moved = recorded["root"] != str(Path(data.DATASET_DIR).resolve())  # a copy may have times of its own
    parts = slice(1, 2) if moved else slice(1, 3)
    changed = [before[0] for _, _, before, now in _pairs(recorded, data) if before[parts] != now[parts]]
    if not changed:
        return []
    what = f"{listing(changed, 3)} {'has' if len(changed) == 1 else 'have'} changed"
    return [f"{what} since {folder} was made, which holds what stood there before: make it again if that matters."]


def _pairs(recorded: Mapping[str, Any], data: DataSettings) -> Iterator[tuple[str, str, list, list]]:
    """(modality, tile, stamp then, stamp now) of files that there were and are."""
    for modality in data.with_labels:
        then = recorded["files"].get(modality, {})
        for tile in data.all_ids:
            before = then.get(tile_name(tile))
            if before and (now := stamp(data, modality, tile)):
                yield modality, tile_name(tile), before, now

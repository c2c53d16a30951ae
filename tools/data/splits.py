"""Which tiles train, validate and test: by shares, drawn by a seed, or as a list of files says.

Windows of one tile always stay in one split, so none of them straddles two. Tiles that lie side by side belong together too:
give them one group. A few large rasters are cut into blocks first, each of which is then a tile (tools/blocks.py).
"""

import csv
import random
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.base.errors import UserError, listing, nearest
from tools.data.dataset import SPLITS, Dataset, TileId, tile_name
from tools.geo import neighbours
from tools.labels.masks import file_name


def split_by_share(
    ids: Sequence[TileId],
    train: float,
    val: float,
    test: float,
    seed: int = 1,
    group: Callable[[TileId], Hashable] | Mapping[TileId, Hashable] | None = None,
) -> tuple[list[TileId], list[TileId], list[TileId]]:
    """Training, validation and test tiles, in these shares (as near as whole groups allow), drawn by the seed alone.

    group: says of a tile's id to which group it belongs (such as `group_tiles` does); a group is never divided. Without it,
    each tile is its own. A
    share above 0 gets one group at least. Raises UserError for shares that do not sum to 1, and for too few groups.
    """
    shares = {"train": train, "val": val, "test": test}
    check_shares(shares)
    group = group.__getitem__ if isinstance(group, Mapping) else group
    groups: dict[Hashable, list[TileId]] = {}
    for tile in ids:
        groups.setdefault(group(tile) if group else tile, []).append(tile)
    wanted = [split for split in SPLITS if shares[split] > 0]
    if len(groups) < len(wanted):
        raise UserError(
            f"{len(groups)} tiles or groups cannot be shared out among {', '.join(wanted)}: each needs one; large rasters are"
            " first cut into blocks by python -m tools.blocks."
        )
    order = sorted(groups.values(), key=lambda tiles: min(map(tile_name, tiles)))
    random.Random(seed).shuffle(order)
    found: dict[str, list[TileId]] = {split: [] for split in SPLITS}
    for number, tiles in enumerate(order):
        lacking = {split: shares[split] * len(ids) - len(found[split]) for split in wanted}
        found[wanted[number] if number < len(wanted) else max(lacking, key=lacking.get)] += tiles
    places = {tile: place for place, tile in enumerate(ids)}
    return tuple(sorted(found[split], key=places.get) for split in SPLITS)


def check_shares(shares: dict[str, float]) -> None:
    """Raise UserError unless the shares of the splits are 0 or more and sum to 1."""
    if min(shares.values()) < 0 or abs(sum(shares.values()) - 1) > 1e-6:
        given = ", ".join(f"{split} {share:g}" for split, share in shares.items())
        raise UserError(f"the shares {given} sum to {sum(shares.values()):g}: they must be 0 or more and sum to 1.")


PLACE = "place"
_AREAS = 10  # that tiles which all touch are divided into, as far as there are so many


def group_tiles(tiles: Sequence[TileId], how: str | None, root: str | Path, pattern: str) -> dict[TileId, Hashable]:
    """The group of each tile, which no split and no fold divides.

    how: a regular expression, whose groups (or all that it finds) say it of a tile's name, such as r"(tile\\d+)_"; or "place":
    tiles that touch belong together, and where they all do, areas of neighbours; None: each tile is its own. root, pattern: the
    images, whose places count. Raises UserError if the expression finds nothing, or an image has no place.
    """
    if how is None:
        return {tile: tile_name(tile) for tile in tiles}
    if how != PLACE:
        return _by_name(tiles, how)
    dataset = Dataset(root, {"image": pattern})
    bounds = {tile: neighbours.place(dataset.path("image", tile)) for tile in tiles}
    if lacking := [tile_name(tile) for tile, found in bounds.items() if not found]:
        raise UserError(f"GROUPS = 'place': {listing(lacking, 3)} has no place on Earth: give a regular expression of names.")
    areas = neighbours.areas(bounds, max(1, len(tiles) // _AREAS))
    return {tile: number for number, area in enumerate(areas) for tile in area}


def _by_name(tiles: Sequence[TileId], pattern: str) -> dict[TileId, Hashable]:
    """What a regular expression finds in each tile's name; a tile in which it finds nothing is its own."""
    found = {tile: re.search(pattern, tile_name(tile)) for tile in tiles}
    if tiles and not any(found.values()):
        raise UserError(f"GROUPS = {pattern!r} finds nothing in any tile's name, such as {listing(map(tile_name, tiles), 3)}.")
    return {tile: (match.groups() or match[0]) if match else tile_name(tile) for tile, match in found.items()}


def warnings(splits: Mapping[str, Sequence[TileId]], files: Mapping[TileId, Path]) -> list[str]:
    """What to say of tiles that are trained on beside tiles that are scored: which touch, or are named like parts of one.

    splits: the tiles by split. files: an image of each.
    """
    home = {tile: split for split, tiles in splits.items() for tile in tiles}
    bounds = {tile: found for tile in home if (found := neighbours.place(files[tile]))}
    apart = [pair for pair in neighbours.touching(bounds) if _divided(pair, home)]
    if apart:
        pair = " and ".join(f"{tile_name(tile)} ({home[tile]})" for tile in apart[0])
        what = f"{len(apart)} pairs of tiles of different splits touch or overlap, such as {pair}"
    elif alike := [tiles for tiles in _series(home) if _divided(tiles, home)]:
        what = f"tiles with names alike are in different splits, such as {listing(map(tile_name, alike[0]), 3)}"
    else:
        return []
    remedy = 'GROUPS, "place" or a regular expression of names, keeps neighbours together in split_by_share and --folds'
    return [f"{what}, so that scores may say more of memory than of other places; {remedy}."]


def _divided(tiles: Sequence[TileId], home: Mapping[TileId, str]) -> bool:
    """Whether some of these tiles are training tiles and others are not."""
    return len({home[tile] == "train" for tile in tiles}) > 1


def _series(tiles: Iterable[TileId]) -> list[list[TileId]]:
    """Groups of tiles whose names differ only in the number at the end; none if all tiles are one such series."""
    found: dict[str, list[TileId]] = {}
    for tile in tiles:
        stem = re.sub(r"[\W_]*\d+$", "", tile_name(tile))
        if stem and not stem.isdigit() and stem != tile_name(tile):
            found.setdefault(stem, []).append(tile)
    return list(found.values()) if len(found) > 1 else []


@dataclass(frozen=True)
class FileList:
    """What a CSV list says: ids (the stems of the images), files by id, and ids by split where the list has a split column."""

    ids: list[str]
    images: dict[str, str]
    labels: dict[str, str]
    splits: dict[str, list[str]] | None

    @property
    def split(self) -> tuple[list[str], list[str], list[str]]:
        """Training, validation and test tiles. Raises UserError where the list has no split column."""
        if self.splits is None:
            raise UserError("the list has no column 'split': use split_by_share(LIST.ids, ...).")
        return tuple(self.splits[split] for split in SPLITS)


def read_list(path: str | Path, labels_folder: str | None = None) -> FileList:
    """A CSV file with the columns image, labels (or mask) and, if wanted, split (train, val or test); files beside the list.

    labels_folder: where convert_gt.py puts the label arrays that it makes of the masks, beside the list; None where the
    list names label arrays already. Raises UserError for a column that is missing, a split that there is not, a name twice.
    """
    rows, labels_column = _rows(Path(path))
    images, labels, splits = {}, {}, {split: [] for split in SPLITS}
    for number, row in enumerate(rows, 2):
        tile = Path(row["image"]).stem
        if tile in images:
            raise UserError(f"{path}, line {number}: the image {tile} stands there twice, or two have one name: rename one.")
        mask = row[labels_column]
        images[tile], labels[tile] = row["image"], f"{labels_folder}/{file_name(Path(mask))}" if labels_folder else mask
        if "split" in row:
            if row["split"] not in SPLITS:
                hint = nearest(row["split"] or "", SPLITS)
                raise UserError(f"{path}, line {number}: the split '{row['split']}' is none of {', '.join(SPLITS)}.{hint}")
            splits[row["split"]].append(tile)
    return FileList(list(images), images, labels, splits if "split" in rows[0] else None)


def listed_masks(path: str | Path) -> list[Path]:
    """The masks that a CSV list names."""
    rows, column = _rows(Path(path))
    return [Path(path).parent / row[column] for row in rows]


def _rows(path: Path) -> tuple[list[dict[str, str]], str]:
    """The lines of a list, and which of its columns names the labels. Raises UserError where it is not such a list."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: write a CSV with the columns image, labels and, if wanted, split.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is no text in UTF-8: save the list as CSV in UTF-8.") from None
    separator = ";" if lines and lines[0].count(";") > lines[0].count(",") else ","
    table = csv.DictReader(lines, delimiter=separator)
    rows = [{name.strip(): (value or "").strip() for name, value in row.items() if name} for row in table]
    columns = list(rows[0]) if rows else []
    labels = next((column for column in ("labels", "mask") if column in columns), None)
    if "image" not in columns or labels is None:
        raise UserError(f"{path} has the columns {listing(columns) or 'none'}: it needs image and labels, and a line per tile.")
    for number, row in enumerate(rows, 2):
        if not row["image"] or not row[labels]:
            raise UserError(f"{path}, line {number}: the image or its {labels} is missing.")
    return rows, labels

"""What goes into composites and where they go: the files of each source, the image's bands, the folder to make."""

import argparse
import re
from collections import Counter
from pathlib import Path

from tools.base.errors import UserError, listing, nearest
from tools.data.dataset import Dataset, TileId, matching_ids, tile_id, tile_name
from tools.data.settings import DataSettings
from tools.geo import raster

COLOURS = {"ir": "ir", "nir": "ir", "infrared": "ir", "red": "red", "r": "red", "green": "green", "blue": "blue"}
ORDERS = {  # bands of an image whose modality has this name
    "irrg": {"ir": 1, "red": 2},
    "rgbir": {"red": 1, "ir": 4},
    "rgb": {"red": 1},
}
_FIELD = re.compile(r"\{[^{}]*\}")


def sources(args: argparse.Namespace) -> dict[str, str]:
    """The sources that the command line names, by role."""
    roles = ("image", "infrared", "dsm", "terrain", "ndsm")
    return {role: getattr(args, role) for role in roles if getattr(args, role) is not None}


def layout(given: dict[str, str], ids: list[str] | None, data: DataSettings | None) -> tuple[Dataset, list[TileId]]:
    """Where the files of each role are, and the tiles to work on. given: the sources; ids: as the command line names them."""
    patterns = {role: _pattern(role, word, data) for role, word in given.items()}
    dataset = Dataset(".", patterns)
    known = data and data.all_ids
    if known is None or is_pattern(given["image"]):
        known = matching(patterns["image"])
    tiles = [tile_id(word, known) for word in ids] if ids else known
    if not tiles:
        raise UserError(f"--image '{given['image']}' matches no file: give a pattern with {{}} for the tile's id, or --ids.")
    twice = [tile_name(t) for t, n in Counter(tiles).items() if n > 1]
    if twice:
        raise UserError(f"--ids names {listing(twice)} twice: name each tile once.")
    for role in patterns:
        for tile in tiles:
            path_of(dataset, role, tile)
    return dataset, tiles


def _pattern(role: str, word: str, data: DataSettings | None) -> str | dict[TileId, str]:
    if is_pattern(word):
        return word
    modalities = data.images
    if word not in modalities:
        raise UserError(
            f"--{role} names the modality '{word}', which folders does not have.{nearest(word, modalities)} It has"
            f" {listing(modalities)}; a pattern of files has a {{}} or a suffix such as .tif."
        )
    pattern = data.folders[word]
    if not isinstance(pattern, str):  # a list of files, as tools.start writes it
        return {tile: str(Path(data.DATASET_DIR) / file) for tile, file in pattern.items()}
    return str(Path(data.DATASET_DIR) / pattern)


def is_pattern(word: str) -> bool:
    """Whether a source is a pattern of files, and no modality's name."""
    return "{" in word or "/" in word or word.lower().endswith(raster.SUFFIXES)


def path_of(dataset: Dataset, role: str, tile: TileId) -> Path:
    """The file of one source of one tile; a pattern without {} is one file for all tiles."""
    pattern = dataset.patterns[role]
    if not isinstance(pattern, str):
        return dataset.path(role, tile)
    if not _FIELD.search(pattern):
        return Path(pattern)
    try:
        return dataset.path(role, tile)
    except UserError:
        raise UserError(
            f"--{role} '{pattern}' does not fit the tile id {tile!r}: it needs a {{}} for each part of the id."
        ) from None


def said(dataset: Dataset, role: str) -> str | list[str]:
    """What details.json says of a source: its pattern, or its files."""
    pattern = dataset.patterns[role]
    return pattern if isinstance(pattern, str) else [*pattern.values()]


def matching(pattern: str) -> list[TileId]:
    """The ids of the tiles whose files match a pattern, which may begin at the root of the disk."""
    root = Path(pattern).anchor
    return matching_ids(root or ".", str(Path(pattern))[len(root) :])


def filled(name: str, tile: TileId) -> str:
    """A file name with the parts of a tile's id in it."""
    return name.format(*_parts(tile))


def _parts(tile: TileId) -> tuple:
    return tile if isinstance(tile, tuple) else (tile,)


def destination(
    kind: str, out: Path | None, name: str | None, data: DataSettings | None, dataset: Dataset, tiles: list[TileId]
) -> tuple[Path, str]:
    """The folder to make, and the pattern of the files in it. kind: the modality; out, name: of the command line."""
    usual = data.folders.get(kind) if data else None
    usual = usual if isinstance(usual, str) else None  # a list of files has no pattern to follow
    name = name or (Path(usual).name if usual else f"{kind}_{'_'.join(['{}'] * len(_parts(tiles[0])))}.tif")
    if not out and not data:
        raise UserError(f"there is no --out: name the folder to make, such as --out data/mine/{kind}.")
    out = out or Path(data.DATASET_DIR) / (Path(usual).parent if usual else kind)
    if _FIELD.search(str(out)):
        raise UserError(f"all files go into one folder, and '{out}' has a {{}}: name another with --out.")
    _check_name(name, tiles)
    for role in dataset.patterns:
        path = path_of(dataset, role, tiles[0]).resolve()
        if out.resolve() in path.parents:
            raise UserError(f"{out} holds {path}, one of the sources: choose another --out, a folder for what is made alone.")
    return out, name


def _check_name(name: str, tiles: list[TileId]) -> None:
    try:
        names = {filled(name, tile) for tile in tiles}
    except (IndexError, KeyError, ValueError):
        raise UserError(
            f"--name '{name}' does not fit the tile id {tiles[0]!r}: it needs a {{}} for each part of the id."
        ) from None
    if len(names) < len(tiles):
        raise UserError(
            f"--name '{name}' gives {len(tiles)} tiles {len(names)} name(s): it needs a {{}} for each part of an id."
        )
    if "/" in name or Path(name).suffix.lower() not in (".tif", ".tiff"):
        raise UserError(f"--name '{name}' must be a file name that ends in .tif: a GeoTIFF keeps its place on Earth.")


def bands_of(args: argparse.Namespace, data: DataSettings | None = None) -> dict[str, int]:
    """Where in the image the bands "ir" and "red" are, from 1. Raises UserError where one is unknown or missing."""
    wanted = ["red"] if args.infrared else ["ir", "red"]
    example = ",".join(f"{colour}={n}" for n, colour in enumerate(wanted, 1))
    if args.bands:
        found = dict(_band(word, example) for word in args.bands.split(","))
    elif data and args.image in data.bands:
        names = [COLOURS.get(name.lower()) for name in data.bands[args.image]]
        found = {colour: n for n, colour in enumerate(names, 1) if colour}
    else:
        found = ORDERS.get(args.image, {})
    for colour in wanted:
        if colour not in found:
            hint = ", or give --infrared files" if colour == "ir" else ""
            raise UserError(f"which band of --image '{args.image}' is {colour} is not known: say --bands {example}{hint}.")
    return {colour: found[colour] for colour in wanted}


def _band(word: str, example: str) -> tuple[str, int]:
    colour, _, number = word.strip().partition("=")
    if colour.lower() not in COLOURS:
        raise UserError(f"--bands names an unknown band '{colour}'.{nearest(colour, COLOURS)} Known are {listing(COLOURS)}.")
    if not number.isdigit() or int(number) < 1:
        raise UserError(f"--bands '{word}' gives no number of a band, from 1: write it as in --bands {example}.")
    return COLOURS[colour.lower()], int(number)

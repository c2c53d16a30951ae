"""Whether tiles can be labelled, found out before the work: those of the dataset to the last pixel, images by their headers."""

from pathlib import Path

from tools.base.errors import UserError, listing
from tools.data.dataset import label_fault
from tools.data.inputs import Input
from tools.geo import place, raster
from tools.geo.views import Size
from tools.inference import resampled
from tools.inference.labeller import TileReader
from tools.inference.tile_list import Tile
from tools.labels.palette import Palette
from tools.maps import stac
from tools.maps.choice import Choice
from tools.maps.results import OVERALL

_MOST_PIXELS = 10**11  # of a tile: more than any raster on a disk, and weeks of work


def check_tiles(tiles: list[Tile], palette: Palette, inputs: list[Input], choice: Choice) -> dict[str, str]:
    """Raise UserError that names all files of the dataset which cannot be read to their end or do not fit.

    Tiles of the dataset are scored together, so that a part of them would be worth little.
    """
    faults = [raster.read_fault(path, role=raster.IMAGE) for tile in tiles for path in tile.paths.values()]
    for tile in tiles:
        for path in tile.truths.values():
            faults.append(label_fault(path, palette) or truth_fault(path, tile))
    if any(faults):
        raise UserError(" ".join(fault for fault in faults if fault))
    for tile in tiles:
        if fault := place_fault(tile):
            raise UserError(fault)
        with TileReader(inputs, tile.paths):
            pass  # it has the bands that the net was trained on
        check_place(tile, choice)
    return {}


def check_names(tiles: list[Tile], choice: Choice) -> None:
    """Raise UserError where a file of one tile would have the name of another's, or of one about all tiles."""
    names = {tile.name for tile in tiles}
    for name in sorted(names) if choice.png else ():
        if f"{name}_colours" in names:
            raise UserError(
                f"--png: the colour map of {name} would be called {name}_colours.png, as the picture of {name}_colours is:"
                " label them in two runs, with a --dir each."
            )
    if choice.stac and (taken := sorted(names & {Path(file).stem for file in OVERALL if file.endswith(".json")})):
        raise UserError(
            f"--stac: the item of {taken[0]} would be called {taken[0]}.json, as a file about all tiles is: call the image"
            " otherwise, or leave --stac out."
        )


def check_place(tile: Tile, choice: Choice) -> None:
    """Raise UserError where a tile does not say of its place on Earth what the files that are wanted need."""
    about = tile.inspect()
    if about.height * about.width > _MOST_PIXELS:
        raise UserError(
            f"{tile.first} has {about.height} x {about.width} pixels, as services of the whole Earth do: add --area."
        )
    for measure in choice.measures:
        measure.pixels(about)
    if choice.stac and (fault := stac.place_fault(about)):
        raise UserError(fault)


def truth_fault(truth: Path, tile: Tile) -> str | None:
    """What to say of ground truth that is not as large as its tile, or lies elsewhere on Earth."""
    return place.fault(raster.inspect(tile.first), raster.inspect(truth, raster.NUMBERS))


def check_images(tiles: list[Tile], inputs: list[Input], choice: Choice, some_done: bool = False) -> dict[str, str]:
    """What is wrong with some of the images, as far as their headers tell, by tile. Raises UserError where none will do.

    They are read just once, while they are labelled: whole cities take their time.
    some_done: others are labelled already, so that there is something to complete even if none of these will do.
    """
    faults = {tile.name: fault for tile in tiles if (fault := image_fault(tile, inputs, choice))}
    if tiles and len(faults) == len(tiles) and not some_done:
        raise UserError(" ".join(list(faults.values())[:5]) + (f" (+{len(faults) - 5} more)" if len(faults) > 5 else ""))
    return faults


def image_fault(tile: Tile, inputs: list[Input], choice: Choice) -> str | None:
    """What keeps a tile from being labelled, as far as its headers tell."""
    try:
        if fault := place_fault(tile):
            return fault
        with TileReader(inputs, tile.paths):
            pass
        check_place(tile, choice)
    except UserError as error:
        return str(error)
    return None


def place_fault(tile: Tile) -> str | None:
    """What to say of files that are matched as one tile but lie elsewhere on Earth, where they say so."""
    return place.first_fault({modality: raster.inspect(path) for modality, path in tile.paths.items()})


def print_notes(
    todo: list[Tile], failed: dict[str, str], count: int, trained: float | None, resample: bool, resize: Size | None = None
) -> None:
    """Say what a user should know before the work begins.

    todo: of `count` tiles, those not finished yet. failed: what is wrong with some of them. trained: the size (metres) of the
    pixels that the net was trained on, where it is known. resample: whether tiles are read at that size. resize: RESIZE.
    """
    about = {tile.name: tile.inspect() for tile in todo if tile.name not in failed}
    if count > len(todo):
        print(f"{count - len(todo)} of {count} tiles are finished already.")
    nowhere = [name for name, found in about.items() if not found.is_placed]
    if nowhere:
        print(f"warning: no CRS in {listing(nowhere)}, so none in the maps either.")
    turned = [name for name, found in about.items() if found.turned]
    if turned:
        print(f"note: turned upright, as the EXIF says: {listing(turned)}.")
    by_model = [name for name, found in about.items() if found.gcps or found.rpcs]
    if by_model:
        print(
            f"note: {listing(by_model)} are placed by control points or RPCs alone: so are the maps, without areas; gdalwarp"
            " makes them north-up."
        )
    odd = {tile.name: size for tile in todo if tile.name in about and (size := resampled.differs(tile, trained, resize))}
    if odd:
        sizes = listing((f"{name} ({size:.3g})" for name, size in odd.items()), 4)
        remedy = "they are read at that size" if resample else "--resample reads them at that size"
        remedy = remedy if resize is None else "RESIZE makes them so"
        print(f"warning: the net was trained on pixels of {trained:.3g} m, these tiles have other ones: {sizes}; {remedy}.")

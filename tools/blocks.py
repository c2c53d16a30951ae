"""Makes tiles of large rasters: blocks of about SIZE pixels, small VRT files that refer to the raster; no pixel is copied.

    python -m tools.blocks data/city/ortho.tif data/city/labels.tif --size 2048 --out data/city/blocks/

makes data/city/blocks/ortho/0_0.vrt, 0_1.vrt ... (row_column) and .../labels/0_0.vrt ... To every other script a block is a
tile, so one or few rasters can be split by place: folders = {"rgb": "blocks/ortho/{}_{}.vrt", "labels":
"blocks/labels/{}_{}.vrt"} with find_ids and split_by_share in the config. Blocks do not overlap and windows stay inside them.

Masks that are not labels yet are cut in the same way; convert_gt.py then makes gts_numpy/0_0.png ... of their blocks.
"""

import argparse
import os
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as Xml

import rasterio

from tools.base import commands
from tools.base.errors import UserError, listing, run
from tools.base.folders import refuse_existing, whole_folder, write_details
from tools.geo import raster
from tools.geo.file_list import find_local
from tools.geo.views import GDAL_TYPES, add, orientation, vrt_band, vrt_of, vrt_source
from tools.geo.windows import Window

MADE_BY = "tools.blocks"


def main():
    make_blocks(arguments())


def make_blocks(args: argparse.Namespace) -> None:
    """Make the blocks of all rasters, as the command line (what `arguments` gives) says."""
    files = find_local(args.files)
    stems = [file.stem for file in files]
    twice = listing(sorted(stem for stem, count in Counter(stems).items() if count > 1))
    if twice:
        raise UserError(f"several of the rasters are called {twice}: make their blocks in two runs, each with its own --out.")
    refuse_existing(args.out, args.overwrite, MADE_BY, files)
    with whole_folder(args.out, args.overwrite, MADE_BY) as folder:
        counts = [write_blocks(file, args.size, folder / file.stem, args.out / file.stem) for file in files]
        write_details(folder, **{"made by": MADE_BY}, files=files, size=args.size)
    print(", ".join(f"{count} blocks of {stem}" for stem, count in zip(stems, counts, strict=True)) + f" in {args.out}")


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = commands.parser(__doc__)
    parser.add_argument("files", nargs="+", type=Path, help="rasters: images and label arrays or masks, alike in size")
    parser.add_argument("--size", type=commands.whole_number(1), required=True, metavar="PIXELS", help="about a block's sides")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="where the blocks go")
    commands.add_overwrite(parser)
    return parser.parse_args(argv)


def blocks(height: int, width: int, size: int) -> dict[tuple[int, int], Window]:
    """The blocks of a raster by (row, column): they cover it without overlap, their sides as near `size` as can be."""

    def edges(length: int) -> list[int]:
        count = max(1, round(length / size))
        return [length * i // count for i in range(count + 1)]

    return {
        (i, j): Window(top, left, bottom - top, right - left)
        for i, (top, bottom) in enumerate(pairwise(edges(height)))
        for j, (left, right) in enumerate(pairwise(edges(width)))
    }


def write_blocks(file: Path, size: int, folder: Path, final: Path) -> int:
    """Write the blocks of one raster into `folder`, which is to become `final`; how many come back."""
    folder.mkdir()
    about = raster.inspect(file, raster.NUMBERS)
    with raster.open_raster(file) as source:
        if about.gcps or about.rpcs or orientation(source) != 1:
            how = "turned, as its EXIF says" if orientation(source) != 1 else "placed by control points or RPCs"
            raise UserError(f"{file} is {how}: save it upright, or warp it (gdalwarp), before it is cut into blocks.")
        found = blocks(*source.shape, size)
        path = os.path.relpath(file.resolve(), final.resolve())
        for (i, j), window in found.items():
            (folder / f"{i}_{j}.vrt").write_text(as_vrt(source, about, window, path))
    return len(found)


def as_vrt(source: rasterio.DatasetReader, about: raster.Raster, window: Window, path: str) -> str:
    """The text of a VRT that shows one window of an open raster; about: its place. path: the raster's, seen from the VRT."""
    place = about.transform
    if place is not None:
        place = place * place.translation(window.col, window.row)
    root = vrt_of(window.height, window.width, about.crs, place)
    for i in source.indexes:
        band = _band(root, source.dtypes[i - 1], window, path, str(i), band=str(i))
        add(band, "ColorInterp", source.colorinterp[i - 1].name.capitalize())
        if source.nodatavals[i - 1] is not None:
            add(band, "NoDataValue", repr(source.nodatavals[i - 1]))
        if (source.scales[i - 1], source.offsets[i - 1]) != (1, 0):
            add(band, "Scale", repr(source.scales[i - 1]))
            add(band, "Offset", repr(source.offsets[i - 1]))
        if source.colorinterp[i - 1].name == "palette":
            table = add(band, "ColorTable")
            for _, colour in sorted(source.colormap(i).items()):
                add(table, "Entry", None, **{f"c{n}": str(c) for n, c in enumerate(colour, 1)})
    flags = [flag.name for flag in source.mask_flag_enums[0]]
    if flags == ["per_dataset"]:  # a mask of its own, neither nodata nor an alpha band
        _band(add(root, "MaskBand"), "uint8", window, path, "mask,1")
    return Xml.tostring(root, encoding="unicode")


def _band(parent: Xml.Element, dtype: str, window: Window, path: str, source_band: str, **attributes: str) -> Xml.Element:
    if dtype not in GDAL_TYPES:
        raise UserError(f"{path} has pixels of the type {dtype}, of which blocks cannot be made.")
    band = vrt_band(parent, dtype, **attributes)
    source = vrt_source(band, path, source_band, relativeToVRT="1")
    size = {"xSize": str(window.width), "ySize": str(window.height)}
    add(source, "SrcRect", None, xOff=str(window.col), yOff=str(window.row), **size)
    add(source, "DstRect", None, xOff="0", yOff="0", **size)
    return band


if __name__ == "__main__":
    run(main)

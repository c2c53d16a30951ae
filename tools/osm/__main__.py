"""Makes a modality of OpenStreetMap: for each tile a raster of roads, buildings, water, green and railways on the image's grid.

    python -m tools.osm town.osm.pbf                                      tiles and folder by config.py's folders["osm"]
    python -m tools.osm map/*.shp --image 'top/area{}.tif' --out data/mine/osm/ --form distance --clip 20

then, in config.py: INPUTS = {"irrg": ["irrg"], "osm": ["osm"]} and NET = "fusenet", or another of two inputs.

Reads .osm.pbf, .osm, answers of Overpass (.json), and GeoPackages, shapefiles and GeoJSON whose attributes are the map's keys
(highway, building ...), GDAL's `other_tags` or Geofabrik's `fclass`, in any CRS. Several files are one map. Which tags are
which theme, and how wide a road of each class is drawn, stands in one table, tools/osm/themes.py; a way's own width wins.
What lies in tunnels is left out. Ways narrower than a pixel are drawn a pixel wide.

--form binary: a band a theme, 255 where it is. distance: a band a theme, metres to its border, positive inside, cut at
--clip. colours: three bands, roads white, buildings blue, water red, green green, railways grey, black where nothing is.
"""

import argparse
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from rasterio import CRS
from tqdm import tqdm

from tools.base import commands
from tools.base.errors import UserError, listing, run
from tools.base.folders import refuse_existing, whole_folder, write_details
from tools.composite.files import destination, filled, is_pattern, layout, path_of, said
from tools.data.dataset import Dataset, TileId, tile_name
from tools.data.settings import DataSettings
from tools.geo import raster
from tools.osm import extract, themes
from tools.osm.layers import AROUND_METRES, FORMS, Grid, TileMap, write
from tools.settings import read_settings

MADE_BY, KIND = "tools.osm", "osm"
CLIP_METRES = 20.0
MOST_PIXELS = 2000  # that distances reach


def main():
    args = arguments()
    chosen = themes.with_widths(themes.of(args.themes), args.width)
    if args.clip is not None and args.form != "distance":
        raise UserError(f"--clip {args.clip:g} is for --form distance, and the form is {args.form}: leave it out.")
    clip = (args.clip or CLIP_METRES) if args.form == "distance" else 0.0
    data = None if args.image and is_pattern(args.image) else read_settings(args.config, args.set).data
    dataset, tiles = layout({"image": args.image or image_of(data)}, args.ids, data)
    out, name = destination(KIND, args.out, args.name, data, dataset, tiles)
    refuse_existing(out, args.overwrite, MADE_BY, [*args.extracts, *(path_of(dataset, "image", t) for t in tiles)])
    grids = {tile: Grid(raster.inspect(path_of(dataset, "image", tile))) for tile in tiles}
    check_clip(clip, grids.values())
    found = extract.read(args.extracts, chosen, around(list(grids.values()), AROUND_METRES + clip))
    shares = {}
    with whole_folder(out, args.overwrite, MADE_BY) as folder:
        for tile, grid in tqdm(grids.items(), "maps", unit="tile"):
            path = folder / filled(name, tile)
            shares[tile_name(tile)] = write(TileMap(grid, chosen, found, clip), args.form, path)
        write_details(folder, **details(args, data, chosen, clip, dataset, name, shares))
    say(out, name, shares, data, args.form)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = commands.parser(__doc__)
    add = parser.add_argument
    add("extracts", nargs="+", type=Path, metavar="EXTRACT", help="files of the map")
    add("--image", metavar="SOURCE", help="modality whose grid the maps take, or a pattern with {} (default: INPUTS' first)")
    add(
        "--themes",
        nargs="+",
        default=list(themes.THEMES),
        metavar="THEME",
        help=f"of {', '.join(themes.THEMES)} (default: all)",
    )
    add("--form", choices=FORMS, default=FORMS[0], help="what the bands say (default: binary)")
    add("--clip", type=commands.number(0), metavar="METRES", help=f"of --form distance (default: {CLIP_METRES:g})")
    add("--width", nargs="+", default=[], metavar="VALUE=METRES", help="how wide lines are drawn, such as residential=6")
    add("--ids", nargs="+", metavar="ID", help="tiles (default: the config's, or all files that match the image's pattern)")
    add("--out", type=Path, help="folder to make (default: folders['osm'], or osm/ of the dataset)")
    add("--name", help="file of a tile, such as 'osm_area{}.tif'")
    commands.add_overwrite(parser)
    commands.add_config(parser)
    return parser.parse_args(argv)


def image_of(data: DataSettings) -> str:
    """The modality whose grid the maps take if the command line names none."""
    images = [name for name in (*data.modalities, *data.images) if name != KIND]
    if not images:
        raise UserError("folders has no images beside the map: name files whose grid the maps take, --image 'top/area{}.tif'.")
    return images[0]


def around(grids: list[Grid], metres: float):
    """A function that gives left, bottom, right, top of all tiles, and so many metres around them, in a CRS."""

    @cache
    def near(crs: CRS) -> tuple[float, ...]:
        bounds = np.array([grid.bounds(crs, metres) for grid in grids])
        return (*bounds[:, :2].min(0).tolist(), *bounds[:, 2:].max(0).tolist())

    return near


def check_clip(metres: float, grids: Iterable[Grid]) -> None:
    """Raise UserError where a distance is so many pixels that the map around a tile takes more memory than the tile."""
    for grid in grids:
        if (pixels := metres / min(grid.pixel)) > MOST_PIXELS:
            raise UserError(
                f"--clip {metres:g} is {pixels:.0f} pixels of {grid.about.path}: {MOST_PIXELS} are the most, that is"
                f" {MOST_PIXELS * min(grid.pixel):.4g} metres."
            )


def details(args, data, chosen, clip: float, dataset: Dataset, name: str, shares: dict[str, dict]) -> dict[str, Any]:
    """What details.json says."""
    return {
        "made by": MADE_BY,
        "dataset": data.DATASET if data else None,
        "map": [str(path) for path in args.extracts],
        "image": said(dataset, "image"),
        "files": name,
        "form": args.form,
        "clip_metres": clip if args.form == "distance" else None,
        "themes": {n: {"colour": t.colour, "areas": t.areas, "lines_metres": t.lines} for n, t in chosen.items()},
        "shares": shares,
    }


def say(out: Path, name: str, shares: dict[TileId, dict[str, float]], data: DataSettings | None, form: str) -> None:
    """What was made, what is empty, and how to use it."""
    themed = {theme: np.mean([share[theme] for share in shares.values()]) for theme in next(iter(shares.values()))}
    words = ", ".join(f"{theme} {share:.1%}" for theme, share in themed.items())
    print(f"{len(shares)} maps in {out}; of their pixels: {words}")
    if bare := [tile for tile, share in shares.items() if not any(share.values())]:
        print(f"note: nothing of the map lies on the tiles {listing(bare)}: does the extract reach there?")
    if data and KIND not in data.folders:
        print(f'To use them, add "{KIND}": "{os.path.relpath(out / name, data.DATASET_DIR)}" to folders.')
    if form != "colours":
        print(f'Their bands, for INPUTS that pick some: bands = {{"{KIND}": {list(themed)}}}'.replace("'", '"'))


if __name__ == "__main__":
    run(main)

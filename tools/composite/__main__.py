"""Makes the second modality of the multimodal nets: an 8-bit GeoTIFF of NDVI, DSM and nDSM for each tile, on the image's grid.

    python -m tools.composite                                      irrg and dsm of config.py's dataset, estimated terrain
    python -m tools.composite --image rgbir --terrain dtm --config potsdam.py
    python -m tools.composite --image 'top/area{}.tif' --bands ir=1,red=2 --dsm 'dsm/area{}.tif' --out composite/

A source (--image, --infrared, --dsm, --terrain, --ndsm) is a modality of the config's `folders`, or a pattern of files in
which {} stands for the tile's id; a pattern without {} is one file for all tiles. The config is read only where a modality
is named.

NDVI is (IR - R) / (IR + R), 0 where both are 0, and its -1 to 1 become 0 to 255. DSM is stretched over the range of the whole
dataset, the same for all tiles. nDSM is DSM - terrain, cut at 0 and --ndsm-top metres. The terrain is given (--terrain), or
not needed (--ndsm), or estimated from the DSM. Heights on another grid or CRS than the image are resampled (bilinear).

A pixel where any source has no data (its nodata value, NaN, a mask, or beyond its edge) has no data in the composite: its
bands are 0 and the GeoTIFF's own mask says so (`dataset_mask()` in rasterio is 0; QGIS shows it transparent). 0 alone does
not say it, for it is also a height. extract_images.py reads the mask (read_valid in tools/geo/raster.py) and gives no
label there.
"""

import argparse
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from tqdm import tqdm

from tools.base import commands
from tools.base.errors import UserError, listing, run
from tools.base.folders import refuse_existing, whole_folder, write_details
from tools.base.processes import pool
from tools.composite.alignment import same_grid
from tools.composite.bands import Heights, sum_of
from tools.composite.files import bands_of, destination, filled, is_pattern, layout, path_of, said, sources
from tools.composite.terrain import GroundFilter, Terrain
from tools.composite.tile import GDAL, Job, Recipe, compose, measure
from tools.data.dataset import Dataset, tile_name
from tools.data.settings import DataSettings
from tools.geo import raster
from tools.geo.raster import Raster
from tools.geo.windows import Window
from tools.settings import read_settings

MADE_BY = "tools.composite"


def main():
    args = arguments()
    by_name = any(not is_pattern(word) for word in sources(args).values())
    data = read_settings(args.config, args.set).data if by_name else None
    dataset, tiles = layout(sources(args), args.ids, data)
    out, name = destination("composite", args.out, args.name, data, dataset, tiles)
    recipe = recipe_of(args, data)
    jobs = [Job(t, {s: path_of(dataset, s, t) for s in dataset.patterns}, filled(name, t)) for t in tiles]
    refuse_existing(out, args.overwrite, MADE_BY, [path for job in jobs for path in job.paths.values()])
    with rasterio.Env(**GDAL):
        check(recipe, jobs)
        heights = sum_of(in_parallel(partial(measure, recipe), jobs, args.workers, "measuring heights"))
        recipe = replace(recipe, dsm_range=tuple(args.range or heights.range(args.percentiles)))
        print("dsm: {:.2f} to {:.2f} metres become 0 to 255 in all tiles".format(*recipe.dsm_range))
        with whole_folder(out, args.overwrite, MADE_BY) as folder:
            missing = list(in_parallel(partial(compose, recipe, folder), jobs, args.workers, "composites"))
            write_details(folder, **details(args, data, recipe, dataset, jobs, heights, missing, name))
    print(f"{len(jobs)} composites in {out}, {np.mean(missing):.2%} of their pixels without data")
    if data and "composite" not in data.folders:
        print(f'To use them, add "composite": "{os.path.relpath(out / name, data.DATASET_DIR)}" to folders.')


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = commands.parser(__doc__)
    add = parser.add_argument
    add("--image", default="irrg", metavar="SOURCE", help="with the red band, and the infrared one (default: irrg)")
    add(
        "--bands",
        metavar="ir=N,red=N",
        help="where these are in the image, from 1 (known for irrg, rgbir, rgb and by config's bands)",
    )
    add("--infrared", metavar="SOURCE", help="infrared in files of its own (their first band)")
    add("--dsm", default="dsm", metavar="SOURCE", help="surface model, metres (default: dsm)")
    given = parser.add_mutually_exclusive_group()
    given.add_argument("--terrain", metavar="SOURCE", help="terrain model, metres (default: estimated from the DSM)")
    given.add_argument("--ndsm", metavar="SOURCE", help="height above ground as it is")
    add("--ndsm-step", type=commands.number(0), metavar="METRES", help="what 1 is in --ndsm; must be said for 8-bit files")
    add("--ndsm-top", type=commands.number(0), default=30.0, metavar="METRES", help="height that becomes 255 (default: 30)")
    add("--window", type=commands.number(0), metavar="METRES", help="terrain: width of the widest roof or wood (default: 40)")
    add("--rise", type=float, nargs=2, metavar=("LOW", "HIGH"), help="terrain: metres above it that are ground (0.3 2.5)")
    add("--slope", type=float, help="terrain: rise per metre that is still a hillside, no roof (default: 0.1)")
    add("--pixel-size", type=commands.number(0), metavar="METRES", help="where the georeference does not say it")
    add("--nodata", type=float, help="value of heights that means no data, where the files do not declare it")
    fixed = parser.add_mutually_exclusive_group()
    fixed.add_argument("--range", type=float, nargs=2, metavar=("LOW", "HIGH"), help="DSM: metres that become 0 and 255")
    fixed.add_argument("--percentiles", type=float, nargs=2, default=(0.0, 100.0), metavar=("LOW", "HIGH"),
                       help="DSM: the range leaves out this share of pixels (default: 0 100, lowest to highest)")  # fmt: skip
    add("--ids", nargs="+", metavar="ID", help="tiles (default: the config's, or all files that match the image's pattern)")
    add("--out", type=Path, help="folder to make (default: folders['composite'], or composite/ of the dataset)")
    add("--name", help="file of a tile, such as 'composite_area{}.tif'")
    add("--workers", type=commands.whole_number(1), default=len(os.sched_getaffinity(0)), help="processes (default: cores)")
    commands.add_overwrite(parser)
    commands.add_config(parser)
    return parser.parse_args(argv)


def recipe_of(args: argparse.Namespace, data: DataSettings | None = None) -> Recipe:
    """What the command line asks for. Raises UserError where it makes no sense."""
    chosen = {"window_metres": args.window, "rise_metres": args.rise and tuple(args.rise), "slope": args.slope}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    if chosen and (args.terrain or args.ndsm):
        raise UserError("--window, --rise and --slope are for an estimated terrain: leave them out, or --terrain and --ndsm.")
    if args.ndsm_step and not args.ndsm:
        raise UserError("--ndsm-step says what 1 stands for in the files of --ndsm: give those, or leave it out.")
    for name, limits in (("range", args.range), ("percentiles", args.percentiles)):
        if limits and not limits[0] < limits[1]:
            raise UserError(f"--{name} {limits[0]:g} {limits[1]:g}: the first must be below the second.")
    if not 0 <= args.percentiles[0] < args.percentiles[1] <= 100:
        raise UserError(f"--percentiles {args.percentiles[0]:g} {args.percentiles[1]:g}: they go from 0 to 100.")
    ground, bands = GroundFilter(**chosen), bands_of(args, data)
    return Recipe(bands, ground, args.ndsm_step, args.ndsm_top, args.pixel_size, args.nodata)


def in_parallel(work: Callable, jobs: list[Job], workers: int, title: str) -> Iterator:
    """`work(job)` for all jobs in as many processes, in the order of the jobs, with a progress bar."""
    workers = min(workers, len(jobs))
    if workers == 1:
        yield from tqdm(map(work, jobs), title, len(jobs), unit="tile")
        return
    with pool(workers) as helpers:
        yield from tqdm(helpers.map(work, jobs), title, len(jobs), unit="tile")


def check(recipe: Recipe, jobs: list[Job]) -> None:
    """Make sure that all sources are there, readable to the last pixel, and fit their image; say what is resampled.

    Raises UserError that names all that is wrong.
    """
    missing = [
        f"tile {tile_name(job.tile)} has no {role}: {path} does not exist."
        for job in jobs for role, path in job.paths.items() if not path.exists()
    ]  # fmt: skip
    _raise(missing)
    files = list(dict.fromkeys(path for job in jobs for path in job.paths.values()))
    with ThreadPoolExecutor() as pool:  # GDAL decodes without the interpreter's lock
        found = tqdm(pool.map(raster.read_fault, files), "checking files", len(files), leave=False)
        _raise([fault for fault in found if fault])
    _raise([fault for job in jobs for fault in _faults(recipe, job)])
    for role in jobs[0].paths:
        _say_resampled(role, jobs)


def _raise(faults: list[str], most: int = 3) -> None:
    if faults:
        raise UserError(" ".join(faults[:most]) + (f" (+{len(faults) - most} more)" if len(faults) > most else ""))


def _faults(recipe: Recipe, job: Job) -> Iterator[str]:
    """What is wrong with the files of one tile, a sentence each."""
    about = {role: raster.inspect(path) for role, path in job.paths.items()}
    grid = about["image"]
    wanted = max(recipe.bands.values())
    if grid.bands < wanted:
        yield f"tile {tile_name(job.tile)}: {grid.path} has {grid.bands} band(s), and --bands asks for band {wanted}."
    for role, source in about.items():
        if role != "image" and source.bands != 1:
            yield f"tile {tile_name(job.tile)}: {role} {source.path} has {source.bands} bands, not one."
        if role == "ndsm" and source.dtype == "uint8" and recipe.ndsm_step is None:
            yield f"{source.path} has 8 bits: say with --ndsm-step how many metres 1 stands for (0.1, where 255 is 25.5 m)."
        try:
            same_grid(source, grid)
        except UserError as error:
            yield f"tile {tile_name(job.tile)}: {error}"
    if not {"terrain", "ndsm"} & set(about):
        try:
            Terrain(None, Window(0, 0, grid.height, grid.width), recipe.pixel(grid), recipe.ground)
        except UserError as error:
            yield str(error)


def _say_resampled(role: str, jobs: list[Job]) -> None:
    pairs = [(job, raster.inspect(job.paths[role]), raster.inspect(job.paths["image"])) for job in jobs]
    others = [(job, source, grid) for job, source, grid in pairs if not same_grid(source, grid)]
    if others:
        names = listing([tile_name(job.tile) for job, _, _ in others])
        print(f"{role}: resampled (bilinear) from {_grid(others[0][1])} to the image's {_grid(others[0][2])}, tiles {names}")
    unplaced = [tile_name(job.tile) for job, source, grid in pairs if source.transform is None and grid.transform is not None]
    if unplaced:
        print(f"{role}: without georeference, taken pixel by pixel on the image's grid, tiles {listing(unplaced)}")


def _grid(about: Raster) -> str:
    size = f"{about.transform.a:.6g} x {-about.transform.e:.6g}"
    return f"{about.crs.to_string() if about.crs else 'an unknown CRS'}, pixels {size}"


def details(args, data, recipe: Recipe, dataset: Dataset, jobs, heights: Heights, missing, name: str) -> dict[str, Any]:
    """What details.json says."""
    estimated = not (args.terrain or args.ndsm)
    terrain = recipe.ground.describe() if estimated else {"method": "given"}
    return {
        "made by": MADE_BY,
        "dataset": data.DATASET if data else None,
        "sources": {role: said(dataset, role) for role in dataset.patterns},
        "files": name,
        "image_bands": recipe.bands | ({"infrared": 1} if args.infrared else {}),
        "bands": {
            "ndvi": {"formula": "(ir - red) / (ir + red), 0 where both are 0", "at_0": -1, "at_255": 1},
            "dsm": {"unit": "metres", "at_0": recipe.dsm_range[0], "at_255": recipe.dsm_range[1],
                    "range": "given" if args.range else "percentiles {:g} to {:g} of all tiles".format(*args.percentiles),
                    "lowest": heights.low, "highest": heights.high},
            "ndsm": {"formula": "given" if args.ndsm else "dsm - terrain", "unit": "metres", "at_0": 0,
                     "at_255": recipe.ndsm_top, "metres_per_step": recipe.ndsm_step},
        },
        "terrain": terrain | {"pixel_metres": recipe.pixel(raster.inspect(jobs[0].paths["image"])) if estimated else None},
        "nodata": "where any source has none: all bands 0, and 0 in the GeoTIFF's own mask",
        "tiles": {tile_name(job.tile): {"file": job.name, "without_data": share}
                  for job, share in zip(jobs, missing, strict=True)},
    }  # fmt: skip


if __name__ == "__main__":
    run(main)

"""Makes a dataset to try everything on: aerial tiles of a made-up town, under ISPRS Vaihingen's file names."""

import argparse
import json
import os
from collections.abc import Callable
from concurrent.futures import Future, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rasterio.transform import Affine
from scipy import ndimage
from tqdm import tqdm

from tools.base.errors import UserError, run
from tools.base.folders import refuse_existing, whole_folder, write_details
from tools.base.processes import pool
from tools.demo import streetmap
from tools.demo.flight import ORTHO, write_flight
from tools.demo.scene import FINER, MARGIN_PIXELS, PIXEL_METRES, Scene, halved, photograph
from tools.demo.town import draw_town
from tools.geo import raster
from tools.labels.palette import Palette

TRAIN_IDS, VAL_IDS, TEST_IDS = [1, 3, 5, 7, 11, 13], [15], [32, 34]
TILE_IDS = [*TRAIN_IDS, *VAL_IDS, *TEST_IDS]
TILE_PIXELS, FLIGHT_PIXELS = 512, 1536  # per side, if nobody says otherwise
SIZES_PIXELS = (64, 2048)  # below, a tile is a few roofs; at 2048 a worker needs 2 GB, and four times that at twice

FOLDERS = {  # as in ISPRS's downloads; {} is the tile's id
    "image": "top/top_mosaic_09cm_area{}.tif",
    "dsm": "dsm/dsm_09cm_matching_area{}.tif",
    "ndsm": "ndsm/dsm_09cm_matching_area{}_normalized.jpg",
    "truth": "gts_for_participants/top_mosaic_09cm_area{}.tif",
    "eroded": "gts_eroded_for_participants/top_mosaic_09cm_area{}_noBoundary.tif",
}
MAP = "map/osm.geojson"  # of all tiles, for python -m tools.osm
CLASSES = ["impervious surfaces", "building", "low vegetation", "tree", "car", "clutter"]
COLOURS = {
    0: (255, 255, 255), 1: (0, 0, 255), 2: (0, 255, 255), 3: (0, 255, 0),
    4: (255, 255, 0), 5: (255, 0, 0), 6: (0, 0, 0),
}  # fmt: skip
UNSCORED = 6
MADE_BY = "tools.demo"
ERODED_PIXELS = 3  # radius of the disc by which ISPRS erodes each class

CRS = "EPSG:32632"
EAST_METRES, NORTH_METRES = 496_700.0, 5_419_600.0  # upper left corner of the first tile: Vaihingen an der Enz
TILES_A_ROW, GAP_METRES = 3, 24.0
GROUND_METRES = 215.0  # above sea
NDSM_STEP_METRES = 0.1  # 0-255 is 0-25.5 m
DSM_BLUR_PIXELS, DSM_NOISE_METRES = 0.8, 0.04  # image matching rounds walls off and is not exact


@dataclass(frozen=True)
class Tile:
    """One tile as it goes to disk: rasters of size x size pixels."""

    image: np.ndarray  # (3, size, size) uint8: infrared, red, green
    dsm: np.ndarray  # float32, metres above sea
    above_ground: np.ndarray  # float32, metres
    labels: np.ndarray  # uint8, index into CLASSES
    map: list[dict]  # GeoJSON features of what OpenStreetMap would say


def make_tile(seed: int, tile_id: int, size: int) -> Tile:
    """The tile of `size` x `size` pixels that a seed and an id stand for: always the same one."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, tile_id]))
    scene = Scene(size, rng)
    town, place = draw_town(scene), place_of(tile_id, size)
    ground = terrain(scene, seed, place)
    image = photograph(scene, ground, rng)
    above_ground = ndimage.gaussian_filter(halved(scene.inside_tile(scene.height)), DSM_BLUR_PIXELS)
    above_ground += rng.normal(0, DSM_NOISE_METRES, above_ground.shape)
    dsm = above_ground + halved(scene.inside_tile(ground)) + GROUND_METRES
    labels = scene.inside_tile(scene.label)[::FINER, ::FINER]
    mapper = np.random.default_rng(np.random.SeedSequence([seed, tile_id, 1]))  # one's own, so that pixels stay as they are
    on_map = streetmap.features(town, scene, mapper, place, CRS)
    return Tile(image, dsm.astype(np.float32), above_ground.astype(np.float32), np.ascontiguousarray(labels), on_map)


def place_of(tile_id: int, size: int) -> Affine:
    """The georeference of a tile: tiles stand in rows of three, a gap apart."""
    row, col = divmod(TILE_IDS.index(tile_id), TILES_A_ROW)
    pitch = np.ceil(size * PIXEL_METRES) + GAP_METRES
    east, north = EAST_METRES + col * pitch, NORTH_METRES - row * pitch
    return Affine(PIXEL_METRES, 0.0, east, 0.0, -PIXEL_METRES, north)


def terrain(scene: Scene, seed: int, place: Affine) -> np.ndarray:
    """(n, n) float32 metres: one gentle valley that runs on from tile to tile."""
    rng = np.random.default_rng(seed)
    cells = (np.arange(scene.cells) + 0.5) / FINER - MARGIN_PIXELS  # pixels of the tile
    east, south = (
        place.c + cells[None] * PIXEL_METRES - EAST_METRES,
        NORTH_METRES - place.f + cells[:, None] * PIXEL_METRES,
    )
    ground = 0.02 * east - 0.015 * south
    for length_metres in (420, 260, 150):
        angle, phase = rng.uniform(0, 2 * np.pi, 2)
        wave = (east * np.cos(angle) + south * np.sin(angle)) * 2 * np.pi / length_metres + phase
        ground = ground + 0.004 * length_metres * np.sin(wave)
    return ground.astype(np.float32)


def erode(labels: np.ndarray, radius: int = ERODED_PIXELS) -> np.ndarray:
    """Labels (h, w, uint8) with UNSCORED wherever another class lies within a disc of `radius` pixels."""
    reach = np.arange(-radius, radius + 1)
    disc = reach[:, None] ** 2 + reach[None] ** 2 <= radius**2
    lowest = ndimage.minimum_filter(labels, footprint=disc, mode="nearest")
    highest = ndimage.maximum_filter(labels, footprint=disc, mode="nearest")
    return np.where(lowest == highest, labels, UNSCORED).astype(np.uint8)


def write_tile(folder: Path, seed: int, tile_id: int, size: int) -> tuple[np.ndarray, list[dict]]:
    """Make a tile and write its five files; gives back its pixels per class, (6,), and what is on the map of it."""
    tile, place = make_tile(seed, tile_id, size), place_of(tile_id, size)
    heights = np.clip(np.rint(tile.above_ground / NDSM_STEP_METRES), 0, 255).astype(np.uint8)
    rasters = {
        "image": tile.image,
        "dsm": tile.dsm,
        "ndsm": heights,
        "truth": in_colours(tile.labels),
        "eroded": in_colours(erode(tile.labels)),
    }
    for kind, pixels in rasters.items():
        raster.write(folder / FOLDERS[kind].format(tile_id), pixels, crs=CRS, transform=place)
    return np.bincount(tile.labels.ravel(), minlength=len(CLASSES)), tile.map


def in_colours(labels: np.ndarray) -> np.ndarray:
    """(3, h, w) uint8 colours of labels (h, w)."""
    return np.moveaxis(Palette(CLASSES, COLOURS).to_colours(labels), -1, 0)


def make_dataset(out: Path, seed: int = 1, size: int = TILE_PIXELS, overwrite: bool = False, tile_ids=TILE_IDS) -> dict:
    """Write a whole dataset to a folder that does not exist yet; gives back the share of pixels of each class."""
    check_size(size)
    refuse_existing(out, overwrite, MADE_BY)
    with whole_folder(out, overwrite, MADE_BY) as folder:
        for name in FOLDERS.values():
            (folder / name).parent.mkdir(parents=True)
        made = in_parallel(write_tile, [(folder, seed, tile_id, size) for tile_id in tile_ids])
        counts = sum(count for count, _ in made)
        write_map(folder / MAP, [feature for _, on_map in made for feature in on_map])
        shares = {name: round(float(n / counts.sum()), 4) for name, n in zip(CLASSES, counts, strict=True)}
        write_details(
            folder,
            **{"made by": MADE_BY},
            what="synthetic aerial tiles of a made-up town in ISPRS Vaihingen's layout; not a real place",
            seed=seed,
            size_pixels=size,
            pixel_metres=PIXEL_METRES,
            crs=CRS,
            ndsm_metres_per_step=NDSM_STEP_METRES,
            train_ids=[i for i in tile_ids if i in TRAIN_IDS],
            val_ids=[i for i in tile_ids if i in VAL_IDS],
            test_ids=[i for i in tile_ids if i in TEST_IDS],
            shares=shares,
        )
    return shares


def make_flight(out: Path, seed: int = 1, size: int = FLIGHT_PIXELS, overwrite: bool = False) -> int:
    """Write one orthomosaic and the shapefile of its labels to a folder; how many polygons there are comes back."""
    check_size(size)
    refuse_existing(out, overwrite, MADE_BY)
    place = place_of(TILE_IDS[0], size)
    with whole_folder(out, overwrite, MADE_BY) as folder:
        tile = make_tile(seed, TILE_IDS[0], size)
        count = write_flight(folder, tile.image, tile.labels, CLASSES, place, CRS)
        what = "a synthetic orthomosaic of a made-up town and polygons of its classes; not a real place"
        about = {"what": what, "seed": seed, "size_pixels": size, "pixel_metres": PIXEL_METRES, "crs": CRS}
        write_details(folder, **{"made by": MADE_BY}, **about, polygons=count)
    return count


def write_map(path: Path, features: list[dict]) -> None:
    """Write the map of all tiles, a feature a line."""
    path.parent.mkdir()
    lines = ",\n".join(json.dumps(feature) for feature in features)
    path.write_text(f'{{"type": "FeatureCollection", "features": [\n{lines}\n]}}\n')


def in_parallel(work: Callable, jobs: list[tuple]) -> list:
    """`work(*job)` for all jobs, on all cores, in the order of the jobs."""
    with pool(min(len(os.sched_getaffinity(0)), len(jobs))) as helpers:
        futures: list[Future] = [helpers.submit(work, *job) for job in jobs]
        for _ in tqdm(as_completed(futures), total=len(jobs), desc="tiles", unit="tile"):
            pass
        return [future.result() for future in futures]


def check_size(size: int) -> None:
    least, most = SIZES_PIXELS
    if not least <= size <= most:
        raise UserError(f"--size is {size} pixels: choose from {least} to {most}.")


class Parser(argparse.ArgumentParser):
    """Says a wrong argument in one line."""

    def error(self, message: str):
        raise UserError(f"{message}; --help lists what there is.")


def arguments(argv=None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m tools.demo",
        description=f"""Makes {len(TILE_IDS)} aerial tiles of a made-up town (infrared-red-green image, surface model,
            height above ground, colour ground truth, whole and eroded) from a seed, under ISPRS Vaihingen's file names, and
            a map of it like OpenStreetMap's. With --flight, one large orthomosaic and a shapefile of digitised classes
            instead. Example: python -m tools.demo --out data/demo --seed 1""",
    )
    parser.add_argument("--out", type=Path, help="folder to make (default: data/demo, with --flight data/flight)")
    parser.add_argument("--flight", action="store_true", help="one orthomosaic and labels.shp, as of a drone's flight")
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same pixels (default: %(default)s)")
    parser.add_argument("--size", type=int,
                        help=f"pixels per side of a tile (default: {TILE_PIXELS}, with --flight {FLIGHT_PIXELS})")  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace the folder if it exists")
    given = parser.parse_args(argv)
    if given.seed < 0:
        raise UserError(f"--seed is {given.seed}: choose a whole number from 0 up.")
    given.out = given.out or Path("data/flight" if given.flight else "data/demo")
    if given.size is None:
        given.size = FLIGHT_PIXELS if given.flight else TILE_PIXELS
    return given


def main() -> None:
    given = arguments()
    if given.flight:
        count = make_flight(given.out, given.seed, given.size, given.overwrite)
        print(f"{given.out / ORTHO}: {given.size} x {given.size} pixels; {count} polygons of its classes beside it")
        return
    shares = make_dataset(given.out, given.seed, given.size, given.overwrite)
    print(f"{given.out}: {len(TILE_IDS)} tiles; " + ", ".join(f"{name} {share:.1%}" for name, share in shares.items()))


if __name__ == "__main__":
    run(main)

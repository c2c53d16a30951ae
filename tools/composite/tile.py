"""The composite of one tile: its sources on the image's grid, its heights measured, its three bands written piece by piece."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import rasterio
from rasterio.windows import Window as RasterWindow

from tools.base.errors import UserError
from tools.composite.alignment import Layer
from tools.composite.bands import PLAUSIBLE_METRES, Heights, ndvi, stretch, to_bytes
from tools.composite.terrain import GroundFilter, Terrain, margin, parts, pixel_metres
from tools.data.dataset import TileId, tile_name
from tools.geo import raster
from tools.geo.raster import Raster
from tools.geo.windows import Window

BANDS = ("ndvi", "dsm", "ndsm")
GDAL = {"GDAL_CACHEMAX": 64, "GDAL_TIFF_INTERNAL_MASK": True}  # MB in each process, not 5 % of the machine's memory
_PIECE = (512, 4096)  # pixels, height and width, that are worked on at a time


@dataclass(frozen=True)
class Job:
    """One tile: its id, its files by role, and the name of its composite."""

    tile: TileId
    paths: dict[str, Path]
    name: str


@dataclass(frozen=True)
class Recipe:
    """How a composite is made. bands: of the image, from 1. ground: for terrain that is estimated. The rest as in --help."""

    bands: dict[str, int]
    ground: GroundFilter
    ndsm_step: float | None
    ndsm_top: float
    pixel_size: float | None
    nodata: float | None
    dsm_range: tuple[float, float] | None = None

    def pixel(self, grid: Raster) -> tuple[float, float]:
        """Height and width of a pixel in metres. Raises UserError where nobody says it."""
        if self.pixel_size:
            return self.pixel_size, self.pixel_size
        try:
            return pixel_metres(grid.crs, grid.transform, grid.height, grid.width)
        except UserError as error:
            raise UserError(f"{grid.path}: {error}: say --pixel-size METRES, or give the terrain with --terrain.") from None


class Layers:
    """The sources of one tile, open on the grid of its image; use it in a `with`."""

    def __init__(self, recipe: Recipe, job: Job):
        self.recipe, self.grid = recipe, raster.inspect(job.paths["image"])
        self._stack = ExitStack()
        image = job.paths["image"]
        where = {"red": (image, recipe.bands["red"])} | {r: (p, 1) for r, p in job.paths.items() if r != "image"}
        if "ir" in recipe.bands:
            where["infrared"] = (image, recipe.bands["ir"])
        self.estimated = not {"terrain", "ndsm"} & set(where)
        self._layers = {role: self._open(role, *place) for role, place in where.items()}

    def _open(self, role: str, path: Path, band: int) -> Layer:
        around = margin(self.recipe.pixel(self.grid), self.recipe.ground) if role == "dsm" and self.estimated else (0, 0)
        nodata = None if role in ("red", "infrared") else self.recipe.nodata
        return self._stack.enter_context(Layer(path, band, self.grid, nodata, around))

    def __enter__(self) -> "Layers":
        return self

    def __exit__(self, *_) -> None:
        self._stack.close()

    def read(self, role: str, window: Window) -> np.ndarray:
        """red, infrared, dsm, terrain or ndsm in a window: h x w float32, NaN where there is no data."""
        return self._layers[role].read(window)

    def pieces(self) -> Iterator[tuple[Window, Callable[[np.ndarray], np.ndarray]]]:
        """Windows that make up the tile, each with what makes heights above ground out of its DSM."""
        tile = Window(0, 0, self.grid.height, self.grid.width)
        if not self.estimated:
            for window in parts(tile, *_PIECE):
                yield window, partial(self._above_given, window)
            return
        dsm = self._layers["dsm"]
        terrain = Terrain(dsm.read, dsm.extent, self.recipe.pixel(self.grid), self.recipe.ground)
        for core in terrain.blocks(tile):
            block = terrain.block(core)
            for window in parts(core, *_PIECE):
                yield window, lambda heights, at=window, block=block: heights - block.at(at)

    def _above_given(self, window: Window, dsm: np.ndarray) -> np.ndarray:
        if "terrain" in self._layers:
            return dsm - self.read("terrain", window)
        return self.read("ndsm", window) * np.float32(self.recipe.ndsm_step or 1)


def compose(recipe: Recipe, folder: Path, job: Job) -> float:
    """Write the composite of one tile into a folder; the share of its pixels that have no data comes back."""
    without = 0
    with rasterio.Env(**GDAL), Layers(recipe, job) as layers:
        grid = layers.grid
        with raster.create(folder / job.name, (3, grid.height, grid.width), np.uint8, **grid.place) as file:
            _label(file, recipe)
            for window, above_ground in layers.pieces():
                dsm = layers.read("dsm", window)
                greenness = (ndvi(layers.read("infrared", window), layers.read("red", window)) + 1) * 127.5
                heights = stretch(above_ground(dsm), 0, recipe.ndsm_top)
                pixels, known = to_bytes(greenness, stretch(dsm, *recipe.dsm_range), heights)
                area = RasterWindow(window.col, window.row, window.width, window.height)
                file.write(pixels, window=area)
                file.write_mask(known, window=area)
                without += known.size - np.count_nonzero(known)
    return without / (grid.height * grid.width)


def _label(file: rasterio.io.DatasetWriter, recipe: Recipe) -> None:
    """Say in the file what its bands are."""
    spans = ((-1, 1), recipe.dsm_range, (0, recipe.ndsm_top))
    for number, (name, (low, high)) in enumerate(zip(BANDS, spans, strict=True), 1):
        file.set_band_description(number, name)
        file.update_tags(number, at_0=f"{low:g}", at_255=f"{high:g}")


def measure(recipe: Recipe, job: Job) -> Heights:
    """The heights of one tile's DSM on the grid of its image.

    Raises UserError where it has none, or where the DSM, the terrain or the heights above ground are impossible.
    """
    with rasterio.Env(**GDAL):
        found = {role: _measure_one(recipe, job, role) for role in ("dsm", "terrain", "ndsm") if role in job.paths}
    return found["dsm"]


def _measure_one(recipe: Recipe, job: Job, role: str) -> Heights:
    found, grid, path = Heights.of(np.zeros(0)), raster.inspect(job.paths["image"]), job.paths[role]
    with Layer(path, 1, grid, recipe.nodata) as layer:
        for window in parts(Window(0, 0, grid.height, grid.width), *_PIECE):
            heights = layer.read(window)
            found += Heights.of(heights[np.isfinite(heights)])
    if found.low > found.high:
        raise UserError(f"tile {tile_name(job.tile)}: {path} has no height where {grid.path} lies.")
    wrong = [h for h in (found.low, found.high) if not PLAUSIBLE_METRES[0] <= h <= PLAUSIBLE_METRES[1]]
    if wrong:
        raise UserError(
            f"tile {tile_name(job.tile)}: {path} has a height of {wrong[0]:.8g} metres: if that means no data, say --nodata"
            f" {wrong[0]:.8g}."
        )
    return found

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
not say it, for it is also a height. extract_images.py reads the mask (tools/raster.py, read_valid) and gives no label there.
"""

import argparse
import glob
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window as RasterWindow
from tqdm import tqdm

from tools import commands, raster
from tools.dataset import Dataset, TileId, tile_id, tile_name
from tools.errors import UserError, listing, nearest, run
from tools.folders import refuse_existing, whole_folder, write_details
from tools.raster import Raster
from tools.settings import SPLITS, Settings, read_settings
from tools.terrain import GroundFilter, Terrain, margin, parts, pixel_metres
from tools.windows import Window

BANDS = ("ndvi", "dsm", "ndsm")
COLOURS = {"ir": "ir", "nir": "ir", "infrared": "ir", "red": "red", "r": "red", "green": "green", "blue": "blue"}
ORDERS = {  # bands of an image whose modality has this name
    "irrg": {"ir": 1, "red": 2},
    "rgbir": {"red": 1, "ir": 4},
    "rgb": {"red": 1},
}
PLAUSIBLE_METRES = (-1000.0, 10_000.0)  # heights on Earth; what lies outside is a nodata value that nobody declared
_PIECE = (512, 4096)  # pixels, height and width, that are worked on at a time
_GDAL = {"GDAL_CACHEMAX": 64, "GDAL_TIFF_INTERNAL_MASK": True}  # MB in each process, not 5 % of the machine's memory
_SAME_PLANE = CRS.from_epsg(3857)  # stands for the unknown CRS that two rasters without one share


def main():
    args = arguments()
    settings = read_settings(args.config) if any(not _is_pattern(word) for word in sources(args).values()) else None
    dataset, tiles = layout(args, settings)
    out, name = destination(args, settings, dataset, tiles)
    recipe = Recipe.of(args, settings)
    refuse_existing(out, args.overwrite)
    jobs = [Job(t, {s: path_of(dataset, s, t) for s in dataset.patterns}, name.format(*_parts(t))) for t in tiles]
    with rasterio.Env(**_GDAL):
        check(recipe, jobs)
        heights = sum_of(in_parallel(partial(measure, recipe), jobs, args.workers, "measuring heights"))
        recipe = replace(recipe, dsm_range=tuple(args.range or heights.range(args.percentiles)))
        print("dsm: {:.2f} to {:.2f} metres become 0 to 255 in all tiles".format(*recipe.dsm_range))
        with whole_folder(out, args.overwrite) as folder:
            missing = list(in_parallel(partial(compose, recipe, folder), jobs, args.workers, "composites"))
            write_details(folder, **details(args, settings, recipe, dataset, jobs, heights, missing, name))
    print(f"{len(jobs)} composites in {out}, {np.mean(missing):.2%} of their pixels without data")
    if settings and "composite" not in settings.folders:
        print(f'To use them, add "composite": "{os.path.relpath(out / name, settings.DATASET_DIR)}" to folders.')


# ------------------------------------------------------------------------------------------------------------ command line


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
    add("--ndsm-step", type=_positive, metavar="METRES", help="what 1 stands for in --ndsm; must be said for 8-bit files")
    add("--ndsm-top", type=_positive, default=30.0, metavar="METRES", help="height that becomes 255 (default: 30)")
    add("--window", type=_positive, metavar="METRES", help="terrain: width of the widest roof or wood (default: 40)")
    add("--rise", type=float, nargs=2, metavar=("LOW", "HIGH"), help="terrain: metres above it that are ground (0.3 2.5)")
    add("--slope", type=float, help="terrain: rise per metre that is still a hillside, no roof (default: 0.1)")
    add("--pixel-size", type=_positive, metavar="METRES", help="where the georeference does not say it")
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


def _positive(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{word!r} must be a number of metres above 0")
    return value


def sources(args: argparse.Namespace) -> dict[str, str]:
    """The sources that the command line names, by role."""
    roles = ("image", "infrared", "dsm", "terrain", "ndsm")
    return {role: getattr(args, role) for role in roles if getattr(args, role) is not None}


def layout(args: argparse.Namespace, settings: Settings | None) -> tuple[Dataset, list[TileId]]:
    """Where the files of each role are, and the tiles to work on."""
    patterns = {role: _pattern(role, word, settings) for role, word in sources(args).items()}
    dataset = Dataset(".", patterns)
    known = settings and [t for split in SPLITS for t in getattr(settings, f"{split}_ids")]
    if known is None or _is_pattern(args.image):
        known = matching(patterns["image"])
    tiles = [tile_id(word, known) for word in args.ids] if args.ids else known
    if not tiles:
        raise UserError(f"--image '{args.image}' matches no file: give a pattern with {{}} for the tile's id, or --ids.")
    twice = [tile_name(t) for t, n in Counter(tiles).items() if n > 1]
    if twice:
        raise UserError(f"--ids names {listing(twice)} twice: name each tile once.")
    for role in patterns:
        for tile in tiles:
            path_of(dataset, role, tile)
    return dataset, tiles


def _pattern(role: str, word: str, settings: Settings | None) -> str:
    if _is_pattern(word):
        return word
    modalities = [m for m in settings.folders if not m.startswith("labels")]
    if word not in modalities:
        raise UserError(
            f"--{role} names the modality '{word}', which folders does not have.{nearest(word, modalities)} It has"
            f" {listing(modalities)}; a pattern of files has a {{}} or a suffix such as .tif."
        )
    pattern = settings.folders[word]
    if not isinstance(pattern, str):
        raise UserError(f"--{role} {word}: folders['{word}'] lists its files one by one; give a pattern with {{}} instead.")
    return str(Path(settings.DATASET_DIR) / pattern)


def _is_pattern(word: str) -> bool:
    return "{" in word or "/" in word or word.lower().endswith(raster.SUFFIXES)


def path_of(dataset: Dataset, role: str, tile: TileId) -> Path:
    """The file of one source of one tile; a pattern without {} is one file for all tiles."""
    pattern = dataset.patterns[role]
    if not _FIELD.search(pattern):
        return Path(pattern)
    try:
        return dataset.path(role, tile)
    except UserError:
        raise UserError(
            f"--{role} '{pattern}' does not fit the tile id {tile!r}: it needs a {{}} for each part of the id."
        ) from None


_FIELD = re.compile(r"\{[^{}]*\}")


def matching(pattern: str) -> list[TileId]:
    """The ids of the tiles whose files match a pattern, in the order of their names, numbers by size."""
    fields, fixed = _FIELD.findall(pattern), _FIELD.split(str(Path(pattern)))
    words = re.compile("([^/]+?)".join(map(re.escape, fixed)))
    root = Path(pattern).anchor
    files = Path(root or ".").glob("*".join(map(glob.escape, fixed))[len(root) :])
    ids = []
    for found in filter(None, (words.fullmatch(str(file)) for file in files)):
        parts_of_id = tuple(map(_id_part, found.groups(), fields))
        if fields and None not in parts_of_id:
            ids.append(parts_of_id)
    return [i[0] if len(i) == 1 else i for i in sorted(ids, key=lambda i: [(isinstance(p, str), p) for p in i])]


def _id_part(word: str, field: str) -> int | str | None:
    """What a field wrote as this word, or None: 7 for "7", "07" for {} and 7 for {:02d} where the word is "07"."""
    if word.isdigit() and field.format(int(word)) == word:
        return int(word)
    return word if field == "{}" else None


def _parts(tile: TileId) -> tuple:
    return tile if isinstance(tile, tuple) else (tile,)


def destination(args, settings: Settings | None, dataset: Dataset, tiles: list[TileId]) -> tuple[Path, str]:
    """The folder to make, and the pattern of the files in it."""
    usual = settings.folders.get("composite") if settings else None
    name = args.name or (Path(usual).name if usual else f"composite_{'_'.join(['{}'] * len(_parts(tiles[0])))}.tif")
    if not args.out and not settings:
        raise UserError("there is no --out: name the folder for the composites, such as --out data/mine/composite.")
    out = args.out or Path(settings.DATASET_DIR) / (Path(usual).parent if usual else "composite")
    if _FIELD.search(str(out)):
        raise UserError(f"composites go into one folder, and '{out}' has a {{}}: name another with --out.")
    _check_name(name, tiles)
    for role in dataset.patterns:
        path = path_of(dataset, role, tiles[0]).resolve()
        if out.resolve() in path.parents:
            raise UserError(f"{out} holds {path}, one of the sources: choose another --out, a folder for composites alone.")
    return out, name


def _check_name(name: str, tiles: list[TileId]) -> None:
    try:
        names = {name.format(*_parts(tile)) for tile in tiles}
    except (IndexError, KeyError, ValueError):
        raise UserError(
            f"--name '{name}' does not fit the tile id {tiles[0]!r}: it needs a {{}} for each part of the id."
        ) from None
    if len(names) < len(tiles):
        raise UserError(
            f"--name '{name}' gives {len(tiles)} tiles {len(names)} name(s): it needs a {{}} for each part of an id."
        )
    if "/" in name or Path(name).suffix.lower() not in (".tif", ".tiff"):
        raise UserError(f"--name '{name}' must be a file name that ends in .tif: composites carry a mask and a georeference.")


def bands_of(args: argparse.Namespace, settings: Settings | None = None) -> dict[str, int]:
    """Where in the image the bands "ir" and "red" are, from 1. Raises UserError where one is unknown or missing."""
    wanted = ["red"] if args.infrared else ["ir", "red"]
    example = ",".join(f"{colour}={n}" for n, colour in enumerate(wanted, 1))
    if args.bands:
        found = dict(_band(word, example) for word in args.bands.split(","))
    elif settings and args.image in settings.bands:
        names = [COLOURS.get(name.lower()) for name in settings.bands[args.image]]
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


# --------------------------------------------------------------------------------------------------------------- formulas


def ndvi(infrared: np.ndarray, red: np.ndarray) -> np.ndarray:
    """(IR - R) / (IR + R), float32 from -1 to 1; 0 where IR + R is 0, NaN where either is."""
    total = infrared + red
    zero = total == 0
    return np.clip(np.where(zero, 0, infrared - red) / np.where(zero, 1, total), -1, 1)


def stretch(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values with `low` at 0 and `high` at 255, cut there; NaN stays. A range of no width gives 0."""
    return np.clip((values - low) * (255 / (high - low) if high > low else 0), 0, 255)


def to_bytes(*bands: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bands (h x w, 0 to 255, NaN without data) as n x h x w uint8, and which pixels (h x w) have data in all of them.

    The others are 0 in all bands.
    """
    stack = np.stack(bands)
    known = np.isfinite(stack).all(0)
    return np.rint(np.where(known, stack, 0)).astype(np.uint8), known


# ---------------------------------------------------------------------------------------------- sources on the image's grid


def same_grid(source: Raster, grid: Raster) -> bool:
    """Whether a raster lies on another one's pixels; one without a place on Earth does where the sizes are equal.

    Raises UserError where it does not, and a CRS that resampling needs is missing.
    """
    same_size = (source.height, source.width) == (grid.height, grid.width)
    placed = source.transform is not None and grid.transform is not None
    same_crs = source.crs == grid.crs or source.crs is None or grid.crs is None
    if same_size and (not placed or (same_crs and _meet(source, grid))):
        return True
    if not placed or (source.crs is None) != (grid.crs is None):
        without = source if source.transform is None or (source.crs is None and grid.crs is not None) else grid
        raise UserError(
            f"{source.path} ({source.height}x{source.width}) is not on the grid of {grid.path} ({grid.height}x{grid.width}) and"
            f" cannot be resampled, since {without.path} has no CRS: give it one (gdal_edit.py -a_srs EPSG:...)."
        )
    return False


def _meet(a: Raster, b: Raster) -> bool:
    """Whether the corners of two rasters of one size are within a hundredth of a pixel of each other."""
    to_pixels = ~b.transform * a.transform
    corners = [(0, 0), (a.width, 0), (0, a.height), (a.width, a.height)]
    return all(np.allclose(to_pixels * corner, corner, atol=0.01, rtol=0) for corner in corners)


class Layer:
    """One band of a raster on the pixels of an image; use it in a `with`.

    around: by how many pixels (down, across) a raster that is resampled may be read beyond the image. nodata: a value that
    means no data beside the one that the file declares. `extent` is what can be read.
    """

    def __init__(self, path: Path, band: int, grid: Raster, nodata: float | None = None, around: tuple[int, int] = (0, 0)):
        self.path, self.band, self.nodata = path, band, nodata
        self.resampled = not same_grid(raster.inspect(path), grid)
        down, across = around if self.resampled else (0, 0)
        self.extent = Window(-down, -across, grid.height + 2 * down, grid.width + 2 * across)
        self._stack = ExitStack()
        self._file = self._stack.enter_context(raster.open_raster(path))
        if self.resampled:
            self._file = self._stack.enter_context(self._warped(grid))

    def _warped(self, grid: Raster) -> WarpedVRT:
        """The raster resampled to the grid; bilinear, which averages where it is much finer."""
        declared = self._file.nodata if self.nodata is None else self.nodata
        return WarpedVRT(
            self._file, src_crs=self._file.crs or _SAME_PLANE, crs=grid.crs or _SAME_PLANE, resampling=Resampling.bilinear,
            transform=grid.transform * Affine.translation(self.extent.col, self.extent.row),
            height=self.extent.height, width=self.extent.width, src_nodata=declared, nodata=np.nan, dtype="float32",
        )  # fmt: skip

    def __enter__(self) -> "Layer":
        return self

    def __exit__(self, *_) -> None:
        self._stack.close()

    def read(self, window: Window) -> np.ndarray:
        """The values of a window of the image: h x w float32, NaN where there is no data."""
        area = RasterWindow(window.col - self.extent.col, window.row - self.extent.row, window.width, window.height)
        try:
            values = self._file.read(self.band, window=area, out_dtype=np.float32)
            without = self._file.read_masks(self.band, window=area) == 0
        except RasterioError as error:
            raise UserError(f"{self.path} breaks off or is damaged ({error}): fetch it again.") from None
        if self.nodata is not None:
            without |= values == np.float32(self.nodata)
        values[without | ~np.isfinite(values)] = np.nan
        return values


# ------------------------------------------------------------------------------------------------------------------- work


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

    @classmethod
    def of(cls, args: argparse.Namespace, settings: Settings | None = None) -> "Recipe":
        """What the command line asks for. Raises UserError where it makes no sense."""
        chosen = {"window_metres": args.window, "rise_metres": args.rise and tuple(args.rise), "slope": args.slope}
        chosen = {name: value for name, value in chosen.items() if value is not None}
        if chosen and (args.terrain or args.ndsm):
            raise UserError(
                "--window, --rise and --slope are for an estimated terrain: leave them out, or --terrain and --ndsm."
            )
        if args.ndsm_step and not args.ndsm:
            raise UserError("--ndsm-step says what 1 stands for in the files of --ndsm: give those, or leave it out.")
        for name, limits in (("range", args.range), ("percentiles", args.percentiles)):
            if limits and not limits[0] < limits[1]:
                raise UserError(f"--{name} {limits[0]:g} {limits[1]:g}: the first must be below the second.")
        if not 0 <= args.percentiles[0] < args.percentiles[1] <= 100:
            raise UserError(f"--percentiles {args.percentiles[0]:g} {args.percentiles[1]:g}: they go from 0 to 100.")
        return cls(
            bands_of(args, settings), GroundFilter(**chosen), args.ndsm_step, args.ndsm_top, args.pixel_size, args.nodata
        )

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
    with rasterio.Env(**_GDAL), Layers(recipe, job) as layers:
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


@dataclass(frozen=True)
class Heights:
    """The heights of a dataset: lowest, highest, and pixels per centimetre from PLAUSIBLE_METRES[0] up."""

    low: float
    high: float
    counts: np.ndarray

    @classmethod
    def of(cls, heights: np.ndarray) -> "Heights":
        """Of an array in metres, without NaN."""
        if not heights.size:
            return cls(np.inf, -np.inf, np.zeros(0, np.int64))
        low, high = float(heights.min()), float(heights.max())
        if not PLAUSIBLE_METRES[0] <= low <= high <= PLAUSIBLE_METRES[1]:
            return cls(low, high, np.zeros(0, np.int64))
        return cls(low, high, np.bincount(np.rint((heights - PLAUSIBLE_METRES[0]) * 100).astype(np.int64)))

    def __add__(self, other: "Heights") -> "Heights":
        counts = np.zeros(max(len(self.counts), len(other.counts)), np.int64)
        for part in (self.counts, other.counts):
            counts[: len(part)] += part
        return Heights(min(self.low, other.low), max(self.high, other.high), counts)

    def range(self, percentiles: tuple[float, float]) -> tuple[float, float]:
        """The heights at two percentiles, to the centimetre; at 0 and 100 exactly."""
        below = np.cumsum(self.counts)
        low, high = (
            float(np.searchsorted(below, max(below[-1] * p / 100, 1))) / 100 + PLAUSIBLE_METRES[0] for p in percentiles
        )
        return (self.low if percentiles[0] == 0 else low), (self.high if percentiles[1] == 100 else high)


def sum_of(heights: Iterator[Heights]) -> Heights:
    """The heights of all tiles."""
    return sum(heights, Heights.of(np.zeros(0)))


def measure(recipe: Recipe, job: Job) -> Heights:
    """The heights of one tile's DSM on the grid of its image.

    Raises UserError where it has none, or where the DSM, the terrain or the heights above ground are impossible.
    """
    with rasterio.Env(**_GDAL):
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


def in_parallel(work: Callable, jobs: list[Job], workers: int, title: str) -> Iterator:
    """`work(job)` for all jobs in as many processes, in the order of the jobs, with a progress bar."""
    workers = min(workers, len(jobs))
    if workers == 1:
        yield from tqdm(map(work, jobs), title, len(jobs), unit="tile")
        return
    with ProcessPoolExecutor(workers) as pool:
        try:
            yield from tqdm(pool.map(work, jobs), title, len(jobs), unit="tile")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


# ---------------------------------------------------------------------------------------------------------- before it starts


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


def details(args, settings, recipe: Recipe, dataset: Dataset, jobs, heights: Heights, missing, name: str) -> dict[str, Any]:
    """What details.json says."""
    estimated = not (args.terrain or args.ndsm)
    terrain = recipe.ground.describe() if estimated else {"method": "given"}
    return {
        "made by": "tools/composite.py",
        "dataset": settings.DATASET if settings else None,
        "sources": dict(dataset.patterns),
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

"""Terrain from a surface model alone: growing openings find what stands on the ground, and the gaps are filled from around.

After K. Zhang et al. 2003, "A progressive morphological filter for removing nonground measurements from airborne LIDAR data",
with two differences, both for surface models that are rasters already. What is compared with the opened surface is the surface
model itself, not the opening before it: blurred walls and hipped roofs come down in steps that are each below the threshold.
And the rim of what was found is taken away too, since there the raster mixes roof and ground.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from rasterio.crs import CRS
from rasterio.fill import fillnodata
from rasterio.warp import transform as reproject
from scipy import ndimage

from tools.base.errors import UserError
from tools.geo.place import PROJ_ERRORS, horizontal, metres_per_unit
from tools.geo.windows import Window

Read = Callable[[Window], np.ndarray]
_BLOCK_CELLS = 2048  # along each side, without the margin: some 300 MB at work
_STRIP_PIXELS = 1 << 22  # pixels that are reduced to cells at a time


@dataclass(frozen=True)
class GroundFilter:
    """What counts as standing on the ground. The defaults are tuned on 2 m lidar and 25 cm image-matched surface models.

    window_metres: the largest opening; what is wider (a hall, a wood) stays in the terrain. rise_metres: a height above the
    opened surface that is still ground, and the most that a slope may add up to. slope: rise per metre of half the window
    that a hillside may have without being taken for a roof. rim_metres: how far around what stands on the ground nothing
    counts as ground. cell_metres: finer rasters are reduced to about this by the median, which is quicker and steadier.
    """

    window_metres: float = 40.0
    rise_metres: tuple[float, float] = (0.3, 2.5)
    slope: float = 0.1
    rim_metres: float = 1.0
    cell_metres: float = 0.5

    def __post_init__(self):
        lowest, highest = self.rise_metres
        if not 0 < self.window_metres < 1000:
            raise UserError(f"a terrain window of {self.window_metres:g} metres: choose one above 0 and below 1000.")
        if not 0 <= lowest <= highest:
            raise UserError(
                f"rises from {lowest:g} to {highest:g} metres: the first must be 0 or more and not above the second."
            )
        if not 0 <= self.slope < 10:
            raise UserError(f"a slope of {self.slope:g}: it is rise per metre, such as 0.1.")

    def threshold(self, half_metres: float) -> float:
        """The height above a surface opened by windows of twice this width that is still ground."""
        lowest, highest = self.rise_metres
        return min(lowest + self.slope * half_metres, highest)

    def describe(self) -> dict[str, Any]:
        """For details.json."""
        return {"method": "progressive morphological opening (after Zhang et al. 2003)", **asdict(self)}


def pixel_metres(crs: CRS | None, transform: Any, height: int, width: int) -> tuple[float, float]:
    """The height and width of a raster's middle pixel on the ground, in metres, whatever the unit of its CRS.

    Measured in a plane that touches the Earth there, so that degrees, feet and the stretched metres of web maps come out
    right. Raises UserError where there is no georeference.
    """
    if crs is None or transform is None:
        raise UserError("its georeference is missing, so the size of its pixels is not known")
    cols, rows = width / 2 + np.array([0, 1, 0]), height / 2 + np.array([0, 0, 1])
    xs, ys = transform * (cols, rows)
    if (unit := metres_per_unit(crs)) and not crs.is_projected:  # a plan of one's own
        return float(np.hypot(transform.b, transform.e) * unit), float(np.hypot(transform.a, transform.d) * unit)
    crs = horizontal(crs)
    try:
        (east,), (north,) = reproject(crs, CRS.from_epsg(4326), xs[:1], ys[:1])
        plane = CRS.from_proj4(f"+proj=aeqd +lat_0={north} +lon_0={east} +datum=WGS84 +units=m")
        easts, norths = np.array(reproject(crs, plane, xs, ys))
    except PROJ_ERRORS as error:
        raise UserError(f"the size of its pixels cannot be told from its CRS ({error})") from None
    across, down = np.hypot(easts[1:] - easts[0], norths[1:] - norths[0])
    if not (np.isfinite([across, down]).all() and min(across, down) > 0):
        raise UserError("the size of its pixels cannot be told from its CRS, which puts it outside the Earth")
    return float(down), float(across)


def cells_of(pixel: tuple[float, float], ground: GroundFilter) -> tuple[tuple[int, int], tuple[float, float]]:
    """How many pixels make a cell, and how many metres it has, down and across."""
    factors = tuple(max(1, int(ground.cell_metres / side + 1e-6)) for side in pixel)
    return factors, tuple(side * factor for side, factor in zip(pixel, factors, strict=True))


def margin(pixel: tuple[float, float], ground: GroundFilter) -> tuple[int, int]:
    """How many pixels (down, across) around a place can change the terrain there."""
    factors, cell = cells_of(pixel, ground)
    cells = [2 * _cells(ground.window_metres / 2, side) + _cells(ground.rim_metres, side) for side in cell]
    return tuple((n + _search(cell, ground) + 1) * factor for n, factor in zip(cells, factors, strict=True))


def _search(cell: tuple[float, float], ground: GroundFilter) -> int:
    """How many cells away the ground is looked for that fills a gap."""
    return _cells(ground.window_metres, min(cell))


class Terrain:
    """The terrain under a surface model of any size, block by block; where blocks meet, nothing shows.

    read: gives the heights (h x w, metres, NaN where not known) of a window. extent: all that it can give; its corner need
    not be (0, 0). pixel: height and width of a pixel in metres.
    """

    def __init__(
        self,
        read: Read,
        extent: Window,
        pixel: tuple[float, float],
        ground: GroundFilter,
        block_cells: int = _BLOCK_CELLS,
    ):
        self.read, self.extent, self.ground, self.block_cells = read, extent, ground, block_cells
        self.factors, self.cell = cells_of(pixel, ground)
        self.margin = margin(pixel, ground)
        self._search = _search(self.cell, ground)
        if ground.window_metres < 2 * max(self.cell):
            raise UserError(
                f"a terrain window of {ground.window_metres:g} metres is below two pixels of {max(self.cell):.3g} metres:"
                " choose a wider one."
            )

    @cached_property
    def halves(self) -> list[float]:
        """Half the width of each window, in metres: from one cell, by half as much again, to the largest."""
        largest, half = self.ground.window_metres / 2, max(self.cell)
        found = []
        while half < largest:
            found.append(half)
            half *= 1.5
        return [*found, largest]

    def blocks(self, inside: Window | None = None) -> list[Window]:
        """Windows, side by side, that make up the extent, or the part `inside` of it."""
        sizes = [self.block_cells * factor for factor in self.factors]
        return parts(inside or self.extent, *sizes)

    def block(self, core: Window) -> "Block":
        """The terrain of one block, to be asked for by window."""
        area = self._around(core)
        return Block(self._opened(self._cells_of(area)), area, self.factors)

    def _around(self, core: Window) -> Window:
        """A block with its margin, cut at the extent, and with the corner of a cell as its own."""
        starts, sizes = [], []
        for axis in (0, 1):
            first, length = self.extent[axis], self.extent[axis + 2]
            start = max(core[axis] - self.margin[axis], first)
            start -= (start - first) % self.factors[axis]
            stop = min(core[axis] + core[axis + 2] + self.margin[axis], first + length)
            starts.append(start)
            sizes.append(min(stop + (first - stop) % self.factors[axis], first + length) - start)
        return Window(*starts, *sizes)

    def _cells_of(self, area: Window) -> np.ndarray:
        """The heights of a window reduced to cells, read in strips."""
        rows = max(1, _STRIP_PIXELS // (area.width * self.factors[0])) * self.factors[0]
        return np.concatenate([_medians(self.read(part), self.factors) for part in parts(area, rows, area.width)])

    def _opened(self, heights: np.ndarray) -> np.ndarray:
        """The terrain of cells: h x w float32."""
        known = np.isfinite(heights)
        stands = ~known
        for half in self.halves:
            surface = opening(heights, tuple(_cells(half, side) for side in self.cell))
            with np.errstate(invalid="ignore"):  # infinite minus NaN
                stands |= heights - surface > self.ground.threshold(half)
        rim = [2 * _cells(self.ground.rim_metres, side) + 1 for side in self.cell]
        is_ground = known & ~ndimage.maximum_filter(stands & known, rim, mode="constant")
        filled = fillnodata(np.where(is_ground, heights, np.nan), is_ground, self._search)
        terrain = np.where(np.isfinite(filled), filled, surface)
        return np.where(known, np.fmin(terrain, heights), np.where(np.isfinite(terrain), terrain, np.nan))


@dataclass(frozen=True)
class Block:
    """The terrain of an area in cells of `factors` pixels."""

    cells: np.ndarray
    area: Window
    factors: tuple[int, int]

    def at(self, window: Window) -> np.ndarray:
        """The terrain of a window of the area: h x w float32, between the middles of the cells by straight lines."""
        rows, up, down = self._axis(window.row - self.area.row, window.height, 0)
        cols, left, right = self._axis(window.col - self.area.col, window.width, 1)
        if self.factors == (1, 1):
            return self.cells[rows[0] : rows[0] + window.height, cols[0] : cols[0] + window.width]
        known = np.isfinite(self.cells)
        heights = np.where(known, self.cells, 0)

        def between(cells: np.ndarray) -> np.ndarray:
            lines = cells[rows] * up[:, None] + cells[np.minimum(rows + 1, len(cells) - 1)] * down[:, None]
            return lines[:, cols] * left + lines[:, np.minimum(cols + 1, cells.shape[1] - 1)] * right

        with np.errstate(invalid="ignore", divide="ignore"):
            return between(heights) / between(known.astype(np.float32))

    def _axis(self, start: int, length: int, axis: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For each pixel along an axis: the cell before it, and what that one and the next one weigh."""
        last = self.cells.shape[axis] - 1
        places = np.clip((np.arange(start, start + length) + 0.5) / self.factors[axis] - 0.5, 0, last)
        before = np.floor(places).astype(int)
        after = (places - before).astype(np.float32)
        return before, 1 - after, after


def opening(heights: np.ndarray, half: tuple[int, int]) -> np.ndarray:
    """The opening (the lowest height in a window, then the highest of those) of h x w heights, NaN where not known.

    half: cells on each side of a window's middle. Windows stand on known heights only, so that a roof at the edge of the
    raster, or of a gap in it, is judged by what is known of it. Infinite where no height is near.
    """
    size = [2 * n + 1 for n in half]
    known = np.isfinite(heights)
    lowest = ndimage.minimum_filter(np.where(known, heights, np.inf), size, mode="constant", cval=np.inf)
    return ndimage.maximum_filter(np.where(known, lowest, -np.inf), size, mode="constant", cval=-np.inf)


def parts(area: Window, height: int, width: int) -> list[Window]:
    """The windows, side by side and at most height x width, that make up an area, row by row."""
    bottom, right = area.row + area.height, area.col + area.width
    return [
        Window(row, col, min(height, bottom - row), min(width, right - col))
        for row in range(area.row, bottom, height)
        for col in range(area.col, right, width)
    ]


def _cells(metres: float, side: float) -> int:
    return max(1, round(metres / side))


def _medians(heights: np.ndarray, factors: tuple[int, int]) -> np.ndarray:
    """The (lower) median of the known heights in each cell, NaN where there is none: float32."""
    heights = heights.astype(np.float32, copy=False)
    if factors == (1, 1):
        return heights
    down, across = factors
    missing = [(-length) % factor for length, factor in zip(heights.shape, factors, strict=True)]
    padded = np.pad(heights, [(0, n) for n in missing], constant_values=np.nan)
    rows, cols = padded.shape[0] // down, padded.shape[1] // across
    sets = padded.reshape(rows, down, cols, across).swapaxes(1, 2).reshape(rows, cols, -1)
    ordered = np.sort(np.where(np.isfinite(sets), sets, np.nan), axis=-1)  # NaN come last
    middle = np.maximum(np.isfinite(ordered).sum(-1) - 1, 0) // 2
    return np.take_along_axis(ordered, middle[..., None], -1)[..., 0]

"""The map of one tile: shapes by theme on the pixels of its image, and what is written of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import shapely
from affine import Affine
from rasterio import CRS
from rasterio.warp import transform_bounds
from rasterio.windows import Window as RasterWindow
from scipy import ndimage

from tools.base.errors import UserError
from tools.composite.terrain import parts, pixel_metres
from tools.geo import raster, shapes, vectors
from tools.geo.place import PROJ_ERRORS, horizontal
from tools.geo.raster import Raster
from tools.geo.windows import Window
from tools.osm.extract import Part
from tools.osm.themes import DRAWN, Theme

FORMS = ("binary", "distance", "colours")
AROUND_METRES = 60.0  # of a tile, in which a way's middle line may lie whose side reaches into it
INSIDE = 255  # of a binary band, so that it has the range of an image's
_PIECE = (1024, 2048)  # pixels, height and width, that are worked on at a time


@dataclass(frozen=True)
class Grid:
    """The pixels of an image, and the plane in metres on which its map is drawn: x to the right, y down, from its corner."""

    about: Raster

    @cached_property
    def pixel(self) -> tuple[float, float]:
        """Metres down and across a pixel. Raises UserError where the image does not say it."""
        try:
            return pixel_metres(self.about.crs, self.about.transform, self.about.height, self.about.width)
        except UserError as error:
            raise UserError(f"{self.about.path}: {error}: give it a place on Earth (gdal_edit.py -a_srs -a_ullr).") from None

    def bounds(self, crs: CRS, margin: float) -> tuple[float, float, float, float]:
        """left, bottom, right, top of the image and so many metres around it, in a CRS."""
        down, across = (margin / side for side in self.pixel)
        right, bottom = self.about.width + across, self.about.height + down
        corners = [self.about.transform * c for c in ((-across, -down), (right, -down), (right, bottom), (-across, bottom))]
        xs, ys = zip(*corners, strict=True)
        try:
            return transform_bounds(horizontal(self.about.crs), horizontal(crs), min(xs), min(ys), max(xs), max(ys))
        except PROJ_ERRORS as error:
            raise UserError(f"{self.about.path} cannot be found in {vectors.name(crs)} ({error}).") from None

    def place(self, window: Window) -> Affine:
        """What makes columns and rows of a window into metres on the plane."""
        down, across = self.pixel
        return Affine.scale(across, down) * Affine.translation(window.col, window.row)

    def on_plane(self, part: Part) -> np.ndarray:
        """The shapes of a part as areas on the plane: lines and points are as wide as they are, and a pixel at least."""
        shapes.check_place(part.path, part.crs, self.about)
        found = part.shapes
        if part.crs != self.about.crs:
            found = vectors.moved(found, part.crs, self.about.crs)
        a, b, c, d, e, f = tuple(Affine.scale(*self.pixel[::-1]) * ~self.about.transform)[:6]
        found = shapely.transform(found, lambda xy: xy @ np.array([[a, d], [b, e]]) + (c, f))
        drawn = ~np.isnan(part.widths)
        found[drawn] = shapely.buffer(found[drawn], np.maximum(part.widths[drawn], max(self.pixel)) / 2, quad_segs=8)
        return found


class TileMap:
    """The map of one image. found: what the extracts have near all tiles; clip: metres that distances are cut at."""

    def __init__(self, grid: Grid, themes: Mapping[str, Theme], found: Sequence[Part], clip: float):
        self.grid, self.themes, self.clip = grid, themes, clip
        found = [part.within(grid.bounds(part.crs, AROUND_METRES + clip)) for part in found]
        on_plane = {name: [grid.on_plane(part) for part in found if part.theme == name] for name in themes}
        self.areas = {name: np.concatenate(areas) if areas else np.array([]) for name, areas in on_plane.items()}
        self._trees = {name: shapely.STRtree(areas) for name, areas in self.areas.items()}

    def masks(self, window: Window) -> np.ndarray:
        """Where each theme is in a window, which may reach beyond the image: themes x h x w, bool."""
        place, size = self.grid.place(window), (window.height, window.width)
        box = shapely.box(*place * (0, 0), *place * (window.width, window.height))
        near = {name: self.areas[name][np.sort(tree.query(box))] for name, tree in self._trees.items()}
        return np.stack([shapes.mask(areas, size, place) for areas in near.values()])

    def distances(self, window: Window) -> np.ndarray:
        """Metres to the nearest border of each theme, positive inside, cut at `clip`: themes x h x w, float32.

        From a pixel's centre to the nearest centre of the other kind, less half a pixel; what lies beyond the image counts too.
        """
        rows, cols = (int(np.ceil(self.clip / side)) + 1 for side in self.grid.pixel)
        around = Window(window.row - rows, window.col - cols, window.height + 2 * rows, window.width + 2 * cols)
        inner = (slice(rows, -rows), slice(cols, -cols))
        return np.stack([_signed(mask, self.grid.pixel, self.clip)[inner] for mask in self.masks(around)])

    def colours(self, window: Window) -> np.ndarray:
        """The themes in their colours, the later ones of DRAWN on top, black where there is none: 3 x h x w, uint8."""
        out = np.zeros((3, window.height, window.width), np.uint8)
        masks = dict(zip(self.themes, self.masks(window), strict=True))
        for name in (name for name in DRAWN if name in masks):
            out[:, masks[name]] = np.array(self.themes[name].colour, np.uint8)[:, None]
        return out

    def pieces(self, form: str) -> Iterator[tuple[Window, np.ndarray]]:
        """The map, window by window, in one of FORMS."""
        for window in parts(Window(0, 0, self.grid.about.height, self.grid.about.width), *_PIECE):
            if form == "binary":
                yield window, self.masks(window).astype(np.uint8) * INSIDE
            else:
                yield window, self.colours(window) if form == "colours" else self.distances(window)


def _signed(mask: np.ndarray, pixel: tuple[float, float], most: float) -> np.ndarray:
    if mask.all() or not mask.any():
        return np.full(mask.shape, most if mask.all() else -most, np.float32)
    half = sum(pixel) / 4
    inside, outside = (ndimage.distance_transform_edt(part, sampling=pixel) for part in (mask, ~mask))
    return np.clip(np.where(mask, inside - half, half - outside), -most, most).astype(np.float32)


def write(tile_map: TileMap, form: str, path: Path) -> dict[str, float]:
    """Write the map of a tile as a GeoTIFF on its image's grid; the share of its pixels that each theme covers comes back."""
    about, names = tile_map.grid.about, list(tile_map.themes)
    bands, dtype = (3, np.uint8) if form == "colours" else (len(names), np.float32 if form == "distance" else np.uint8)
    covered = np.zeros(len(names))
    with raster.create(path, (bands, about.height, about.width), dtype, **about.place) as file:
        for number, name in enumerate(("red", "green", "blue") if form == "colours" else names, 1):
            file.set_band_description(number, name)
        for window, pixels in tile_map.pieces(form):
            file.write(pixels, window=RasterWindow(window.col, window.row, window.width, window.height))
            covered += (tile_map.masks(window) if form == "colours" else pixels > 0).sum((1, 2))
    return dict(zip(names, covered / (about.height * about.width), strict=True))

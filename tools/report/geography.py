"""Where tiles lie on one map: their places on Earth as places in a drawing."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tools.geo.pixel_size import pixel_size
from tools.geo.raster import Raster

WIDTH = 1000  # of the drawing, in its own units
_FILLED = 0.1  # share of the map that tiles must cover at least; where they lie further apart they would be too small to see
_METRES_PER_DEGREE = 111_320  # along a meridian


@dataclass(frozen=True)
class Place:
    """A tile's size in pixels and its place on Earth: transform (of affine, as rasterio's) and CRS, None if not known."""

    height: int
    width: int
    transform: Any
    crs: Any

    def at(self, col: float, row: float) -> tuple[float, float]:
        """The coordinates of a place in the tile, given in pixels from its upper left corner."""
        t = self.transform
        return t.a * col + t.b * row + t.c, t.d * col + t.e * row + t.f

    @property
    def corners(self) -> np.ndarray:
        """The coordinates of its four corners: 4 x 2."""
        return np.array([self.at(col, row) for col in (0, self.width) for row in (0, self.height)])

    @property
    def area(self) -> float:
        """In square units of the CRS."""
        t = self.transform
        return abs(t.a * t.e - t.b * t.d) * self.height * self.width


@dataclass(frozen=True)
class Mosaic:
    """A map, WIDTH units wide and `height` high, north up.

    matrices: for each tile the six numbers of SVG's matrix(), which takes its pixels (column, row) to units. centres: of the
    tiles, in units. bar: length in units and text of the scale bar, or None where the CRS has no metres.
    """

    height: float
    matrices: dict[str, list[float]]
    centres: dict[str, tuple[float, float]]
    bar: tuple[float, str] | None


def mosaic(places: Mapping[str, Place]) -> Mosaic | None:
    """The map on which tiles lie as on Earth.

    None for a single tile, for tiles of several CRSs or of none, and where they lie so far apart that the map is mostly empty.
    """
    crs = next(iter(places.values())).crs
    if len(places) < 2 or crs is None or any(p.crs != crs or p.transform is None for p in places.values()):
        return None
    corners = np.concatenate([place.corners for place in places.values()])
    (left, bottom), (right, top) = corners.min(0), corners.max(0)
    if sum(place.area for place in places.values()) < _FILLED * (right - left) * (top - bottom):
        return None
    narrow = np.cos(np.radians((top + bottom) / 2)) if crs.is_geographic else 1  # a degree of longitude against one of latitude
    unit = (right - left) * narrow / WIDTH  # in units of the CRS
    across, down = narrow / unit, -1 / unit
    matrices = {}
    for name, place in places.items():
        t = place.transform
        matrices[name] = [
            t.a * across, t.d * down, t.b * across, t.e * down, (t.c - left) * across, (t.f - top) * down,
        ]  # fmt: skip
    middles = {name: place.at(place.width / 2, place.height / 2) for name, place in places.items()}
    centres = {name: ((x - left) * across, (y - top) * down) for name, (x, y) in middles.items()}
    metres = _metres(crs, next(iter(places.values())))
    return Mosaic((bottom - top) * down, matrices, centres, metres and _scale_bar(unit * metres))


def _metres(crs: Any, place: Place) -> float | None:
    """On the ground in a unit of a CRS, at a place, since Web Mercator's metres are none; None where it does not lie on Earth
    (LOCAL_CS, as some surveys deliver)."""
    if crs.is_geographic:
        return _METRES_PER_DEGREE
    if not crs.is_projected:
        return None
    about = Raster(Path(), place.height, place.width, 1, "uint8", crs, place.transform)
    return pixel_size(about) / abs(place.transform.determinant) ** 0.5


def _scale_bar(metres: float) -> tuple[float, str]:
    """The longest round length of at most a fifth of the map. metres: in a unit of the map."""
    most = WIDTH / 5 * metres
    power = 10.0 ** np.floor(np.log10(most))
    length = max(step * power for step in (1, 2, 5) if step * power <= most)
    text = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    return length / metres, text

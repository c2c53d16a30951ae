"""Pixels on the ground: how large one is in metres, whatever the CRS of a raster."""

import numpy as np
from rasterio import CRS
from rasterio.warp import transform as reproject

from tools.geo.place import PROJ_ERRORS, horizontal, metres_per_unit
from tools.geo.raster import Raster

_EQUAL_AREA = CRS.from_epsg(6933)  # cylindrical equal-area of the whole Earth, in metres
_AROUND = 2 * 17_367_530.445  # metres, its width
_DISTORTED = 0.01  # of the area: what a map projection may add to or take from a pixel and still be believed


def pixel_areas(about: Raster) -> np.ndarray | None:
    """Square metres of a pixel in each row of a raster (float64), or None where it does not say where it lies.

    In a projected CRS it is the area on the map, as a GIS measures it there, where that is true to 1 % (UTM in its zone,
    national grids); elsewhere (degrees, Web Mercator, whose metres grow with the latitude, a polar map far from its pole) it is
    the area on the ellipsoid, at the middle column. In a plan of one's own (engineering CRS) it is the area on the plan.
    """
    if about.crs is None or about.transform is None:
        return None
    crs = horizontal(about.crs)
    unit = metres_per_unit(crs)
    on_map = unit and np.full(about.height, abs(about.transform.determinant) * unit**2)
    if unit and not crs.is_projected:
        return on_map
    try:
        on_earth = _areas_around(about, crs) if crs.is_projected else _areas_between(about, crs)
    except PROJ_ERRORS:
        return on_map
    if not np.isfinite(on_earth).all():
        return on_map
    return on_map if unit and np.abs(on_map / on_earth - 1).max() < _DISTORTED else on_earth


def _areas_between(about: Raster, crs: CRS) -> np.ndarray:
    """The areas of pixels in degrees: parallelograms on the equal-area map of the whole Earth."""
    (x, y), (right_x, right_y), (below_x, below_y) = _corners(about, crs, _EQUAL_AREA)
    return _cross(_turned(right_x - x), right_y - y, _turned(below_x - x), below_y - y)


def _areas_around(about: Raster, crs: CRS) -> np.ndarray:
    """The areas of pixels of any projection: parallelograms on an equal-area map around the raster's middle, poles and date
    line included."""
    middle = about.transform * (about.width / 2, about.height / 2)
    (lon,), (lat,) = reproject(crs, CRS.from_epsg(4326), [middle[0]], [middle[1]])
    local = CRS.from_proj4(f"+proj=laea +lat_0={lat:.9f} +lon_0={lon:.9f} +datum=WGS84 +units=m")
    (x, y), (right_x, right_y), (below_x, below_y) = _corners(about, crs, local)
    return _cross(right_x - x, right_y - y, below_x - x, below_y - y)


def _corners(about: Raster, source: CRS, target: CRS) -> list[np.ndarray]:
    """The upper left corner of each row's pixel in the middle, the corner to its right, and the one below it: 2 x rows each."""
    a, b, c, d, e, f = about.transform[:6]
    rows, middle = np.arange(about.height), about.width / 2
    found = []
    for cols, downs in ((middle, rows), (middle + 1, rows), (middle, rows + 1)):
        found.append(np.array(reproject(source, target, a * cols + b * downs + c, d * cols + e * downs + f)))
    return found


def _turned(across: np.ndarray) -> np.ndarray:
    """Differences of longitude, the short way round if they cross the date line."""
    return (across + _AROUND / 2) % _AROUND - _AROUND / 2


def _cross(right_x: np.ndarray, right_y: np.ndarray, below_x: np.ndarray, below_y: np.ndarray) -> np.ndarray:
    return np.abs(right_x * below_y - right_y * below_x)


def pixel_size(about: Raster) -> float | None:
    """The side of a pixel in metres: the square root of its area in the middle of the raster.

    Without a CRS it is what the transform says, in its own unit; None where there is no transform either.
    """
    if about.transform is None:
        return None
    areas = pixel_areas(about)
    return float(np.sqrt(abs(about.transform.determinant) if areas is None else areas[len(areas) // 2]))

"""Pixels on the ground: how large one is in metres, whatever the CRS of a raster."""

import numpy as np
from rasterio import CRS
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError
from rasterio.warp import transform as reproject

from tools.geo.raster import Raster

_EQUAL_AREA = CRS.from_epsg(6933)  # cylindrical equal-area of the whole Earth, in metres
_WEB_MERCATOR = CRS.from_epsg(3857)


def pixel_areas(about: Raster) -> np.ndarray | None:
    """Square metres of a pixel in each row of a raster (float64), or None where it does not say where it lies.

    In a projected CRS it is the area on the map, as a GIS measures it there. In degrees, and in Web Mercator, whose metres
    grow with the latitude, it is the area on the ellipsoid at the middle column.
    """
    if about.crs is None or about.transform is None:
        return None
    if about.crs.is_projected and about.crs != _WEB_MERCATOR:
        return np.full(about.height, abs(about.transform.determinant) * about.crs.linear_units_factor[1] ** 2)
    a, b, c, d, e, f = about.transform[:6]
    rows, middle = np.arange(about.height + 1), about.width / 2
    sides = [(a * col + b * rows + c, d * col + e * rows + f) for col in (middle, middle + 1)]
    try:
        (left, top), (right, _) = (reproject(about.crs, _EQUAL_AREA, xs, ys) for xs, ys in sides)
    except (RasterioError, CPLE_BaseError):  # rasterio lets PROJ's own errors through
        return None
    areas = np.abs(np.diff(top)) * np.abs(np.subtract(right, left))[:-1]
    return areas if np.isfinite(areas).all() else None


def pixel_size(about: Raster) -> float | None:
    """The side of a pixel in metres: the square root of its area in the middle of the raster.

    Without a CRS it is what the transform says, in its own unit; None where there is no transform either.
    """
    if about.transform is None:
        return None
    areas = pixel_areas(about)
    return float(np.sqrt(abs(about.transform.determinant) if areas is None else areas[len(areas) // 2]))

"""Where rasters lie on Earth, and whether two of one size lie in the same place: same size is not same place."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from rasterio import CRS
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError
from rasterio.warp import transform as reproject

from tools.geo.raster import Raster

TOLERANCE = 0.5  # pixels, between the corners of files of one tile
PROJ_ERRORS = (RasterioError, CPLE_BaseError, ValueError)  # rasterio lets PROJ's own errors through


def horizontal(crs: CRS | None) -> CRS | None:
    """A CRS without its vertical part: EPSG:32632 of EPSG:32632+5773. Any other as it is."""
    if crs is None:
        return None
    about = _projjson(crs)
    return CRS.from_user_input(json.dumps(about["components"][0])) if about.get("type") == "CompoundCRS" else crs


def metres_per_unit(crs: CRS) -> float | None:
    """The unit of a CRS of a plane, projected or a plan of one's own (engineering), in metres; None for degrees."""
    if crs.is_projected:
        return crs.linear_units_factor[1]
    about = _projjson(crs)
    if about.get("type") != "EngineeringCRS":
        return None
    unit = about["coordinate_system"]["axis"][0].get("unit")
    return 1.0 if unit == "metre" else unit.get("conversion_factor") if isinstance(unit, dict) else None


def _projjson(crs: CRS) -> dict[str, Any]:
    try:
        return crs.to_dict(projjson=True)
    except (*PROJ_ERRORS, json.JSONDecodeError):
        return {}


def fault(one: Raster, other: Raster, names: tuple[str, str] = ("", "")) -> str | None:
    """What to say of two rasters that are to show the same pixels but say that they lie in different places, or None.

    Only what both say is compared: their corners, brought into one CRS. names: what each is, such as "dsm".
    """
    first, second = (f"{raster.path}{f' ({name})' if name else ''}" for raster, name in zip((one, other), names, strict=True))
    if (one.height, one.width) != (other.height, other.width):
        return f"{second} has {other.height}x{other.width} pixels, {first} has {one.height}x{one.width}: they must agree."
    apart = pixels_apart(one, other)
    if apart is None or apart <= TOLERANCE:
        return None
    how = f"its corners are {apart:.3g} pixels off" if np.isfinite(apart) else "its CRS cannot be brought to the other's"
    return (
        f"{second} does not lie where {first} lies ({how}), so they are no files of one tile: bring it onto the other's grid"
        " (gdalwarp -te ... -ts ...), or correct its georeference."
    )


def first_fault(about: Mapping[str, Raster]) -> str | None:
    """What to say of the first file, by what it is, that does not lie where the first one that says so does; None if all do."""
    placed = next((name for name, raster in about.items() if raster.transform), next(iter(about)))
    return next((found for name, raster in about.items() if (found := fault(about[placed], raster, (placed, name)))), None)


def pixels_apart(one: Raster, other: Raster) -> float | None:
    """How far the corners of two rasters of one size are from each other, in the first one's pixels; None where one of them
    does not say where it lies, and infinity where nothing brings the one's CRS to the other's."""
    if one.transform is None or other.transform is None or (one.crs is None) != (other.crs is None):
        return None
    corners = [(0, 0), (other.width, 0), (0, other.height), (other.width, other.height)]
    xs, ys = zip(*(other.transform * corner for corner in corners), strict=True)
    here, there = horizontal(one.crs), horizontal(other.crs)
    if here != there:
        try:
            xs, ys = reproject(there, here, xs, ys)
        except PROJ_ERRORS:
            return np.inf
    if here is not None and here.is_geographic:
        turn = 360 * round((np.mean(xs) - one.transform.c) / 360)  # 181 degrees east is 179 west
        xs = np.subtract(xs, turn)
    found = np.array(~one.transform * (np.array(xs), np.array(ys))).T - corners
    apart = np.abs(found).max()
    return float(apart) if np.isfinite(apart) else np.inf

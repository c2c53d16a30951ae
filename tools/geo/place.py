"""Where rasters lie on Earth, and whether two of one size lie in the same place: same size is not same place."""

import json
import shlex
from collections.abc import Mapping
from typing import Any

import numpy as np
from rasterio import CRS
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError
from rasterio.transform import GCPTransformer
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

    Only what both say is compared, by transform or control points, brought into one CRS. names: what each is, such as "dsm".
    """
    first, second = (f"{raster.path}{f' ({name})' if name else ''}" for raster, name in zip((one, other), names, strict=True))
    warp = _warp(one, other, names[1])
    if (one.height, one.width) != (other.height, other.width):
        sizes = f"{second} has {other.height}x{other.width} pixels, {first} has {one.height}x{one.width}"
        remedy = f"bring it onto the other's grid ({warp})" if warp else "make the one as large as the other"
        return f"files of one tile differ in size ({sizes}): {remedy}."
    apart = pixels_apart(one, other)
    if apart is None or apart <= TOLERANCE:
        return None
    how = f"it is {apart:.3g} pixels off" if np.isfinite(apart) else "its CRS cannot be brought to the other's"
    return (
        f"{second} does not lie where {first} lies ({how}), so they are no files of one tile: bring it onto the other's grid"
        f" ({warp or 'gdalwarp -te ... -ts ...'}), or correct its georeference."
    )


def _warp(one: Raster, other: Raster, name: str) -> str | None:
    """The command that brings a raster onto the grid of another one; None where they do not say enough of their places.

    name: what it is. Labels, and what is not said, keep their values; heights and images are interpolated.
    """
    here = horizontal(one.crs)
    code = here and here.to_epsg()
    told = code and other.crs and _says(other) and one.transform is not None
    if not told or one.transform.b or one.transform.d or one.transform.e > 0:
        return None
    left, top = one.transform * (0, 0)
    right, bottom = one.transform * (one.width, one.height)
    corners = [f"{number:.12g}" for number in (left, bottom, right, top)]
    way = "near" if not name or name.startswith("labels") else "bilinear"
    sizes = ["-t_srs", f"EPSG:{code}", "-te", *corners, "-ts", str(one.width), str(one.height)]
    # Into the current folder: beside its source it could pass for another tile.
    return shlex.join(["gdalwarp", *sizes, "-r", way, str(other.path), f"{other.path.stem}_aligned.tif"])


def first_fault(about: Mapping[str, Raster]) -> str | None:
    """What to say of the first file, by what it is, that does not lie where the first one that says so does; None if all do."""
    placed = next((name for name, raster in about.items() if _says(raster)), next(iter(about)))
    return next((found for name, raster in about.items() if (found := fault(about[placed], raster, (placed, name)))), None)


def pixels_apart(one: Raster, other: Raster) -> float | None:
    """How far two rasters of one size are from each other where they are farthest, in the first one's pixels; None where
    they cannot be compared, and infinity where nothing brings the one's CRS to the other's."""
    if not (_says(one) and _says(other)) or ((one.crs is None) != (other.crs is None) and not _count_alike(one, other)):
        return None
    here, there = horizontal(one.crs), horizontal(other.crs)
    ours, theirs = _world(one), _world(other)
    if here and there and here != there:
        try:
            theirs = np.array(reproject(there, here, *theirs))
        except PROJ_ERRORS:
            return np.inf
    off = theirs - ours
    if here is not None and here.is_geographic:
        off[0] -= 360 * np.round(off[0].mean() / 360)  # 181 degrees east is 179 west
    apart = np.abs(np.linalg.solve(_pixel(ours, one), off)).max() if np.isfinite(off).all() else np.inf
    return float(apart)


def _says(raster: Raster) -> bool:
    """Whether a raster says where each of its pixels lies; a camera's model says it by heights alone."""
    return raster.transform is not None or bool(raster.gcps)


def _count_alike(one: Raster, other: Raster) -> bool:
    """Whether two transforms, one of them without a CRS (a world file), can be told to count in one unit: pixels are as large,
    and neither counts in pixels from the corner of its raster."""
    if one.transform is None or other.transform is None:
        return False
    sizes = [np.array(raster.transform)[[0, 1, 3, 4]] for raster in (one, other)]
    far = [abs(r.transform.c) > r.width or abs(r.transform.f) > r.height for r in (one, other)]
    return all(far) and np.allclose(*sizes, rtol=0, atol=0.01 * np.abs(sizes[0]).max())


def _world(raster: Raster) -> np.ndarray:
    """Where the corners of a raster, the middles of its sides and its own middle lie, in its CRS: 2 x 9."""
    rows, cols = np.meshgrid(*(np.linspace(0, side, 3) for side in (raster.height, raster.width)), indexing="ij")
    if raster.transform is not None:
        return np.array(raster.transform * (cols.ravel(), rows.ravel()))
    with GCPTransformer(list(raster.gcps), tps=True) as points:
        return np.array(points.xy(rows.ravel(), cols.ravel(), offset="ul"))


def _pixel(world: np.ndarray, raster: Raster) -> np.ndarray:
    """The sides of a pixel, by what `_world` gives: 2 x 2, a column for the step to the right, one for that down."""
    return np.stack([(world[:, 2] - world[:, 0]) / raster.width, (world[:, 6] - world[:, 0]) / raster.height], 1)

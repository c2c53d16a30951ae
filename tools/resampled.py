"""Tiles at another pixel size than the net was trained on: said, and read at the trained one where that is wished."""

import math
import uuid
from dataclasses import replace
from pathlib import Path

import rasterio.shutil
from affine import Affine
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT

from tools import raster
from tools.batches import File, Tile
from tools.ground import pixel_size

TOLERANCE = 0.1  # of the size, within which nets do not mind


def differs(tile: Tile, trained: float | None) -> float | None:
    """The tile's pixel size (metres) where it is more than TOLERANCE off the trained one; None where both agree or one is
    not known."""
    size = pixel_size(raster.inspect(tile.first))
    if not size or not trained or abs(math.log(size / trained)) <= math.log(1 + TOLERANCE):
        return None
    return size


def at_pixel_size(tile: Tile, wanted: float) -> Tile:
    """The same tile, read as if its pixels had the `wanted` size (metres): images by averaging where they shrink and bilinear
    where they grow, ground truth by nearest neighbour. GDAL resamples window by window, so it takes no memory.

    The tile must say how large its pixels are.
    """
    about = raster.inspect(tile.first)
    factor = pixel_size(about) / wanted
    shape = max(1, round(about.height * factor)), max(1, round(about.width * factor))
    images = {
        m: _view(path, shape, Resampling.average if factor < 1 else Resampling.bilinear) for m, path in tile.paths.items()
    }
    return replace(tile, paths=images, truths={k: _view(path, shape, Resampling.nearest) for k, path in tile.truths.items()})


def _view(path: File, shape: tuple[int, int], way: Resampling) -> str:
    """A raster at another size (height, width), as a virtual file in memory that has the name of the real one."""
    view = f"/vsimem/{uuid.uuid4().hex}/{Path(str(path)).name}.vrt"
    with raster.open_raster(path) as file:
        transform = file.transform * Affine.scale(file.width / shape[1], file.height / shape[0])
        with WarpedVRT(file, crs=file.crs, transform=transform, height=shape[0], width=shape[1], resampling=way) as warped:
            rasterio.shutil.copy(warped, view, driver="VRT")
    return view

"""Tiles at another pixel size than the net was trained on: said, and read at the trained one where that is wished."""

import math
from dataclasses import replace
from pathlib import Path

import rasterio
from affine import Affine
from rasterio.vrt import WarpedVRT

from tools.geo import raster
from tools.geo.file_list import File
from tools.geo.pixel_size import pixel_size
from tools.geo.views import Resized, Size, in_memory, new_shape, warping, with_mask
from tools.inference.tile_list import Tile

TOLERANCE = 0.1  # of the size, within which nets do not mind


def differs(tile: Tile, trained: float | None, resize: Size | None = None) -> float | None:
    """The tile's pixel size (metres) where it is more than TOLERANCE off the trained one; None where both agree or one is
    not known. resize: RESIZE, at which the tile is read."""
    size = pixel_size(tile.inspect() if resize is None else raster.inspect(Resized(tile.first, resize)))
    if not size or not trained or abs(math.log(size / trained)) <= math.log(1 + TOLERANCE):
        return None
    return size


def at_pixel_size(tile: Tile, wanted: float) -> Tile:
    """The same tile, read as if its pixels had the `wanted` size (metres): images by averaging where they shrink and bilinear
    where they grow, ground truth by nearest neighbour. GDAL resamples window by window, so it takes no memory.

    The tile must say how large its pixels are.
    """
    about, size = raster.inspect(tile.first), pixel_size(tile.inspect())
    shape = new_shape((about.height, about.width), size / wanted)
    images = {m: _view(path, shape, raster.IMAGE) for m, path in tile.paths.items()}
    truths = {kind: _view(path, shape, raster.NUMBERS) for kind, path in tile.truths.items()}
    return replace(tile, paths=images, truths=truths)


def _view(path: File, shape: tuple[int, int], role: str) -> str:
    """A raster at another size (height, width), as a virtual file in memory that has the name of the real one.

    role: what it is read for (see views.plain).
    """
    place, name = raster.inspect(path, role), Path(str(path)).name
    with (raster.open_image if role == raster.IMAGE else raster.open_numbers)(path) as file:
        own, about = place.transform or file.transform, warping(file, shape, role)
        transform = own * Affine.scale(file.width / shape[1], file.height / shape[0])
        where = {"crs": place.crs, "transform": transform, "src_crs": place.crs, "src_transform": own}
        view = in_memory(WarpedVRT(file, **about, **where), name)
    if not about["add_alpha"]:
        return view
    with rasterio.open(with_mask(view)) as restored:
        return in_memory(restored, name)

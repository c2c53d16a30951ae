"""Tiles at another pixel size than the net was trained on: said, and read at the trained one where that is wished."""

import math
import uuid
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import rasterio
import rasterio.shutil
from affine import Affine
from rasterio.enums import MaskFlags, Resampling
from rasterio.vrt import WarpedVRT

from tools.geo import raster
from tools.geo.file_list import File
from tools.geo.pixel_size import pixel_size
from tools.geo.views import GDAL_TYPES
from tools.inference.tile_list import Tile

TOLERANCE = 0.1  # of the size, within which nets do not mind


def differs(tile: Tile, trained: float | None) -> float | None:
    """The tile's pixel size (metres) where it is more than TOLERANCE off the trained one; None where both agree or one is
    not known."""
    size = pixel_size(tile.inspect())
    if not size or not trained or abs(math.log(size / trained)) <= math.log(1 + TOLERANCE):
        return None
    return size


def at_pixel_size(tile: Tile, wanted: float) -> Tile:
    """The same tile, read as if its pixels had the `wanted` size (metres): images by averaging where they shrink and bilinear
    where they grow, ground truth by nearest neighbour. GDAL resamples window by window, so it takes no memory.

    The tile must say how large its pixels are.
    """
    about, size = raster.inspect(tile.first), pixel_size(tile.inspect())
    shape = _scaled(about, size / wanted)
    way = Resampling.average if size < wanted else Resampling.bilinear
    images = {m: _view(path, shape, way, raster.IMAGE) for m, path in tile.paths.items()}
    truths = {kind: _view(path, shape, Resampling.nearest, raster.NUMBERS) for kind, path in tile.truths.items()}
    return replace(tile, paths=images, truths=truths)


def shape_at(about: raster.Raster, wanted: float) -> tuple[int, int]:
    """Height and width of a raster, which says how large its pixels are, at another pixel size (metres)."""
    return _scaled(about, pixel_size(about) / wanted)


def _scaled(about: raster.Raster, factor: float) -> tuple[int, int]:
    return max(1, round(about.height * factor)), max(1, round(about.width * factor))


def _view(path: File, shape: tuple[int, int], way: Resampling, role: str) -> str:
    """A raster at another size (height, width), as a virtual file in memory that has the name of the real one.

    role: what it is read for (see views.plain).
    """
    folder, name = f"/vsimem/{uuid.uuid4().hex}", f"{Path(str(path)).name}.vrt"
    view = f"{folder}/{name}"
    place = raster.inspect(path, role)
    with (raster.open_image if role == raster.IMAGE else raster.open_numbers)(path) as file:
        masked = file.mask_flag_enums[0] == [MaskFlags.per_dataset]  # a mask beside the bands, which warping drops
        warped = f"{folder}/warped/{name}" if masked else view
        own = place.transform or file.transform
        transform = own * Affine.scale(file.width / shape[1], file.height / shape[0])
        about = {"crs": place.crs, "transform": transform, "height": shape[0], "width": shape[1], "add_alpha": masked}
        about |= {"src_crs": place.crs, "src_transform": own}
        with WarpedVRT(file, resampling=way, **about) as made:
            rasterio.shutil.copy(made, warped, driver="VRT")
    if masked:
        with raster.open_raster(warped) as made, rasterio.open(_with_mask(made)) as restored:
            rasterio.shutil.copy(restored, view, driver="VRT")
    return view


def _with_mask(file: rasterio.DatasetReader) -> str:
    """A virtual raster, as GDAL reads it from XML, of which the last band of a file is the mask."""
    root = ElementTree.Element("VRTDataset", rasterXSize=str(file.width), rasterYSize=str(file.height))
    ElementTree.SubElement(root, "SRS").text = file.crs.to_wkt() if file.crs else ""
    ElementTree.SubElement(root, "GeoTransform").text = ", ".join(map(repr, file.transform.to_gdal()))
    for band, kind in enumerate(file.dtypes, 1):
        parent = root if band < file.count else ElementTree.SubElement(root, "MaskBand")
        kind = "Byte" if band == file.count else GDAL_TYPES[kind]
        source = ElementTree.SubElement(ElementTree.SubElement(parent, "VRTRasterBand", dataType=kind), "SimpleSource")
        ElementTree.SubElement(source, "SourceFilename").text = file.name
        ElementTree.SubElement(source, "SourceBand").text = str(band)
    return ElementTree.tostring(root, "unicode")

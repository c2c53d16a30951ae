"""Rasters read as if they had another size: the setting RESIZE, and tiles at the pixel size that a net was trained on.

GDAL resamples window by window, so it takes no memory, and a window has the pixels that it has in the whole.
"""

import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import rasterio
import rasterio.shutil
from affine import Affine
from rasterio.enums import MaskFlags, Resampling
from rasterio.vrt import WarpedVRT

from tools.geo.views import GDAL_TYPES, IMAGE, said_name

Size = Sequence[int] | float  # height and width in pixels, or a share of both sides
_PLANE = {"crs": "EPSG:3857", "src_crs": "EPSG:3857", "src_transform": Affine.identity()}  # any; pixels alone count


def is_resize(v: Any) -> bool:
    """Whether a value is a size: (height, width) in whole pixels, 1 or more, or a share of both sides above 0, not 1."""
    if isinstance(v, tuple | list):
        return len(v) == 2 and all(isinstance(n, int) and not isinstance(n, bool) and 0 < n <= 2**31 for n in v)
    return isinstance(v, float) and 0 < v <= 100 and v != 1


def new_shape(shape: Sequence[int], size: Size) -> tuple[int, int]:
    """Height and width of a raster at another size: just that size, or each side times the share, rounded, at least 1."""
    if isinstance(size, float):
        return max(1, round(shape[0] * size)), max(1, round(shape[1] * size))
    return size[0], size[1]


@dataclass(frozen=True)
class Resized(os.PathLike):
    """A raster that the readers of raster.py give at another size. Whatever else takes it for a path sees the file itself."""

    path: str | Path
    size: Size

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)


def at_size(file: rasterio.DatasetReader, size: Size, role: str | None, any_band: bool = False) -> rasterio.DatasetReader:
    """An open raster at another size.

    Images: a pixel is the mean of the area that it covers, or bilinear if a side grows; pixels without data have no part in
    it. Whatever else (`role`, see views.plain): the pixel that its middle lies in. any_band: as in `raster.open_image`.
    """
    height, width = new_shape(file.shape, size)
    if (height, width) == file.shape:
        return file
    masked = file.mask_flag_enums[0] == [MaskFlags.per_dataset]  # a mask beside the bands, which warping drops
    scale = Affine.scale(file.width / width, file.height / height)
    about = {"height": height, "width": width, "transform": scale, "add_alpha": masked, **_PLANE}
    about["resampling"] = _way(file, (height, width)) if role == IMAGE else Resampling.nearest
    if file.dtypes[0].startswith("float") and file.nodata is None:
        about |= {"src_nodata": float("nan"), "nodata": float("nan")}
    made = WarpedVRT(file, **about, **({"UNIFIED_SRC_NODATA": "PARTIAL"} if any_band else {}))
    name = said_name(file)
    if masked:
        made = rasterio.open(with_mask(in_memory(made, name)))
    made.said_name, made.shown = name, file  # `shown` stays open as long as the view
    return made


def _way(file: rasterio.DatasetReader, shape: tuple[int, int]) -> Resampling:
    return Resampling.average if shape[0] <= file.height and shape[1] <= file.width else Resampling.bilinear


def in_memory(made: WarpedVRT, name: str) -> str:
    """A view as a virtual file in memory that has the name of the real one."""
    view = f"/vsimem/{uuid.uuid4().hex}/{Path(name).name}.vrt"
    with made:
        rasterio.shutil.copy(made, view, driver="VRT")
    return view


def with_mask(path: str) -> str:
    """A virtual raster, as GDAL reads it from XML, of which the last band of a file is the mask."""
    with rasterio.open(path) as file:
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

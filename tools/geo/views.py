"""Rasters as they are meant: what a file says of its bands (palette, order, alpha, scale, pixel types) is taken at its word.

`plain` gives any open raster as one of equal, plain bands: the file itself, or a virtual raster (GDAL's VRT) on it that is
read window by window like any other. tools/geo/declared.py lists what is done with all that a file may say. `at_size` gives
it as if it had another size: the setting RESIZE, and tiles at the pixel size that a net was trained on.
"""

import os
import uuid
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio import CRS
from rasterio.enums import MaskFlags, Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window as RasterWindow

from tools.base.errors import UserError, listing

IMAGE, COLOURS, NUMBERS = "image", "colours", "numbers"  # what the bands are read for: see `plain`
GDAL_TYPES = {
    "uint8": "Byte", "int8": "Int8", "uint16": "UInt16", "int16": "Int16", "uint32": "UInt32", "int32": "Int32",
    "uint64": "UInt64", "int64": "Int64", "float32": "Float32", "float64": "Float64",
}  # fmt: skip
_RGB = ("red", "green", "blue")
_OTHER_COLOURS = ("cyan", "magenta", "yellow", "black", "hue", "saturation", "lightness", "Y", "Cb", "Cr")
_ALWAYS_ALPHA = ("PNG", "WEBP", "JP2OpenJPEG", "GIF", "MEM")  # elsewhere a fourth band is often called so by mistake
_SAMPLE = 64  # pixels, the sides of the squares that show whether a band is an alpha band
_EXIF_ORIENTATION = 0x0112  # also TIFF's own tag


@dataclass(frozen=True)
class _Band:
    """One band of a view: the band of the file, which part of its palette's colours (1 to 4), what scales its values."""

    source: int
    dtype: str
    nodata: float | None = None
    component: int | None = None
    scale: float = 1
    offset: float = 0


def plain(file: rasterio.DatasetReader, role: str = IMAGE) -> rasterio.DatasetReader:
    """An open raster with plain bands of one pixel type, nodata values, and perhaps one mask for all of them.

    role: IMAGE: palettes become colours (grey ones one band), bands that say blue, green, red stand as red, green, blue, an
    alpha band becomes the mask, scale and offset are applied. COLOURS: the same for colour masks, three bands. NUMBERS: class
    numbers stay as they are, and so do palettes. A picture without a place on Earth is turned as its EXIF says. Raises
    UserError for what cannot be taken for an image at all: complex numbers, pages, CMYK.
    """
    _refuse(file)
    if role == IMAGE:
        _refuse_scales(file)
    alpha = _alpha(file, role)
    bands = [i for i in file.indexes if i != alpha]
    if role != NUMBERS:
        bands = _in_rgb_order(file, bands)
    view = _Layout(file, [b for i in bands for b in _bands_of(file, i, role)], alpha, role).view()
    way = orientation(file)
    return view if way == 1 else _upright(view, way)


def said_name(file: rasterio.DatasetReader) -> str:
    """The name that a user knows a raster by, view or not."""
    return getattr(file, "said_name", file.name)


def is_placed(file: rasterio.DatasetReader) -> bool:
    """Whether the file itself says in whatever way where on Earth its pixels lie."""
    return bool(file.crs or file.gcps[0] or file.rpcs) or not file.transform.is_identity


# ------------------------------------------------------------------------------------------------------ what is refused


def _refuse(file: rasterio.DatasetReader) -> None:
    name = said_name(file)
    if file.subdatasets:
        first = file.subdatasets[0]
        pages = "pages" if first.startswith("GTIFF_DIR") else "rasters in it"
        raise UserError(
            f"{name} has {len(file.subdatasets)} {pages} ({listing(file.subdatasets, 3)}), of which GDAL shows the first alone:"
            f" save the one that you mean (gdal_translate '{first}' page.tif), or stack them as bands (gdalbuildvrt -separate)."
        )
    if not file.count:
        raise UserError(f"{name} has no bands.")
    strange = sorted({kind for kind in file.dtypes if kind not in GDAL_TYPES})
    if strange:
        raise UserError(
            f"{name} holds {listing(strange)} numbers: save their amplitude, or what else you need, as real numbers."
        )
    colours = [kind.name for kind in file.colorinterp if kind.name in _OTHER_COLOURS]
    if colours:
        raise UserError(f"{name} has bands of {listing(colours)}, not of red, green and blue: convert it to RGB.")


# ------------------------------------------------------------------------------------------------------- which bands, how


def _alpha(file: rasterio.DatasetReader, role: str) -> int | None:
    """The band that says where there is data, or None. A fourth band that is called alpha may be infrared all the same: GDAL
    calls it so where nobody says what it is. So where an image could be meant, its values tell."""
    called = [band for band, kind in zip(file.indexes, file.colorinterp, strict=True) if kind.name == "alpha"]
    if file.count < 2 or not called:
        return None
    sure = role != IMAGE or file.count == 2 or file.driver in _ALWAYS_ALPHA
    return called[0] if sure or _is_opacity(_sample(file, called[0])) else None


def _sample(file: rasterio.DatasetReader, band: int) -> np.ndarray:
    """Some pixels of a band: a square in the middle and one in each quarter."""
    found = []
    for down, across in ((2, 2), (1, 1), (1, 3), (3, 1), (3, 3)):
        row, col = (max(0, n * part // 4 - _SAMPLE // 2) for n, part in ((file.height, down), (file.width, across)))
        area = RasterWindow(col, row, min(_SAMPLE, file.width - col), min(_SAMPLE, file.height - row))
        found.append(file.read(band, window=area).ravel())
    return np.concatenate(found)


def _is_opacity(values: np.ndarray) -> bool:
    """Whether most of what is not 0 is wholly opaque; brightnesses are hardly ever all the highest."""
    there = values[values > 0]
    full = [255, np.iinfo(values.dtype).max] if values.dtype.kind in "iu" else [1, 255]
    return not len(there) or np.isin(there, full).mean() >= 0.5


def _in_rgb_order(file: rasterio.DatasetReader, bands: list[int]) -> list[int]:
    """Three bands that say that they are red, green and blue, in that order. With more of them the file's order counts."""
    names = {file.colorinterp[i - 1].name: i for i in bands}
    return [names[name] for name in _RGB] if len(bands) == 3 and set(names) == set(_RGB) else bands


def _bands_of(file: rasterio.DatasetReader, band: int, role: str) -> list[_Band]:
    """What one band of a file gives: the three of its colours, if it has a palette, else itself, scaled."""
    dtype, nodata = file.dtypes[band - 1], file.nodatavals[band - 1]
    if role != NUMBERS and file.colorinterp[band - 1].name == "palette":
        grey = role == IMAGE and all(r == g == b for r, g, b, _ in file.colormap(band).values())
        return [_Band(band, "uint8", component=part) for part in ((1,) if grey else (1, 2, 3))]
    one = _Band(band, dtype, nodata)
    scale, offset = file.scales[band - 1], file.offsets[band - 1]
    if role == IMAGE and (scale, offset) != (1, 0):
        return [replace(one, dtype="float32" if np.dtype(dtype).itemsize < 4 else "float64", scale=scale, offset=offset)]
    return [one]


def _refuse_scales(file: rasterio.DatasetReader) -> None:
    """A scale of 0 gives one value everywhere, and what is no number none at all."""
    for band, scale, offset in zip(file.indexes, file.scales, file.offsets, strict=True):
        if scale == 0 or not np.isfinite([scale, offset]).all():
            raise UserError(
                f"{said_name(file)} says that band {band} has a scale of {scale:g} and an offset of {offset:g}, which leave"
                " nothing of its values: correct them (gdal_edit.py -scale 1 -offset 0)."
            )


# ---------------------------------------------------------------------------------------------------------------- the view


@dataclass(frozen=True)
class _Layout:
    """The bands that a view shows of a file, and its mask."""

    file: rasterio.DatasetReader
    bands: Sequence[_Band]
    alpha: int | None
    role: str

    def view(self) -> rasterio.DatasetReader:
        """The file itself where it is plain already."""
        asis = [_Band(i, self.file.dtypes[0], self.file.nodatavals[i - 1]) for i in self.file.indexes]
        if list(self.bands) == asis and not self._clear and not self._masks_differ:
            return self.file
        made = rasterio.open(self._xml())
        made.said_name = said_name(self.file)
        return made

    @property
    def _clear(self) -> list[int]:
        """The numbers of a palette that are transparent, or stand for no data."""
        if self.file.colorinterp[0].name != "palette":
            return []
        found = {i for i, colour in self.file.colormap(1).items() if colour[3] == 0}
        nodata = self.file.nodatavals[0]
        if nodata is not None and self.role != NUMBERS and nodata in range(np.iinfo(self.file.dtypes[0]).max + 1):
            found.add(int(nodata))
        return sorted(found)

    @property
    def _masks_differ(self) -> bool:
        """Whether each band has a mask of its own."""
        return any(not flags for flags in self.file.mask_flag_enums)

    def _xml(self) -> str:
        """What GDAL makes the view of."""
        transform = None if self.file.transform.is_identity else self.file.transform
        root = vrt_of(self.file.height, self.file.width, self.file.crs, transform)
        dtype = np.result_type(*(band.dtype for band in self.bands)).name
        for number, band in enumerate(self.bands, 1):
            self._add_band(root, number, band, dtype)
        self._add_mask(root)
        return Xml.tostring(root, "unicode")

    def _add_band(self, root: Xml.Element, number: int, band: _Band, dtype: str) -> None:
        element = vrt_band(root, dtype, band=str(number))
        scaled = (band.scale, band.offset) != (1, 0)
        if band.nodata is not None:
            add(element, "NoDataValue", "nan" if scaled else repr(band.nodata))
        colour = self.role != NUMBERS and len(self.bands) == 3 and dtype == "uint8"
        add(element, "ColorInterp", _RGB[number - 1].capitalize() if colour else "Gray" if number == 1 else "Undefined")
        source = self._add_source(element, str(band.source), plain=not (scaled or band.component))
        if band.component:
            add(source, "ColorTableComponent", str(band.component))
        if scaled:
            add(source, "ScaleOffset", repr(band.offset))
            add(source, "ScaleRatio", repr(band.scale))
            if band.nodata is not None:
                add(source, "NODATA", repr(band.nodata))

    def _add_mask(self, root: Xml.Element) -> None:
        flags = self.file.mask_flag_enums[0]
        clear, alpha = self._clear, self.alpha
        if not (clear or alpha or self._masks_differ or (MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags)):
            return
        element = vrt_band(add(root, "MaskBand"), "uint8")
        if clear:
            around = {i: 255 for number in clear for i in (number - 1, number + 1)} | dict.fromkeys(clear, 0)
            table = ",".join(f"{i}:{around[i]}" for i in sorted(around))
            add(self._add_source(element, "1", plain=False), "LUT", table)
        elif self._masks_differ:
            self._add_source(element, "mask,1", plain=True)
            for band in self.file.indexes[1:]:  # of which only what is masked out is taken
                add(self._add_source(element, f"mask,{band}", plain=False), "NODATA", "255")
        elif alpha:
            add(self._add_source(element, str(alpha), plain=False), "LUT", "0:0,1:255")  # what is a bit opaque counts
        else:
            self._add_source(element, "mask,1", plain=True)

    def _add_source(self, band: Xml.Element, which: str, plain: bool) -> Xml.Element:
        return vrt_source(band, gdal_name(self.file), which, "SimpleSource" if plain else "ComplexSource")


def gdal_name(file: rasterio.DatasetReader) -> str:
    """What GDAL itself calls an open raster, as a view must."""
    return file.files[0] if file.files else file.name


def add(parent: Xml.Element, name: str, text: str | None = None, **attributes: str) -> Xml.Element:
    """A new element of XML below another one."""
    element = Xml.SubElement(parent, name, attributes)
    element.text = text
    return element


def vrt_of(height: int, width: int, crs: CRS | None, transform: Affine | None) -> Xml.Element:
    """A virtual raster as GDAL has it in XML, without bands yet."""
    root = Xml.Element("VRTDataset", rasterXSize=str(width), rasterYSize=str(height))
    if crs:
        add(root, "SRS", crs.to_wkt())
    if transform is not None:
        add(root, "GeoTransform", ", ".join(map(repr, transform.to_gdal())))
    return root


def vrt_band(parent: Xml.Element, dtype: str, **attributes: str) -> Xml.Element:
    """A band of a virtual raster, or of its MaskBand."""
    return add(parent, "VRTRasterBand", dataType=GDAL_TYPES[dtype], **attributes)


def vrt_source(band: Xml.Element, file: str, which: str, kind: str = "SimpleSource", **attributes: str) -> Xml.Element:
    """Where a band's pixels come from. which: the band of the file, or "mask,1"; attributes: of the file's name."""
    source = add(band, kind)
    add(source, "SourceFilename", file, **attributes)
    add(source, "SourceBand", which)
    return source


# ------------------------------------------------------------------------------------------------------------------ EXIF


def _upright(file: rasterio.DatasetReader, way: int) -> rasterio.DatasetReader:
    """A picture turned and mirrored as its EXIF says, as viewers and programs for labelling do."""
    if MaskFlags.per_dataset in file.mask_flag_enums[0]:
        raise UserError(f"{said_name(file)} has a mask and is to be turned, as its EXIF says: save it upright.")
    height, width = file.shape
    to_stored = {  # from (col, row) of the upright picture to those of the stored one
        2: Affine(-1, 0, width, 0, 1, 0), 3: Affine(-1, 0, width, 0, -1, height), 4: Affine(1, 0, 0, 0, -1, height),
        5: Affine(0, 1, 0, 1, 0, 0), 6: Affine(0, 1, 0, -1, 0, height), 7: Affine(0, -1, width, -1, 0, height),
        8: Affine(0, -1, width, 1, 0, 0),
    }[way]  # fmt: skip
    shape = {"height": width, "width": height} if way > 4 else {"height": height, "width": width}
    plane = {"crs": "EPSG:3857", "src_crs": "EPSG:3857", "src_transform": Affine.identity()}  # any; the picture has none
    made = WarpedVRT(file, transform=to_stored, resampling=Resampling.nearest, **plane, **shape)
    made.said_name, made.shown = said_name(file), file  # `shown` stays open as long as the view
    return made


def orientation(file: rasterio.DatasetReader) -> int:
    """How a picture is to be turned, 1 to 8 as EXIF counts; 1, upright, where the file says where on Earth it lies.

    A place on Earth is that of the pixels as they are stored, and GIS show them so.
    """
    if is_placed(file) or file.driver not in ("JPEG", "PNG", "GTiff"):
        return 1
    found = file.tags().get("EXIF_Orientation")
    path = Path(gdal_name(file))
    if found is None and file.driver != "JPEG" and path.is_file():
        found = _stored_orientation(path)
    return int(found) if str(found) in "2345678" else 1


def _stored_orientation(path: Path) -> int:
    """What the tags of a TIFF or a PNG say, which GDAL does not tell."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                return picture.getexif().get(_EXIF_ORIENTATION, 1)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return 1


# ------------------------------------------------------------------------------------------------------------ another size

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
    """An open raster at another size. GDAL resamples window by window, so a window has the pixels that it has in the whole.

    Images: a pixel is the mean of the area that it covers, or bilinear if a side grows; pixels without data have no part in
    it. Whatever else (`role`, see views.plain): the pixel that its middle lies in. any_band: as in `raster.open_image`.
    """
    height, width = shape = new_shape(file.shape, size)
    if shape == file.shape:
        return file
    scale, about = Affine.scale(file.width / width, file.height / height), warping(file, shape, role)
    made = WarpedVRT(file, transform=scale, **about, **_PLANE, **({"UNIFIED_SRC_NODATA": "PARTIAL"} if any_band else {}))
    name = said_name(file)
    if about["add_alpha"]:
        made = rasterio.open(with_mask(in_memory(made, name)))
    made.said_name, made.shown = name, file  # `shown` stays open as long as the view
    return made


def warping(file: rasterio.DatasetReader, shape: tuple[int, int], role: str | None) -> dict[str, Any]:
    """How GDAL makes a raster as high and wide as `shape`, wherever it lies. role: what it is read for, see `at_size`.

    add_alpha: whether a mask stands beside the bands, which warping drops, and which is to be brought back by `with_mask`.
    """
    shrinks = shape[0] <= file.height and shape[1] <= file.width
    about = {"height": shape[0], "width": shape[1], "add_alpha": file.mask_flag_enums[0] == [MaskFlags.per_dataset]}
    about["resampling"] = Resampling.nearest if role != IMAGE else Resampling.average if shrinks else Resampling.bilinear
    if file.dtypes[0].startswith("float") and file.nodata is None:
        about |= {
            "src_nodata": float("nan"),
            "nodata": float("nan"),
        }  # else one NaN would spoil all that it has a part in
    return about


def in_memory(made: WarpedVRT, name: str) -> str:
    """A view as a virtual file in memory that has the name of the real one."""
    view = f"/vsimem/{uuid.uuid4().hex}/{Path(name).name}.vrt"
    with made:
        rasterio.shutil.copy(made, view, driver="VRT")
    return view


def with_mask(path: str) -> str:
    """A virtual raster, as GDAL reads it from XML, of which the last band of a file is the mask."""
    with rasterio.open(path) as file:
        root = vrt_of(file.height, file.width, file.crs, file.transform)
        for band, dtype in enumerate(file.dtypes, 1):
            parent, dtype = (root, dtype) if band < file.count else (add(root, "MaskBand"), "uint8")
            vrt_source(vrt_band(parent, dtype), file.name, str(band))
    return Xml.tostring(root, "unicode")

"""The one reader and writer of rasters: GeoTIFF, PNG, JPEG and whatever else GDAL opens, through rasterio."""

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.errors import NodataShadowWarning, NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window as RasterWindow

from tools.base.errors import UserError
from tools.geo.windows import Window

warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)  # a PNG without a place on Earth is no fault here
warnings.filterwarnings("ignore", category=NodataShadowWarning)  # nor are both nodata and alpha, of which nodata counts (NAIP)

# A JPEG that breaks off is only a warning to GDAL, and the missing part comes out grey: make it an error.
os.environ.setdefault("GDAL_ERROR_ON_LIBJPEG_WARNING", "YES")
os.environ.setdefault("GDAL_PNG_WHOLE_IMAGE_OPTIM", "NO")  # GDAL's short cut does not see that a PNG breaks off
os.environ.setdefault("GDAL_CACHEMAX", "256")  # MB in each process, not 5 % of the machine's memory
os.environ.setdefault("GDAL_PAM_ENABLED", "NO")  # no .aux.xml files beside PNGs
_DRIVERS = {".tif": "GTiff", ".tiff": "GTiff", ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
_ALL_CORES = {"num_threads": "all_cpus"}  # GDAL compresses in threads of its own
SUFFIXES = (*_DRIVERS, ".vrt", ".jp2", ".img")  # what counts as a raster when a folder is given


@dataclass(frozen=True)
class Raster:
    """What a file says of itself: its size in pixels, bands, pixel type, place on Earth (crs and transform, or None), tags."""

    path: Path
    height: int
    width: int
    bands: int
    dtype: str
    crs: Any = None
    transform: Any = None
    nodata: float | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def place(self) -> dict[str, Any]:
        """The georeference, as keyword arguments of `write`."""
        return {"crs": self.crs, "transform": self.transform}


def inspect(path: str | Path) -> Raster:
    """What the header of a raster says. Raises UserError where the file is missing or no raster."""
    with _open(path) as file:
        placed = file.crs is not None or not file.transform.is_identity
        return Raster(
            Path(path), file.height, file.width, file.count, file.dtypes[0],
            file.crs, file.transform if placed else None, file.nodata, file.tags(),
        )  # fmt: skip


def read(path: str | Path, window: Window | None = None) -> np.ndarray:
    """The pixels of a raster, or of one window of it: bands x height x width, in the file's own pixel type."""
    with _open(path) as file:
        return read_window(file, window)


def read_window(file: rasterio.DatasetReader, window: Window | None = None) -> np.ndarray:
    """The same from a raster that is open already."""
    pixels = read_part(file, window, file.read)
    if pixels.dtype.kind == "f" and file.nodata is not None:
        pixels[pixels == file.nodata] = np.nan
    return pixels


def read_valid(file: rasterio.DatasetReader, window: Window | None = None) -> np.ndarray:
    """Where an open raster, or one window of it, has data in all of its bands: height x width, bool.

    Not valid is what the file declares as nodata or masks out, and what is not a finite number.
    """
    floats = file.dtypes[0].startswith("float")
    return _valid(file, window, read_part(file, window, file.read) if floats else None)


def read_with_gaps(file: rasterio.DatasetReader, window: Window | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    """The pixels as `read_window` gives them, and where they are not valid (h x w, bool), None where all of them are."""
    pixels = read_window(file, window)
    if not may_lack_data(file):
        return pixels, None
    gaps = ~_valid(file, window, pixels if pixels.dtype.kind == "f" else None)
    return pixels, gaps if gaps.any() else None


def _valid(file: rasterio.DatasetReader, window: Window | None, floats: np.ndarray | None) -> np.ndarray:
    """floats: the pixels, where they may be no finite numbers."""
    valid = read_part(file, window, file.read_masks).all(0)
    return valid if floats is None else valid & np.isfinite(floats).all(0)


def fill_gaps(pixels: np.ndarray, gaps: np.ndarray | None, values: Sequence[float]) -> np.ndarray:
    """Pixels (bands x h x w) whose gaps (h x w, bool) hold one value per band, rounded to the pixel type, and NaN in floats.

    So no net, in training or later, sees what a file happens to hold where it has no data.
    """
    if gaps is None:
        return pixels
    if pixels.dtype.kind == "f":
        return np.where(gaps, pixels.dtype.type(np.nan), pixels)
    limits = np.iinfo(pixels.dtype)
    filling = np.clip(np.rint(values), limits.min, limits.max).astype(pixels.dtype)
    return np.where(gaps, filling[:, None, None], pixels)


def may_lack_data(file: rasterio.DatasetReader) -> bool:
    """Whether an open raster can have pixels without data at all; bytes of which none is declared nodata cannot."""
    return file.dtypes[0].startswith("float") or any(
        "all_valid" not in [f.name for f in flags] for flags in file.mask_flag_enums
    )


def read_part(file: rasterio.DatasetReader, window: Window | None, read: Callable) -> np.ndarray:
    """`read(window=...)` of a window, such as `file.read_masks`. Raises UserError where the open raster is damaged there."""
    area = window and RasterWindow(window.col, window.row, window.width, window.height)
    try:
        return read(window=area)
    except RasterioError as error:
        raise UserError(f"{file.name} breaks off or is damaged ({_reason(error)}): fetch it again.") from None


def read_small(path: str | Path, most: int, bands: int | None = None, window: Window | None = None) -> np.ndarray:
    """A raster, or a window of it, reduced so that no side is longer than `most` pixels (nearest neighbour): bands x h x w."""
    with _open(path) as file:
        whole = file.shape if window is None else window[2:]
        scale = min(1, most / max(whole))
        shape = [max(1, round(n * scale)) for n in whole]
        chosen = list(range(1, min(bands or file.count, file.count) + 1))
        return read_part(file, window, lambda window: file.read(chosen, window=window, out_shape=(len(chosen), *shape)))


def write_rows(file: rasterio.io.DatasetWriter, row: int, pixels: np.ndarray, col: int = 0) -> None:
    """Write pixels, bands x rows x columns, from `row` and `col` on, to a raster open for writing."""
    file.write(pixels, window=RasterWindow(col, row, pixels.shape[2], pixels.shape[1]))


def open_raster(path: str | Path) -> rasterio.DatasetReader:
    """A raster open for reading by `read_window`; use it in a `with`."""
    return _open(path)


def read_labels(path: str | Path) -> np.ndarray:
    """A label array: height x width, uint8. Raises UserError where the file has several bands or larger numbers."""
    if fault := label_fault(path):
        raise UserError(fault)
    return read(path)[0]


def label_fault(path: str | Path) -> str | None:
    """What keeps a file from being a label array, in a sentence, or None: it must have one band of bytes."""
    try:
        about = inspect(path)
    except UserError as error:
        return str(error)
    if about.bands == 1 and about.dtype == "uint8":
        return None
    return (
        f"{path} holds {about.bands} band(s) of {about.dtype}, not one band of uint8 labels: colour ground truth is made into"
        " labels by convert_gt.py --from-color."
    )


def read_colours_window(file: rasterio.DatasetReader, window: Window | None = None) -> np.ndarray:
    """The colours that a picture shows, or one window of it: height x width x 3, uint8.

    Palettes are looked up, an alpha band is dropped.
    """
    if file.dtypes[0] != "uint8" or file.count not in (1, 3, 4):
        raise UserError(f"{file.name} has {file.count} band(s) of {file.dtypes[0]}: a colour picture has 8-bit R, G, B.")
    pixels = read_window(file, window)
    if file.count > 1:
        return np.moveaxis(pixels[:3], 0, -1)
    if file.colorinterp[0].name != "palette":
        raise UserError(
            f"{file.name} has one band and no palette, so no colours: is it a label array already? Masks of numbers are read by"
            " --from-index, of black and white by --from-index --foreground 255."
        )
    colours = file.colormap(1)
    return np.array([colours.get(i, (0, 0, 0, 0))[:3] for i in range(256)], np.uint8)[pixels[0]]


def write(path, array, *, tags=None, **about) -> None:
    """Write height x width, or bands x height x width, to a GeoTIFF, PNG or JPEG, as the suffix says.

    tags: text for the file's metadata. about: crs, transform, nodata, colours, as in `create`.
    """
    array = array[None] if array.ndim == 2 else array
    with create(path, array.shape, array.dtype, **about) as file:
        file.write(array)
        file.update_tags(**(tags or {}))


def create(path, shape, dtype, *, crs=None, transform=None, nodata=None, colours=None, alpha=False, all_cores=False):
    """A raster open for writing, of shape bands x height x width; use it in a `with`.

    crs, transform: the georeference (GeoTIFF alone keeps it). colours: {value: (r, g, b)}, the colour table of one uint8
    band. alpha: whether the last of four bands says how opaque the others are. all_cores: compress on all of them; never in a
    process that was forked, as the threads of GDAL are not there.
    """
    path = Path(path)
    bands, height, width = shape
    profile = {"driver": driver(path), "count": bands, "height": height, "width": width, "dtype": np.dtype(dtype).name}
    if profile["driver"] == "GTiff":
        profile |= {"crs": crs, "transform": transform, "nodata": nodata, "compress": "deflate", "BIGTIFF": "IF_SAFER"}
        profile |= _ALL_CORES if all_cores else {}
        profile |= {"predictor": 3} if np.dtype(dtype).kind == "f" else {}
        profile |= {"photometric": "rgb"} if bands == 3 + alpha and dtype == np.uint8 else {}
        profile |= {"alpha": "yes"} if alpha else {}
        profile |= {"tiled": True, "blockxsize": 256, "blockysize": 256} if min(height, width) >= 256 else {}
    elif profile["driver"] == "JPEG":
        profile |= {"quality": 95}
    file = rasterio.open(path, "w", **profile)
    if colours is not None:
        every = dict.fromkeys(range(256), (0, 0, 0)) if profile["driver"] == "PNG" else {}  # 255 must have a colour there too
        file.write_colormap(1, every | dict(colours))
    return file


class BlockWriter:
    """Writes an open raster, that comes piece by piece, in whole rows of its blocks, so that each is compressed just once.

    Pieces (bands x h x w) come from top to bottom, at one column until that is done. `flush` writes what is left; `fault`
    says, once the file is closed, whether all of it is there.
    """

    def __init__(self, file: rasterio.io.DatasetWriter):
        self.file, self.sum = file, 0
        self._block = file.block_shapes[0][0]
        self._parts: list[np.ndarray] = []
        self._row = self._col = 0  # where the parts begin

    def add(self, window: Window, pixels: np.ndarray) -> None:
        """Take the pixels of a window, and write what is complete."""
        end = self._row + sum(part.shape[1] for part in self._parts)
        if (window.row, window.col) != (end, self._col):
            self.flush()
            self._row, self._col = window.row, window.col
        self._parts.append(pixels)
        end = window.row + window.height
        complete = end // self._block * self._block - self._row
        if complete > 0:
            pixels = np.concatenate(self._parts, 1)
            self._write(pixels[:, :complete])
            self._parts = [pixels[:, complete:].copy()] if complete < pixels.shape[1] else []

    def flush(self) -> None:
        """Write what has been taken so far."""
        if self._parts:
            self._write(np.concatenate(self._parts, 1))
            self._parts = []

    def _write(self, pixels: np.ndarray) -> None:
        self.file.write(pixels, window=RasterWindow(self._col, self._row, pixels.shape[2], pixels.shape[1]))
        self._row += pixels.shape[1]
        self.sum += _bits(pixels)

    def fault(self, path: str | Path) -> str | None:
        """What keeps the file that was written, or one with the same pixels, from being read back as it should, or None.

        Where the disk is full, GDAL may say so on the screen alone, and leave a file that breaks off or has holes.
        """
        found = []
        fault = read_fault(path, lambda block: found.append(_bits(block)))
        return fault or (None if sum(found) == self.sum else f"{path} does not hold what was written.")


def _bits(pixels: np.ndarray) -> int:
    """The sum of pixels as whole numbers, whatever their bits mean."""
    return int(np.ascontiguousarray(pixels).view(f"u{pixels.dtype.itemsize}").sum(dtype=np.uint64))


def cloud_optimised(path: Path, resampling: str) -> None:
    """Make a GeoTIFF a Cloud Optimized one, with overviews (by "nearest", "mode" or "average") for a quick look from afar."""
    copy = path.with_name(f"{path.stem}.cog.tif")
    options = {
        "BIGTIFF": "IF_SAFER",
        "OVERVIEW_RESAMPLING": resampling,
        "PREDICTOR": "YES",
        "COMPRESS": "DEFLATE",
        **_ALL_CORES,
    }
    rasterio.shutil.copy(path, copy, driver="COG", **options)
    copy.replace(path)


def write_categories(path: Path, names: Sequence[str]) -> None:
    """Say what the values 0, 1, 2 ... of a label file mean, where GDAL and QGIS look for it: in FILE.aux.xml beside it."""
    root = ElementTree.Element("PAMDataset")
    categories = ElementTree.SubElement(ElementTree.SubElement(root, "PAMRasterBand", band="1"), "CategoryNames")
    for name in names:
        ElementTree.SubElement(categories, "Category").text = name
    ElementTree.indent(root)
    Path(f"{path}.aux.xml").write_text(ElementTree.tostring(root, "unicode") + "\n", encoding="utf-8")


def driver(path: str | Path) -> str:
    """The GDAL driver that writes files of this suffix."""
    suffix = Path(path).suffix.lower()
    if suffix not in _DRIVERS:
        raise UserError(f"{path}: files are written as {', '.join(_DRIVERS)}, not as '{suffix}'.")
    return _DRIVERS[suffix]


def read_fault(path: str | Path, check: Callable[[np.ndarray], None] | None = None) -> str | None:
    """Read a whole raster, block by block, and say in a sentence what is wrong with it, or None.

    A truncated file shows only when all of it is read. check: called with each block (bands x h x w); it raises UserError
    where the content is wrong.
    """
    try:
        with _open(path) as file:
            for _, area in file.block_windows(1):
                block = read_window(file, Window(area.row_off, area.col_off, area.height, area.width))
                if check:
                    check(block)
    except UserError as error:
        return str(error) if str(path) in str(error) else f"{path}: {error}"
    return None


def is_remote(path: str | Path) -> bool:
    """Whether GDAL is to fetch a file itself: an address (https://, s3://) or one of its virtual file systems (/vsicurl/).

    Such a name is text: a Path would make one slash of two.
    """
    return "://" in str(path) or str(path).startswith("/vsi")


def _open(path: str | Path) -> rasterio.DatasetReader:
    if not is_remote(path) and not Path(path).exists():
        raise UserError(f"{path} does not exist.")
    try:
        return rasterio.open(path)
    except RasterioError as error:
        raise UserError(f"{path} cannot be read as a raster ({_reason(error)}).") from None


def _reason(error: Exception) -> str:
    return str(error.__cause__ or error).strip().rstrip(".").replace("\n", " ")

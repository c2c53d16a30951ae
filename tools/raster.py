"""The one reader and writer of rasters: GeoTIFF, PNG, JPEG and whatever else GDAL opens, through rasterio."""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window as RasterWindow

from tools.errors import UserError
from tools.windows import Window

warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)  # a PNG without a place on Earth is no fault here

# A JPEG that breaks off is only a warning to GDAL, and the missing part comes out grey: make it an error.
os.environ.setdefault("GDAL_ERROR_ON_LIBJPEG_WARNING", "YES")
os.environ.setdefault("GDAL_PNG_WHOLE_IMAGE_OPTIM", "NO")  # GDAL's short cut does not see that a PNG breaks off
os.environ.setdefault("GDAL_CACHEMAX", "256")  # MB in each process, not 5 % of the machine's memory
os.environ.setdefault("GDAL_PAM_ENABLED", "NO")  # no .aux.xml files beside PNGs
_DRIVERS = {".tif": "GTiff", ".tiff": "GTiff", ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
SUFFIXES = (*_DRIVERS, ".vrt", ".jp2", ".img")  # what counts as a raster when a folder is given


@dataclass(frozen=True)
class Raster:
    """What a file says of itself: its size in pixels, bands, pixel type and place on Earth (crs and transform, or None)."""

    path: Path
    height: int
    width: int
    bands: int
    dtype: str
    crs: Any = None
    transform: Any = None
    nodata: float | None = None

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
            file.crs, file.transform if placed else None, file.nodata,
        )  # fmt: skip


def read(path: str | Path, window: Window | None = None) -> np.ndarray:
    """The pixels of a raster, or of one window of it: bands x height x width, in the file's own pixel type."""
    with _open(path) as file:
        return read_window(file, window)


def read_window(file: rasterio.DatasetReader, window: Window | None = None) -> np.ndarray:
    """The same from a raster that is open already."""
    pixels = _read(file, window, file.read)
    if pixels.dtype.kind == "f" and file.nodata is not None:
        pixels[pixels == file.nodata] = np.nan
    return pixels


def read_valid(file: rasterio.DatasetReader, window: Window | None = None) -> np.ndarray:
    """Where an open raster, or one window of it, has data in all of its bands: height x width, bool.

    Not valid is what the file declares as nodata or masks out, and what is not a finite number.
    """
    valid = _read(file, window, file.read_masks).all(0)
    if file.dtypes[0].startswith("float"):
        valid &= np.isfinite(_read(file, window, file.read)).all(0)
    return valid


def may_lack_data(file: rasterio.DatasetReader) -> bool:
    """Whether an open raster can have pixels without data at all; bytes of which none is declared nodata cannot."""
    return file.dtypes[0].startswith("float") or any(
        "all_valid" not in [f.name for f in flags] for flags in file.mask_flag_enums
    )


def _read(file: rasterio.DatasetReader, window: Window | None, read: Callable) -> np.ndarray:
    area = window and RasterWindow(window.col, window.row, window.width, window.height)
    try:
        return read(window=area)
    except RasterioError as error:
        raise UserError(f"{file.name} breaks off or is damaged ({_reason(error)}): fetch it again.") from None


def read_small(path: str | Path, most: int, bands: int | None = None) -> np.ndarray:
    """A raster reduced so that no side is longer than `most` pixels (nearest neighbour): bands x height x width."""
    with _open(path) as file:
        scale = min(1, most / max(file.shape))
        shape = [max(1, round(n * scale)) for n in file.shape]
        chosen = list(range(1, min(bands or file.count, file.count) + 1))
        return _read(file, None, lambda window: file.read(chosen, out_shape=(len(chosen), *shape)))


def write_rows(file: rasterio.io.DatasetWriter, row: int, pixels: np.ndarray) -> None:
    """Write whole rows, bands x rows x width, from `row` on, to a raster open for writing."""
    file.write(pixels, window=RasterWindow(0, row, pixels.shape[2], pixels.shape[1]))


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


def read_colours(path: str | Path) -> np.ndarray:
    """The colours that a picture shows: height x width x 3, uint8. Palettes are looked up, an alpha band is dropped."""
    with _open(path) as file:
        return read_colours_window(file)


def read_colours_window(file: rasterio.DatasetReader, window: Window | None = None) -> np.ndarray:
    """The same of one window of a raster that is open already."""
    if file.dtypes[0] != "uint8" or file.count not in (1, 3, 4):
        raise UserError(f"{file.name} has {file.count} band(s) of {file.dtypes[0]}: a colour picture has 8-bit R, G, B.")
    pixels = read_window(file, window)
    if file.count > 1:
        return np.moveaxis(pixels[:3], 0, -1)
    if file.colorinterp[0].name != "palette":
        raise UserError(f"{file.name} has one band and no palette, so no colours: is it a label array already?")
    colours = file.colormap(1)
    return np.array([colours.get(i, (0, 0, 0, 0))[:3] for i in range(256)], np.uint8)[pixels[0]]


def write(path, array, *, crs=None, transform=None, nodata=None, colours=None, tags=None) -> None:
    """Write height x width, or bands x height x width, to a GeoTIFF, PNG or JPEG, as the suffix says.

    crs, transform: the georeference (GeoTIFF alone keeps it). colours: {value: (r, g, b)}, the colour table of one uint8
    band. tags: text for the file's metadata.
    """
    array = array[None] if array.ndim == 2 else array
    with create(path, array.shape, array.dtype, crs=crs, transform=transform, nodata=nodata, colours=colours) as file:
        file.write(array)
        file.update_tags(**(tags or {}))


def create(path, shape, dtype, *, crs=None, transform=None, nodata=None, colours=None) -> rasterio.io.DatasetWriter:
    """A raster open for writing, of shape bands x height x width; use it in a `with`. Arguments as in `write`."""
    path = Path(path)
    bands, height, width = shape
    profile = {"driver": driver(path), "count": bands, "height": height, "width": width, "dtype": np.dtype(dtype).name}
    if profile["driver"] == "GTiff":
        profile |= {"crs": crs, "transform": transform, "nodata": nodata, "compress": "deflate", "BIGTIFF": "IF_SAFER"}
        profile |= {"photometric": "rgb"} if bands == 3 and dtype == np.uint8 else {}
        profile |= {"tiled": True, "blockxsize": 256, "blockysize": 256} if min(height, width) >= 256 else {}
    elif profile["driver"] == "JPEG":
        profile |= {"quality": 95}
    file = rasterio.open(path, "w", **profile)
    if colours is not None:
        every = dict.fromkeys(range(256), (0, 0, 0)) if profile["driver"] == "PNG" else {}  # 255 must have a colour there too
        file.write_colormap(1, every | dict(colours))
    return file


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


def _open(path: str | Path) -> rasterio.DatasetReader:
    if "://" not in str(path) and not str(path).startswith("/vsi") and not Path(path).exists():
        raise UserError(f"{path} does not exist.")
    try:
        return rasterio.open(path)
    except RasterioError as error:
        raise UserError(f"{path} cannot be read as a raster ({_reason(error)}).") from None


def _reason(error: Exception) -> str:
    return str(error.__cause__ or error).strip().rstrip(".").replace("\n", " ")


def find(paths: list[str | Path]) -> list[Path]:
    """The rasters that a list of files and folders names, sorted within each folder. Raises UserError where one is empty."""
    files = []
    for path in map(Path, paths):
        inside = sorted(p for p in path.glob("*") if p.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
        if not inside:
            raise UserError(f"the folder {path} holds no raster ({', '.join(SUFFIXES)}).")
        if not inside[0].exists():
            raise UserError(f"{inside[0]} does not exist.")
        files += inside
    return files

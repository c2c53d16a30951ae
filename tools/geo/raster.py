"""The one reader and writer of rasters: GeoTIFF, PNG, JPEG and whatever else GDAL opens, through rasterio."""

import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.errors import NodataShadowWarning, NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window as RasterWindow

from tools.base.errors import UserError
from tools.geo import views
from tools.geo.gaps import Gaps, by_value, has_mask, nodata_values
from tools.geo.views import COLOURS, IMAGE, NUMBERS, Resized, Size, at_size, new_shape
from tools.geo.windows import Window

warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)  # a PNG without a place on Earth is no fault here
warnings.filterwarnings("ignore", category=NodataShadowWarning)  # nor are both nodata and alpha, of which nodata counts (NAIP)

# A JPEG that breaks off is only a warning to GDAL, and the missing part comes out grey: make it an error.
os.environ.setdefault("GDAL_ERROR_ON_LIBJPEG_WARNING", "YES")
os.environ.setdefault("GDAL_PNG_WHOLE_IMAGE_OPTIM", "NO")  # GDAL's short cut does not see that a PNG breaks off
os.environ.setdefault("GDAL_CACHEMAX", "256")  # MB in each process, not 5 % of the machine's memory
for _name, _value in (("MAX_RETRY", "3"), ("RETRY_DELAY", "1"), ("CONNECTTIMEOUT", "20"), ("TIMEOUT", "120")):
    os.environ.setdefault(f"GDAL_HTTP_{_name}", _value)  # GDAL itself asks again where a server is busy (429, 5xx)
PAUSES = (1, 5)  # seconds before what is remote is read again, if a connection was lost
_LONGEST = 300  # characters of what GDAL says; servers send whole pages
_SERVICES = ("WMS", "WMTS")  # of tiles and maps, which small XML files describe
_DRIVERS = {".tif": "GTiff", ".tiff": "GTiff", ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
_ALL_CORES = {"num_threads": "all_cpus"}  # GDAL compresses in threads of its own
SUFFIXES = (*_DRIVERS, ".vrt", ".jp2", ".img")  # what counts as a raster when a folder is given
_AS_STORED = ("EXIF_", "NODATA_VALUES", "JPEG_")  # tags on the pixels of a file itself, which no map of it may carry on
_CLOSE_ENOUGH = 0.5  # pixels that control points may be off a plane


@dataclass(frozen=True)
class Raster:
    """What a file says of itself: its size in pixels, bands, pixel type, place on Earth (crs and transform, or None), tags.

    gcps, rpcs: control points (with the CRS that they are in) or a camera model, where these alone place the pixels. turned:
    whether the pixels are turned or mirrored, as EXIF says.
    """

    path: Path
    height: int
    width: int
    bands: int
    dtype: str
    crs: Any = None
    transform: Any = None
    nodata: float | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    gcps: tuple = ()
    rpcs: Any = None
    turned: bool = False

    @property
    def place(self) -> dict[str, Any]:
        """The georeference, as keyword arguments of `write`."""
        others = {"gcps": self.gcps} if self.gcps else {"rpcs": self.rpcs} if self.rpcs else {}
        return {"crs": self.crs, "transform": self.transform, **others}

    @property
    def is_placed(self) -> bool:
        """Whether something says where on Earth the pixels lie."""
        return bool(self.crs or self.gcps or self.rpcs)


def inspect(path: str | Path, role: str = IMAGE) -> Raster:
    """What the header of a raster says, as `open_image` gives it (`role`: see views.plain).

    Raises UserError where the file is missing or no raster.
    """
    if isinstance(path, Resized):
        return _resized(inspect(path.path, role), path.size)
    with _open(path) as file:
        crs, transform, gcps, rpcs = _place(file)
        tags = {name: text for name, text in file.tags().items() if not name.startswith(_AS_STORED)}
        turned = views.orientation(file) != 1
        view = views.plain(file, role)
        size = Path(path), view.height, view.width, view.count, view.dtypes[0]
        return Raster(*size, crs, transform, view.nodata, tags, gcps, rpcs, turned)


def _resized(about: Raster, size: Size) -> Raster:
    """The same raster at another size, on the same place. A camera model does not fit other pixels and is left out."""
    height, width = new_shape((about.height, about.width), size)
    down, across = about.height / height, about.width / width
    points = [GroundControlPoint(p.row / down, p.col / across, p.x, p.y, p.z, p.id, p.info) for p in about.gcps]
    transform = about.transform and about.transform * Affine.scale(across, down)
    return replace(about, height=height, width=width, transform=transform, gcps=tuple(points), rpcs=None)


def _place(file: rasterio.DatasetReader) -> tuple:
    """CRS, transform, control points (with their CRS) and camera model of a file, None and () for what counts for nothing.

    Points that lie on a plane, to half a pixel, are as good as a transform. A transform that is no number, or leaves no area,
    is none; nor is the identity, which rasterio gives where a file has none.
    """
    transform, (points, crs) = file.transform, file.gcps
    if np.isfinite(transform[:6]).all() and transform.determinant and not transform.is_identity:
        return file.crs, transform, (), None
    if points and crs:
        fitted = _fit(points)
        return (crs, fitted, (), None) if fitted else (crs, None, tuple(points), None)
    return (None, None, (), file.rpcs) if file.rpcs else (file.crs, None, (), None)


def _fit(points: Sequence) -> Affine | None:
    """The transform that control points agree on, or None where they are too few, or off it by more than half a pixel."""
    if len(points) < 3:
        return None
    pixels = np.array([(p.col, p.row, 1) for p in points])
    world = np.array([(p.x, p.y) for p in points])
    middle = world.mean(0)  # numbers stay small
    found, _, rank, _ = np.linalg.lstsq(pixels, world - middle, rcond=None)
    (a, d), (b, e), (c, f) = found.tolist()
    if rank < 3 or not a * e - b * d:
        return None
    fitted = Affine(a, b, c + middle[0], d, e, f + middle[1])
    off = [np.subtract(~fitted * (p.x, p.y), (p.col, p.row)) for p in points]
    return fitted if np.abs(off).max() <= _CLOSE_ENOUGH else None


def read(path: str | Path, window: Window | None = None) -> np.ndarray:
    """The pixels of a raster, or of one window of it: bands x height x width, in the file's own pixel type, as they stand."""
    with _open(path) as file:
        return read_window(file, window)


def read_window(file: rasterio.DatasetReader, window: Window | None = None) -> np.ndarray:
    """The same from a raster that is open already; floats are NaN where there is no data."""
    pixels = read_part(file, window, file.read)
    if pixels.dtype.kind == "f" and (empty := by_value(file, pixels)) is not None:
        pixels[:, empty] = np.nan
    return pixels


def read_valid(file: rasterio.DatasetReader, window: Window | None = None) -> np.ndarray:
    """Where an open raster, or one window of it, has data: height x width, bool. See tools/geo/gaps.py."""
    _, empty = read_with_gaps(file, window)
    return np.ones(_shape(file, window), bool) if empty is None else ~empty


def read_with_gaps(file: rasterio.DatasetReader, window: Window | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    """The pixels as `read_window` gives them, and where they are not valid (h x w, bool), None where all of them are.

    Not valid is what the file declares as nodata or masks out, and what is not a finite number.
    """
    pixels = read_part(file, window, file.read)
    found = [by_value(file, pixels)]
    if has_mask(file):
        found.append(read_part(file, window, partial(file.read_masks, 1)) == 0)
    if pixels.dtype.kind == "f":
        found.append(~np.isfinite(pixels).all(0))
        if found[0] is not None:
            pixels[:, found[0]] = np.nan
    found = [empty for empty in found if empty is not None and empty.any()]
    return pixels, np.logical_or.reduce(found) if found else None


def _shape(file: rasterio.DatasetReader, window: Window | None) -> tuple[int, int]:
    return (window.height, window.width) if window else file.shape


def fill_gaps(pixels: np.ndarray, empty: np.ndarray | None, values: Sequence[float]) -> np.ndarray:
    """Pixels (bands x h x w) whose gaps (h x w, bool) hold one value per band, rounded to the pixel type, and NaN in floats.

    So no net, in training or later, sees what a file happens to hold where it has no data.
    """
    if empty is None:
        return pixels
    if pixels.dtype.kind == "f":
        return np.where(empty, pixels.dtype.type(np.nan), pixels)
    limits = np.iinfo(pixels.dtype)
    filling = np.clip(np.rint(values), limits.min, limits.max).astype(pixels.dtype)
    return np.where(empty, filling[:, None, None], pixels)


def may_lack_data(file: rasterio.DatasetReader) -> bool:
    """Whether an open raster can have pixels without data at all; bytes of which none is declared nodata cannot."""
    return file.dtypes[0].startswith("float") or has_mask(file) or any(value is not None for value in nodata_values(file))


def read_part(file: rasterio.DatasetReader, window: Window | None, read: Callable) -> np.ndarray:
    """`read(window=...)` of a window, such as `file.read_masks`. What is remote is tried again a few times.

    Raises UserError where the open raster is damaged there, or the connection is lost for good.
    """
    area = window and RasterWindow(window.col, window.row, window.width, window.height)
    pauses = iter(PAUSES)
    while True:
        try:
            return read(window=area)
        except RasterioError as error:
            remote = _comes_from_elsewhere(file)
            pause = next(pauses, None) if remote else None
            if pause is None:
                raise UserError(f"{views.said_name(file)} {_what_failed(remote, _reason(error))}.") from None
            time.sleep(pause)


def _what_failed(remote: bool, reason: str) -> str:
    """What is wrong with a raster that opens but cannot be read, and the remedy."""
    if remote:
        return f"could not be read in {len(PAUSES) + 1} tries ({reason}): see whether the server answers"
    if "ecursi" in reason or "DATASET_POOL_SIZE" in reason:  # what GDAL advises then does not help
        return "is made of itself: let it name the files that hold the pixels"
    if "No such file" in reason or "does not exist" in reason:
        return f"shows a file that is not there ({reason}): put it there, or correct its name"
    return f"breaks off or is damaged ({reason}): fetch it again"


def _comes_from_elsewhere(file: rasterio.DatasetReader) -> bool:
    """Whether an open raster, or what a view of it in memory shows, is fetched over a network."""
    names = [views.said_name(file), *getattr(file, "files", [])]
    return getattr(file, "driver", "") in _SERVICES or any(is_remote(n) and not n.startswith("/vsimem") for n in names)


def read_small(
    path: str | Path, most: int, bands: int | None = None, window: Window | None = None, role: str = IMAGE
) -> np.ndarray:
    """A raster, or a window of it, reduced so that no side is longer than `most` pixels (nearest neighbour): bands x h x w.

    role: see views.plain. Class numbers are never read from overviews, which may hold means of them.
    """
    options = {"OVERVIEW_LEVEL": "NONE"} if role == NUMBERS else {}
    with _open(path, role, **options) as file:
        whole = file.shape if window is None else window[2:]
        scale = min(1, most / max(whole))
        shape = [max(1, round(n * scale)) for n in whole]
        chosen = list(range(1, min(bands or file.count, file.count) + 1))
        return read_part(file, window, lambda window: file.read(chosen, window=window, out_shape=(len(chosen), *shape)))


def write_rows(file: rasterio.io.DatasetWriter, row: int, pixels: np.ndarray, col: int = 0) -> None:
    """Write pixels, bands x rows x columns, from `row` and `col` on, to a raster open for writing."""
    file.write(pixels, window=RasterWindow(col, row, pixels.shape[2], pixels.shape[1]))


def open_raster(path: str | Path) -> rasterio.DatasetReader:
    """A raster open for reading by `read_window`, as it stands; use it in a `with`."""
    return _open(path)


def open_image(path: str | Path, any_band: bool = False) -> rasterio.DatasetReader:
    """The same of an image or heights, with plain bands and a mask, whatever the file says of them (see views.plain).

    any_band: whether a pixel is empty if one band has its value for no data, even one that pictures hold too (gaps.py).
    """
    file = _open(path, IMAGE, any_band)
    file.any_band = any_band
    return file


def open_colours(path: str | Path) -> rasterio.DatasetReader:
    """The same of a colour mask."""
    return _open(path, COLOURS)


def open_numbers(path: str | Path) -> rasterio.DatasetReader:
    """The same of labels, or a mask of class numbers."""
    return _open(path, NUMBERS)


def read_labels(path: str | Path, no_label: int = 255) -> np.ndarray:
    """A label array: height x width, uint8. Raises UserError where the file has several bands or larger numbers."""
    if fault := label_fault(path):
        raise UserError(fault)
    with open_numbers(path) as file:
        return read_labels_window(file, None, no_label)


def read_labels_window(file: rasterio.DatasetReader, window: Window | None, no_label: int) -> np.ndarray:
    """The labels (h x w, uint8) in a window of a file that `open_numbers` opened; `no_label` where it declares no data."""
    labels, empty = read_with_gaps(file, window)
    if empty is not None:
        labels[:, empty] = no_label
    return labels[0]


def label_fault(path: str | Path, classes: int = 0) -> str | None:
    """What keeps a file from being a label array, in a sentence, or None: it must have one band of bytes.

    classes: how many there are; none of their numbers may be declared to mean no data.
    """
    try:
        about = inspect(path, NUMBERS)
    except UserError as error:
        return str(error)
    if about.bands == 1 and about.dtype == "uint8":
        if about.nodata is None or about.nodata not in range(classes):
            return None
        return (
            f"{path} declares {about.nodata:g} to mean no data, and {about.nodata:g} is a class: take that back (gdal_edit.py"
            " -unsetnodata) where it is one, or let convert_gt.py --from-index make labels, where it is not scored."
        )
    way = "class numbers are made into labels by convert_gt.py --from-index" if about.bands == 1 else (
        "colour ground truth is made into labels by convert_gt.py --from-color"
    )  # fmt: skip
    return f"{path} holds {about.bands} band(s) of {about.dtype}, not one band of uint8 labels: {way}."


def read_colours_window(file: rasterio.DatasetReader, window: Window | None = None) -> np.ndarray:
    """The colours that a picture, opened by `open_colours`, shows in a window: height x width x 3, uint8."""
    name = views.said_name(file)
    if file.dtypes[0] != "uint8" or file.count not in (1, 3):
        raise UserError(f"{name} has {file.count} band(s) of {file.dtypes[0]}: a colour picture has 8-bit R, G, B.")
    if file.count == 1:
        raise UserError(
            f"{name} has one band and no palette, so no colours: is it a label array already? Masks of numbers are read by"
            " --from-index, of black and white by --from-index --foreground 255."
        )
    return np.moveaxis(read_window(file, window), 0, -1)


def write(path, array, *, tags=None, **about) -> None:
    """Write height x width, or bands x height x width, to a GeoTIFF, PNG or JPEG, as the suffix says.

    tags: text for the file's metadata. about: crs, transform, nodata, colours, as in `create`.
    """
    array = array[None] if array.ndim == 2 else array
    with create(path, array.shape, array.dtype, **about) as file:
        file.write(array)
        if file.driver == "GTiff":  # others would put them into a file beside
            file.update_tags(**(tags or {}))


def create(
    path,
    shape,
    dtype,
    *,
    crs=None,
    transform=None,
    gcps=None,
    rpcs=None,
    nodata=None,
    colours=None,
    alpha=False,
    all_cores=False,
):
    """A raster open for writing, of shape bands x height x width; use it in a `with`.

    crs, transform, gcps, rpcs: the georeference (PNG keeps it in FILE.aux.xml beside it, JPEG not at all). colours: {value:
    (r, g, b)}, the colour table of one uint8 band. alpha: whether the last of four bands says how opaque the others are.
    all_cores: compress on all of them; never in a process that was forked, as the threads of GDAL are not there.
    """
    path = Path(path)
    bands, height, width = shape
    profile = {"driver": driver(path), "count": bands, "height": height, "width": width, "dtype": np.dtype(dtype).name}
    if profile["driver"] != "JPEG":
        profile |= {"crs": crs, "transform": transform}
        profile |= {"gcps": list(gcps)} if gcps else {"rpcs": rpcs} if rpcs else {}
    if profile["driver"] == "GTiff":
        profile |= {"nodata": nodata} | _layout(shape, np.dtype(dtype), alpha) | (_ALL_CORES if all_cores else {})
    elif profile["driver"] == "JPEG":
        profile |= {"quality": 95}
    refuse_bad_name(path)
    file = rasterio.open(path, "w", **profile)
    if colours is not None:
        every = dict.fromkeys(range(256), (0, 0, 0)) if profile["driver"] == "PNG" else {}  # 255 must have a colour there too
        file.write_colormap(1, every | dict(colours))
    return file


def _layout(shape: tuple[int, int, int], dtype: np.dtype, alpha: bool) -> dict[str, Any]:
    """How a GeoTIFF of this shape (bands x height x width) lies in its file: compressed, in blocks, with what its bands are."""
    bands, *sides = shape
    layout = {"compress": "deflate", "BIGTIFF": "IF_SAFER"}
    layout |= {"predictor": 3} if dtype.kind == "f" else {}
    layout |= {"photometric": "rgb"} if bands == 3 + alpha and dtype == np.uint8 else {}
    layout |= {"alpha": "yes"} if alpha else {}
    return layout | ({"tiled": True, "blockxsize": 256, "blockysize": 256} if min(sides) >= 256 else {})


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


def as_png(path: Path, png: Path) -> None:
    """A raster of bytes as a PNG, too; if it lies somewhere, with a world file (.pgw), and its CRS where GDAL looks for it."""
    about = inspect(path)
    with rasterio.Env(GDAL_PAM_ENABLED=about.is_placed):
        rasterio.shutil.copy(path, png, driver="PNG")
    if about.transform:
        a, b, _, d, e, _ = about.transform[:6]
        lines = (a, d, b, e, *(about.transform * (0.5, 0.5)))  # x and y of the middle of the first pixel come last
        png.with_suffix(".pgw").write_text("".join(f"{number!r}\n" for number in lines), encoding="ascii")


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


def read_fault(
    path: str | Path,
    check: Callable[[np.ndarray], None] | None = None,
    role: str | None = None,
    gaps: Gaps | None = None,
    any_band: bool = False,
) -> str | None:
    """Read a whole raster, block by block, and say in a sentence what is wrong with it, or None.

    A truncated file shows only when all of it is read. check: called with the pixels of each block (bands x h x w, or x n
    where some have no data and are left out); it raises UserError where the content is wrong. role: see views.plain; None: as
    the file stands. gaps: to which what it lacks is added. any_band: as in `open_image`.
    """
    try:
        with _open(path, role) as file:
            file.any_band = any_band
            for _, area in file.block_windows(1):
                window = Window(area.row_off, area.col_off, area.height, area.width)
                block, empty = read_with_gaps(file, window) if role else (read_window(file, window), None)
                if gaps is not None:
                    gaps.add(file, block, empty)
                if check:
                    check(block if empty is None else block[:, ~empty])
    except UserError as error:
        return str(error) if str(path) in str(error) else f"{path}: {error}"
    return None


def is_remote(path: str | Path) -> bool:
    """Whether GDAL is to fetch a file itself: an address (https://, s3://) or one of its virtual file systems (/vsicurl/).

    Such a name is text: a Path would make one slash of two.
    """
    return "://" in str(path) or str(path).startswith("/vsi")


def _open(path: str | Path, role: str | None = None, any_band: bool = False, **options) -> rasterio.DatasetReader:
    """role: see views.plain; None: the file as it stands. any_band: as in `open_image`. options: of GDAL's driver."""
    if not is_remote(path) and not Path(path).exists():
        raise UserError(f"{path} does not exist.")
    refuse_bad_name(path)
    try:
        file = rasterio.open(path.path if isinstance(path, Resized) else path, **options)
        file = views.plain(file, role) if role else file
        return at_size(file, path.size, role, any_band) if isinstance(path, Resized) else file
    except RasterioError as error:
        raise UserError(f"{path} cannot be read as a raster ({_reason(error)}).") from None


def refuse_bad_name(path: str | Path) -> None:
    """Raise UserError for a name that GDAL cannot be told, as old archives bring them."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UserError(f"{path} is not written in UTF-8, as GDAL has all names: rename it.") from None


def _reason(error: Exception) -> str:
    return str(error.__cause__ or error).strip().replace("\n", " ")[:_LONGEST].rstrip(". ")

"""One band of a raster on the pixels of an image: as it is where the grids are the same, else resampled, whatever its CRS."""

from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT

from tools.base.errors import UserError
from tools.geo import raster
from tools.geo.raster import Raster
from tools.geo.windows import Window

_SAME_PLANE = CRS.from_epsg(3857)  # stands for the unknown CRS that two rasters without one share


def same_grid(source: Raster, grid: Raster) -> bool:
    """Whether a raster lies on another one's pixels; one without a place on Earth does where the sizes are equal.

    Raises UserError where it does not, and a CRS that resampling needs is missing.
    """
    same_size = (source.height, source.width) == (grid.height, grid.width)
    placed = source.transform is not None and grid.transform is not None
    same_crs = source.crs == grid.crs or source.crs is None or grid.crs is None
    if same_size and (not placed or (same_crs and _meet(source, grid))):
        return True
    if not placed or (source.crs is None) != (grid.crs is None):
        without = source if source.transform is None or (source.crs is None and grid.crs is not None) else grid
        raise UserError(
            f"{source.path} ({source.height}x{source.width}) is not on the grid of {grid.path} ({grid.height}x{grid.width}) and"
            f" cannot be resampled, since {without.path} has no CRS: give it one (gdal_edit.py -a_srs EPSG:...)."
        )
    return False


def _meet(a: Raster, b: Raster) -> bool:
    """Whether the corners of two rasters of one size are within a hundredth of a pixel of each other."""
    to_pixels = ~b.transform * a.transform
    corners = [(0, 0), (a.width, 0), (0, a.height), (a.width, a.height)]
    return all(np.allclose(to_pixels * corner, corner, atol=0.01, rtol=0) for corner in corners)


class Layer:
    """One band of a raster on the pixels of an image; use it in a `with`.

    around: by how many pixels (down, across) a raster that is resampled may be read beyond the image. nodata: a value that
    means no data beside the one that the file declares. `extent` is what can be read.
    """

    def __init__(self, path: Path, band: int, grid: Raster, nodata: float | None = None, around: tuple[int, int] = (0, 0)):
        self.band, self.nodata = band, nodata
        self.resampled = not same_grid(raster.inspect(path), grid)
        down, across = around if self.resampled else (0, 0)
        self.extent = Window(-down, -across, grid.height + 2 * down, grid.width + 2 * across)
        self._stack = ExitStack()
        self._file = self._stack.enter_context(raster.open_image(path))
        if self.resampled:
            self._file = self._stack.enter_context(self._warped(grid))

    def _warped(self, grid: Raster) -> WarpedVRT:
        """The raster resampled to the grid; bilinear, which averages where it is much finer."""
        declared = self._file.nodata if self.nodata is None else self.nodata
        return WarpedVRT(
            self._file, src_crs=self._file.crs or _SAME_PLANE, crs=grid.crs or _SAME_PLANE, resampling=Resampling.bilinear,
            transform=grid.transform * Affine.translation(self.extent.col, self.extent.row),
            height=self.extent.height, width=self.extent.width, src_nodata=declared, nodata=np.nan, dtype="float32",
        )  # fmt: skip

    def __enter__(self) -> "Layer":
        return self

    def __exit__(self, *_) -> None:
        self._stack.close()

    def read(self, window: Window) -> np.ndarray:
        """The values of a window of the image: h x w float32, NaN where there is no data."""
        area = window._replace(row=window.row - self.extent.row, col=window.col - self.extent.col)
        if self.resampled:
            values = raster.read_part(self._file, area, partial(self._file.read, self.band, out_dtype=np.float32))
            without = raster.read_part(self._file, area, partial(self._file.read_masks, self.band)) == 0
        else:  # all bands say together whether a pixel is empty
            pixels, gaps = raster.read_with_gaps(self._file, area)
            values = pixels[self.band - 1].astype(np.float32)
            without = np.zeros(values.shape, bool) if gaps is None else gaps
        if self.nodata is not None:
            without |= values == np.float32(self.nodata)
        values[without | ~np.isfinite(values)] = np.nan
        return values

"""The one rasteriser: shapes of vector files brought onto a raster, picked by where they lie, and drawn on its pixels."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from rasterio import CRS
from rasterio.features import rasterize

from tools.base.errors import UserError
from tools.geo import vectors
from tools.geo.raster import Raster


def check_place(path: Path | str, crs: CRS | None, image: Raster) -> None:
    """Raise UserError where shapes of a file, in a CRS or without one, cannot be brought onto an image."""
    if image.transform is None:
        raise UserError(f"{image.path} has no place on Earth: polygons and lines can be drawn on a georeferenced image only.")
    check_crs(path, crs, image.path, image.crs)


def check_crs(path: Path | str, crs: CRS | None, other_path: Path | str, other: CRS | None) -> None:
    """Raise UserError where one of two files has a CRS and the other has none."""
    if (crs is None) != (other is None):
        bare, placed = (path, other_path) if crs is None else (other_path, path)
        raise UserError(f"{bare} has no CRS, {placed} has {vectors.name(crs or other)}: assign the CRS that it is in.")


def reaching(bounds: np.ndarray, image: Raster) -> np.ndarray:
    """Which rectangles (n x 4: left, bottom, right, top, in the image's CRS) reach into its pixels: n, bool."""
    left, bottom, right, top = np.reshape(bounds, (-1, 4)).T
    cols, rows = ~image.transform * (np.array([left, left, right, right]), np.array([bottom, top, bottom, top]))
    beside = (cols.max(0) <= 0) | (cols.min(0) >= image.width) | (rows.max(0) <= 0) | (rows.min(0) >= image.height)
    return ~beside


def draw(shapes: Iterable[tuple[Any, int]], out: np.ndarray, place: Affine) -> np.ndarray:
    """Write (shape, value) into the pixels of `out` (h x w, integers) whose centres the shape holds, the later ones on top.

    place: what makes columns and rows of `out` into coordinates of the shapes.
    """
    shapes = list(shapes)
    return rasterize(shapes, out=out, transform=place) if shapes else out


def mask(shapes: Sequence[Any], size: tuple[int, int], place: Affine) -> np.ndarray:
    """The pixels (h x w, bool) whose centres lie in any of the shapes."""
    return draw(((shape, 1) for shape in shapes), np.zeros(size, np.uint8), place).astype(bool)

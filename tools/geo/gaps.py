"""Where a raster has no data: which pixels are empty, by the values and the mask that it declares.

A value that pictures also hold (0, 255, 65535) is a brightness in one band and no data in all: such a pixel is empty where
all the bands that declare one have theirs. Any other value (-9999, NaN ...) in one band makes a pixel empty.
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import rasterio
from rasterio.enums import MaskFlags

_BRIGHTNESSES = (0, 255, 65535)


@dataclass
class Gaps:
    """How many of some pixels are empty, and how many of the others have the value for no data in some band, by band."""

    pixels: int = 0
    empty: int = 0
    kept: Counter = field(default_factory=Counter)  # band (from 1) -> pixels

    def __add__(self, other: "Gaps") -> "Gaps":
        return Gaps(self.pixels + other.pixels, self.empty + other.empty, self.kept + other.kept)

    def add(self, file: rasterio.DatasetReader, pixels: np.ndarray, empty: np.ndarray | None) -> None:
        """Count pixels (bands x h x w) of an open raster; empty: which of them are (h x w), None: none."""
        self.pixels += pixels[0].size
        self.empty += 0 if empty is None else int(np.count_nonzero(empty))
        declared = nodata_values(file)
        if len(pixels) > 1 and any(value in _BRIGHTNESSES for value in declared):
            for number, (band, value) in enumerate(zip(pixels, declared, strict=True), 1):
                here = (band == value) & (True if empty is None else ~empty) if value in _BRIGHTNESSES else np.False_
                self.kept += Counter({number: int(np.count_nonzero(here))})

    def describe(self) -> str | None:
        """One sentence, or None where there is nothing to tell."""
        lines = [f"{self.empty:,} of {self.pixels:,} pixels have no data"] if self.empty else []
        if self.kept:
            bands = ", ".join(f"{count:,} in band {band}" for band, count in sorted(self.kept.items()))
            lines.append(f"pixels with the value for no data in some bands alone count as data ({bands})")
        return "; ".join(lines) + "." if lines else None


def nodata_values(file: rasterio.DatasetReader) -> list[float | int | None]:
    """The value that means no data in each band; None where there is none, or the pixel type cannot hold it."""
    flags = file.mask_flag_enums[0]
    if MaskFlags.per_dataset in flags and MaskFlags.nodata in flags:  # one colour, such as PNG's transparent one: a mask
        return [None] * file.count
    return [_held(value, kind) for value, kind in zip(file.nodatavals, file.dtypes, strict=True)]


def _held(value: float | None, dtype: str) -> float | int | None:
    kind = np.dtype(dtype)
    if value is None or kind.kind == "f":
        return value
    if not np.isfinite(value) or value != int(value):
        return None
    return int(value) if np.iinfo(kind).min <= value <= np.iinfo(kind).max else None


def has_mask(file: rasterio.DatasetReader) -> bool:
    """Whether an open raster has a mask for all of its bands."""
    flags = file.mask_flag_enums[0]
    return MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags  # alpha bands are turned into masks by views.py


def by_value(file: rasterio.DatasetReader, pixels: np.ndarray) -> np.ndarray | None:
    """Where pixels (bands x h x w) of an open raster are empty by their values: h x w, bool, or None where none can be."""
    declared = [(band, value) for band, value in zip(pixels, nodata_values(file), strict=True) if value is not None]
    if not declared:
        return None
    bright = [band == value for band, value in declared if value in _BRIGHTNESSES]
    found = [_equal(band, value) for band, value in declared if value not in _BRIGHTNESSES]
    found += [np.logical_and.reduce(bright)] if bright else []
    return np.logical_or.reduce(found)


def _equal(band: np.ndarray, value: float) -> np.ndarray:
    return np.isnan(band) if np.isnan(value) else band == band.dtype.type(value)

"""Where a raster has no data: which pixels are empty, by the values and the mask that it declares.

A value that pictures also hold (0, 255, 65535) is a brightness in one band and no data in all: such a pixel is empty where
all the bands that declare one have theirs. Any other value (-9999, NaN ...) in one band makes a pixel empty, and so does every
value if the config asks for that (EMPTY_IF; `any_band` of the open file).
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import rasterio
from rasterio.enums import MaskFlags

_BRIGHTNESSES = (0, 255, 65535)


@dataclass
class Gaps:
    """How many of some pixels are empty, by band where one is enough, and how many others have a band's value for that."""

    pixels: int = 0
    empty: int = 0
    kept: Counter = field(default_factory=Counter)  # band (from 1) -> pixels that count as data
    gone: Counter = field(default_factory=Counter)  # band -> pixels that are empty by its value alone

    def __add__(self, other: "Gaps") -> "Gaps":
        counts = self.pixels + other.pixels, self.empty + other.empty
        return Gaps(*counts, self.kept + other.kept, self.gone + other.gone)

    def add(self, file: rasterio.DatasetReader, pixels: np.ndarray, empty: np.ndarray | None) -> None:
        """Count pixels (bands x h x w) of an open raster; empty: which of them are (h x w), None: none."""
        self.pixels += pixels[0].size
        self.empty += 0 if empty is None else int(np.count_nonzero(empty))
        declared = nodata_values(file)
        for number, (band, value) in enumerate(zip(pixels, declared, strict=True), 1):
            if len(pixels) > 1 and _is_brightness(file, value):
                here = (band == value) & (True if empty is None else ~empty)
                self.kept += Counter({number: int(np.count_nonzero(here))})
            elif value is not None:
                self.gone += Counter({number: int(np.count_nonzero(_equal(band, value)))})

    def to_dict(self) -> dict[str, int | dict]:
        """For JSON; `Gaps.from_dict` reads it."""
        return {"pixels": self.pixels, "empty": self.empty, "kept": dict(self.kept), "gone": dict(self.gone)}

    @classmethod
    def from_dict(cls, values: dict) -> "Gaps":
        kept, gone = (Counter({int(band): n for band, n in values[name].items()}) for name in ("kept", "gone"))
        return cls(values["pixels"], values["empty"], kept, gone)

    def describe(self) -> str | None:
        """One sentence, or None where there is nothing to tell."""
        by_band = f" ({_by_band(self.gone)})" if len(set(self.gone.values())) > 1 else ""
        lines = [f"{self.empty:,} of {self.pixels:,} pixels have no data{by_band}"] if self.empty else []
        if self.kept:
            lines.append(f"pixels with the value for that in some bands alone count as data ({_by_band(self.kept)})")
        return "; ".join(lines) + "." if lines else None


def _by_band(counts: Counter) -> str:
    return ", ".join(f"{count:,} in band {band}" for band, count in sorted(counts.items()))


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
    bright = [band == value for band, value in declared if _is_brightness(file, value)]
    found = [_equal(band, value) for band, value in declared if not _is_brightness(file, value)]
    found += [np.logical_and.reduce(bright)] if bright else []
    return np.logical_or.reduce(found)


def _is_brightness(file: rasterio.DatasetReader, value: float | None) -> bool:
    return value in _BRIGHTNESSES and not getattr(file, "any_band", False)


def _equal(band: np.ndarray, value: float) -> np.ndarray:
    return np.isnan(band) if np.isnan(value) else band == band.dtype.type(value)

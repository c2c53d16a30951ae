"""Mean, deviation and percentiles of the bands of a dataset, added up piece by piece."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np

from tools.geo import raster
from tools.geo.windows import Window

_SAMPLE = 20_000  # pixels per piece that percentiles are taken from
PERCENTILES = (2, 98)
LEVELS = (0, 0.1, 0.5, 1, 2, 3, 4, 5, 10, 25, 50, 75, 90, 95, 96, 97, 98, 99, 99.5, 99.9, 100)  # that NORMALISATION may ask for


@dataclass(frozen=True)
class Moments:
    """Pixel count, sum and sum of squares per band (float64), and a sample of pixels (bands x n); `+` joins two.

    spacing: how many pixels each one of the sample stands for.
    """

    count: np.ndarray
    total: np.ndarray
    squares: np.ndarray
    sample: np.ndarray
    spacing: float = 1

    @classmethod
    def of(cls, pixels: np.ndarray, gaps: np.ndarray | None = None) -> "Moments":
        """The moments of an image, bands x h x w, over the pixels that are finite in all bands and in no gap (h x w, bool)."""
        bands = pixels.reshape(len(pixels), -1)
        good = np.isfinite(bands).all(0)
        if gaps is not None:
            good &= ~gaps.ravel()
        bands = bands if good.all() else bands[:, good]
        sums = [band.sum(dtype=np.float64) for band in bands]
        squares = [np.square(band, dtype=np.float64).sum() for band in bands]
        every = max(1, bands.shape[1] // _SAMPLE)
        count = np.full(len(bands), bands.shape[1])
        return cls(count, np.array(sums), np.array(squares), bands[:, every // 2 :: every].copy(), every)

    def __add__(self, other: "Moments") -> "Moments":
        spacing = max(self.spacing, other.spacing)  # so that a pixel of a small tile counts no more than one of a large one
        samples = [self._thinned(spacing), other._thinned(spacing)]
        sums = self.count + other.count, self.total + other.total, self.squares + other.squares
        return Moments(*sums, np.concatenate(samples, 1), spacing)

    def _thinned(self, spacing: float) -> np.ndarray:
        """The sample with so many pixels from one to the next, no fewer than it has."""
        ratio = spacing / self.spacing
        return self.sample if ratio == 1 else self.sample[:, np.arange(ratio / 2, self.sample.shape[1], ratio).astype(int)]

    @property
    def mean(self) -> list[float]:
        """Per band."""
        return (self.total / np.maximum(self.count, 1)).tolist()

    @property
    def deviation(self) -> list[float]:
        """Standard deviation per band."""
        variance = self.squares / np.maximum(self.count, 1) - np.square(self.mean)
        return np.sqrt(np.maximum(variance, 0)).tolist()

    def percentiles(self) -> tuple[list[float], list[float]]:
        """The 2nd and the 98th percentile per band, from an evenly spaced sample."""
        if not self.sample.shape[1]:
            return [0.0] * len(self.sample), [1.0] * len(self.sample)
        low, high = np.percentile(self.sample, PERCENTILES, axis=1)
        return low.tolist(), high.tolist()

    def to_dict(self) -> dict[str, list[float]]:
        """mean, deviation, low, high: per band, and a table of percentiles, for details.json."""
        low, high = self.percentiles()
        values = np.percentile(self.sample, LEVELS, axis=1).tolist() if self.sample.shape[1] else [low] * len(LEVELS)
        table = {"levels": LEVELS, "values": values}
        return {"mean": self.mean, "deviation": self.deviation, "low": low, "high": high, "percentiles": table}


def by_modality(found: Iterable[tuple[str, Moments]]) -> dict[str, Moments]:
    """The sum of the moments of all rasters, by modality."""
    moments: dict[str, Moments] = {}
    for modality, more in found:
        moments[modality] = moments[modality] + more if modality in moments else more
    return moments


def measure(path: str | Path, memory: int, any_band: bool = False) -> Moments:
    """The moments of a raster where it has data (any_band: see `raster.open_image`), read in strips of no more than so many
    bytes."""
    with raster.open_image(path, any_band) as file:
        height, width = file.shape
        rows = max(1, memory // (width * file.count * np.dtype(file.dtypes[0]).itemsize))
        strips = (Window(row, 0, min(rows, height - row), width) for row in range(0, height, rows))
        return reduce(add, (Moments.of(*raster.read_with_gaps(file, strip)) for strip in strips))

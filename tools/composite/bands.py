"""The arithmetic of a composite: NDVI, bands stretched to 8 bits, and the range of heights over a whole dataset."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

PLAUSIBLE_METRES = (-1000.0, 10_000.0)  # heights on Earth; what lies outside is a nodata value that nobody declared


def ndvi(infrared: np.ndarray, red: np.ndarray) -> np.ndarray:
    """(IR - R) / (IR + R), float32 from -1 to 1; 0 where IR + R is 0, NaN where either is."""
    total = infrared + red
    zero = total == 0
    return np.clip(np.where(zero, 0, infrared - red) / np.where(zero, 1, total), -1, 1)


def stretch(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values with `low` at 0 and `high` at 255, cut there; NaN stays. A range of no width gives 0."""
    return np.clip((values - low) * (255 / (high - low) if high > low else 0), 0, 255)


def to_bytes(*bands: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bands (h x w, 0 to 255, NaN without data) as n x h x w uint8, and which pixels (h x w) have data in all of them.

    The others are 0 in all bands.
    """
    stack = np.stack(bands)
    known = np.isfinite(stack).all(0)
    return np.rint(np.where(known, stack, 0)).astype(np.uint8), known


@dataclass(frozen=True)
class Heights:
    """The heights of a dataset: lowest, highest, and pixels per centimetre from PLAUSIBLE_METRES[0] up."""

    low: float
    high: float
    counts: np.ndarray

    @classmethod
    def of(cls, heights: np.ndarray) -> "Heights":
        """Of an array in metres, without NaN."""
        if not heights.size:
            return cls(np.inf, -np.inf, np.zeros(0, np.int64))
        low, high = float(heights.min()), float(heights.max())
        if not PLAUSIBLE_METRES[0] <= low <= high <= PLAUSIBLE_METRES[1]:
            return cls(low, high, np.zeros(0, np.int64))
        return cls(low, high, np.bincount(np.rint((heights - PLAUSIBLE_METRES[0]) * 100).astype(np.int64)))

    def __add__(self, other: "Heights") -> "Heights":
        counts = np.zeros(max(len(self.counts), len(other.counts)), np.int64)
        for part in (self.counts, other.counts):
            counts[: len(part)] += part
        return Heights(min(self.low, other.low), max(self.high, other.high), counts)

    def range(self, percentiles: tuple[float, float]) -> tuple[float, float]:
        """The heights at two percentiles, to the centimetre; at 0 and 100 exactly."""
        below = np.cumsum(self.counts)
        low, high = (
            float(np.searchsorted(below, max(below[-1] * p / 100, 1))) / 100 + PLAUSIBLE_METRES[0] for p in percentiles
        )
        return (self.low if percentiles[0] == 0 else low), (self.high if percentiles[1] == 100 else high)


def sum_of(heights: Iterator[Heights]) -> Heights:
    """The heights of all tiles."""
    return sum(heights, Heights.of(np.zeros(0)))

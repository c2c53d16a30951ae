"""Mean and deviation of the bands of a dataset, added up tile by tile."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Moments:
    """Pixel count, sum and sum of squares per band (float64); `+` joins two."""

    count: np.ndarray
    total: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, pixels: np.ndarray) -> "Moments":
        """The moments of an image, bands x h x w; pixels that are not finite do not count."""
        bands = pixels.reshape(len(pixels), -1)
        found = [b[np.isfinite(b)].astype(np.float64) for b in bands]
        return cls(
            np.array([b.size for b in found]), np.array([b.sum() for b in found]), np.array([b @ b for b in found])
        )  # fmt: skip

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.count + other.count, self.total + other.total, self.squares + other.squares)

    @property
    def mean(self) -> list[float]:
        """Per band."""
        return (self.total / np.maximum(self.count, 1)).tolist()

    @property
    def deviation(self) -> list[float]:
        """Standard deviation per band."""
        variance = self.squares / np.maximum(self.count, 1) - np.square(self.mean)
        return np.sqrt(np.maximum(variance, 0)).tolist()

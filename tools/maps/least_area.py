"""The area below which there is no polygon, in square metres or in pixels."""

import re
from dataclasses import dataclass

from tools.base.errors import UserError
from tools.geo.pixel_size import pixel_areas
from tools.geo.raster import Raster


@dataclass(frozen=True)
class LeastArea:
    """The area below which there is no polygon: a number, in square metres or in pixels."""

    value: float
    in_pixels: bool

    @classmethod
    def of(cls, word: str) -> "LeastArea":
        """From a word of the command line: "20" and "20m2" are square metres, "50px" are pixels."""
        found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)(m2|px)?", word)
        if not found:
            raise UserError(f"--polygons {word}: the least area is a number of square metres such as 20, or of pixels: 50px.")
        return cls(float(found[1]), found[2] == "px" or not float(found[1]))

    def pixels(self, about: Raster) -> float:
        """In pixels of a map. Raises UserError where that does not say how large its pixels are."""
        if self.in_pixels:
            return self.value
        areas = pixel_areas(about)
        if areas is None:
            raise UserError(
                f"{about.path} does not say how large a pixel is on the ground: give the least area of polygons in pixels,"
                f" --polygons {self.value:g}px."
            )
        return self.value / float(areas.mean())

    def __str__(self) -> str:
        return f"{self.value:g} {'px' if self.in_pixels else 'm2'}"

"""Areas and lengths of the command line, in metres on the ground or in pixels of a raster."""

import re
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from tools.base.errors import UserError
from tools.geo.pixel_size import pixel_areas, pixel_size
from tools.geo.raster import Raster

_NUMBER = r"(\d+(?:\.\d*)?|\.\d+)"


@dataclass(frozen=True)
class _Measure:
    """A number with a unit, or of pixels. option: the command-line option that gave it, for error texts."""

    value: float
    in_pixels: bool
    option: str

    unit: ClassVar[str]
    wish: ClassVar[str]

    @classmethod
    def of(cls, option: str, word: str) -> "_Measure":
        """From a word of the command line: a number, alone or with its unit, or with px. Raises UserError."""
        found = re.fullmatch(rf"{_NUMBER}({cls.unit}|px)?", word)
        if not found:
            raise UserError(f"{option} {word}: {cls.wish}.")
        return cls(float(found[1]), found[2] == "px" or not float(found[1]), option)

    @classmethod
    def word(cls, option: str):
        """A type for argparse."""
        return partial(cls.of, option)

    def pixels(self, about: Raster) -> float:
        """The measure in pixels of a raster. Raises UserError if the raster does not say how large its pixels are."""
        if self.in_pixels:
            return self.value
        one = self._of_a_pixel(about)
        if one is None:
            raise UserError(
                f"{about.path} does not say how large a pixel is on the ground: give {self.option} in pixels, {self.option}"
                f" {self.value:g}px."
            )
        return self.value / one

    def __str__(self) -> str:
        return f"{self.value:g} {'px' if self.in_pixels else self.unit}"


class Area(_Measure):
    """Square metres ("20", "20m2") or pixels ("50px")."""

    unit = "m2"
    wish = "the area is a number of square metres such as 20, or of pixels: 50px"

    def _of_a_pixel(self, about: Raster) -> float | None:
        areas = pixel_areas(about)
        return None if areas is None else float(areas.mean())


class Length(_Measure):
    """Metres ("0.5", "0.5m") or pixels ("2px")."""

    unit = "m"
    wish = "the length is a number of metres such as 0.5, or of pixels: 2px"

    def _of_a_pixel(self, about: Raster) -> float | None:
        return pixel_size(about) if pixel_areas(about) is not None else None

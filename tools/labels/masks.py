"""Ground truth as delivered, made into labels: colour masks and masks of class numbers, with their faults.

`Colours` and `Numbers` read a mask strip by strip; values that belong to no class are counted and reported in one sentence.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np
import rasterio

from tools.base.errors import UserError
from tools.geo import raster, views
from tools.geo.windows import Window
from tools.labels.palette import UNKNOWN, Colour, Palette, codes_of, colour_of, look_up_table, name_colours

STRIP_PIXELS = 1 << 22  # of a mask that are in memory at once, in each process
_NUMBERS = range(-(1 << 15), 1 << 16)  # that classes may have

Strip = tuple[np.ndarray, np.ndarray, np.ndarray]  # labels (h x w, uint8); where unknown (h x w); what stands there (1-d)


@dataclass(frozen=True)
class Tally:
    """What was found in one mask: its pixels, those of each label, and the unknown ones by their colour or number."""

    pixels: int
    by_label: np.ndarray  # pixels of each label, 256 numbers
    unknown: Counter
    empty: int = 0  # those that the mask says hold nothing: transparent, masked out, nodata
    covered: int = 0  # by polygons
    outside: int = 0  # of the polygons' area, and of all polygons


@dataclass(frozen=True)
class Colours:
    """Reads colour masks.

    labels: the label of each colour. threshold: bands become 0 below it, else 255, before they are matched. nearest: a colour
    takes the closest class colour that is no farther away than this (Euclidean distance in R, G, B).
    """

    labels: Mapping[Colour, int]
    threshold: int | None = None
    nearest: float | None = None
    open = staticmethod(raster.open_colours)

    def read(self, file: rasterio.DatasetReader, window: Window) -> Strip:
        """The labels of a window of a mask."""
        rgb = raster.read_colours_window(file, window)
        if self.threshold is not None:
            rgb = np.where(rgb < self.threshold, 0, 255).astype(np.uint8)
        codes = codes_of(rgb)
        labels = self.labels_of(codes)
        missing = labels == UNKNOWN
        return labels, missing, codes[missing]

    def labels_of(self, codes: np.ndarray) -> np.ndarray:
        """The label of each colour, given as `codes_of` writes it; UNKNOWN where no class has it or is near enough."""
        labels = self._table[codes]
        missing = labels == UNKNOWN
        if self.nearest is not None and missing.any():
            labels[missing] = self._closest(codes[missing])
        return labels

    def fault(self, unknown: Counter, is_jpeg: bool) -> str:
        """A sentence on the colours that no class has, and why they may be there."""
        return f"{name_colours(unknown)} {self._advice(unknown, is_jpeg)}"

    @cached_property
    def _table(self) -> np.ndarray:
        return look_up_table(self.labels)

    def _closest(self, codes: np.ndarray) -> np.ndarray:
        """The label of the class colour next to each colour, UNKNOWN where none is near enough."""
        different, places = np.unique(codes, return_inverse=True)
        distances = _distances(different, list(self.labels))
        labels = np.array(list(self.labels.values()), np.uint8)[distances.argmin(1)]
        labels[distances.min(1) > self.nearest] = UNKNOWN
        return labels[places]

    def _advice(self, unknown: Counter, is_jpeg: bool) -> str:
        if self.nearest is not None:
            return f"They are farther than {self.nearest:g} from all class colours: raise --nearest, or use --unknown ignore."
        if is_jpeg or self._look_like_jpeg(unknown):
            what = "These are artefacts of JPEG" if is_jpeg else "They look like artefacts of JPEG, though the file is none"
            return (
                f"{what}: use --nearest 60 to take the class colour within that distance, --threshold 128 where class"
                " colours are made of 0 and 255, or --unknown ignore."
            )
        if self._lie_between(unknown):
            return (
                "They lie between the colours of two classes, so the mask was resampled with interpolation: make it again by"
                " nearest neighbour, or use --unknown ignore."
            )
        return "Add them to the palette (or SOURCE_CLASSES), or use --unknown ignore."

    def _look_like_jpeg(self, unknown: Counter) -> bool:
        """Whether they are many, and most of their pixels are close to a class colour."""
        codes, pixels = np.array(list(unknown)), np.array(list(unknown.values()))
        near = _distances(codes, list(self.labels)).min(1) < 30
        return len(codes) > 20 and pixels[near].sum() > 0.8 * pixels.sum()

    def _lie_between(self, unknown: Counter) -> bool:
        """Whether two thirds of their pixels have colours on the straight line between two class colours."""
        codes = [code for code, _ in unknown.most_common(200)]
        between = _on_lines(codes, list(self.labels))
        on_line = sum(unknown[code] for code, is_on in zip(codes, between, strict=True) if is_on)
        return between.sum() > 1 and on_line > sum(unknown[code] for code in codes) * 2 / 3


@dataclass(frozen=True)
class Numbers:
    """Reads masks of class numbers, one band of whole numbers. labels: the label of each number."""

    labels: Mapping[int, int]
    open = staticmethod(raster.open_numbers)

    def read(self, file: rasterio.DatasetReader, window: Window) -> Strip:
        """The labels of a window of a mask of whole numbers, whatever its pixel type; NaN is no number."""
        if file.count != 1:
            raise UserError(
                f"{views.said_name(file)} has {file.count} bands of {file.dtypes[0]}, not one band of class numbers: are these"
                " colours, for --from-color?"
            )
        numbers = whole_numbers(raster.read_window(file, window)[0], views.said_name(file))
        labels = self._table[np.clip(numbers, _NUMBERS.start - 1, _NUMBERS.stop) - _NUMBERS.start + 1]
        missing = labels == UNKNOWN
        return labels, missing, numbers[missing]

    def fault(self, unknown: Counter, is_jpeg: bool) -> str:
        """A sentence on the numbers that no class has."""
        most = ", ".join(f"{number} on {count:,} pixels" for number, count in unknown.most_common(6))
        more = f" and {len(unknown) - 6} more" if len(unknown) > 6 else ""
        found = f"{unknown.total():,} pixels have numbers that no class has: {most}{more}. The classes have"
        found += f" {', '.join(map(str, self.labels))}: add the others to SOURCE_CLASSES, or use --unknown ignore"
        if list(unknown) == [-1]:
            return f"{found}: they are not scored then; so they are if CLASS_MAPPING drops a class of the number -1."
        if 0 in self.labels and list(unknown) == [max(self.labels) + 1]:
            return f"{found}; if the masks begin with 1, let SOURCE_CLASSES say so."
        if len(self.labels) == 2 and len(unknown) == 1:
            return f"{found}; or --foreground {next(iter(unknown))}, where that is the second class and all else the first."
        return f"{found}."

    @cached_property
    def _table(self) -> np.ndarray:
        table = np.full(len(_NUMBERS) + 2, UNKNOWN, np.uint8)  # the first and the last one: what is beyond
        for number, label in self.labels.items():
            table[number - _NUMBERS.start + 1] = label
        return table


def whole_numbers(values: np.ndarray, name: str) -> np.ndarray:
    """Class numbers (int64) of a mask, which may come as floats. Raises UserError for fractions: they are no classes."""
    if values.dtype.kind != "f":
        return values.astype(np.int64)
    known = np.isfinite(values)
    numbers = np.where(known, np.clip(values, _NUMBERS.start - 1, _NUMBERS.stop), 0).astype(np.int64)
    odd = known & (numbers != values) & (values > _NUMBERS.start) & (values < _NUMBERS.stop)
    if odd.any():
        raise UserError(
            f"{name} has numbers such as {values[odd][0]:.6g} on {odd.sum():,} pixels, which are not whole, so no classes: was"
            " it resampled with interpolation, or is it no mask?"
        )
    return numbers


class NoClassError(UserError):
    """Values in masks that belong to no class: pixels by colour or number. `+` adds those of two masks."""

    def __init__(self, reader: Colours | Numbers, unknown: Counter, is_jpeg: bool):
        super().__init__(reader.fault(unknown, is_jpeg))
        # A copy without its look-up table of 16 MB, since this goes from one process to another.
        self.reader, self.unknown, self.is_jpeg = replace(reader), unknown, is_jpeg

    def __reduce__(self):
        return NoClassError, (self.reader, self.unknown, self.is_jpeg)

    def __add__(self, other: "NoClassError") -> "NoClassError":
        return NoClassError(self.reader, self.unknown + other.unknown, self.is_jpeg or other.is_jpeg)


def convert(reader: Colours | Numbers, palette: Palette, others: int | None, source: Path, target: Path) -> Tally:
    """Write the labels of one mask, strip by strip.

    others: the label of pixels that are of no class; None: they are an error (NoClassError) that names them.
    """
    unknown, by_label, gone = Counter(), np.zeros(256, np.int64), 0
    with reader.open(source) as file:
        place = raster.inspect(source, raster.NUMBERS).place
        with raster.create(target, (1, *file.shape), np.uint8, **place, colours=palette.colours) as out:
            for strip in strips(*file.shape):
                labels, missing, found = reader.read(file, strip)
                empty = ~raster.read_valid(file, strip)
                unknown.update(_counts(found[~empty[missing]]))
                labels[missing] = others or 0
                labels[empty] = palette.no_label
                by_label += np.bincount(labels.ravel(), minlength=256)
                gone += np.count_nonzero(empty)
                raster.write_rows(out, strip.row, labels[None])
        if unknown and others is None:
            raise NoClassError(reader, unknown, source.suffix.lower() in (".jpg", ".jpeg"))
        return Tally(file.height * file.width, by_label, unknown, gone)


def _counts(values: np.ndarray) -> dict[int, int]:
    return dict(zip(*map(np.ndarray.tolist, np.unique(values, return_counts=True)), strict=True))


def file_name(mask: Path) -> str:
    """What the labels of a mask are called. They must not be squeezed by JPEG, so anything but a GeoTIFF becomes a PNG."""
    return mask.name if mask.suffix.lower() in (".tif", ".tiff", ".png") else mask.stem + ".png"


def strips(height: int, width: int, pixels: int = STRIP_PIXELS) -> Iterator[Window]:
    """A raster as strips of whole rows, of about so many pixels."""
    rows = max(256, pixels // width // 256 * 256)  # whole blocks of the files that we write
    for row in range(0, height, rows):
        yield Window(row, 0, min(rows, height - row), width)


def _distances(codes: np.ndarray, colours: list[Colour]) -> np.ndarray:
    """Between colours, given by number, and class colours: n x m, Euclidean in R, G, B."""
    points = np.stack(colour_of(np.asarray(codes, np.int64)), -1).astype(np.float32)
    return np.linalg.norm(points[:, None] - np.array(colours, np.float32)[None], axis=2)


def _on_lines(codes: list[int], colours: list[Colour]) -> np.ndarray:
    """Whether each colour lies, but for rounding, on a straight line between two class colours: n, bool."""
    points = np.array([colour_of(code) for code in codes], float)
    found = np.zeros(len(points), bool)
    for one, other in combinations(np.array(colours, float), 2):
        along = other - one
        share = ((points - one) @ along / (along @ along)).clip(0, 1)
        found |= np.linalg.norm(one + share[:, None] * along - points, axis=1) <= 1
    return found

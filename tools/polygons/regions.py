"""The patches of a label map as polygons, strip by strip: those that reach into the next strip wait for it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import shapely
from rasterio.features import shapes
from rasterio.transform import Affine
from skimage.measure import label as connected

from tools.geo import raster
from tools.geo.windows import Window, row_windows
from tools.labels.cleaning import clean
from tools.polygons import coverage


@dataclass
class Region:
    """Connected pixels of one class: the polygons (in pixels, x to the right, y down) that they are so far, and their sums.

    exact: the same pieces before they were simplified, of classes for which that is wanted.
    """

    label: int
    pieces: list[shapely.Polygon]
    pixels: int
    confidence: float
    exact: list[shapely.Polygon] = field(default_factory=list)

    def __add__(self, other: "Region") -> "Region":
        pixels, confidence = self.pixels + other.pixels, self.confidence + other.confidence
        return Region(self.label, self.pieces + other.pieces, pixels, confidence, self.exact + other.exact)

    def outline(self, least: float) -> shapely.Polygon:
        """Along the sides of its pixels, with the holes of `least` pixels and more."""
        pieces = self.exact or self.pieces
        whole = pieces[0] if len(pieces) == 1 else shapely.simplify(shapely.union_all(pieces), 0)
        holes = [ring for ring in whole.interiors if shapely.Polygon(ring).area >= least]
        return shapely.Polygon(whole.exterior, holes)


@dataclass
class Regions:
    """The regions of a map. labels: the map. confidence: of its pixels, in per cent (uint8) or shares (float32). classes: other
    labels are left out.

    least: pixels. Smaller regions are left out; but where all are simplified, they join their surroundings (`clean`), so that
    no gap is left. tolerance: pixels, by which borders are simplified, together; None: they are left as they are. exact: labels
    of which the regions keep their outlines as well.
    """

    labels: Path
    confidence: Path
    classes: int
    least: float = 0
    tolerance: float | None = None
    exact: tuple[int, ...] = ()
    seams: dict[int, np.ndarray] = field(default_factory=dict)
    shape: tuple[int, int] = (0, 0)

    def complete(self) -> Iterator[list[Region]]:
        """Those that are complete, strip by strip. Many of fewer than `least` pixels are left out already."""
        seam = _Seam()
        with raster.open_raster(self.labels) as map_file, raster.open_raster(self.confidence) as sure_file:
            self.shape = map_file.shape
            read = (raster.read_window(map_file, window)[0] for window in row_windows(*map_file.shape))
            for window, found in zip(row_windows(*map_file.shape), self._strips(read, map_file.shape), strict=True):
                sure = raster.read_window(sure_file, window)[0]
                sure = sure if sure.dtype.kind == "f" else sure / 100
                yield self._strip(found, sure, window, seam)
        yield list(seam.waiting.values())

    def polygon(self, region: Region) -> shapely.Polygon | None:
        """The outline of a complete region as it is drawn; None where it is too small."""
        if region.pixels < self.least:
            return None
        return region.outline(self.least) if self.tolerance is None else coverage.joined(region.pieces, self.seams, self.shape)

    def _strips(self, rows: Iterable[np.ndarray], shape: tuple[int, int]) -> Iterator[np.ndarray]:
        """The labels by strip; where there is no class, it is the number of classes."""
        rows = (np.minimum(band, self.classes) for band in rows)
        if self.tolerance is None or self.least <= 1:
            return rows
        return _of_heights(clean(rows, self.least, self.classes), [window.height for window in row_windows(*shape)])

    def _strip(self, labels: np.ndarray, confidence: np.ndarray, window: Window, seam: "_Seam") -> list[Region]:
        """The regions that this strip completes."""
        together = self.tolerance is not None
        numbers = connected(labels + 1, background=0 if together else self.classes + 1, connectivity=1).astype(np.int32)
        if seam.labels is not None and together:
            self.seams[window.row] = coverage.meeting(seam.labels, labels[0])
        sums = _Sums(numbers, labels, confidence)
        wanted = np.ones(len(sums.pixels), bool) if together else sums.pixels >= self.least
        wanted[numbers[[0, -1]]] = True
        wanted[0] = False
        found, outlines = _outlines(numbers, wanted, window.row)
        drawn = coverage.simplified(outlines, self.tolerance) if together else outlines
        regions = {
            n: sums.region(n, drawn[i], outlines[i] if together and sums.label[n] in self.exact else None)
            for i, n in enumerate(found)
            if sums.label[n] < self.classes
        }
        return seam.join(regions, numbers, labels)


class _Sums:
    """What the patches of a strip add up to, by their numbers."""

    def __init__(self, numbers: np.ndarray, labels: np.ndarray, confidence: np.ndarray):
        flat = numbers.ravel()
        self.label = np.zeros(flat.max() + 1, int)
        self.label[flat] = labels.ravel()
        self.pixels, self.confidence = np.bincount(flat), np.bincount(flat, confidence.ravel())

    def region(self, number: int, piece: shapely.Polygon, exact: shapely.Polygon | None) -> Region:
        """That of a number, which is this polygon."""
        label, pixels, sure = int(self.label[number]), int(self.pixels[number]), float(self.confidence[number])
        return Region(label, [piece], pixels, sure, [exact] if exact is not None else [])


def _outlines(numbers: np.ndarray, wanted: np.ndarray, row: int) -> tuple[list[int], np.ndarray]:
    """The numbers of the wanted patches of a strip, which begins at a row of the map, and their outlines."""
    found, outlines = [], []
    for shape, number in shapes(numbers, wanted[numbers], connectivity=4, transform=Affine.translation(0, row)):
        outline, *holes = shape["coordinates"]
        found.append(int(number))
        outlines.append(shapely.Polygon(outline, holes))
    return found, np.array(outlines, object)


def _of_heights(bands: Iterable[np.ndarray], heights: Iterable[int]) -> Iterator[np.ndarray]:
    """The same rows in bands of these heights."""
    bands, rest = iter(bands), None
    for height in heights:
        gathered = [] if rest is None else [rest]
        while sum(map(len, gathered)) < height:
            gathered.append(next(bands))
        rows = np.concatenate(gathered)
        rest = rows[height:]
        yield rows[:height]


class _Seam:
    """Between two strips: the regions of the upper one that reach its last row, and their numbers and labels there."""

    def __init__(self):
        self.waiting: dict[int, Region] = {}
        self.numbers = self.labels = None

    def join(self, regions: dict[int, Region], numbers: np.ndarray, labels: np.ndarray) -> list[Region]:
        """Join the regions of the strip below to those that wait; what does not reach its last row is complete."""
        root = np.arange(numbers.max() + 1)  # of several that a region above connects, the one that stands for all
        entered: dict[int, int] = {}  # a region above: one that goes on with it
        for above, here in self._touching(numbers[0], labels[0]):
            first, second = root[entered.setdefault(above, here)], root[here]
            if first != second:
                root[root == second] = first
        complete = [region for number, region in self.waiting.items() if number not in entered]
        joined: dict[int, Region] = {}
        going_on = ((here, self.waiting[above]) for above, here in entered.items() if above in self.waiting)
        for number, region in [*regions.items(), *going_on]:
            place = int(root[number])
            joined[place] = joined[place] + region if place in joined else region
        self.numbers, self.labels = root[numbers[-1]], labels[-1]
        below = set(np.unique(self.numbers).tolist())
        self.waiting = {number: region for number, region in joined.items() if number in below}
        return complete + [region for number, region in joined.items() if number not in below]

    def _touching(self, numbers: np.ndarray, labels: np.ndarray) -> list[tuple[int, int]]:
        """The pairs of regions, above and below, that share a side."""
        if self.numbers is None:
            return []
        same = (self.labels == labels) & (numbers > 0) & (self.numbers > 0)
        return list(map(tuple, np.unique(np.stack([self.numbers, numbers])[:, same], axis=1).T.tolist()))

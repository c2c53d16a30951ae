"""Label maps as polygons: connected pixels of a class become one, with its area and confidence, in a GeoPackage."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pyogrio
import shapely
from rasterio.features import shapes
from rasterio.transform import Affine
from skimage.measure import label as connected

from tools.geo import raster
from tools.geo.pixel_size import pixel_areas
from tools.geo.raster import Raster
from tools.geo.windows import Window
from tools.maps.least_area import LeastArea

STRIP = 1024  # rows of the map that are in memory together, less where it is wide
_STRIP_PIXELS = 8_000_000


@dataclass
class Region:
    """Connected pixels of one class: the polygons (in pixels, x to the right, y down) that they are so far, and their sums."""

    label: int
    pieces: list[shapely.Polygon]
    pixels: int
    confidence: float

    def __add__(self, other: "Region") -> "Region":
        pixels, confidence = self.pixels + other.pixels, self.confidence + other.confidence
        return Region(self.label, self.pieces + other.pieces, pixels, confidence)

    def polygon(self, least: float) -> shapely.Polygon | None:
        """Its outline with the holes of `least` pixels and more, or None where it has fewer pixels than that itself."""
        if self.pixels < least:
            return None
        whole = self.pieces[0] if len(self.pieces) == 1 else shapely.simplify(shapely.union_all(self.pieces), 0)
        holes = [ring for ring in whole.interiors if shapely.Polygon(ring).area >= least]
        return shapely.Polygon(whole.exterior, holes)


def write_polygons(path: Path, labels: Path, confidence: Path, names: Sequence[str], least: LeastArea) -> int:
    """Write the polygons of a label map to a GeoPackage, strip by strip; how many there are comes back.

    labels: the map. confidence: of its pixels, in per cent (uint8) or shares (float32). names: of the classes; other labels
    are left out. least: smaller polygons are left out, and then holes that small are closed: what is enclosed joins what
    encloses it, what lies between several classes leaves a gap. Pixels that touch at a corner only are not connected.
    """
    about = raster.inspect(labels)
    areas, limit = pixel_areas(about), least.pixels(about)
    fields = {"class": object, "label": np.int32, "pixels": np.int64, "area_m2": np.float64, "confidence": np.float64}
    count = 0
    for regions in chain(_regions(labels, confidence, len(names), limit), [None]):
        found = [(region, p) for region in regions or [] if (p := region.polygon(limit))]
        if not found and (regions is not None or count):
            continue  # an empty layer is written where there is nothing at all
        values = [_values(region, polygon, names, areas) for region, polygon in found]
        columns = [np.array([row[i] for row in values], kind) for i, kind in enumerate(fields.values())]
        _append(path, [polygon for _, polygon in found], dict(zip(fields, columns, strict=True)), about)
        count += len(found)
    return count


def _values(region: Region, polygon: shapely.Polygon, names: Sequence[str], areas: np.ndarray | None) -> tuple:
    row = int(polygon.centroid.y)
    area = np.nan if areas is None else polygon.area * areas[min(row, len(areas) - 1)]
    sure = round(region.confidence / region.pixels, 4)
    return names[region.label], region.label, round(polygon.area), area, sure


def _append(path: Path, polygons: Sequence[shapely.Polygon], columns: Mapping[str, np.ndarray], about: Raster) -> None:
    """Add polygons (in pixels) to a GeoPackage, where they lie on Earth; without a place, with y upward."""
    a, b, c, d, e, f = about.transform[:6] if about.transform else (1, 0, 0, 0, -1, 0)
    placed = shapely.transform(np.array(polygons, object), lambda xy: xy @ np.array([[a, d], [b, e]]) + (c, f))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*crs.*")  # a map without one makes polygons without one
        pyogrio.raw.write(
            path, shapely.to_wkb(placed), list(columns.values()), list(columns), layer="polygons", driver="GPKG",
            geometry_type="Polygon", crs=about.crs.to_wkt() if about.crs and about.transform else None, append=path.exists(),
        )  # fmt: skip


def _regions(labels: Path, confidence: Path, classes: int, least: float) -> Iterator[list[Region]]:
    """The regions of a map that are complete, strip by strip; those that reach into the next strip wait for it.

    Many of fewer than `least` pixels are left out already.
    """
    seam = _Seam()
    with raster.open_raster(labels) as map_file, raster.open_raster(confidence) as sure_file:
        height, width = map_file.shape
        rows = min(STRIP, max(64, _STRIP_PIXELS // width))
        for row in range(0, height, rows):
            window = Window(row, 0, min(rows, height - row), width)
            found = raster.read_window(map_file, window)[0].astype(np.int16)
            numbers = connected(np.where(found < classes, found, -1), background=-1, connectivity=1).astype(np.int32)
            sure = raster.read_window(sure_file, window)[0]
            regions = _strip(numbers, found, sure if sure.dtype.kind == "f" else sure / 100, row, least)
            yield seam.join(regions, numbers, found)
    yield list(seam.waiting.values())


def _strip(numbers: np.ndarray, labels: np.ndarray, confidence: np.ndarray, row: int, least: float) -> dict[int, Region]:
    """The regions of one strip, which begins at a row of the map, by their numbers; 0 is none.

    Of those with fewer than `least` pixels only the ones that may go on in another strip are there.
    """
    flat = numbers.ravel()
    label = np.zeros(flat.max() + 1, int)
    label[flat] = labels.ravel()
    pixels, sums = np.bincount(flat), np.bincount(flat, confidence.ravel())
    wanted, regions = pixels >= least, {}
    wanted[numbers[[0, -1]]] = True
    wanted[0] = False
    for shape, number in shapes(numbers, wanted[numbers], connectivity=4, transform=Affine.translation(0, row)):
        n, (outline, *holes) = int(number), shape["coordinates"]
        regions[n] = Region(int(label[n]), [shapely.Polygon(outline, holes)], int(pixels[n]), float(sums[n]))
    return regions


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
        for number, region in [*regions.items(), *((here, self.waiting[above]) for above, here in entered.items())]:
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

"""The part of a raster that is of interest: a rectangle, or the polygons of a vector file, each of which is a zone."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import shapely
from rasterio import CRS
from rasterio.transform import Affine

from tools.base.errors import UserError
from tools.geo import vectors
from tools.geo.raster import Raster
from tools.geo.shapes import mask
from tools.geo.vectors import Feature
from tools.geo.windows import Window

_NUMBER = r"\s*(-?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)\s*"


@dataclass(frozen=True)
class AreaOfInterest:
    """What a user wants of rasters: zones with a name each.

    word: of the command line. crs: of the zones; None: that of the raster. notes: what is odd about them, in sentences.
    """

    word: str
    features: list[Feature]
    names: list[str]
    crs: CRS | None
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, word: str, attribute: str | None = None) -> "AreaOfInterest":
        """From W,S,E,N or the name of a vector file; attribute: names the zones. Raises UserError where it is no area."""
        if bounds := re.fullmatch(",".join([_NUMBER] * 4), word):
            return cls._rectangle(word, [float(number) for number in bounds.groups()], attribute)
        features, crs = vectors.read_polygons(word)
        values = vectors.attribute(features, attribute, word) if attribute else [f.number for f in features]
        shapes = shapely.from_geojson([shapely.to_geojson(shapely.geometry.shape(f.geometry)) for f in features])
        mended = [_mended(shape) for shape in shapes]
        notes = _notes(word, shapes, mended)
        features = [replace(f, geometry=shapely.geometry.mapping(s)) for f, s in zip(features, mended, strict=True)]
        return cls(word, features, [str(value) for value in values], crs, notes)

    @classmethod
    def _rectangle(cls, word: str, bounds: list[float], attribute: str | None) -> "AreaOfInterest":
        west, south, east, north = bounds
        if attribute:
            raise UserError(f"--area-attribute {attribute}: a rectangle has no attributes; give a vector file as --area.")
        if west >= east or south >= north:
            raise UserError(f"--area {word}: bounds are W,S,E,N, with W below E and S below N.")
        return cls(word, [Feature(shapely.geometry.mapping(shapely.box(*bounds)), {}, 0)], ["area"], None)

    @property
    def digest(self) -> str:
        """The SHA-256 of the zones, their names and their CRS: whether an area is the same, whatever its file is called."""
        digest = hashlib.sha256(repr((self.names, self.crs and self.crs.to_wkt())).encode())
        for feature in self.features:
            digest.update(shapely.geometry.shape(feature.geometry).wkb)
        return digest.hexdigest()

    def on(self, about: Raster) -> "PlacedArea | None":
        """The area on a raster's pixels, or None where it does not touch it.

        Raises UserError where the raster does not say where it lies.
        """
        if about.transform is None:
            raise UserError(f"{about.path} does not say where it lies on Earth, so --area {self.word} cannot be found on it.")
        features = self.features
        if self.crs and about.crs and self.crs != about.crs:
            features = vectors.reproject(features, self.crs, about.crs)
        elif self.crs and not about.crs:
            raise UserError(
                f"{about.path} has no CRS, so --area {self.word} in {vectors.name(self.crs)} cannot be found on it."
            )
        a, b, c, d, e, f = (~about.transform)[:6]
        shapes = np.array([shapely.geometry.shape(feature.geometry) for feature in features])
        shapes = shapely.transform(shapes, lambda xy: xy @ np.array([[a, d], [b, e]]) + (c, f))
        inside = shapely.clip_by_rect(shapes, 0, 0, about.width, about.height)
        if shapely.is_empty(inside).all():
            return None
        left, top, right, bottom = shapely.total_bounds(inside)
        row, col = int(np.floor(top)), int(np.floor(left))
        return PlacedArea(Window(row, col, int(np.ceil(bottom)) - row, int(np.ceil(right)) - col), shapes, self.names)

    def missed(self, about: Raster) -> str:
        """What to say where the area touches none of some rasters, of which this is one."""
        bounds = shapely.total_bounds(np.array([shapely.geometry.shape(f.geometry) for f in self.features]))
        degrees = (np.abs(bounds[::2]) <= 180).all() and (np.abs(bounds[1::2]) <= 90).all()
        where = vectors.name(self.crs) if self.crs else "no CRS of its own"
        hint = "check the place and the CRS"
        if degrees and not self.crs and about.crs and not about.crs.is_geographic:
            hint = f"those look like degrees, but bounds and files without a CRS are taken to be in {vectors.name(about.crs)}"
        return (
            f"--area {self.word} ({_words(bounds)}, {where}) touches no tile ({about.path}: {_words(_bounds(about))}): {hint}."
        )


@dataclass(frozen=True)
class PlacedArea:
    """An area on the pixels of a raster: the window around it, inside the raster, and its zones (x to the right, y down)."""

    window: Window
    zones: np.ndarray
    names: Sequence[str]

    def __post_init__(self):
        object.__setattr__(self, "tree", shapely.STRtree(self.zones))

    def mask(self, window: Window) -> np.ndarray:
        """The pixels of a window whose centres lie inside (h x w, bool)."""
        return _drawn(self.zones[self._hit(window)], window)

    def by_zone(self, window: Window):
        """(number of the zone, pixels of the window whose centres lie in it) for the zones that touch the window."""
        for i in self._hit(window):
            yield int(i), _drawn(self.zones[[i]], window)

    def touched(self, windows: Sequence[Window]) -> np.ndarray:
        """Which windows the area touches (bool)."""
        found = np.zeros(len(windows), bool)
        row, col, height, width = np.array(windows).T
        found[self.tree.query(shapely.box(col, row, col + width, row + height), predicate="intersects")[0]] = True
        return found

    def of_each(self, shapes: np.ndarray) -> list[str]:
        """The zone in which most of each shape (in pixels) lies; "" where none is."""
        found, zones = self.tree.query(shapes, predicate="intersects")
        common = shapely.area(shapely.intersection(shapes[found], self.zones[zones]))
        names = [""] * len(shapes)
        for i in np.argsort(common, kind="stable"):  # the largest comes last
            names[found[i]] = self.names[zones[i]]
        return names

    def _hit(self, window: Window) -> np.ndarray:
        box = shapely.box(window.col, window.row, window.col + window.width, window.row + window.height)
        return np.sort(self.tree.query(box, predicate="intersects"))

    def moved(self) -> "PlacedArea":
        """The same on a raster that is cut to the window."""
        shift = np.array([self.window.col, self.window.row])
        window = Window(0, 0, self.window.height, self.window.width)
        return PlacedArea(window, shapely.transform(self.zones, lambda xy: xy - shift), self.names)


def cut(about: Raster, window: Window) -> Raster:
    """What a raster would say of itself if it were cut to a window."""
    transform = about.transform and about.transform * Affine.translation(window.col, window.row)
    return replace(about, height=window.height, width=window.width, transform=transform)


def _drawn(zones: np.ndarray, window: Window) -> np.ndarray:
    return mask(zones, (window.height, window.width), Affine.translation(window.col, window.row))


def _mended(shape: shapely.Geometry) -> shapely.Geometry:
    """Its polygons, where it crosses itself."""
    if shape.is_valid:
        return shape
    parts = shapely.get_parts(shapely.make_valid(shape))
    return shapely.union_all([part for part in parts if part.geom_type in ("Polygon", "MultiPolygon")])


def _notes(word: str, shapes: np.ndarray, mended: list[shapely.Geometry]) -> tuple[str, ...]:
    notes = []
    if crossing := int((~shapely.is_valid(shapes)).sum()):
        notes.append(f"note: {crossing} polygon(s) of {word} cross themselves and were mended.")
    tree = shapely.STRtree(mended)
    first, second = tree.query(mended, predicate="intersects")
    pairs = first < second
    common = shapely.area(shapely.intersection(np.array(mended)[first[pairs]], np.array(mended)[second[pairs]]))
    if over := int((common > 1e-9 * max(shapely.area(mended).max(), 1e-300)).sum()):
        notes.append(f"note: {over} pair(s) of zones of {word} overlap: what lies in several zones counts in each of them.")
    return tuple(notes)


def _bounds(about: Raster) -> tuple[float, float, float, float]:
    corners = [about.transform * (x, y) for x in (0, about.width) for y in (0, about.height)]
    xs, ys = zip(*corners, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _words(bounds: Sequence[float]) -> str:
    return ",".join(f"{number:.10g}" for number in bounds)

"""Label maps as polygons: connected pixels of a class become one, with its area and confidence, in a vector file."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
import shapely

from tools.geo import raster
from tools.geo.area import PlacedArea
from tools.geo.measures import Area, Length
from tools.geo.pixel_size import pixel_areas
from tools.geo.raster import Raster
from tools.labels import qgis
from tools.labels.palette import Palette
from tools.polygons import layers
from tools.polygons.regions import Region, Regions
from tools.polygons.square import rectangle

_FIELDS = {"class": object, "label": np.int32, "pixels": np.int64, "area_m2": np.float64, "confidence": np.float64}


@dataclass(frozen=True)
class Drawing:
    """How a map is drawn as polygons.

    least: smaller polygons are left out, and then holes that small are closed: what is enclosed joins what encloses it, what
    lies between several classes leaves a gap. simplify: the tolerance by which borders are simplified, all together, so that
    there are no gaps and overlaps; small polygons then join their neighbours. square: the names of classes whose polygons
    become rectangles where they nearly are.
    """

    least: Area
    simplify: Length | None = None
    square: tuple[str, ...] = ()

    def write(self, path: Path, labels: Path, confidence: Path, palette: Palette, zones: PlacedArea | None = None) -> "Drawn":
        """Write the polygons of a label map to a GeoPackage, FlatGeobuf or GeoJSON, as the ending says, strip by strip.

        labels: the map. confidence: of its pixels, in per cent (uint8) or shares (float32). Labels that are no classes are left
        out. Pixels that touch at a corner only are not connected. zones: on the map, of which each polygon is to name one.
        """
        about, drawn = raster.inspect(labels), Drawn()
        tolerance = self.simplify and self.simplify.pixels(about)
        squared = tuple(palette.names.index(name) for name in self.square)
        regions = Regions(labels, confidence, palette.classes, self.least.pixels(about), tolerance, squared)
        whole, areas = path, pixel_areas(about)
        if path.suffix != ".gpkg":
            whole = path.with_name(f".{path.stem}.gpkg")  # it alone can be written piece by piece
        for complete in chain(regions.complete(), [None]):
            found = list(self._drawn(complete or [], regions, drawn, shapely.box(0, 0, about.width, about.height)))
            if found or (complete is None and not drawn.count):  # an empty layer is written where there is nothing at all
                _append(whole, found, palette, areas, about, zones)
            drawn.count += len(found)
        layers.add_style(whole, qgis.polygon_style(palette))
        if path != whole:
            layers.convert(whole, path, qgis.polygon_style(palette))
            whole.unlink()
        return drawn

    def _drawn(
        self, complete: list[Region], regions: Regions, drawn: "Drawn", edge: shapely.Polygon
    ) -> Iterator[tuple[Region, shapely.Polygon]]:
        for region in complete:
            polygon = regions.polygon(region)
            if polygon is None:
                continue
            if region.label in regions.exact and (found := rectangle(region.outline(regions.least), edge)):
                polygon, iou = found
                drawn.ious.append(iou)
            yield region, polygon


@dataclass
class Drawn:
    """How many polygons there are, and the IoU with their pixels of those that became rectangles."""

    count: int = 0
    ious: list[float] = field(default_factory=list)


def _append(path: Path, found: list[tuple[Region, shapely.Polygon]], palette: Palette, areas, about: Raster, zones) -> None:
    values, polygons = [_values(region, polygon, palette, areas) for region, polygon in found], [p for _, p in found]
    columns = {name: np.array([row[i] for row in values], kind) for i, (name, kind) in enumerate(_FIELDS.items())}
    if zones:
        columns["zone"] = np.array(zones.of_each(np.array(polygons, object)), object)
    layers.append(path, polygons, columns, about)


def _values(region: Region, polygon: shapely.Polygon, palette: Palette, areas: np.ndarray | None) -> tuple:
    row = int(polygon.centroid.y)
    area = np.nan if areas is None else polygon.area * areas[min(max(row, 0), len(areas) - 1)]
    sure = round(region.confidence / region.pixels, 4)
    return palette.names[region.label], region.label, round(polygon.area), area, sure

"""Ground truth as polygons with a class each, rasterised on the grid of an image."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from affine import Affine
from rasterio import CRS

from tools.base.errors import UserError, listing, nearest
from tools.geo import raster, shapes, vectors
from tools.geo.vectors import Feature
from tools.labels.class_mapping import Legend, label_of
from tools.labels.masks import Tally, strips

HULL = "hull"  # the area that polygons have without another one


@dataclass(frozen=True)
class Polygons:
    """The polygons of a file with the label of each, in one CRS (None where the file names none).

    area: where what they do not cover was looked at as well, in the same CRS: polygons, such as their hull.
    """

    path: Path
    features: list[Feature]
    labels: list[int]
    crs: CRS | None
    area: Sequence[Feature] = ()

    def within(self, area: str | Path | None) -> "Polygons":
        """The same with an area: "hull" or None, the convex hull of all, or the polygons of a vector file.

        Raises UserError where one of the two files has no CRS and the other has.
        """
        if area in (None, HULL):
            hull = shapely.GeometryCollection([shapely.geometry.shape(f.geometry) for f in self.features]).convex_hull
            return replace(self, area=[Feature(shapely.geometry.mapping(hull), {}, 0)])
        features, crs = vectors.read_polygons(area)
        shapes.check_crs(self.path, self.crs, area, crs)
        return replace(self, area=features if crs == self.crs else vectors.reproject(features, crs, self.crs))

    def on(self, image: raster.Raster) -> "Polygons":
        """The same in the CRS of an image. Raises UserError where one of the two has no CRS, or the image no place."""
        shapes.check_place(self.path, self.crs, image)
        if self.crs == image.crs:
            return self
        features, area = (vectors.reproject(some, self.crs, image.crs) for some in (self.features, self.area))
        return replace(self, features=features, crs=image.crs, area=area)

    def reaching(self, image: raster.Raster) -> "Polygons":
        """Those (in the image's CRS) that reach into the image's pixels, judged by their bounding boxes."""
        near = np.flatnonzero(shapes.reaching([f.bounds for f in self.features], image))
        return replace(self, features=[self.features[i] for i in near], labels=[self.labels[i] for i in near])


def read(path: Path, legend: Legend, attribute: str | None, name: str | None, unknown: str = "error") -> Polygons:
    """The polygons of a vector file, with our labels.

    attribute: the one that names each polygon's class, as the legend's name or number; name: the class of all of them, where
    there is no such attribute. unknown: whether a class that the legend does not have is an "error" (UserError) or to
    "ignore": such polygons are not scored.
    """
    features, crs = vectors.read_polygons(path)
    if name is not None:
        return Polygons(Path(path), features, [label_of(name, legend)] * len(features), crs)
    if attribute is None:
        known = listing(features[0].properties)
        raise UserError(
            f"{path}: which attribute names the class? Give --attribute (it has {known or 'none'}), or --class where all"
            " polygons are of one."
        )
    values = vectors.attribute(features, attribute, path)
    labels = [_label(value, legend) for value in values]
    strange = Counter(str(value) for value, label in zip(values, labels, strict=True) if label is None)
    if strange and unknown == "error":
        raise UserError(_unknown_classes(path, attribute, strange, legend))
    if all(value is None or isinstance(value, int | float) for value in values):
        pixels = np.bincount([legend.palette.no_label if n is None else n for n in labels], minlength=256)
        if note := legend.palette.counted_from_one(pixels, "polygon"):
            print(f"note: {path}: {note}")
    return Polygons(Path(path), features, [legend.palette.no_label if n is None else n for n in labels], crs)


def _label(value: Any, legend: Legend) -> int | None:
    if isinstance(value, str):
        return legend.names.get(value, legend.names.get(value.strip()))
    return legend.numbers.get(value)  # 3.0 finds 3; None (an empty attribute) and NaN find nothing


def _unknown_classes(path: Path, attribute: str, strange: Counter, legend: Legend) -> str:
    most = ", ".join(f"'{value}' ({count} polygons)" for value, count in strange.most_common(6))
    more = f" and {len(strange) - 6} more" if len(strange) > 6 else ""
    first = strange.most_common(1)[0][0]
    return (
        f"{path}: the attribute '{attribute}' says {most}{more}, which is no class.{nearest(first, legend.names)} The classes"
        f" are {listing(legend.names, 20)}: correct it, map it in CLASS_MAPPING, or use --unknown ignore."
    )


def placed(polygons: Polygons, images: Iterable[Path]) -> dict[Path, Polygons]:
    """The polygons that reach into each image, in its CRS. Raises UserError where none reaches into any of the images."""
    found, by_crs = {}, {}
    for path in images:
        image = raster.inspect(path)
        key = image.crs and image.crs.to_wkt()
        if key not in by_crs or image.transform is None:
            by_crs[key] = polygons.on(image)
        found[path] = by_crs[key].reaching(image)
    if not any(one.features for one in found.values()):
        where = vectors.name(polygons.crs) if polygons.crs else "no CRS"
        raise UserError(
            f"no polygon of {polygons.path} ({where}) lies on {listing(found, 2)}: check the places and the CRS of both."
        )
    return found


def draw(polygons: Polygons, image_path: Path, target: Path, uncovered: int, outside: int, colours: dict) -> Tally:
    """Write the labels of an image's pixels: that of the polygon that holds the pixel's centre, else `uncovered` in the
    polygons' area and `outside` beyond it.

    polygons: in the image's CRS; where some overlap, the later one in the file counts. colours: of the written file.
    """
    image, by_label, covered, beyond = raster.inspect(image_path), np.zeros(256, np.int64), 0, 0
    pairs = [(f.geometry, label) for f, label in zip(polygons.features, polygons.labels, strict=True)]
    areas = [(f.geometry, uncovered) for f in polygons.area]
    with raster.create(target, (1, image.height, image.width), np.uint8, **image.place, colours=colours) as out:
        for strip in strips(image.height, image.width):
            transform = image.transform * Affine.translation(0, strip.row)
            drawn, ground = (_drawn(some, strip[2:], transform) for some in (pairs, areas))
            labels = np.where(drawn >= 0, drawn, np.where(ground >= 0, ground, outside)).astype(np.uint8)
            covered += int((drawn >= 0).sum())
            beyond += int(((drawn < 0) & (ground < 0)).sum())
            by_label += np.bincount(labels.ravel(), minlength=256)
            raster.write_rows(out, strip.row, labels[None])
    return Tally(image.height * image.width, by_label, Counter(), covered=covered, outside=beyond)


def _drawn(pairs: list[tuple[dict, int]], size: tuple[int, int], transform: Affine) -> np.ndarray:
    """The label of the last shape that holds a pixel's centre (int16, height x width), -1 where none does."""
    return shapes.draw(pairs, np.full(size, -1, np.int16), transform)

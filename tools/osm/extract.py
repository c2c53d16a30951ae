"""Files with OpenStreetMap's features, of any form, as shapes by theme, with widths: what they have near the tiles.

GDAL makes the shapes of .osm and .pbf files. It leaves out a way's own tags where that way alone is the outer ring of a
multipolygon that has tags: a house that is also the border of a meadow is meadow.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from rasterio import CRS

from tools.base.errors import UserError, listing
from tools.geo import vectors
from tools.geo.vectors import Layer
from tools.osm import overpass, themes
from tools.osm.themes import Theme

_OSM_LAYERS = ("points", "lines", "multipolygons")  # of GDAL's driver; relations of other kinds have no theme
_WANTED = themes.KEYS | {"width", "tunnel", "location", themes.GEOFABRIKS}
_PAIR = re.compile(r'"((?:[^"\\]|\\.)*)"=>"((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Part:
    """What one layer of a file has of a theme: n shapes, and how many metres wide they are drawn (NaN: an area, as it is)."""

    path: Path
    theme: str
    shapes: np.ndarray
    widths: np.ndarray
    crs: CRS

    @cached_property
    def _tree(self) -> shapely.STRtree:
        return shapely.STRtree(self.shapes)

    def within(self, bounds: tuple[float, float, float, float]) -> "Part":
        """What of it may lie within bounds in its CRS."""
        near = np.sort(self._tree.query(shapely.box(*bounds)))
        return replace(self, shapes=self.shapes[near], widths=self.widths[near])


def read(paths: Sequence[Path], wanted: Mapping[str, Theme], near: Callable[[CRS], tuple]) -> list[Part]:
    """What the files have of the themes near the tiles. near: the bounds of all tiles in a CRS.

    Raises UserError where a file is no map, is damaged or has no CRS, and where nothing of them is near or of a theme.
    """
    parts, count = [], 0
    for path in paths:
        for layer in _layers(path, near):
            count += len(layer.shapes)
            parts += _parts(path, wanted, layer)
    if not count:
        raise UserError(_nowhere(paths, near))
    if not parts:
        raise UserError(
            f"{listing(paths, 3)} has {count} feature(s) near the tiles, but none with tags of {listing(wanted)}: see the table"
            " in tools/osm/themes.py."
        )
    return parts


def _layers(path: Path, near: Callable[[CRS], tuple]) -> list[Layer]:
    vectors.check_file(path)
    text = overpass.text_of(path)
    is_osm = text is not None or path.name.lower().endswith((".osm", ".pbf"))

    def place(crs: CRS | None) -> tuple:
        if crs is None:
            raise UserError(f"{path} has no CRS: assign the one that it is in (ogr2ogr -a_srs EPSG:...).")
        return near(crs)

    options = {"only": _OSM_LAYERS, "TAGS_FORMAT": "JSON"} if is_osm else {}
    layers = vectors.read_layers(path, place, text, **options)
    columns = {name for layer in layers for name in layer.columns}
    has_any = columns or any(len(layer.shapes) for layer in layers)
    if has_any and not columns & (themes.KEYS | {themes.GEOFABRIKS, themes.OTHERS}):
        raise UserError(
            f"{path} has no attribute that themes are known by ({listing(sorted(themes.KEYS), 20)}; fclass, other_tags), it has"
            f" {listing(sorted(columns)) or 'none'}: name them as OpenStreetMap does."
        )
    return layers


def _nowhere(paths: Sequence[Path], near: Callable[[CRS], tuple]) -> str:
    empty = [path for path in paths if not vectors.has_any(path, overpass.text_of(path))]
    if len(empty) == len(paths):
        return f"{listing(paths, 3)} holds no features at all: fetch it again."
    bounds = ", ".join(f"{number:.5f}" for number in near(CRS.from_epsg(4326)))
    return f"{listing(paths, 3)} touches no tile (these lie within {bounds}, degrees W, S, E, N): fetch the map of that place."


def _parts(path: Path, wanted: Mapping[str, Theme], layer: Layer) -> Iterator[Part]:
    """The features of a layer, by theme; a theme that has none is left out."""
    seen = [
        (_closed(s, tags), tags) for s, tags in zip(layer.shapes, tags_of(layer), strict=True) if not themes.is_hidden(tags)
    ]
    for name, theme in wanted.items():
        found = [(shape, width) for shape, tags in seen if (width := _width(theme, shape, tags))]
        if found:
            shapes, widths = zip(*found, strict=True)
            yield Part(path, name, np.array(shapes, object), np.array(widths, float), layer.crs)


def _width(theme: Theme, shape: shapely.Geometry, tags: Mapping[str, str]) -> float | None:
    """Metres that a shape is drawn wide, NaN for an area as it is, None where it is not of the theme."""
    if shape.geom_type in ("Polygon", "MultiPolygon"):
        return np.nan if themes.is_area(theme, tags) else None
    return themes.width(theme, tags)


def _closed(shape: shapely.Geometry, tags: Mapping[str, str]) -> shapely.Geometry:
    """A line around an area as that area."""
    is_ring = shape.geom_type == "LineString" and shape.is_closed and len(shape.coords) > 3
    return shapely.Polygon(shape) if is_ring and any(tags.get(k) in values for k, values in themes.CLOSED.items()) else shape


def tags_of(layer: Layer) -> Iterator[dict[str, str]]:
    """The tags of each feature that the table may ask for, from columns of their own and from `other_tags`."""
    columns = {name: values for name, values in layer.columns.items() if name in _WANTED}
    others = layer.columns.get(themes.OTHERS, [None] * len(layer.shapes))
    for i, text in enumerate(others):
        own = {name: str(values[i]) for name, values in columns.items() if _is_said(values[i])}
        yield pairs_of(text) | own if isinstance(text, str) else own


def _is_said(value: Any) -> bool:
    return value is not None and value != "" and value == value  # NaN is not itself


def pairs_of(text: str) -> dict[str, str]:
    """The tags in a column `other_tags`: JSON, or hstore ("key"=>"value","key"=>"value"), as GDAL writes them."""
    if text.startswith("{"):
        try:
            return json.loads(text)
        except ValueError:
            raise UserError(f"'{text[:40]}' in a column {themes.OTHERS} is no JSON: write the extract again.") from None
    return {_unescaped(key): _unescaped(value) for key, value in _PAIR.findall(text)}


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)

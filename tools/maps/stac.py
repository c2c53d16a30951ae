"""A STAC item for each labelled tile: where it lies, its files, and what the labels mean, for catalogues of maps.

Written as STAC 1.1 with the extensions projection, classification (values, names and colours of the labels), and label, by
which tools of machine learning find label maps. What made the map stands in details.json, to which a link leads.
"""

from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import shapely
from rasterio import CRS
from rasterio.warp import transform_geom

from tools.base.errors import UserError
from tools.base.folders import write_json
from tools.geo import raster
from tools.geo.raster import Raster
from tools.labels.palette import Palette

EXTENSIONS = [
    "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "https://stac-extensions.github.io/classification/v2.0.0/schema.json",
    "https://stac-extensions.github.io/label/v1.0.1/schema.json",
]
_TYPES = {
    ".tif": "image/tiff; application=geotiff", ".png": "image/png", ".gpkg": "application/geopackage+sqlite3",
    ".fgb": "application/vnd.flatgeobuf", ".geojson": "application/geo+json",
}  # fmt: skip
_TITLES = {
    "labels": "label map", "colours": "the labels in the classes' colours", "confidence": "the probability of each label",
    "probabilities": "the probability of each class", "errors": "where labels are wrong", "polygons": "the labels as polygons",
    "colours_png": "the same as a picture",
}  # fmt: skip
_DATES = ("TIFFTAG_DATETIME", "ACQUISITIONDATETIME", "ACQUISITION_DATETIME")


def place_fault(about: Raster) -> str | None:
    """What keeps a tile from a STAC item: it must say where it lies on Earth."""
    if about.crs is not None and about.transform is not None:
        return None
    return f"{about.path} does not say where it lies on Earth (CRS and transform), so --stac has no place for it."


def write_item(path: Path, name: str, files: Sequence[Path], palette: Palette) -> None:
    """Write the item of a tile. files: its own, beside the item; the label map is among them."""
    labels = next(file for file in files if file.name.endswith("_labels.tif"))
    about = raster.inspect(labels)
    if fault := place_fault(about):
        raise UserError(fault)
    footprint = _footprint(about)
    now = _text(datetime.now(timezone.utc))
    item = {
        "type": "Feature", "stac_version": "1.1.0", "stac_extensions": EXTENSIONS, "id": name,
        "geometry": shapely.geometry.mapping(footprint), "bbox": list(footprint.bounds),
        "properties": {
            "datetime": _taken(about) or now, "created": now, "title": f"land cover of {name}",
            **_projection(about), **_label(palette, name),
        },
        "links": [{"rel": "about", "href": "./details.json", "type": "application/json"}],
        "assets": {_key(file, name): _asset(file, name, palette) for file in files if file.suffix in _TYPES},
    }  # fmt: skip
    write_json(path, item)


def _footprint(about: Raster) -> shapely.Polygon:
    """The outline in degrees, with points along its sides, which are no straight lines there."""
    corners = ((0, about.height), (about.width, about.height), (about.width, 0), (0, 0))
    outline = shapely.Polygon([about.transform * corner for corner in corners])
    dense = shapely.segmentize(outline, outline.length / 40)
    return shapely.geometry.shape(transform_geom(about.crs, CRS.from_epsg(4326), shapely.geometry.mapping(dense)))


def _projection(about: Raster) -> dict[str, Any]:
    code = about.crs.to_epsg()
    return {
        "proj:code": f"EPSG:{code}" if code else None,
        **({} if code else {"proj:wkt2": about.crs.to_wkt()}),
        "proj:shape": [about.height, about.width],
        "proj:transform": list(about.transform[:6]),
    }


def _label(palette: Palette, name: str) -> dict[str, Any]:
    return {
        "label:type": "raster", "label:properties": None, "label:tasks": ["segmentation"], "label:methods": ["automatic"],
        "label:description": f"every pixel of {name} in {palette.classes} classes",
        "label:classes": [{"name": None, "classes": palette.names}],
    }  # fmt: skip


def _key(file: Path, name: str) -> str:
    """What an asset is called: the end of the file's name; that of --png is there twice."""
    key = file.stem.removeprefix(name).lstrip("_")
    return (f"{key}_png" if file.suffix == ".png" else key) if key else "picture"


def _asset(file: Path, name: str, palette: Palette) -> dict[str, Any]:
    key = _key(file, name)
    asset = {"href": f"./{file.name}", "type": _TYPES[file.suffix], "title": _TITLES.get(key, key), "roles": ["data"]}
    if key == "labels":
        return asset | {"roles": ["data", "labels", "labels-raster"], "classification:classes": _classes(palette)}
    return asset | ({"roles": ["overview"]} if key in ("picture", "colours_png") else {})


def _classes(palette: Palette) -> list[dict[str, Any]]:
    hints = ["{:02X}{:02X}{:02X}".format(*palette.colours[label]) for label in range(palette.classes)]
    found = [
        {"value": label, "name": _plain(name), "title": name, "color_hint": hint}
        for label, (name, hint) in enumerate(zip(palette.names, hints, strict=True))
    ]
    return [*found, {"value": palette.no_label, "name": "no_label", "title": "no label", "nodata": True}]


def _plain(name: str) -> str:
    """A class's name in letters, digits, - and _, as the extension wants it."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in name)


def _taken(about: Raster) -> str | None:
    """When the image was taken, where the file says so."""
    for tag in _DATES:
        for form in ("%Y:%m:%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d"):
            try:
                return _text(datetime.strptime(about.tags.get(tag, ""), form).replace(tzinfo=timezone.utc))
            except ValueError:
                continue
    return None


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")

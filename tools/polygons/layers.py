"""Vector files of polygons: written piece by piece as a GeoPackage with its style, and as FlatGeobuf or GeoJSON from that."""

import sqlite3
import warnings
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pyogrio
import shapely

from tools.geo.raster import Raster

LAYER = "polygons"
DRIVERS = {".gpkg": "GPKG", ".fgb": "FlatGeobuf", ".geojson": "GeoJSON"}  # by the ending of the file
_STYLES = """
CREATE TABLE layer_styles (
  id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, f_table_catalog TEXT(256), f_table_schema TEXT(256), f_table_name TEXT(256),
  f_geometry_column TEXT(256), styleName TEXT(30), styleQML TEXT, styleSLD TEXT, useAsDefault BOOLEAN, description TEXT,
  owner TEXT(30), ui TEXT(30), update_time DATETIME DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')))
"""


def append(path: Path, polygons: Sequence[shapely.Polygon], columns: Mapping[str, np.ndarray], about: Raster) -> None:
    """Add polygons (in pixels of a map) to a GeoPackage, where they lie on Earth; without a place, with y upward."""
    a, b, c, d, e, f = about.transform[:6] if about.transform else (1, 0, 0, 0, -1, 0)
    placed = shapely.transform(np.array(polygons, object), lambda xy: xy @ np.array([[a, d], [b, e]]) + (c, f))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*crs.*")  # a map without one makes polygons without one
        pyogrio.raw.write(
            path, shapely.to_wkb(placed), list(columns.values()), list(columns), layer=LAYER, driver="GPKG",
            geometry_type="Polygon", crs=about.crs.to_wkt() if about.crs and about.transform else None, append=path.exists(),
        )  # fmt: skip


def add_style(path: Path, style: str) -> None:
    """Put a style of QGIS's into a GeoPackage, as the one that its layer opens with."""
    with closing(sqlite3.connect(path)) as database, database:
        (column,) = database.execute("SELECT column_name FROM gpkg_geometry_columns WHERE table_name = ?", [LAYER]).fetchone()
        database.execute(_STYLES)
        database.execute(
            "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, f_geometry_column, styleName, styleQML,"
            " styleSLD, useAsDefault, description, owner) VALUES ('', '', ?, ?, 'classes', ?, '', 1, 'colours of classes', '')",
            [LAYER, column, style],
        )
        database.execute("INSERT INTO gpkg_contents (table_name, data_type) VALUES ('layer_styles', 'attributes')")


def convert(source: Path, path: Path, style: str) -> None:
    """Write the layer of a GeoPackage to another kind of file, with the style beside it. GeoJSON is in degrees (RFC 7946)."""
    about = pyogrio.read_info(source, layer=LAYER)
    options = {"RFC7946": "YES"} if path.suffix == ".geojson" and about["crs"] else {}
    with warnings.catch_warnings(), pyogrio.open_arrow(source, layer=LAYER, use_pyarrow=False) as (meta, stream):
        warnings.filterwarnings("ignore", ".*crs.*")
        pyogrio.write_arrow(
            stream, path, driver=DRIVERS[path.suffix], geometry_name=meta["geometry_name"] or "wkb_geometry",
            geometry_type="Polygon", crs=about["crs"], layer=LAYER, **options,
        )  # fmt: skip
    path.with_suffix(".qml").write_text(style, encoding="utf-8")

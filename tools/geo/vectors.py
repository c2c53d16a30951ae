"""The one reader of vector files: shapes with their attributes, from shapefiles, GeoPackages, GeoJSON and what GDAL reads."""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import shapely
from rasterio import CRS
from rasterio.warp import transform

from tools.base.errors import UserError, listing, nearest
from tools.geo.place import PROJ_ERRORS, horizontal

_POLYGONS = ("Polygon", "Collection", "Unknown")  # parts of a layer's type; "Unknown": mixed types


@dataclass(frozen=True)
class Feature:
    """A polygon (or several that are one thing): its GeoJSON geometry, its attributes, and its number in the file."""

    geometry: dict[str, Any]
    properties: dict[str, Any]
    number: int

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """left, bottom, right, top."""
        return shapely.geometry.shape(self.geometry).bounds


def read_polygons(path: str | Path) -> tuple[list[Feature], CRS | None]:
    """The polygons of a vector file in its order, and its CRS (None where it names none).

    Empty geometries are left out. Raises UserError where the file is missing, no vector file, has several layers of polygons
    or none, or holds points or lines.
    """
    check_file(path)
    with _faults_said(path):
        meta, numbers, shapes, columns = pyogrio.raw.read(path, layer=_layer(path), return_fids=True)
    columns = [_values(column, kind) for column, kind in zip(columns, meta["dtypes"], strict=True)]
    found = []
    for i, shape in enumerate(shapely.from_wkb(shapes, on_invalid="fix")):
        if shape is None or shape.is_empty:
            continue
        if shape.geom_type not in ("Polygon", "MultiPolygon"):
            raise UserError(f"{path} holds a {shape.geom_type} (feature {numbers[i]}), but polygons are needed.")
        properties = {name: values[i] for name, values in zip(meta["fields"], columns, strict=True)}
        found.append(Feature(shapely.geometry.mapping(shapely.force_2d(shape)), properties, int(numbers[i])))
    if not found:
        raise UserError(f"{path} holds no polygons.")
    return found, _crs(path, meta["crs"])


def check_file(path: str | Path) -> None:
    """Raise UserError where a vector file is missing, or nothing that can be read to its end."""
    if not Path(path).exists():
        raise UserError(f"{path} does not exist.")
    if not Path(path).is_file() and not Path(path).is_dir():
        raise UserError(f"{path} is no file but a pipe or a device: save the shapes as a file.")


@contextlib.contextmanager
def _faults_said(path: str | Path) -> Iterator[None]:
    try:
        yield
    except pyogrio.errors.DataSourceError as error:
        raise UserError(f"{path} cannot be read as a vector file ({_reason(error)}).") from None
    except (pyogrio.errors.DataLayerError, pyogrio.errors.GeometryError, pyogrio.errors.FeatureError) as error:
        raise UserError(f"{path} breaks off or is damaged ({_reason(error)}): fetch it again.") from None


@dataclass(frozen=True)
class Layer:
    """One layer of a vector file: n geometries of shapely's, columns of n values, and the CRS (None where it names none)."""

    shapes: np.ndarray
    columns: dict[str, np.ndarray]
    crs: CRS | None


def read_layers(
    path: str | Path, near: Callable[[CRS | None], tuple], text: bytes | None = None, only: Sequence[str] = (), **options
) -> list[Layer]:
    """The layers of a vector file, of any kind of geometry, as far as they are near a place.

    near: gives left, bottom, right, top of the place in a layer's CRS. text: of the file, if GDAL cannot read it as it lies on
    the disk. only: layers of these names, if it has any. options: of GDAL's driver. Raises UserError where it cannot be read.
    """
    source, read = path if text is None else text, []
    with _faults_said(path), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # what GDAL mends, such as rings that do not close
        names = [layer for layer, kind in pyogrio.list_layers(source).tolist() if kind]
        for layer in [name for name in names if name in only] or names:
            crs = _crs(path, pyogrio.read_info(source, layer=layer)["crs"])
            meta, _, shapes, columns = pyogrio.raw.read(source, layer=layer, bbox=near(crs), **options)
            found = shapely.force_2d(shapely.from_wkb(shapes, on_invalid="fix"))
            there = ~(shapely.is_missing(found) | shapely.is_empty(found))
            read.append(Layer(found[there], {n: v[there] for n, v in zip(meta["fields"], columns, strict=True)}, crs))
    return read


def has_any(path: str | Path, text: bytes | None = None) -> bool:
    """Whether a vector file has a feature at all. Raises UserError where it cannot be read. text: as in `read_layers`."""
    source = path if text is None else text
    with _faults_said(path):
        layers = [layer for layer, kind in pyogrio.list_layers(source).tolist() if kind]
        return any(len(pyogrio.raw.read(source, layer=layer, max_features=1)[2]) for layer in layers)


def reproject(features: Sequence[Feature], source: CRS, target: CRS) -> list[Feature]:
    """The features in another CRS. Raises UserError where one cannot be brought there."""
    shapes = moved(np.array([shapely.geometry.shape(f.geometry) for f in features]), source, target)
    return [replace(f, geometry=shapely.geometry.mapping(shape)) for f, shape in zip(features, shapes, strict=True)]


def moved(shapes: np.ndarray, source: CRS, target: CRS) -> np.ndarray:
    """Geometries of shapely's in another CRS. Raises UserError where one cannot be brought there."""

    def project(corners: np.ndarray) -> np.ndarray:
        placed = np.transpose(transform(horizontal(source), horizontal(target), *corners.T))
        if not np.isfinite(placed).all():
            raise UserError(f"shapes in {name(source)} lie beyond what {name(target)} covers: {_hint(source)}")
        return placed

    try:
        return shapely.transform(shapes, project)
    except PROJ_ERRORS as error:
        raise UserError(
            f"shapes in {name(source)} cannot be brought to {name(target)} ({_reason(error)}): {_hint(source)}"
        ) from None


def _hint(source: CRS) -> str:
    if source.is_geographic:
        return "are their coordinates the wrong way round (GeoJSON has longitude first), or metres after all?"
    return "is that the CRS that they are drawn in?"


def attribute(features: Sequence[Feature], wanted: str, path: str | Path) -> list[Any]:
    """What an attribute says of each feature. Raises UserError, with those that there are, where `path` has no such one."""
    known = list(features[0].properties)
    if wanted not in known:
        raise UserError(
            f"{path} has no attribute '{wanted}'.{nearest(wanted, known)} It has {listing(known) or 'none at all'}."
        )
    return [f.properties[wanted] for f in features]


def name(crs: CRS) -> str:
    """A CRS in a word: EPSG:25832 where it has a number, else its name."""
    code = crs.to_epsg()
    return f"EPSG:{code}" if code else crs.to_wkt().split('"')[1]


def _layer(path: str | Path) -> str:
    """The only layer with polygons."""
    layers = pyogrio.list_layers(path).tolist()
    polygons = [layer for layer, kind in layers if kind and any(word in kind for word in _POLYGONS)]
    if len(polygons) > 1:
        raise UserError(f"{path} has several layers of polygons ({listing(polygons)}): save the one that you mean as a file.")
    if not polygons:
        raise UserError(f"{path} holds no polygons ({listing(f'{layer}: {kind}' for layer, kind in layers)}).")
    return polygons[0]


def _crs(path: str | Path, words: str | None) -> CRS | None:
    try:
        return CRS.from_user_input(words) if words else None
    except PROJ_ERRORS as error:
        raise UserError(f"{path} has a CRS that is not understood ({_reason(error)}).") from None


def _values(column: np.ndarray, kind: str) -> list[Any]:
    """The values of an attribute, None where it has none; kind: GDAL's type of it, as pyogrio says it.

    Whole numbers that stand beside none come as floats, and are whole numbers again; a list of values is a tuple.
    """
    whole = np.dtype(kind).type if kind in np.sctypeDict and np.dtype(kind).kind in "iub" else None
    values = [tuple(value.tolist()) if isinstance(value, np.ndarray) else value for value in column]
    values = [value.item() if hasattr(value, "item") else value for value in values]
    values = [None if value != value else value for value in values]
    return [whole(value).item() if whole and isinstance(value, float) else value for value in values]


def _reason(error: Exception) -> str:
    return str(error).strip().rstrip(".").splitlines()[0]

"""Proves that polygons, their attributes and their CRS come out of a vector file as they stand in it."""

import json
import os

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely

from tools.base.errors import UserError
from tools.geo import vectors

SQUARE = shapely.box(500_000, 5_400_000, 500_100, 5_400_050)
FAR = shapely.box(500_200, 5_400_000, 500_300, 5_400_050)
UTM = "EPSG:32632"


def write(path, shapes, kind="Polygon", crs=UTM, layer=None, **attributes):
    fields = [np.array(values) for values in attributes.values()]
    wkb = np.array([shape and shape.wkb for shape in shapes], dtype=object)
    pyogrio.raw.write(path, wkb, fields, list(attributes), geometry_type=kind, crs=crs, layer=layer, append=path.exists())
    return path


@pytest.mark.parametrize("suffix", ["shp", "gpkg", "fgb"])
def test_geometry_attributes_and_crs_are_read(tmp_path, suffix):
    path = write(tmp_path / f"a.{suffix}", [SQUARE, FAR], kind="Polygon", height=[1.5, 2.5], name=["a", "b"])
    features, crs = vectors.read_polygons(path)
    found = {f.properties["name"]: f for f in features}
    assert crs == rasterio.CRS.from_epsg(32632)
    assert found["a"].bounds == SQUARE.bounds
    assert found["b"].properties == {"height": 2.5, "name": "b"}
    assert found["a"].geometry["type"] == "Polygon"
    assert vectors.attribute(features, "height", path) == [f.properties["height"] for f in features]
    with pytest.raises(UserError, match=r"has no attribute 'hight'. Did you mean 'height'\? It has height, name"):
        vectors.attribute(features, "hight", path)


def test_whole_numbers_stay_whole_where_a_feature_has_none(tmp_path):
    shapes = [
        {"type": "Feature", "properties": {"n": n, "h": n and n + 0.5}, "geometry": shapely.geometry.mapping(SQUARE)}
        for n in (7, None)
    ]
    (tmp_path / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": shapes}))
    features, _ = vectors.read_polygons(tmp_path / "a.geojson")
    assert [f.properties for f in features] == [{"n": 7, "h": 7.5}, {"n": None, "h": None}]
    assert [str(f.properties["n"]) for f in features] == ["7", "None"]


def test_an_attribute_that_holds_lists_is_read_beside_the_others(tmp_path):
    shape = {"type": "Feature", "geometry": shapely.geometry.mapping(SQUARE)}
    rows = [{"class": "road", "tags": ["x", "y"], "numbers": [1]}, {"class": "roof", "tags": ["z"], "numbers": None}]
    shapes = [shape | {"properties": row} for row in rows]
    (tmp_path / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": shapes}))
    features, _ = vectors.read_polygons(tmp_path / "a.geojson")
    assert [f.properties["class"] for f in features] == ["road", "roof"]
    assert [f.properties["tags"] for f in features] == [("x", "y"), ("z",)]
    assert [f.properties["numbers"] for f in features] == [(1,), None]


def test_reprojected_polygons_lie_where_rasterio_puts_them(tmp_path):
    features, crs = vectors.read_polygons(write(tmp_path / "a.gpkg", [SQUARE], part=["val"]))
    (moved,) = vectors.reproject(features, crs, rasterio.CRS.from_epsg(4326))
    (x,), (y,) = rasterio.warp.transform(UTM, "EPSG:4326", [500_000], [5_400_000])
    assert moved.bounds[:2] == pytest.approx((x, y), abs=1e-7)  # a centimetre: the lower edge is no parallel
    assert (moved.properties, moved.number) == (features[0].properties, features[0].number)


def test_geojson_is_in_degrees_and_empty_geometries_are_left_out(tmp_path):
    ring = [[[9, 48], [9.1, 48], [9.1, 48.1], [9, 48]]]
    shapes = [{"type": "Polygon", "coordinates": ring}, None, {"type": "MultiPolygon", "coordinates": [ring, ring]}]
    features = [{"type": "Feature", "properties": {"n": i}, "geometry": s} for i, s in enumerate(shapes)]
    (tmp_path / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    found, crs = vectors.read_polygons(tmp_path / "a.geojson")
    assert [(f.number, f.properties["n"], f.geometry["type"]) for f in found] == [(0, 0, "Polygon"), (2, 2, "MultiPolygon")]
    assert vectors.name(crs) == "EPSG:4326"


def test_mistakes_are_one_sentence(tmp_path):
    points = write(tmp_path / "points.gpkg", [shapely.Point(1, 2)], "Point")
    two = write(tmp_path / "two.gpkg", [SQUARE], layer="north")
    write(two, [FAR], layer="south")
    (tmp_path / "text.shp").write_text("no shapefile")
    shapes = [{"type": "Point", "coordinates": [1, 2]}, {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]]}]
    features = [{"type": "Feature", "properties": {}, "geometry": shape} for shape in shapes]
    (tmp_path / "mixed.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    for path, said in [
        (tmp_path / "none.shp", "does not exist"),
        (points, r"holds no polygons \(points: Point\)"),
        (two, r"has several layers of polygons \(north, south\)"),
        (tmp_path / "text.shp", "cannot be read as a vector file"),
        (tmp_path / "mixed.geojson", r"holds a Point \(feature 0\), but polygons are needed"),
    ]:
        with pytest.raises(UserError, match=said):
            vectors.read_polygons(path)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.gpkg")
    with pytest.raises(UserError, match="a pipe or a device"):
        vectors.read_polygons(tmp_path / "a.gpkg")

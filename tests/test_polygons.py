"""Proves that polygons are the map: drawn again they give it pixel for pixel, whatever the strips; and that small ones go."""

import argparse

import numpy as np
import pyogrio
import pytest
import shapely
from affine import Affine
from conftest import CRS, write_raster
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.features import rasterize
from scipy import ndimage

from tools.base.errors import UserError
from tools.geo import windows
from tools.geo.measures import Area, Length
from tools.labels.palette import Palette
from tools.maps import choice
from tools.polygons.drawing import Drawing

PALETTE = Palette(["road", "roof", "lawn"], {0: (200, 200, 200), 1: (255, 0, 0), 2: (0, 160, 0)})
HALF = Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)  # half a metre a pixel


def drawn(folder, labels, least="0", confidence=None, simplify=None, square=(), **profile):
    """(geometries, attributes by name) of the polygons of a label array."""
    profile = {"transform": HALF, "crs": CRS} | profile
    confidence = np.full(labels.shape, 80, np.uint8) if confidence is None else confidence
    files = [write_raster(folder / name, what, **profile) for name, what in (("l.tif", labels), ("c.tif", confidence))]
    (folder / "p.gpkg").unlink(missing_ok=True)
    drawing = Drawing(Area.of("--polygons", least), simplify and Length.of("--simplify", simplify), square)
    count = drawing.write(folder / "p.gpkg", *files, PALETTE).count
    meta, _, shapes, columns = pyogrio.raw.read(folder / "p.gpkg", layer="polygons")
    assert len(shapes) == count
    return shapely.from_wkb(shapes), dict(zip(meta["fields"], columns, strict=True)) | {"crs": meta["crs"]}


def painted(shapes, found, shape, transform=HALF):
    pairs = list(zip(shapes, found["label"].tolist(), strict=True))
    return rasterize(pairs, shape, fill=255, transform=transform, dtype=np.uint8) if pairs else np.full(shape, 255, np.uint8)


MAPS = st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 12), st.integers(1, 6), st.integers(0, 99))


@given(MAPS)
@settings(max_examples=6)
def test_polygons_drawn_again_give_the_map_whatever_the_strips(tmp_path_factory, drawn_map):
    check_drawn_again(tmp_path_factory, *drawn_map)


@pytest.mark.slow
@given(MAPS)
@settings(max_examples=60)
def test_polygons_of_many_maps_drawn_again_give_the_map(tmp_path_factory, drawn_map):
    check_drawn_again(tmp_path_factory, *drawn_map)


def check_drawn_again(tmp_path_factory, height, width, strip, grain, seed):
    rng = np.random.default_rng(seed)
    coarse = rng.choice([0, 1, 2, 255], (-(-height // grain), -(-width // grain))).astype(np.uint8)
    labels = np.kron(coarse, np.ones((grain, grain), np.uint8))[:height, :width]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "ROWS", strip)
        shapes, found = drawn(tmp_path_factory.mktemp("p"), labels)
    assert shapely.is_valid(shapes).all()
    assert np.array_equal(painted(shapes, found, labels.shape), labels)
    parts = sum(ndimage.label(labels == i)[1] for i in range(3))
    assert len(shapes) == parts  # as many as scipy finds connected by sides
    assert found["area_m2"] == pytest.approx(shapely.area(shapes))
    assert found["pixels"].tolist() == np.rint(4 * shapely.area(shapes)).astype(int).tolist()


def test_area_class_and_confidence_are_those_of_the_pixels(tmp_path):
    labels = np.zeros((20, 30), np.uint8)
    labels[5:9, 10:15] = 1
    confidence = np.full((20, 30), 50, np.uint8)
    confidence[5:9, 10:15] = np.arange(20).reshape(4, 5)
    shapes, found = drawn(tmp_path, labels, confidence=confidence)
    roof = found["class"].tolist().index("roof")
    assert sorted(found["class"]) == ["road", "roof"]
    assert shapes[roof].bounds == (500_005, 4_999_995.5, 500_007.5, 4_999_997.5)
    assert (found["label"][roof], found["pixels"][roof], found["area_m2"][roof]) == (1, 20, 5.0)
    assert found["confidence"].tolist()[roof] == pytest.approx(0.095)
    assert found["confidence"].tolist()[1 - roof] == pytest.approx(0.5)
    assert found["crs"] == "EPSG:32632"


def test_confidence_in_shares_gives_the_same(tmp_path):
    labels, shares = np.zeros((4, 4), np.uint8), np.full((4, 4), 0.25, np.float32)
    assert drawn(tmp_path, labels, confidence=shares)[1]["confidence"].tolist() == [0.25]


def holes():
    """A road with a hole of 4 pixels and one of 16, and a lawn of 4 pixels at the border between road and nothing."""
    labels = np.zeros((30, 30), np.uint8)
    labels[3:5, 3:5], labels[10:14, 10:14] = 1, 1
    labels[:, 20:], labels[6:8, 20:22] = 255, 2
    return labels


@pytest.mark.parametrize("least", ["2.5", "2.5m2", "10px"])
def test_small_polygons_go_and_small_holes_are_closed(tmp_path, least):
    shapes, found = drawn(tmp_path, holes(), least)
    assert sorted(found["class"]) == ["road", "roof"]
    road = found["class"].tolist().index("road")
    assert found["pixels"][road] == 600 - 16  # the small roof has joined it
    assert len(shapes[road].interiors) == 1
    again = painted(shapes, found, (30, 30))
    assert (again[3:5, 3:5] == 0).all()
    assert (again[10:14, 10:14] == 1).all()
    assert (again[6:8, 20:22] == 255).all()  # it lies between two: a gap


@pytest.mark.parametrize("strip", [1, 7, 100])
def test_the_least_area_counts_whole_polygons_not_their_strips(tmp_path, monkeypatch, strip):
    monkeypatch.setattr(windows, "ROWS", strip)
    _, found = drawn(tmp_path, holes(), "16px")
    assert sorted(found["pixels"].tolist()) == [16, 584]


def test_a_map_without_a_class_gives_an_empty_layer(tmp_path):
    shapes, found = drawn(tmp_path, np.full((5, 5), 255, np.uint8))
    assert len(shapes) == 0
    assert "class" in found


def test_without_a_place_polygons_are_in_pixels_with_y_upward(tmp_path):
    shapes, found = drawn(tmp_path, np.zeros((4, 6), np.uint8), transform=None, crs=None)
    assert shapes[0].bounds == (0, -4, 6, 0)
    assert (found["crs"], found["pixels"][0], np.isnan(found["area_m2"][0])) == (None, 24, True)
    with pytest.raises(UserError, match=r"in pixels, --polygons 20px"):
        drawn(tmp_path, np.zeros((4, 6), np.uint8), "20", transform=None, crs=None)


def test_in_degrees_the_area_is_in_square_metres(tmp_path):
    degrees = {"crs": "EPSG:4326", "transform": Affine(1e-5, 0, 8, 0, -1e-5, 60)}
    _, found = drawn(tmp_path, np.zeros((10, 10), np.uint8), **degrees)
    side = np.radians(1e-5) * 6_378_137
    assert found["area_m2"][0] == pytest.approx(100 * side * side * 0.5, rel=0.01)


@pytest.mark.parametrize("word", ["small", "-3", "20 m", "px", "1e3"])
def test_a_least_area_that_is_none_is_refused(word):
    with pytest.raises(UserError, match="a number of square metres such as 20, or of pixels: 50px"):
        Area.of("--polygons", word)


def test_options_about_polygons_are_refused_without_them():
    parser = argparse.ArgumentParser()
    choice.add_options(parser)
    assert choice.chosen(parser.parse_args(["--polygons"]), []).polygons_as == "gpkg"
    assert choice.chosen(parser.parse_args(["--polygons", "--polygons-as", "fgb"]), []).polygons_as == "fgb"
    with pytest.raises(UserError, match="--polygons-as is about polygons: add --polygons"):
        choice.chosen(parser.parse_args(["--polygons-as", "geojson"]), [])

"""Proves that pixels have their true size in metres in any CRS, against the formulas of the sphere and the ellipsoid."""

import math

import pytest
from affine import Affine
from rasterio import CRS

from tools.geo.pixel_size import pixel_areas, pixel_size
from tools.geo.raster import Raster

EARTH = 510_065_621_724_088  # square metres, WGS 84's ellipsoid


def grid(epsg, transform, height=10, width=20):
    return Raster("x.tif", height, width, 1, "uint8", epsg and CRS.from_user_input(epsg), transform)


def test_in_metres_and_feet_it_is_the_area_on_the_map():
    assert pixel_areas(grid(32632, Affine(0.5, 0, 5e5, 0, -2, 5e6))) == pytest.approx([1.0] * 10)
    assert pixel_size(grid(32632, Affine(0.09, 0, 5e5, 0, -0.09, 5e6))) == pytest.approx(0.09)
    assert pixel_size(grid(2263, Affine(1, 0, 9e5, 0, -1, 2e5))) == pytest.approx(1200 / 3937)  # US survey feet


def test_a_turned_grid_has_the_same_pixels():
    turned = Affine.translation(5e5, 5e6) * Affine.rotation(30) * Affine.scale(0.5, -0.5)
    assert pixel_areas(grid(32632, turned)) == pytest.approx([0.25] * 10)


def test_the_pixels_of_the_whole_earth_in_degrees_add_up_to_it():
    areas = pixel_areas(grid(4326, Affine(1, 0, -180, 0, -1, 90), 180, 360))
    assert areas.sum() * 360 == pytest.approx(EARTH, rel=1e-9)
    assert areas == pytest.approx(areas[::-1])


def test_in_degrees_pixels_narrow_with_the_latitude():
    areas = pixel_areas(grid(4326, Affine(1e-4, 0, 8, 0, -1e-4, 60), 100, 100))
    metres = math.radians(1e-4) * 6_378_137
    assert areas == pytest.approx([metres * metres * math.cos(math.radians(60))] * 100, rel=0.01)
    assert areas[0] < areas[-1]


def test_web_mercators_metres_are_none():
    north = 6378137 * math.log(math.tan(math.pi / 4 + math.radians(60) / 2))
    assert pixel_size(grid(3857, Affine(1, 0, 1e6, 0, -1, north))) == pytest.approx(0.5, rel=0.01)


def test_without_a_crs_the_area_is_not_known_and_the_size_is_the_transforms():
    assert pixel_areas(grid(None, Affine(0.5, 0, 0, 0, -0.5, 0))) is None
    assert pixel_size(grid(None, Affine(0.5, 0, 0, 0, -0.5, 0))) == pytest.approx(0.5)
    assert pixel_size(grid(None, None)) is None
    assert pixel_areas(grid(32632, None)) is None


def test_beyond_the_poles_nothing_is_known():
    assert pixel_areas(grid(4326, Affine(1, 0, 0, 0, -50, 250))) is None

"""Proves that simplified polygons are a coverage, across strips too: no gaps, no overlaps, borders shared; and right angles."""

import numpy as np
import pytest
import shapely
import shapely.affinity
from scipy import ndimage
from test_polygons import drawn, painted

from tools.geo import windows
from tools.labels.cleaning import clean
from tools.polygons.coverage import meeting
from tools.polygons.square import rectangle


def blobs(seed, height=60, width=50, holes=True):
    """Patches with round borders, some of them without a class."""
    noise = np.random.default_rng(seed).normal(size=(4, height, width))
    labels = np.array([0, 1, 2, 255 if holes else 0], np.uint8)[ndimage.gaussian_filter(noise, (0, 3, 3)).argmax(0)]
    return labels


def in_pixels(shapes):
    """Half metres are pixels; y downward."""
    return shapely.transform(shapes, lambda xy: (xy - (500_000, 5_000_000)) * (2, -2))


@pytest.mark.parametrize("tolerance", ["0.25", "0.5", "1.5", "3px"])
@pytest.mark.parametrize(("seed", "strip"), [(1, 1), (2, 3), (3, 7), (4, 16), (5, 100)])
def test_simplified_polygons_have_no_gaps_and_no_overlaps_whatever_the_strips(tmp_path, monkeypatch, seed, strip, tolerance):
    labels = blobs(seed, holes=False)
    monkeypatch.setattr(windows, "ROWS", strip)
    shapes, _ = drawn(tmp_path, labels, simplify=tolerance)
    assert shapely.is_valid(shapes).all()
    assert shapely.coverage_is_valid(shapes)  # every vertex of a common border is in both polygons
    assert shapely.union_all(shapes).equals(shapely.box(500_000, 4_999_970, 500_025, 5_000_000))
    assert shapely.area(shapes).sum() == pytest.approx(25 * 30, rel=1e-12)  # so none lies over another
    assert len(shapes) == sum(ndimage.label(labels == i)[1] for i in range(3))


def test_borders_with_no_data_are_simplified_too_and_no_data_stays_free(tmp_path, monkeypatch):
    monkeypatch.setattr(windows, "ROWS", 20)
    labels = blobs(3)
    shapes, found = drawn(tmp_path, labels, simplify="0.5")
    assert shapely.coverage_is_valid(shapes)
    again = painted(shapes, found, labels.shape)
    assert (again == labels).mean() > 0.93
    assert (again[ndimage.binary_erosion(labels == 255, iterations=3)] == 255).all()
    exact, _ = drawn(tmp_path, labels)
    assert shapely.get_num_coordinates(shapes).sum() < 0.6 * shapely.get_num_coordinates(exact).sum()


def test_in_one_strip_it_is_shapelys_own(tmp_path):
    labels = blobs(5, holes=False)
    shapes, _ = drawn(tmp_path, labels, simplify="2px")
    exact, _ = drawn(tmp_path, labels)
    dense = shapely.segmentize(in_pixels(exact), 1)
    wanted = shapely.coverage_simplify(dense, 2, simplify_boundary=False)
    same = sorted(zip(in_pixels(shapes), wanted, strict=True), key=lambda pair: pair[0].bounds)
    assert all(a.equals(b) for a, b in same)


def test_small_patches_join_their_neighbours_so_that_no_gap_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(windows, "ROWS", 8)
    labels = blobs(8, holes=False)
    labels[np.random.default_rng(1).random(labels.shape) < 0.05] = 1
    shapes, found = drawn(tmp_path, labels, "20px", simplify="0.01px")
    whole = np.concatenate(list(clean([labels], 20, 3)))
    assert np.array_equal(painted(shapes, found, labels.shape), whole)
    assert shapely.coverage_is_valid(shapes)


def test_where_patches_meet_along_a_seam():
    above, below = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 1, 2])
    assert meeting(above, below).tolist() == [False, False, False, False, False, False]
    assert meeting(above, np.array([2, 2, 2, 2, 2])).tolist() == [False, False, True, False, False, False]
    assert meeting(np.array([0, 1]), np.array([1, 0])).tolist() == [False, True, False]


# ----------------------------------------------------------------------------------------------------------- right angles


FAR = shapely.box(-1000, -1000, 1000, 1000)


def turned(width, height, degrees, centre=(30, 30)):
    box = shapely.box(-width / 2, -height / 2, width / 2, height / 2)
    return shapely.transform(shapely.affinity.rotate(box, degrees, origin=(0, 0)), lambda xy: xy + centre)


@pytest.mark.parametrize("degrees", [0, 17, 45, 80])
def test_a_rectangle_drawn_in_pixels_becomes_a_rectangle_again(tmp_path, degrees):
    from rasterio.features import rasterize

    house = turned(24, 14, degrees)
    labels = rasterize([(house, 1)], (60, 60), dtype=np.uint8)
    shapes, found = drawn(tmp_path, labels, simplify="1px", square=("roof",))
    roof = in_pixels(shapes)[found["class"].tolist().index("roof")]
    assert len(roof.exterior.coords) == 5
    sides = np.diff(shapely.get_coordinates(roof), axis=0)
    assert abs((sides[:-1] * sides[1:]).sum(1)).max() < 1e-4
    assert roof.area == pytest.approx((labels == 1).sum())
    assert roof.intersection(house).area / roof.union(house).area > 0.9


def test_a_rectangle_that_the_edge_of_the_map_cuts_ends_there(tmp_path):
    from rasterio.features import rasterize

    labels = rasterize([(turned(30, 20, 12, centre=(30, 7)), 1)], (60, 60), dtype=np.uint8)
    shapes, found = drawn(tmp_path, labels, simplify="1px", square=("roof",))
    roof = in_pixels(shapes)[found["class"].tolist().index("roof")]
    pixels = shapely.union_all([shapely.box(c, r, c + 1, r + 1) for r, c in np.argwhere(labels == 1)])
    assert len(roof.exterior.coords) > 5 and roof.bounds[1] == pytest.approx(0, abs=1e-6)  # the rectangle would reach beyond
    assert roof.intersection(pixels).area / roof.union(pixels).area > 0.85


def test_what_is_no_rectangle_stays_as_it_is():
    corner = shapely.union_all([shapely.box(0, 0, 20, 6), shapely.box(0, 0, 6, 20)])
    ring = shapely.box(0, 0, 20, 20).difference(shapely.box(4, 4, 16, 16))
    assert rectangle(corner, FAR) is rectangle(ring, FAR) is None
    assert rectangle(shapely.Polygon([(0, 0), (10, 0), (5, 8)]), FAR) is None


def test_the_iou_of_a_rectangle_is_that_with_its_pixels():
    notched = shapely.box(0, 0, 10, 10).difference(shapely.box(9, 9, 10, 10))
    found, iou = rectangle(notched, FAR)
    assert found.area == pytest.approx(99)
    assert iou == pytest.approx(found.intersection(notched).area / found.union(notched).area)
    assert 0.97 < iou < 1

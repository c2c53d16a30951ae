"""Proves that polygons become labels on an image's own grid: the pixels whose centres they hold, in any CRS, by attribute."""

import json

import numpy as np
import pytest
import rasterio
from conftest import CRS, REPO, call, pixels, place, refused, write_config, write_raster
from shapely.geometry import shape

from tools.data.dataset import Dataset
from tools.geo.vectors import read_polygons, reproject

NAMES = ["land", "house", "road"]
PALETTE = {0: (0, 200, 0), 1: (200, 0, 0), 2: (90, 90, 90), 3: (0, 0, 0)}


def square(row, col, rows, cols, tile=1):
    """A polygon that covers these pixels of a tile."""
    transform = place(tile)
    corners = [(col, row), (col + cols, row), (col + cols, row + rows), (col, row + rows), (col, row)]
    return {"type": "Polygon", "coordinates": [[transform * corner for corner in corners]]}


def write_vector(path, shapes, crs="EPSG:32632"):
    """A GeoJSON of (geometry, properties) in a CRS."""
    features = [{"type": "Feature", "properties": p, "geometry": g} for g, p in shapes]
    name = {"type": "name", "properties": {"name": crs}}
    path.write_text(json.dumps({"type": "FeatureCollection", "crs": name, "features": features}))
    return path


@pytest.fixture
def image(tmp_path):
    """A tile of 8 x 10 pixels."""
    return write_raster(tmp_path / "images/a.tif", np.zeros((3, 8, 10), np.uint8), 1)


@pytest.fixture
def draw(tmp_path, image):
    """Run convert_gt.py --from-vector on the tile; what it makes goes to tmp_path/out."""

    def run(path, *words, like=image, **changes):
        settings = {"label_values": NAMES, "palette": PALETTE, "IGNORE_LABEL": None} | changes
        config = write_config(tmp_path / "config.py", tmp_path, **settings)
        given = ["--like", like, "--out", tmp_path / "out", "--overwrite", "--config", config]
        return call("convert_gt", path, "--from-vector", *words, *given)

    return run


def expected(background):
    """House on 2 x 3 pixels from (1, 2), road on the last two rows."""
    labels = np.full((8, 10), background, np.uint8)
    labels[1:3, 2:5] = 1
    labels[6:8] = 2
    return labels


SHAPES = [(square(1, 2, 2, 3), {"class": "house"}), (square(6, 0, 2, 10), {"class": "road"})]


def test_polygons_are_drawn_on_the_images_grid(draw, tmp_path):
    ran = draw(write_vector(tmp_path / "a.geojson", SHAPES), "--attribute", "class", "--background", "land")
    assert ran.code == 0, ran.err
    assert np.array_equal(pixels(tmp_path / "out/a.tif")[0], expected(0))
    with rasterio.open(tmp_path / "out/a.tif") as file:
        assert (file.crs, file.transform, file.dtypes) == (CRS, place(1), ("uint8",))
        assert file.colormap(1)[1][:3] == PALETTE[1]


def test_pixels_that_no_polygon_covers_are_not_scored_unless_a_background_is_named(draw, tmp_path):
    path = write_vector(tmp_path / "a.geojson", SHAPES)
    assert draw(path, "--attribute", "class").code == 0
    assert np.array_equal(pixels(tmp_path / "out/a.tif")[0], expected(3))
    assert draw(path, LABEL_ATTRIBUTE="class", LABEL_BACKGROUND="road").code == 0
    assert np.array_equal(pixels(tmp_path / "out/a.tif")[0], expected(2))


def test_without_a_label_for_what_is_not_scored_it_is_255(draw, tmp_path):
    palette = {k: v for k, v in PALETTE.items() if k != 3}
    assert draw(write_vector(tmp_path / "a.geojson", SHAPES), "--attribute", "class", palette=palette).code == 0
    assert np.array_equal(pixels(tmp_path / "out/a.tif")[0], expected(255))


def test_a_pixel_belongs_to_the_polygon_that_holds_its_centre_and_to_the_last_of_several(draw, tmp_path):
    shapes = [(square(0.4, 0, 2, 2), {"class": "house"}), (square(0.6, 1, 2, 2), {"class": "road"})]
    assert draw(write_vector(tmp_path / "a.geojson", shapes), "--attribute", "class", "--background", "land").code == 0
    assert pixels(tmp_path / "out/a.tif")[0, :4, :4].tolist() == [[1, 1, 0, 0], [1, 2, 2, 0], [0, 2, 2, 0], [0, 0, 0, 0]]


def test_polygons_in_degrees_are_reprojected_and_it_is_said(draw, tmp_path):
    moved = [(rasterio.warp.transform_geom(CRS, "EPSG:4326", g), p) for g, p in SHAPES]
    path = write_vector(tmp_path / "a.geojson", moved, "EPSG:4326")
    ran = draw(path, "--attribute", "class", "--background", "land")
    assert ran.code == 0, ran.err
    assert "reprojected from EPSG:4326 to EPSG:32632" in ran.out
    assert np.array_equal(pixels(tmp_path / "out/a.tif")[0], expected(0))


def test_classes_are_mapped_by_name_and_by_number(draw, tmp_path):
    mapping = {"hut": "house", "path": "road", "pond": None}
    shapes = [(square(0, i, 1, 1), {"kind": kind}) for i, kind in enumerate(mapping)]
    path = write_vector(tmp_path / "a.geojson", shapes)
    assert draw(path, "--attribute", "kind", "--background", "land", CLASS_MAPPING=mapping).code == 0
    assert pixels(tmp_path / "out/a.tif")[0, 0, :4].tolist() == [1, 2, 3, 0]
    path = write_vector(tmp_path / "a.geojson", [(square(0, i, 1, 1), {"kind": 5 + i}) for i in range(3)])
    numbers = {"SOURCE_CLASSES": {"hut": 5, "path": 6, "pond": 7}, "CLASS_MAPPING": mapping}
    assert draw(path, "--attribute", "kind", "--background", "land", **numbers).code == 0
    assert pixels(tmp_path / "out/a.tif")[0, 0, :4].tolist() == [1, 2, 3, 0]


def test_all_polygons_may_be_of_one_class(draw, tmp_path):
    path = write_vector(tmp_path / "a.geojson", [(square(0, 0, 1, 10), {"height": 3.5})])
    assert draw(path, "--class", "house", "--background", "land").code == 0
    assert pixels(tmp_path / "out/a.tif")[0].sum(1).tolist() == [10, 0, 0, 0, 0, 0, 0, 0]


def test_an_unknown_class_is_named_with_the_nearest_and_can_be_left_out(draw, tmp_path):
    path = write_vector(tmp_path / "a.geojson", [*SHAPES, (square(4, 0, 1, 1), {"class": "hose"})])
    refused(draw(path, "--attribute", "class"), "'hose' (1 polygons)", "Did you mean 'house'?")
    assert draw(path, "--attribute", "class", "--background", "land", "--unknown", "ignore").code == 0
    assert pixels(tmp_path / "out/a.tif")[0, 4, :2].tolist() == [3, 0]


def test_an_attribute_that_is_not_there_is_named(draw, tmp_path):
    path = write_vector(tmp_path / "a.geojson", SHAPES)
    refused(draw(path, "--attribute", "klass"), "no attribute 'klass'", "Did you mean 'class'?")
    refused(draw(path), "which attribute names the class?", "--class")


def test_polygons_outside_every_image_are_refused(draw, tmp_path):
    path = write_vector(tmp_path / "a.geojson", [(square(0, 0, 8, 10, tile=3), {"class": "house"})])
    refused(draw(path, "--attribute", "class"), "no polygon of", "EPSG:32632", "lies on", "images/a.tif")
    assert not (tmp_path / "out").exists()


def test_a_crs_that_one_side_lacks_is_refused(draw, tmp_path):
    bare = write_raster(tmp_path / "bare.tif", np.zeros((8, 10), np.uint8), 1, crs=None)
    refused(draw(write_vector(tmp_path / "a.geojson", SHAPES), "--class", "house", like=bare), bare, "has no CRS", "EPSG:32632")


def test_an_image_without_a_place_is_refused(draw, tmp_path):
    nowhere = write_raster(tmp_path / "a.png", np.zeros((8, 10), np.uint8), driver="PNG", crs=None, transform=None)
    refused(draw(write_vector(tmp_path / "a.geojson", SHAPES), "--class", "house", like=nowhere), nowhere, "no place on Earth")


# ---------------------------------------------------------------------------------- polygons that do not cover the image

APART = [(square(1, 2, 1, 1), {}), (square(1, 7, 1, 1), {}), (square(5, 2, 1, 6), {})]  # the hull: rows 1 to 5, columns 2 to 7


def apart(outside):
    labels = np.full((8, 10), outside, np.uint8)
    labels[1:6, 2:8] = 0
    labels[1, [2, 7]] = labels[5, 2:8] = 1
    return labels


def test_outside_of_the_hull_is_not_scored_where_the_area_is_the_hull(draw, tmp_path):
    path = write_vector(tmp_path / "a.geojson", APART)
    ran = draw(path, "--class", "house", "--background", "land", "--area", "hull")
    assert ran.code == 0 and np.array_equal(pixels(tmp_path / "out/a.tif")[0], apart(3))
    assert (
        "polygons cover 10.0% of the pixels, 27.5% are land, 62.5% lie outside of the area (hull) and are not scored" in ran.out
    )


def test_polygons_that_cross_themselves_are_drawn_and_have_a_hull(draw, tmp_path):
    transform = place(1)
    ring = [(1, 1), (5, 5), (5, 1), (1, 5), (1, 1)]  # a bow-tie, and a square over it
    crossed = {"type": "Polygon", "coordinates": [[transform * (col, row) for col, row in ring]]}
    shapes = [(crossed, {"class": "house"}), (square(2, 2, 3, 4), {"class": "road"})]
    ran = draw(write_vector(tmp_path / "a.geojson", shapes), "--attribute", "class", "--background", "land")
    assert ran.code == 0, ran.err
    assert (pixels(tmp_path / "out/a.tif")[0, 2:5, 2:6] == 2).all()


def test_a_background_alone_holds_everywhere_and_the_share_beyond_the_hull_is_said(draw, tmp_path):
    ran = draw(write_vector(tmp_path / "a.geojson", APART), "--class", "house", "--background", "land")
    assert ran.code == 0 and np.array_equal(pixels(tmp_path / "out/a.tif")[0], apart(0))
    assert "polygons cover 10.0% of the pixels, the other 90.0% are land, 62.5% of all outside of the polygons' hull" in ran.out


def test_without_a_background_the_share_that_is_not_scored_is_said(draw, tmp_path):
    ran = draw(write_vector(tmp_path / "a.geojson", APART), "--class", "house")
    assert "polygons cover 10.0% of the pixels, the other 90.0% are not scored" in ran.out
    assert (pixels(tmp_path / "out/a.tif")[0] == 3).mean() == 0.9


@pytest.mark.parametrize("crs", ["EPSG:32632", "EPSG:25832"])
def test_a_given_area_says_where_the_background_holds_and_polygons_beyond_it_count(draw, tmp_path, crs):
    """EPSG:25832 is the same place to a few centimetres, in another CRS."""
    area = write_vector(tmp_path / "area.geojson", [(square(0, 0, 4, 10), {})], crs)
    path = write_vector(tmp_path / "a.geojson", APART)
    ran = draw(path, "--class", "house", LABEL_BACKGROUND="land", LABEL_AREA=str(area))
    assert ran.code == 0, ran.err
    labels = np.full((8, 10), 3, np.uint8)
    labels[:4] = 0
    labels[1, [2, 7]] = labels[5, 2:8] = 1
    assert np.array_equal(pixels(tmp_path / "out/a.tif")[0], labels)
    assert json.loads((tmp_path / "out/details.json").read_text())["pixels_not_scored"] == 34


def test_an_area_without_a_background_or_without_a_file_is_refused(draw, tmp_path):
    path = write_vector(tmp_path / "a.geojson", APART)
    refused(draw(path, "--class", "house", "--area", "hull"), "the area hull", "--background or LABEL_BACKGROUND")
    ran = draw(path, "--class", "house", "--background", "land", "--area", tmp_path / "none.gpkg")
    refused(ran, "none.gpkg does not exist")


# ---------------------------------------------------------------------------------------------------- labels of the config


def test_the_configs_labels_may_be_polygons(tmp_path):
    for tile in (1, 2, 3):
        write_raster(tmp_path / f"city/images/{tile}.tif", np.full((3, 8, 10), tile, np.uint8), tile)
    shapes = [(square(0, 0, 4, 10, tile), {"class": "house"}) for tile in (1, 2, 3)]
    write_vector(tmp_path / "city/houses.geojson", shapes)
    config = write_config(
        tmp_path / "config.py", tmp_path, DATASET="city", DATASET_DIR=f"{tmp_path}/city/", label_values=NAMES, palette=PALETTE,
        folders={"rgb": "images/{}.tif", "labels": "houses.geojson"}, INPUTS={"rgb": ["rgb"]}, MEAN_PIXEL={}, IGNORE_LABEL=None,
        train_ids=[1], val_ids=[2], test_ids=[3], LABEL_ATTRIBUTE="class", LABEL_BACKGROUND="land", patch_size=(8, 8),
        step_size=(8, 8), ROTATIONS=[0], FLIPS=[False],
    )  # fmt: skip
    refused(call("extract_images", "--config", config), "labels are made from houses.geojson by convert_gt.py --from-vector")
    ran = call("convert_gt", "--from-vector", "--config", config)
    assert ran.code == 0, ran.err
    for tile in (1, 2, 3):
        assert pixels(tmp_path / f"city/labels_numpy/{tile}.tif")[0].sum(1).tolist() == [10] * 4 + [0] * 4
    ran = call("extract_images", "--config", config)
    assert ran.code == 0, ran.err
    patches = sorted((tmp_path / "city_patches/labels_train").iterdir())
    assert [pixels(p)[0].sum() for p in patches] == [32, 32]


def test_a_vector_file_for_each_tile_is_a_pattern():
    dataset = Dataset("city", {"labels": "plots/{}_{:02d}.gpkg", "dsm": "heights.shp"})
    assert str(dataset.given("labels", ("a", 7))) == "city/plots/a_07.gpkg"
    assert str(dataset.path("labels", ("a", 7))) == "city/labels_numpy/a_7.tif"
    assert not dataset.is_vector("dsm")


# --------------------------------------------------------------------------------------------------------------- real data

GEO = REPO.parent / "shared/data/geo"


@pytest.mark.skipif(not GEO.exists(), reason="the real data are not here")
@pytest.mark.parametrize("suffix", ["shp", "geojson"])
def test_real_footprints_in_degrees_cover_their_area_on_a_utm_grid(draw, tmp_path, suffix):
    ran = draw(GEO / f"buildings.{suffix}", "--class", "house", "--background", "land", like=GEO / "dsm.tif")
    assert ran.code == 0, ran.err
    assert "from EPSG:4326 to EPSG:26918" in ran.out
    features, crs = read_polygons(GEO / f"buildings.{suffix}")
    area = sum(shape(f.geometry).area for f in reproject(features, crs, CRS.from_epsg(26918)))  # square metres
    labels = pixels(tmp_path / "out/dsm.tif")[0]
    assert labels.shape == (259, 283)
    assert labels.sum() * 4 == pytest.approx(area, rel=0.005)  # a pixel has 2 x 2 m

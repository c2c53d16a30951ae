"""Proves that an area of interest gives the whole map's labels inside it and nothing outside, and counts classes by zone."""

import csv
import json

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
import shapely.affinity
from conftest import CRS, NAMES, pixels, place, refused, write_raster
from rasterio.features import geometry_mask
from rasterio.warp import transform_geom
from test_inference import infer, own  # noqa: F401 (own is a fixture)

from tools.base.errors import UserError
from tools.geo import raster
from tools.geo.area import AreaOfInterest, cut
from tools.geo.windows import Window

pytestmark = pytest.mark.usefixtures("without_pictures")

LEFT, TOP = place(32) * (0, 0)
ROUND = shapely.Point(LEFT + 2, TOP - 2).buffer(1)
TURNED = shapely.affinity.rotate(shapely.box(LEFT + 4, TOP - 4, LEFT + 6.5, TOP - 2.2), 20)


def write_zones(path, shapes, crs="EPSG:32632", **attributes):
    """A vector file, without the code under test."""
    columns, shapes = [np.array(values, object) for values in attributes.values()], shapely.to_wkb(np.array(shapes, object))
    pyogrio.raw.write(path, shapes, columns, list(attributes), geometry_type="Polygon", crs=crs)
    return path


def in_degrees(shape):
    return shapely.geometry.shape(transform_geom(CRS, "EPSG:4326", shapely.geometry.mapping(shape)))


@pytest.fixture(scope="module")
def whole(trained, tmp_path_factory):
    """The whole map of the test tile."""
    out = tmp_path_factory.mktemp("whole")
    ran = infer(trained, 32, "--dir", out)
    assert ran.code == 0, ran.err
    return pixels(out / "32_labels.tif")[0]


def test_zones_in_another_crs_give_the_whole_maps_labels_and_their_classes_by_name(trained, whole, tmp_path):
    zones = write_zones(tmp_path / "z.geojson", [in_degrees(ROUND), in_degrees(TURNED)], "EPSG:4326", name=["pond", "field"])
    words = ["--area", zones, "--area-attribute", "name", "--polygons", "--dir", tmp_path / "out"]
    ran = infer(trained, 32, *words)
    assert ran.code == 0, ran.err
    with rasterio.open(tmp_path / "out/32_labels.tif") as file:
        found, transform = file.read(1), file.transform
    row, col = (round(n) for n in reversed(~place(32) * (transform.c, transform.f)))
    inside = [~geometry_mask([shape], whole.shape, place(32)) for shape in (ROUND, TURNED)]
    here = Window(row, col, *found.shape).slices
    either = (inside[0] | inside[1])[here]
    assert either.sum() == (inside[0] | inside[1]).sum()  # nothing of the area is cut off
    assert np.array_equal(found, np.where(either, whole[here], 6))
    assert found.shape < whole.shape
    rows = list(csv.DictReader((tmp_path / "out/zones.csv").read_text().splitlines()))
    assert [row["zone"] for row in rows] == ["pond", "field"]
    for zone, mask in zip(rows, inside, strict=True):
        for label, name in enumerate(NAMES):
            assert float(zone[f"{name} m2"]) == pytest.approx((whole[mask] == label).sum() * 0.09**2, abs=0.006)
    statistics = json.loads((tmp_path / "out/statistics.json").read_text())
    assert [sum(zone["pixels"].values()) for zone in statistics["zones"]] == [int(mask.sum()) for mask in inside]
    meta, _, shapes, columns = pyogrio.raw.read(tmp_path / "out/32_polygons.gpkg", layer="polygons")
    named = dict(zip(meta["fields"], columns, strict=True))["zone"]
    zones = {"pond": ROUND, "field": TURNED}
    nearest = [min(zones, key=lambda name: shape.distance(zones[name])) for shape in shapely.from_wkb(shapes)]
    assert named.tolist() == nearest
    truth = json.loads((tmp_path / "out/scores.json").read_text())["labels"]["all"]
    assert truth["pixels"] == either.sum()


def test_bounds_give_the_whole_maps_labels_and_the_truth_beside_them(trained, whole, tmp_path):
    bounds = ",".join(str(n) for n in (LEFT + 0.9, TOP - 4.5, LEFT + 4.5, TOP - 1.8))
    ran = infer(trained, 32, "--area", bounds, "--clean", "3px", "--dir", tmp_path / "out")
    assert ran.code == 0, ran.err
    assert pixels(tmp_path / "out/32_labels.tif")[0].shape == (30, 40)
    ran = infer(trained, 32, "--area", bounds, "--dir", tmp_path / "plain")
    assert np.array_equal(pixels(tmp_path / "plain/32_labels.tif")[0], whole[20:50, 10:50])


def test_only_windows_that_touch_the_area_are_computed(trained, tmp_path, monkeypatch):
    from tools.inference import forward

    seen, image = [], tmp_path / "wide.tif"
    write_raster(image, np.tile(pixels(trained.path("irrg", 32)), (1, 8, 8)), 32)
    compute = forward.Forward._pass
    monkeypatch.setattr(forward.Forward, "_pass", lambda self, x: seen.append(len(x[0])) or compute(self, x))
    corners = [(1, 1), (60, 45), (30, 2)]
    zones = [shapely.box(LEFT + x, TOP - y - 0.5, LEFT + x + 0.5, TOP - y) for x, y in corners]
    ran = infer(trained, "--images", image, "--area", write_zones(tmp_path / "z.gpkg", zones, name=list("abc")),
                "--dir", tmp_path / "out", TEST_BATCH_SIZE=1)  # fmt: skip
    assert ran.code == 0, ran.err
    touched = 0
    starts = [[*range(0, n - 32, 16), n - 32] for n in (72 * 8, 90 * 8)]
    for row in starts[0]:
        for col in starts[1]:
            window = shapely.box(LEFT + 0.09 * col, TOP - 0.09 * (row + 32), LEFT + 0.09 * (col + 32), TOP - 0.09 * row)
            touched += any(window.intersects(zone) for zone in zones)
    assert sum(seen) == touched
    assert touched < 40


def test_tiles_that_the_area_does_not_touch_are_left_out(trained, tmp_path):
    ran = infer(trained, 32, 15, "--area", write_zones(tmp_path / "z.gpkg", [ROUND]), "--dir", tmp_path / "out")
    assert ran.code == 0, ran.err
    assert sorted(json.loads((tmp_path / "out/statistics.json").read_text())["tiles"]) == ["32"]


def test_what_is_odd_about_zones_is_said(tmp_path):
    tie = shapely.Polygon([(0, 0), (2, 2), (0, 2), (2, 0)])
    area = AreaOfInterest.of(str(write_zones(tmp_path / "z.gpkg", [tie, shapely.box(0, 0, 1, 3), shapely.box(5, 5, 6, 6)])))
    assert "1 polygon(s)" in area.notes[0] and "cross themselves and were mended" in area.notes[0]
    assert "1 pair(s) of zones" in area.notes[1] and "counts in each of them" in area.notes[1]
    beside = write_zones(tmp_path / "n.gpkg", [shapely.box(0, 0, 1, 1), shapely.box(1, 0, 2, 1)])
    assert AreaOfInterest.of(str(beside)).notes == ()


def test_zones_that_overlap_both_count(tmp_path):
    from tools.maps.zones import ZoneStatistics, together

    image = write_raster(
        tmp_path / "a.tif", np.zeros((10, 10), np.uint8), transform=rasterio.transform.from_origin(0, 10, 1, 1)
    )
    zones = write_zones(tmp_path / "z.gpkg", [shapely.box(0, 0, 6, 10), shapely.box(4, 0, 10, 10)], name=["a", "b"])
    area = AreaOfInterest.of(str(zones), "name").on(raster.inspect(image))
    labels = np.repeat(np.array([0, 1], np.uint8), 5)[None].repeat(10, 0)
    statistics = ZoneStatistics(area, ["x", "y"], np.ones(10))
    for row in range(0, 10, 3):
        statistics.add(Window(row, 0, min(3, 10 - row), 10), labels[row : row + 3])
    found = together([statistics.to_list(), statistics.to_list()], ["x", "y"])
    assert [(zone["zone"], zone["pixels"], zone["area_m2"]) for zone in found] == [
        ("a", {"x": 100, "y": 20}, {"x": 100.0, "y": 20.0}), ("b", {"x": 20, "y": 100}, {"x": 20.0, "y": 100.0}),
    ]  # fmt: skip


def test_maps_of_zones_that_were_drawn_anew_are_not_resumed(trained, tmp_path):
    zones, out = write_zones(tmp_path / "z.gpkg", [ROUND], name=["pond"]), tmp_path / "out"
    words = (32, "--area", zones, "--area-attribute", "name", "--dir", out)
    assert infer(trained, *words).code == 0
    zones.touch()  # the same zones in a file that was saved again
    assert infer(trained, *words, "--resume").code == 0
    zones.unlink()
    write_zones(zones, [TURNED], name=["pond"])
    refused(infer(trained, *words, "--resume"), "was begun with area_sha256", "--overwrite")


def test_a_raster_that_is_cut_lies_where_the_window_lies(tmp_path):
    about = raster.inspect(write_raster(tmp_path / "a.tif", np.zeros((8, 9), np.uint8), 3))
    part = cut(about, Window(2, 5, 4, 3))
    assert (part.height, part.width) == (4, 3)
    assert part.transform * (0, 0) == about.transform * (5, 2)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--area", "5,5,1,1"], "bounds are W,S,E,N, with W below E"),
        (["--area", "0,0,1,1"], "touches no tile"),
        (
            ["--area", "8.9,48.9,9.0,49.0"],
            "look like degrees, but bounds and files without a CRS are taken to be in EPSG",
        ),
        (["--area", "nowhere.gpkg"], "nowhere.gpkg does not exist"),
        (["--area", "0,0,1,1", "--area-attribute", "name"], "a rectangle has no attributes"),
        (["--area-attribute", "name"], "add --area FILE"),
        (["--simplify", "1"], "add --polygons"),
        (["--polygons", "--square", "bilding"], "Did you mean 'building'?"),
    ],
)
def test_an_area_or_option_that_makes_no_sense_is_refused(trained, tmp_path, words, sentence):
    refused(infer(trained, 32, *words, "--dir", tmp_path / "out"), sentence)
    assert not (tmp_path / "out").exists()


def test_a_file_of_zones_without_the_attribute_or_without_polygons_is_refused(trained, tmp_path):
    zones = write_zones(tmp_path / "z.gpkg", [ROUND], name=["pond"])
    refused(infer(trained, 32, "--area", zones, "--area-attribute", "nam"), "has no attribute 'nam'", "Did you mean 'name'?")
    empty = write_zones(tmp_path / "e.gpkg", [])
    refused(infer(trained, 32, "--area", empty), "holds no polygons")


def test_a_raster_without_a_place_has_no_area(tmp_path):
    image = write_raster(tmp_path / "a.tif", np.zeros((8, 9), np.uint8), crs=None, transform=rasterio.Affine.identity())
    with pytest.raises(UserError, match="does not say where it lies"):
        AreaOfInterest.of("0,0,1,1").on(raster.inspect(image))

"""Proves that files of polygons and labels carry their style, are the same in each format, and that QGIS shows the classes."""

import json
import os
import shutil
import sqlite3
import subprocess
from xml.etree import ElementTree

import numpy as np
import pyogrio
import pytest
import shapely
from conftest import COLOURS, CRS, NAMES, REPO, place, write_raster
from rasterio.warp import transform_geom

from tools.geo.measures import Area
from tools.labels import qgis
from tools.labels.palette import Palette
from tools.maps import stac
from tools.polygons.drawing import Drawing

PALETTE = Palette(NAMES, COLOURS)
SHEET = ["#{:02x}{:02x}{:02x}".format(*COLOURS[i]) for i in range(6)]


@pytest.fixture
def files(tmp_path):
    """A label map of all classes and its confidence."""
    labels = np.kron(np.arange(6, dtype=np.uint8).reshape(2, 3), np.ones((10, 12), np.uint8))
    labels[:3, :3] = 6
    paths = [write_raster(tmp_path / f"a_{name}.tif", labels, 32, nodata=6) for name in ("labels", "confidence")]
    return tmp_path, *paths


def write(files, ending):
    folder, labels, confidence = files
    path = folder / f"a_polygons{ending}"
    assert Drawing(Area.of("--polygons", "0")).write(path, labels, confidence, PALETTE).count == 6
    return path


def read(path):
    """(CRS, geometries, attributes by name), by class."""
    meta, _, shapes, columns = pyogrio.raw.read(path, layer="polygons" if path.suffix == ".gpkg" else None)
    found = {name: values.tolist() for name, values in zip(meta["fields"], columns, strict=True)}
    order = np.argsort(found["label"])
    return meta["crs"], shapely.from_wkb(shapes)[order], {name: [v[i] for i in order] for name, v in found.items()}


def test_a_geopackage_holds_the_style_that_its_layer_opens_with(files):
    path = write(files, ".gpkg")
    with sqlite3.connect(path) as database:
        rows = database.execute("SELECT f_table_name, f_geometry_column, useAsDefault, styleQML FROM layer_styles").fetchall()
        columns = database.execute("SELECT table_name, column_name FROM gpkg_geometry_columns").fetchall()
    database.close()
    assert [row[:3] for row in rows] == [(*columns[0], 1)]
    root = ElementTree.fromstring(rows[0][3])
    renderer = root.find("renderer-v2")
    assert renderer.get("attr") == "class"
    assert [c.get("value") for c in renderer.iter("category")] == NAMES
    fills = [next(o.get("value") for o in s.iter("Option") if o.get("name") == "color") for s in renderer.find("symbols")]
    assert fills == [",".join(map(str, (*COLOURS[i], 255))) for i in range(6)]


@pytest.mark.parametrize("ending", [".fgb", ".geojson"])
def test_other_files_hold_the_same_polygons_and_have_their_style_beside_them(files, ending):
    other = write(files, ".gpkg")
    _, wanted, attributes = read(other)
    before = other.read_bytes()
    crs, shapes, found = read(write(files, ending))
    if ending == ".geojson":  # in degrees, as RFC 7946 wants it
        assert "EPSG:4326" in crs or "CRS84" in crs
        degrees = [transform_geom(CRS, "EPSG:4326", shapely.geometry.mapping(shape)) for shape in wanted]
        wanted = np.array([shapely.geometry.shape(shape) for shape in degrees])
    assert shapely.hausdorff_distance(shapes, wanted).max() < 2e-7
    assert shapely.area(shapes) == pytest.approx(shapely.area(wanted), rel=0.02)
    assert found["class"] == attributes["class"] == NAMES
    assert found["area_m2"] == pytest.approx(attributes["area_m2"])
    assert (files[0] / "a_polygons.qml").read_text() == qgis.polygon_style(PALETTE)
    assert other.read_bytes() == before
    assert [path.name for path in files[0].iterdir() if path.name.startswith(".")] == []


def test_the_style_of_label_rasters_has_an_entry_for_each_class_and_no_other():
    entries = ElementTree.fromstring(qgis.raster_style(PALETTE)).iter("paletteEntry")
    assert [(e.get("value"), e.get("label"), e.get("color")) for e in entries] == [
        (str(i), name, colour) for i, (name, colour) in enumerate(zip(NAMES, SHEET, strict=True))
    ]


@pytest.mark.slow
def test_qgis_opens_polygons_and_labels_in_the_classes_colours(files, tmp_path):
    python = "/usr/bin/python3"
    asked = [python, "-c", "import qgis.core"]
    if not shutil.which(python) or subprocess.run(asked, capture_output=True, check=False).returncode:
        pytest.skip("QGIS is not installed (Debian: python3-qgis)")
    polygons, labels = write(files, ".gpkg"), files[1]
    labels.with_suffix(".qml").write_text(qgis.raster_style(PALETTE))
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "QT_QPA_PLATFORM": "offscreen"}
    for path in (polygons, labels):
        words = [python, REPO / "tests/qgis_render.py", tmp_path / "shown.png", path]
        ran = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=120)
        line = next(line for line in ran.stdout.splitlines() if line.startswith("LEGENDS"))
        assert json.loads(line.removeprefix("LEGENDS")) == [[[name, colour] for name, colour in zip(NAMES, SHEET, strict=True)]]
        from PIL import Image

        shown = {colour for _, colour in Image.open(tmp_path / "shown.png").convert("RGB").getcolors(1 << 20)}
        assert {COLOURS[i] for i in range(6)} <= shown


# ------------------------------------------------------------------------------------------------------------------- STAC


def item(files):
    folder, labels, _ = files
    polygons = write(files, ".gpkg")
    stac.write_item(folder / "a.json", "a", [labels, polygons], PALETTE)
    return json.loads((folder / "a.json").read_text())


def test_a_stac_item_says_where_the_map_lies_and_what_its_labels_mean(files):
    found = item(files)
    corners = [place(32) * corner for corner in ((0, 20), (36, 20), (36, 0), (0, 0))]
    square = shapely.geometry.shape(transform_geom(CRS, "EPSG:4326", shapely.geometry.mapping(shapely.Polygon(corners))))
    assert shapely.geometry.shape(found["geometry"]).symmetric_difference(square).area < 1e-3 * square.area
    assert found["bbox"] == pytest.approx(square.bounds, abs=1e-6)
    properties = found["properties"]
    assert (properties["proj:code"], properties["proj:shape"]) == ("EPSG:32632", [20, 36])
    assert properties["proj:transform"] == pytest.approx(list(place(32))[:6])
    assert properties["label:classes"] == [{"name": None, "classes": NAMES}]
    classes = found["assets"]["labels"]["classification:classes"]
    assert [(c["value"], c["title"]) for c in classes] == [*enumerate(NAMES), (6, "no label")]
    assert ["#" + c["color_hint"].lower() for c in classes[:6]] == SHEET
    assert classes[6]["nodata"] is True
    assert {key: asset["href"] for key, asset in found["assets"].items()} == {
        "labels": "./a_labels.tif", "polygons": "./a_polygons.gpkg",
    }  # fmt: skip


def test_pystac_reads_the_item_and_finds_it_valid(files):
    pystac = pytest.importorskip("pystac")
    pytest.importorskip("jsonschema")
    from pystac.extensions.classification import ClassificationExtension
    from pystac.extensions.projection import ProjectionExtension

    found = pystac.Item.from_dict(item(files))
    assert ProjectionExtension.ext(found).epsg == 32632
    assert [c.value for c in ClassificationExtension.ext(found.assets["labels"]).classes] == list(range(7))
    found.stac_extensions = []  # their schemas are on the web, STAC's own are in pystac
    assert found.validate()


def test_the_date_of_an_image_is_taken_from_its_tags(tmp_path):
    import rasterio

    labels = write_raster(tmp_path / "b_labels.tif", np.zeros((5, 5), np.uint8), 32)
    with rasterio.open(labels, "r+") as file:
        file.update_tags(TIFFTAG_DATETIME="2026:01:02 03:04:05")
    stac.write_item(tmp_path / "b.json", "b", [labels], PALETTE)
    assert json.loads((tmp_path / "b.json").read_text())["properties"]["datetime"] == "2026-01-02T03:04:05Z"

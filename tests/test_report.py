"""Proves that report.html shows the numbers and pictures of its folder, needs nothing from outside, and takes any name.

The page is read with html.parser; where there is a Chromium, it is opened there too, without a network.
"""

import base64
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
import rasterio
from conftest import CRS, call, refused, write_raster
from PIL import Image
from test_page import chromium, shown  # noqa: F401 (chromium: a fixture)

from tools.labels import scores
from tools.report import page as report
from tools.report.geography import Place, mosaic

NAMES = ["roof & wall", 'road "A" <i>', "tree"]
COLOURS = {0: (200, 30, 30), 1: (120, 120, 120), 2: (20, 140, 40), 3: (0, 0, 0)}
TILE = 'a<b>&"c'  # a tile may be called so
HEIGHT, WIDTH = 40, 60
EDGES = [i / 4 for i in range(5)]


# ------------------------------------------------------------------------------------------------- a folder, and its page


def place(column, row=0, size=0.5):
    return rasterio.Affine(size, 0, 500_000 + column * WIDTH * size, 0, -size, 5_400_000 - row * HEIGHT * size)


def write_labels(path, labels, transform, crs=CRS):
    write_raster(path, labels, transform=transform, crs=crs, nodata=3)
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, COLOURS)


def of_classes(labels, size=0.5):
    counts = np.bincount(labels.ravel(), minlength=4)[:3]
    return {
        name: {"pixels": int(n), "share": n / counts.sum(), "area_m2": n * size**2, "mean_confidence": 0.5 + 0.1 * i}
        for i, (name, n) in enumerate(zip(NAMES, counts, strict=True))
    }


def make(folder, tiles=(TILE, "two"), truth=True, crs=CRS, step=1):
    """An output folder as inference.py leaves it, with made numbers; {tile: (truth, prediction)} comes back.

    step: from one tile to the next, in tiles.
    """
    folder.mkdir(parents=True, exist_ok=True)
    inputs = folder.parent / "inputs"
    rng, made, about, files, truths = np.random.default_rng(7), {}, {}, {}, {}
    for i, tile in enumerate(tiles):
        true = np.kron(rng.integers(0, 3, (4, 6)), np.ones((10, 10), int)).astype(np.uint8)
        labels = np.where(rng.random(true.shape) < 0.2, rng.integers(0, 3, true.shape), true).astype(np.uint8)
        write_labels(folder / f"{tile}_labels.tif", labels, place(step * i), crs)
        write_raster(inputs / f"{i}.tif", np.stack([60 * true] * 3).astype(np.uint8), transform=place(step * i), crs=crs)
        write_raster(inputs / f"{i}_truth.tif", true, transform=place(step * i), crs=crs)
        files[tile], truths[tile] = {"irrg": str(inputs / f"{i}.tif")}, {"labels": str(inputs / f"{i}_truth.tif")}
        counts = {"right": [0, 100, 300, 1500], "wrong": [0, 150, 200, 150]} if truth else {"right": None, "wrong": None}
        block = {"row": 10, "col": 20, "height": 20, "width": 30, "mean_confidence": 0.61 - 0.01 * i}
        about[tile] = {
            "height": HEIGHT, "width": WIDTH, "crs": str(crs), "pixel_size": [0.5, 0.5], "classes": of_classes(labels),
            "confidence_histogram": {"edges": EDGES, "pixels": [0, 250, 500, 1650], **counts},
            "blocks": [block | ({"scored": 600, "wrong": 123 + i} if truth else {"scored": None, "wrong": None})],
        }  # fmt: skip
        made[tile] = (true, labels)
    together = of_classes(np.concatenate([labels for _, labels in made.values()]))
    write_json(folder, "statistics.json", {"tiles": about, "all": {"classes": together}})
    write_json(folder, "details.json", {
        "made": "2026-05-04T10:46:28+00:00", "made by": "inference.py", "weights": "net<1>&2.safetensors",
        "window": [128, 96], "threshold": None, "cog": False, "failed": {}, "tiles": files, "truths": truths if truth else {},
    })  # fmt: skip
    if truth:
        matrices = {tile: scores.confusion(*pair, 3) for tile, pair in made.items()}
        reports = {tile: scores.report(m, NAMES, [2]) for tile, m in matrices.items()}
        together = scores.report(sum(matrices.values()), NAMES, [2])
        write_json(folder, "scores.json", {"labels": {"all": together, "tiles": reports}})
    return made


def write_json(folder, name, what):
    (folder / name).write_text(json.dumps(what), encoding="utf-8")


class Page(HTMLParser):
    """What a page holds: its tables as rows of texts, by section; all elements with their attributes; its text."""

    EMPTY = ("meta", "link", "img", "br", "input")

    def __init__(self, path):
        super().__init__()
        self.elements, self.tables, self.open, self.texts, self.sections = [], [], [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in self.EMPTY:
            self.open.append(tag)
        if tag == "section":
            self.sections.append(dict(attributes)["id"])
        elif tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"style", "script"} & set(self.open):
            return
        self.texts.append(data)
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data.strip()

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def table(self, first, columns):
        """Rows of the one table whose heading begins so and has so many columns, by their first cell."""
        found = [t for t in self.tables if any(row[:1] == [first] and len(row) == columns for row in t)]
        assert len(found) == 1, (first, columns, len(found))
        return {row[0]: row[1:] for row in found[0]}

    def all(self, tag, **wanted):
        return [a for t, a in self.elements if t == tag and all(a.get(k.rstrip("_")) == v for k, v in wanted.items())]


def picture(uri):
    """The pixels of a data URI."""
    return np.array(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB"))


@pytest.fixture
def folder(tmp_path):
    make(tmp_path / "results")
    return tmp_path / "results"


@pytest.fixture
def page(folder):
    return Page(report.write_report(folder))


# --------------------------------------------------------------------------------------------------------- what it shows


def test_scores_by_class_are_those_of_scores_json(folder, page):
    found = json.loads((folder / "scores.json").read_text())["labels"]["all"]
    matrix, table = np.array(found["confusion"]), page.table("class", 6)
    for i, name in enumerate(NAMES):
        precision, recall = matrix[i, i] / matrix[:, i].sum(), matrix[i, i] / matrix[i].sum()
        expected = [f"{100 * v:.1f}" for v in (found["f1"][name], found["iou"][name], precision, recall)]
        assert table[name] == [*expected, f"{matrix[i].sum():,}"]
    for score in ("overall_accuracy", "mean_f1", "mean_iou", "mean_iou_without_ignored", "mean_accuracy"):
        assert f"{100 * found[score]:.2f} %" in page.text
    assert f"frequency-weighted IoU {100 * found['frequency_weighted_iou']:.2f} %" in page.text


def test_a_folder_of_an_earlier_version_gets_the_scores_that_it_lacks_from_its_matrix(folder):
    path, now = folder / "scores.json", json.loads((folder / "scores.json").read_text())
    older = {"pixels", "overall_accuracy", "kappa", "mean_f1", "mean_iou", "mean_f1_without_ignored", "f1", "iou", "confusion"}
    for found in now.values():
        found["all"] = {name: value for name, value in found["all"].items() if name in older | {"mean_iou_without_ignored"}}
    path.write_text(json.dumps(now))
    page, matrix = Page(report.write_report(folder)), np.array(now["labels"]["all"]["confusion"])
    recall = np.diag(matrix) / matrix.sum(1)
    assert [page.table("class", 6)[name][3] for name in NAMES] == [f"{100 * value:.1f}" for value in recall]


def test_the_confusion_matrix_stands_there_in_shares_of_the_rows_and_in_pixels(folder, page):
    matrix = np.array(json.loads((folder / "scores.json").read_text())["labels"]["all"]["confusion"])
    shares, counts = page.table("true class", 4), page.table("true class", 5)
    for i, name in enumerate(NAMES):
        assert shares[name] == [f"{100 * n / matrix[i].sum():.1f}" for n in matrix[i]]
        assert counts[name] == [f"{n:,}" for n in [*matrix[i], matrix[i].sum()]]
    assert counts["sum"] == [f"{n:,}" for n in [*matrix.sum(0), matrix.sum()]]


def test_class_shares_areas_and_confidence_are_those_of_statistics_json(folder, page):
    classes, table = json.loads((folder / "statistics.json").read_text())["all"]["classes"], page.table("class", 5)
    for i, name in enumerate(NAMES):
        of_class = classes[name]
        area, confidence = f"{of_class['pixels'] * 0.25:,.2f}", f"{50 + 10 * i:.1f}"
        assert table[name] == [f"{100 * of_class['share']:.1f}", f"{of_class['pixels']:,}", area, confidence]
    assert table["all"] == ["", f"{2 * HEIGHT * WIDTH:,}", f"{2 * HEIGHT * WIDTH / 4:,.2f}", ""]


def test_every_tile_has_a_line_with_its_size_and_scores(folder, page):
    of_tiles, table = json.loads((folder / "scores.json").read_text())["labels"]["tiles"], page.table("tile", 7)
    for tile in (TILE, "two"):
        expected = [f"{100 * of_tiles[tile][score]:.2f}" for score in ("overall_accuracy", "mean_f1", "mean_iou")]
        assert table[tile] == ["40 × 60", "0.5 m", "", *expected]


def test_settings_stand_there_as_words_and_the_files_of_tiles_do_not(page):
    table = page.table("made by", 2)
    assert table["made by"] == ["inference.py"] and table["weights"] == ["net<1>&2.safetensors"]
    assert table["window"] == ["128 × 96"] and table["threshold"] == ["none"]
    assert table["cog"] == ["no"] and not {"tiles", "truths", "failed"} & set(table)


def test_the_histogram_stacks_right_pixels_on_wrong_ones(page):
    bars = {kind: page.all("rect", class_=kind) for kind in ("wrong-bar", "right-bar")}
    wrong, right = ([float(bar["height"]) for bar in bars[kind]] for kind in bars)
    per_pixel = 200 / (2 * 1650)  # the highest bin, of two tiles
    assert wrong == pytest.approx([2 * n * per_pixel for n in (150, 200, 150)], abs=0.01)
    assert right == pytest.approx([2 * n * per_pixel for n in (100, 300, 1500)], abs=0.01)
    for below, above in zip(bars["wrong-bar"], bars["right-bar"], strict=True):
        assert float(above["y"]) + float(above["height"]) == pytest.approx(float(below["y"]), abs=0.02)
        assert above["x"] == below["x"]


def test_the_mean_confidence_is_held_against_the_accuracy_bin_by_bin(page):
    confidence = (250 * 0.375 + 500 * 0.625 + 1650 * 0.875) / 2400
    accuracy = 1900 / 2400
    error = (abs(100 - 250 * 0.375) + abs(300 - 500 * 0.625) + abs(1500 - 1650 * 0.875)) / 2400
    for value in (confidence, accuracy, error):
        assert f"{100 * value:.1f}" in page.text
    assert "about as sure" not in page.text and "less sure than it is right" in page.text
    assert page.table("confidence, %", 5)["25 to 50"] == ["500", "200", "300", "40.0"]
    points = [(float(c["cx"]), float(c["cy"])) for c in page.all("circle")]
    assert points == pytest.approx(np.array([(93.75, 150), (156.25, 100), (218.75, 250 - 250 * 1500 / 1650)]), abs=0.06)


def test_worst_windows_come_worst_first_with_crops_of_image_truth_and_map(tmp_path):
    made = make(tmp_path / "results")
    page = Page(report.write_report(tmp_path / "results"))
    texts = [page.text.index(f"{wrong} of 600 scored pixels wrong") for wrong in (124, 123)]
    assert texts == sorted(texts) and f"{100 * 124 / 600:.1f} %" in page.text
    truth, labels = (a[10:30, 20:50] for a in made["two"])
    table = np.array([COLOURS[i] for i in range(4)])
    whats, where = ("image", "ground truth", "label map"), "tile two, row 10, column 20"
    shown = {what: picture(page.all("img", alt=f"{what} of {where}")[0]["src"]) for what in whats}
    assert np.array_equal(shown["ground truth"], table[truth])
    assert np.array_equal(shown["label map"], table[labels])
    assert np.abs(shown["image"].astype(int) - 60 * truth[..., None]).mean() < 12  # a JPEG
    x, y = 500_000 + (WIDTH + 35) * 0.5, 5_400_000 - 20 * 0.5
    assert f"{x:,.1f}, {y:,.1f}" in page.text


def test_the_most_frequent_errors_are_named_with_their_share_of_the_true_class():
    found = {"confusion": [[50, 3, 0], [9, 80, 11], [0, 0, 7]]}
    assert report.confusions(found, NAMES) == [
        (NAMES[1], NAMES[2], 11, 0.11), (NAMES[1], NAMES[0], 9, 0.09), (NAMES[0], NAMES[1], 3, 3 / 53),
    ]  # fmt: skip
    truth, predicted = np.array([[0, 1, 1], [2, 1, 3]], np.uint8), np.array([[0, 2, 2], [0, 1, 0]], np.uint8)
    assert report.main_error(truth, predicted, NAMES) == (NAMES[1], NAMES[2], 2)
    assert report.main_error(truth, truth, NAMES) is None


# ---------------------------------------------------------------------------------------------------------- the overview


def test_tiles_lie_on_the_map_as_on_earth(page):
    assert [a["viewbox"] for a in page.all("svg", class_="map")] == [f"0 0 1000 {1000 * 40 / 120:.1f}"] * 2
    images = page.all("image")
    assert len(images) == 4  # two images, two label maps
    for image, left in zip(images, (0, 500, 0, 500), strict=True):
        a, b, c, d, e, f = map(float, re.findall(r"[-\d.e]+", image["transform"].removeprefix("matrix")))
        corner = a * int(image["width"]) + c * int(image["height"]) + e, b * int(image["width"]) + d * int(image["height"]) + f
        assert (e, f) == pytest.approx((left, 0), abs=1e-6) and corner == pytest.approx((left + 500, 1000 / 3))


def test_a_turned_tile_keeps_its_turn_on_the_map():
    turned = rasterio.Affine.translation(1000, 2000) * rasterio.Affine.rotation(30) * rasterio.Affine.scale(2, -2)
    upright = rasterio.Affine(2, 0, 1000, 0, -2, 2300)
    found = mosaic({"turned": Place(100, 100, turned, CRS), "upright": Place(100, 100, upright, CRS)})
    a, b, c, d, _, _ = found.matrices["turned"]
    assert np.degrees(np.arctan2(b, a)) == pytest.approx(-30)  # y points down in the drawing
    assert np.hypot(a, b) == pytest.approx(np.hypot(c, d))


@pytest.mark.parametrize(
    "others",
    [
        {},
        {"b": Place(100, 100, place(1), rasterio.CRS.from_epsg(32633))},
        {"b": Place(100, 100, None, CRS)},
        {"b": Place(100, 100, place(1000), CRS)},
    ],
    ids=["a single tile", "another CRS", "no place", "far away"],
)
def test_without_a_common_map_there_is_none(others):
    assert mosaic({"a": Place(100, 100, place(0), CRS), **others}) is None


@pytest.mark.parametrize(
    ("code", "size", "text", "metres"),
    [(32632, 0.5, "10 m", 10), (2263, 0.5, "2 m", 2), (4326, 1e-3, "1 km", 1000), (3857, 1, "10 m", 10)],
    ids=["metres", "feet", "degrees", "metres of the web that are half metres at 60 degrees north"],
)
def test_the_scale_bar_is_a_round_length(code, size, text, metres):
    crs, north = rasterio.CRS.from_epsg(code), {4326: 60, 3857: 8_399_738}.get(code, 1000)
    places = [Place(HEIGHT, WIDTH, rasterio.Affine(size, 0, left, 0, -size, north), crs) for left in (10, 10 + WIDTH * size)]
    units, shown = mosaic(dict(enumerate(places))).bar
    degrees = 0.12 * 111_320 * np.cos(np.radians(60 - HEIGHT * size / 2))
    across = {32632: 60, 2263: 60 * 0.3048006, 3857: 60.09, 4326: degrees}[code]
    assert shown == text and units == pytest.approx(1000 * metres / across, rel=2e-3 if code == 3857 else 1e-6)


def test_a_crs_that_is_not_on_earth_makes_a_map_without_a_scale_bar():
    local = rasterio.CRS.from_wkt('LOCAL_CS["site",UNIT["metre",1]]')
    found = mosaic({"a": Place(100, 100, place(0), local), "b": Place(100, 100, place(1), local)})
    assert found.bar is None
    assert set(found.matrices) == {"a", "b"}


def test_tiles_without_a_place_on_earth_stand_side_by_side_and_those_left_out_are_counted(tmp_path):
    tiles = [f"t{i}" for i in range(report.MOST_ON_SHEET + 6)]
    made = make(tmp_path / "results", tiles, crs=None)
    page = Page(report.write_report(tmp_path / "results"))
    assert len(page.all("img", alt="Image of tile t3")) == 1 and not page.all("svg", class_="map")
    assert f"The first 24 of {len(tiles)} tiles are shown; 6 are left out here" in page.text
    shown = picture(page.all("img", alt="Label map of tile t3")[0]["src"])
    assert np.array_equal(shown, np.array([COLOURS[i] for i in range(4)])[made["t3"][1]])
    assert len(page.table("tile", 7)) == 1 + len(tiles)


@pytest.mark.slow
def test_a_hundred_tiles_make_a_page_of_less_than_five_megabytes(tmp_path):
    make(tmp_path / "results", [f"t{i}" for i in range(100)])
    noise = np.random.default_rng(1).integers(0, 3, (600, 800), np.uint8)  # what compresses worst
    for i in range(100):
        size = {"transform": rasterio.Affine(0.5, 0, 400 * (i % 10), 0, -0.5, 300 * (i // 10))}
        write_labels(tmp_path / "results" / f"t{i}_labels.tif", noise, **size)
        write_raster(tmp_path / "inputs" / f"{i}.tif", np.stack([90 * noise] * 3), **size)
    path = report.write_report(tmp_path / "results")
    assert 500_000 < path.stat().st_size < 5_000_000
    assert len(Page(path).all("image")) == 200


# ------------------------------------------------------------------------------------------------------ what may be missing


def test_without_ground_truth_there_are_no_scores_and_the_least_certain_windows(tmp_path):
    make(tmp_path / "results", truth=False)
    page = Page(report.write_report(tmp_path / "results"))
    assert page.sections == ["overview", "classes", "tiles", "confidence", "windows", "settings"]
    assert "no scores" in page.text and "Least certain windows" in page.text
    for word in ("Worst", "scored pixels", "accuracy", "calibration"):
        assert word not in page.text.replace("not scored", "")
    assert page.text.index("two: rows 10") < page.text.index(f"{TILE}: rows 10")  # 60 % before 61 %
    assert len(page.all("rect", class_="all")) == 3


def test_zones_have_a_table_with_their_classes(folder):
    statistics = json.loads((folder / "statistics.json").read_text())
    zones = [
        {"number": i, "zone": name, "pixels": dict.fromkeys(NAMES, 1), "area_m2": dict(zip(NAMES, (1234.4, i, 0), strict=True))}
        for i, name in enumerate(["pond", "<field>"])
    ]
    write_json(folder, "statistics.json", statistics | {"zones": zones})
    details = json.loads((folder / "details.json").read_text())
    write_json(folder, "details.json", details | {"area": "zones.gpkg"})
    page = Page(report.write_report(folder))
    assert page.sections[:3] == ["overview", "classes", "zones"]
    assert "each zone of zones.gpkg holds, in square metres" in page.text
    table = page.text[page.text.index("each zone of") :]
    assert "pond 1,234 0 0 1,234" in " ".join(table.split())
    assert "<field> 1,234 1 0 1,235" in " ".join(table.split())


def test_images_and_truths_that_have_moved_away_are_done_without(folder, tmp_path):
    shutil.rmtree(tmp_path / "inputs")
    page = Page(report.write_report(folder))
    assert "The images of 2 tiles were not at hand" in page.text
    assert len(page.all("image")) == 2
    assert {image["alt"].split(" of ")[0] for image in page.all("img")} == {"label map"}


def test_tiles_that_could_not_be_labelled_are_named_with_their_fault(folder):
    details = json.loads((folder / "details.json").read_text())
    write_json(folder, "details.json", details | {"failed": {f"bad<{i}>": f"fault & {i}" for i in range(22)}})
    text = Page(report.write_report(folder)).text
    assert "22 tiles could not be labelled" in text and "bad<3>: fault & 3" in text and "and 2 more" in text


def test_a_class_that_no_pixel_has_is_a_dash(folder):
    found = json.loads((folder / "scores.json").read_text())
    matrix = np.array([[50, 5, 0], [3, 60, 0], [0, 0, 0]])
    found["labels"]["all"] = scores.report(matrix, NAMES)
    write_json(folder, "scores.json", found)
    page = Page(report.write_report(folder))
    assert page.table("class", 6)["tree"] == ["–", "–", "–", "–", "0"]
    assert page.table("true class", 4)["tree"] == ["–", "–", "–"]


def test_the_image_of_a_map_with_other_pixels_is_cut_at_the_same_place(folder, tmp_path):
    image = np.zeros((3, 2 * HEIGHT, 2 * WIDTH), np.uint8)
    image[:, 20:60, 40:100] = 200  # the block, in pixels half as large
    write_raster(tmp_path / "inputs" / "1.tif", image, transform=place(1, size=0.25))
    page = Page(report.write_report(folder))
    shown = picture(page.all("img", alt="image of tile two, row 10, column 20")[0]["src"])
    assert shown.shape == (20, 30, 3) and shown.min() > 190


# ------------------------------------------------------------------------------------------------- one file, from any name


def test_names_are_shown_as_they_are_and_make_no_elements(page):
    assert {"i", "b"}.isdisjoint(tag for tag, _ in page.elements)
    assert TILE in page.text and page.all("img", alt=f"label map of tile {TILE}, row 10, column 20")
    for name in NAMES:
        assert name in page.table("class", 5)


def test_nothing_is_fetched_from_outside(folder, page):
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|url\(|@import|//cdn", text)
    for _, attributes in page.elements:
        for name in ("src", "href", "srcset", "xlink:href", "action", "data"):
            assert attributes.get(name, "#").startswith(("data:", "#")), attributes
    policy = page.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    assert policy.startswith("default-src 'none'")


def test_pictures_have_words_and_tables_have_headings(page):
    assert all(image["alt"] for image in page.all("img"))
    for svg in page.all("svg"):
        assert svg.get("aria-label") or svg.get("aria-hidden") == "true"
    assert all(heading["scope"] for heading in page.all("th"))
    anchors = {a["href"].removeprefix("#") for a in page.all("a")}
    assert anchors == set(page.sections)


def test_the_command_makes_it_again_from_the_folder_alone(folder):
    report.write_report(folder)
    before = (folder / "report.html").read_bytes()
    (folder / "report.html").write_text("old")
    ran = call("tools.report", folder)
    assert ran.code == 0 and str(folder / "report.html") in ran.out
    assert (folder / "report.html").read_bytes() == before
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize("missing", ["folder", "details.json", "statistics.json", "labels"])
def test_what_is_no_output_of_inference_is_refused_in_a_sentence(folder, missing):
    if missing == "folder":
        return refused(call("tools.report", folder / "nowhere"), folder / "nowhere", "does not exist")
    path = folder / ("two_labels.tif" if missing == "labels" else missing)
    path.unlink()
    refused(call("tools.report", folder), path.name)
    assert not (folder / "report.html").exists()


def test_the_output_of_another_script_and_a_damaged_file_are_refused(folder):
    (folder / "statistics.json").write_text('{"tiles": {')
    refused(call("tools.report", folder), "statistics.json", "damaged")
    write_json(folder, "statistics.json", {"tiles": {}, "all": {"classes": {}}})
    refused(call("tools.report", folder), "no finished tile")
    write_json(folder, "details.json", {"made by": "create_db.py"})
    refused(call("tools.report", folder), "create_db.py", "inference.py")


@pytest.mark.slow
def test_inference_writes_it_at_its_end(trained, tmp_path):
    ran = call("inference", "--weights", "--dir", tmp_path / "maps", "--config", trained.config(), "--device", "cpu")
    assert ran.code == 0, ran.err
    assert str(tmp_path / "maps" / "report.html") in ran.out
    page = Page(tmp_path / "maps" / "report.html")
    found = json.loads((tmp_path / "maps" / "scores.json").read_text())
    assert set(found) == {"labels", "labels_eroded"}
    for scored in found.values():
        assert f"{100 * scored['all']['overall_accuracy']:.2f} %" in page.text
    assert page.sections == ["overview", "classes", "scores", "tiles", "confidence", "windows", "settings"]
    assert {image["alt"].split(" of ")[0] for image in page.all("img")} >= {"image", "ground truth", "label map"}


# ------------------------------------------------------------------------------------------------------------ in a browser


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
LOOK = """<script>addEventListener("load", () => {
  const tiles = () => [...document.querySelectorAll(".sortable tbody th")].map(cell => cell.textContent);
  const [name, , , accuracy] = document.querySelectorAll(".sortable button"), orders = [];
  for (const button of [accuracy, accuracy, name, name]) { button.click(); orders.push(tiles()); }
  const broken = [...document.images].filter(image => !image.naturalWidth).length;
  const root = document.documentElement, found = { orders, broken, images: document.images.length,
    too_wide: root.scrollWidth - root.clientWidth, sort: name.closest("th").getAttribute("aria-sort") };
  document.body.textContent = JSON.stringify(found);
})</script>"""


def opened(path, width):
    """What LOOK finds in a page opened without a network, so many pixels wide, and what the console says."""
    seen, frame = path.with_name("seen.html"), path.with_name("frame.html")
    seen.write_text(path.read_text(encoding="utf-8") + LOOK, encoding="utf-8")
    frame.write_text(f"""<iframe src="seen.html" style="width:{width}px;height:800px"></iframe><script>
        addEventListener("load", () => document.title = frames[0].document.body.textContent)</script>""")
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom",
             "--enable-logging=stderr", "--allow-file-access-from-files", "--virtual-time-budget=5000",
             f"--user-data-dir={path.parent / 'browser'}"]  # fmt: skip
    ran = subprocess.run([CHROMIUM, *words, frame.as_uri()], capture_output=True, text=True, timeout=120)
    console = [line for line in ran.stderr.splitlines() if "CONSOLE" in line]
    title = re.search(r"<title>(.*?)</title>", ran.stdout, re.DOTALL)
    assert title, (ran.stdout[-500:], ran.stderr[-500:])
    return json.loads(title[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")), console


@in_a_browser
@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 1200])
def test_a_browser_opens_it_offline_sorts_its_tiles_and_complains_of_nothing(tmp_path, width):
    tiles = ["9", "10", "11", TILE]
    make(tmp_path / "results", tiles)
    found, console = opened(report.write_report(tmp_path / "results"), width)
    of_tiles = json.loads((tmp_path / "results" / "scores.json").read_text())["labels"]["tiles"]
    by_accuracy = sorted(tiles, key=lambda tile: -of_tiles[tile]["overall_accuracy"])
    names = ["9", "10", "11", TILE]
    assert found["orders"] == [by_accuracy, by_accuracy[::-1], names, names[::-1]]
    assert found["sort"] == "descending"
    assert console == [] and found["broken"] == 0 and found["images"] == 12
    assert found["too_wide"] == 0


@in_a_browser
@pytest.mark.slow
def test_a_click_on_a_tile_shows_its_image_under_its_map_in_the_view_of_the_page(tmp_path, chromium):  # noqa: F811
    made = make(tmp_path / "results", [TILE, "two"])
    with shown(chromium, report.write_report(tmp_path / "results")) as viewer:
        page = viewer.page
        page.locator("[data-tile]").nth(0).click()
        page.select_option("#tile", "two")
        page.wait_for_function("document.getElementById('view').ariaLabel === 'Image and map of tile two'")
        box, (row, col) = page.locator("#view").bounding_box(), (HEIGHT // 2, WIDTH // 2 + 5)
        label, grey = made["two"][1][row, col], 60 * int(made["two"][0][row, col])
        at = 0.5 + 44 / box["width"], 0.5 + 4 / box["height"]  # a tile this small is shown at 8 times its size
        page.evaluate("document.getElementById('opacity').value = 100")
        page.dispatch_event("#opacity", "input")
        assert viewer.colour(*at) == COLOURS[label]
        page.mouse.move(box["x"] + at[0] * box["width"], box["y"] + at[1] * box["height"])
        assert page.inner_text("#readout") == NAMES[label]
        page.locator("#viewer [data-class]").nth(label).uncheck()
        assert np.abs(np.array(viewer.colour(*at)) - grey).max() < 30  # the image, as JPEG keeps it
        page.locator("#viewer [data-class]").nth(label).check()
        page.get_by_text("Swipe", exact=True).click()
        assert viewer.colour(*at) == COLOURS[label]
        for _ in range(5):
            page.press("#handle", "ArrowRight")
        assert np.abs(np.array(viewer.colour(*at)) - grey).max() < 30
        page.click("#close")
        assert not page.locator("#view").is_visible()

"""Proves that each output of inference is where the image is, holds what it should, and lacks what the image lacks."""

import json
import os
import subprocess
import sys

import numpy as np
import pyogrio
import pytest
import rasterio
import torch
from conftest import (
    COLOURS,
    CRS,
    NAMES,
    REPO,
    call,
    done,
    erode,
    make_town,
    names,
    paint,
    pixels,
    place,
    refused,
    write_raster,
)
from PIL import Image
from test_inference import infer, own, read_scores  # noqa: F401 (own is a fixture)

import nets
from tools.geo import raster
from tools.geo.raster import BlockWriter
from tools.geo.windows import Window
from tools.labels import pictures
from tools.weights import snapshots

ALL = ["--confidence", "--probabilities", "--polygons", "--device", "cpu"]


@pytest.fixture(scope="module")
def maps(trained, tmp_path_factory):
    """All outputs of the test tile, of which a corner has no data and a border no truth."""
    town = trained.copy(tmp_path_factory.mktemp("outputs"), "snapshots_segnet_slim")
    image = np.maximum(pixels(town.path("irrg", 32)), 1)
    image[:, 10:20, 30:50] = 0
    image[1, 40:45, 60:70] = 0  # one band alone is dark, not empty
    with rasterio.open(write_raster(town.path("irrg", 32), image, 32, nodata=0), "r+") as file:
        file.update_tags(PILOT="Ada", TIFFTAG_DATETIME="2026:01:02 03:04:05")
    write_raster(town.path("labels", 32), erode(pixels(town.path("labels", 32))[0]), 32)
    config = ["--config", town.config()]
    ran = call("inference", 32, *ALL, *config)
    assert ran.code == 0, ran.err
    more = ["--cog", "--confidence", "float32", "--probabilities", "float32", "--dir", town.base / "cog"]
    ran = call("inference", 32, *ALL, *more, *config)
    assert ran.code == 0, ran.err
    return town


MISSING = np.zeros((72, 90), bool)
MISSING[10:20, 30:50] = True
KINDS = ["labels", "colours", "confidence", "probabilities", "errors"]


@pytest.mark.parametrize("folder", ["vaihingen_results_segnet_slim", "cog"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_raster_lies_where_the_image_lies_and_keeps_its_tags(maps, kind, folder):
    with rasterio.open(maps.base / folder / f"32_{kind}.tif") as file:
        assert (file.crs, file.transform, file.shape) == (CRS, place(32), (72, 90))
        assert (file.tags()["PILOT"], file.tags()["TIFFTAG_DATETIME"]) == ("Ada", "2026:01:02 03:04:05")
        assert json.loads(file.tags()["CLASSES"]) == {str(i): name for i, name in enumerate(NAMES)}
        assert file.compression.name == "deflate"


@pytest.mark.parametrize("folder", ["vaihingen_results_segnet_slim", "cog"])
@pytest.mark.parametrize("kind", KINDS[:4])
def test_where_the_image_has_no_data_no_output_has(maps, kind, folder):
    with rasterio.open(maps.base / folder / f"32_{kind}.tif") as file:
        assert np.array_equal(file.dataset_mask() == 0, MISSING)
        bands = file.indexes[:3] if kind == "colours" else file.indexes  # the fourth is alpha, which has no mask but is one
        assert all(np.array_equal(mask == 0, MISSING) for mask in file.read_masks(bands))
        assert kind != "colours" or np.array_equal(file.read(4) == 0, MISSING)
    polygons = pyogrio.raw.read(maps.base / folder / "32_polygons.gpkg", layer="polygons")
    assert sum(polygons[3][2].tolist()) == (~MISSING).sum()


def results(maps, kind):
    return pixels(maps.folder("results") / f"32_{kind}.tif")


def test_confidence_is_the_probability_of_the_label_and_probabilities_add_up_to_one(maps):
    labels, sure, every = (results(maps, kind) for kind in ("labels", "confidence", "probabilities"))
    assert every.shape == (6, 72, 90)
    assert np.array_equal(every.argmax(0)[~MISSING] >= 0, np.ones((~MISSING).sum(), bool))
    assert np.array_equal(np.take_along_axis(every, np.where(MISSING, 0, labels).astype(int), 0)[0], sure[0])
    assert (sure[0] == every.max(0))[~MISSING].all()  # the likeliest class is the label
    assert sure[0][~MISSING].max() <= 100
    assert np.abs(every[:, ~MISSING].sum(0, dtype=int) - 100).max() <= 3  # six roundings
    exact = pixels(maps.base / "cog/32_probabilities.tif")
    assert exact[:, ~MISSING].sum(0) == pytest.approx(1, abs=1e-5)
    assert np.array_equal(np.rint(100 * exact[:, ~MISSING]), every[:, ~MISSING])
    assert np.array_equal(pixels(maps.base / "cog/32_confidence.tif")[0], exact.max(0), equal_nan=True)


def test_bands_of_probabilities_are_called_like_the_classes_and_say_their_unit(maps):
    with rasterio.open(maps.folder("results") / "32_probabilities.tif") as file:
        assert list(file.descriptions) == NAMES
        assert (set(file.scales), set(file.nodatavals), set(file.dtypes)) == ({0.01}, {255}, {"uint8"})
    with rasterio.open(maps.base / "cog/32_probabilities.tif") as file:
        assert (set(file.scales), set(file.dtypes)) == ({1.0}, {"float32"})
        assert np.isnan(file.nodatavals).all()


def test_the_error_map_says_where_the_labels_are_wrong(maps):
    truth, labels, errors = pixels(maps.path("labels", 32))[0], results(maps, "labels")[0], results(maps, "errors")[0]
    unscored = (truth == 6) | MISSING
    assert np.array_equal(errors == 2, unscored)
    assert np.array_equal(errors == 1, (truth != labels) & ~unscored)
    with rasterio.open(maps.folder("results") / "32_errors.tif") as file:
        assert {i: file.colormap(1)[i][:3] for i in range(3)} == pictures.ERRORS.colours
        assert file.nodata == 2
    wrong = read_scores(maps.folder("results"))["labels"]["all"]
    assert wrong["pixels"] == (~unscored).sum()
    assert wrong["overall_accuracy"] == pytest.approx((errors == 0).sum() / (~unscored).sum())


def test_the_colour_map_is_opaque_where_there_are_labels(maps):
    colours = results(maps, "colours")
    assert np.array_equal(colours[:3], paint(results(maps, "labels")[0]))
    assert np.array_equal(colours[3] == 0, MISSING)
    with rasterio.open(maps.folder("results") / "32_colours.tif") as file:
        assert [band.name for band in file.colorinterp] == ["red", "green", "blue", "alpha"]


GDAL_READS = """
import sys, rasterio, rasterio.shutil
with rasterio.Env(GDAL_PAM_ENABLED="YES"):
    rasterio.shutil.copy(sys.argv[1], sys.argv[2], driver="VRT")
"""


@pytest.mark.parametrize(("kind", "names"), [("labels", [*NAMES, "no label"]), ("errors", ["right", "wrong", "not scored"])])
def test_gdal_finds_the_names_and_colours_of_the_classes(maps, tmp_path, kind, names):
    """As QGIS does: a VRT that GDAL makes of the file says what it knows of it."""
    words = [sys.executable, "-c", GDAL_READS, maps.base / f"cog/32_{kind}.tif", tmp_path / "a.vrt"]
    subprocess.run(words, check=True, cwd=REPO)
    text = (tmp_path / "a.vrt").read_text()
    assert [line.split(">")[1].split("<")[0] for line in text.splitlines() if "<Category>" in line] == names
    assert "<ColorInterp>Palette</ColorInterp>" in text
    with rasterio.open(maps.base / f"cog/32_{kind}.tif") as file:
        wanted = COLOURS if kind == "labels" else pictures.ERRORS.colours
        assert {i: file.colormap(1)[i][:3] for i in wanted} == wanted


def test_the_statistics_are_those_of_the_written_map(maps):
    found = json.loads((maps.folder("results") / "statistics.json").read_text())
    labels, exact = results(maps, "labels")[0], pixels(maps.base / "cog/32_confidence.tif")[0]
    for i, name in enumerate(NAMES):
        cell = found["tiles"]["32"]["classes"][name]
        assert cell == found["all"]["classes"][name]
        assert cell["pixels"] == (labels == i).sum()
        assert cell["area_m2"] == pytest.approx((labels == i).sum() * 0.09 * 0.09)
        if (labels == i).any():
            assert cell["mean_confidence"] == pytest.approx(exact[labels == i].mean(), abs=1e-4)
    assert sum(found["tiles"]["32"]["confidence_histogram"]["pixels"]) == (~MISSING).sum()


def test_details_name_the_files_the_settings_and_the_speed(maps):
    found = json.loads((maps.base / "cog/details.json").read_text())
    assert (found["made by"], found["net"], found["iteration"], found["complete"]) == ("inference.py", "segnet_slim", 150, True)
    assert (found["window"], found["blend"], found["cog"], found["confidence"]) == ([32, 32], "cosine", True, "float32")
    assert found["tiles"] == {"32": {"irrg": str(maps.path("irrg", 32))}}
    assert found["truths"]["32"]["labels"] == str(maps.path("labels", 32))
    assert all((maps.base / "cog" / file).exists() for file in found["files"]["32"])
    assert found["megapixels_per_second"] == pytest.approx(72 * 90 / 1e6 / found["seconds"], rel=0.5)


# ------------------------------------------------------------------------------------------------------ larger rasters


def first_offsets(path):
    """Of each image file directory of a (little-endian, classic) TIFF: its width, where it stands, where its pixels begin."""
    data, found = path.read_bytes(), []
    at = int.from_bytes(data[4:8], "little")
    while at:
        entries = {}
        for i in range(int.from_bytes(data[at : at + 2], "little")):
            entry = data[at + 2 + 12 * i : at + 14 + 12 * i]
            entries[int.from_bytes(entry[:2], "little")] = entry
        number = {tag: int.from_bytes(entry[8:12], "little") for tag, entry in entries.items()}
        many = int.from_bytes(entries[324][4:8], "little") > 1
        begin = int.from_bytes(data[number[324] : number[324] + 4], "little") if many else number[324]
        found.append((number[256] & 0xFFFF if entries[256][2] == 3 else number[256], at, begin))
        at = int.from_bytes(data[at + 2 + 12 * len(entries) :][:4], "little")
    return found


def test_cog_has_its_overviews_and_directories_where_a_cog_has_them(tmp_path):
    labels = np.kron(np.random.default_rng(0).integers(0, 6, (100, 90)), np.ones((15, 15), int)).astype(np.uint8)
    path = tmp_path / "a.tif"
    raster.write(path, labels, crs=CRS, transform=place(1), nodata=6, colours=COLOURS)
    raster.cloud_optimised(path, "mode")
    with rasterio.open(path) as file:
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert file.overviews(1) == [2, 4]
        assert (file.block_shapes, file.crs, file.nodata) == ([(512, 512)], CRS, 6)
        assert file.colormap(1)[2][:3] == COLOURS[2]
        assert np.array_equal(file.read(1), labels)
    directories = first_offsets(path)
    assert [round(1350 / width, 1) for width, _, _ in directories] == [1, 2, 4]
    assert max(at for _, at, _ in directories) < min(begin for _, _, begin in directories)  # all directories, then pixels
    begins = [begin for _, _, begin in directories]
    assert begins == sorted(begins, reverse=True)  # the smallest overview first
    assert not list(tmp_path.glob("*.cog.tif"))


@pytest.mark.parametrize("shape", [(600, 700), (300, 256), (40, 33)])
def test_pieces_of_any_height_and_column_strips_give_the_same_pixels(tmp_path, shape):
    image = np.random.default_rng(1).integers(0, 250, (2, *shape)).astype(np.uint8)
    with raster.create(tmp_path / "a.tif", image.shape, np.uint8) as file:
        writer = BlockWriter(file)
        for col, width in ((0, shape[1] // 2), (shape[1] // 2, shape[1] - shape[1] // 2)):
            for row in range(0, shape[0], 37):
                window = Window(row, col, min(37, shape[0] - row), width)
                writer.add(window, image[(slice(None), *window.slices)])
        writer.flush()
    assert np.array_equal(pixels(tmp_path / "a.tif"), image)


def test_each_block_is_written_once_and_soon(tmp_path):
    """Written in parts, a block that no longer fits its place is left as a gap, and the file grows."""
    with raster.create(tmp_path / "a.tif", (1, 1000, 600), np.uint8) as file:
        writer, written = BlockWriter(file), []
        writer.file = type("Recorder", (), {"write": lambda self, pixels, window: written.append((window, len(pixels[0])))})()
        for row in range(0, 1000, 100):
            writer.add(Window(row, 0, 100, 600), np.zeros((1, 100, 600), np.uint8))
            held = row + 100 - sum(height for _, height in written)
            assert held < 256
        writer.flush()
    assert [(int(w.row_off), int(w.height)) for w, _ in written] == [(0, 256), (256, 256), (512, 256), (768, 232)]


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_file_that_lacks_a_block_or_breaks_off_is_found_out(tmp_path, dtype):
    image = np.random.default_rng(1).random((2, 600, 600)) * 250
    image[:, :9] = np.nan if dtype == "float32" else 0
    image, path = image.astype(dtype), tmp_path / "a.tif"
    with raster.create(path, image.shape, dtype, nodata=np.nan if dtype == "float32" else 255) as file:
        writer = BlockWriter(file)
        writer.add(Window(0, 0, 600, 600), image)
        writer.flush()
    assert writer.fault(path) is None
    raster.cloud_optimised(path, "average")
    assert writer.fault(path) is None
    os.truncate(path, path.stat().st_size - 1000)
    assert "a.tif breaks off" in writer.fault(path)
    with rasterio.open(
        path, "w", driver="GTiff", width=600, height=600, count=2, dtype=dtype, tiled=True, sparse_ok=True
    ) as file:
        file.write(image[:, :256], window=rasterio.windows.Window(0, 0, 600, 256))  # the others were never written
    assert "does not hold what was written" in writer.fault(path)


def test_an_image_whose_place_is_the_middle_of_its_pixels_keeps_it(own, tmp_path):  # noqa: F811
    image = pixels(own.path("irrg", 32))
    with rasterio.open(write_raster(tmp_path / "point.tif", image, 32), "r+") as file:
        file.update_tags(AREA_OR_POINT="Point")
    with rasterio.open(tmp_path / "point.tif") as file:
        wanted = file.transform
    assert infer(own, "--images", tmp_path / "point.tif", "--dir", tmp_path / "out").code == 0
    with rasterio.open(tmp_path / "out/point_labels.tif") as file:
        assert file.transform == wanted
        assert file.tags()["AREA_OR_POINT"] == "Point"


# ----------------------------------------------------------------------------------------------------------- two classes


@pytest.fixture(scope="module")
def binary(tmp_path_factory):
    """A town of two classes, and an untrained net for it."""
    palette = {0: (0, 0, 0), 1: (255, 255, 255), 2: (9, 9, 9)}
    town = make_town(tmp_path_factory.mktemp("binary"), label_values=["other", "building"], palette=palette, IGNORE_LABEL=None)
    for tile in (1, 3, 5, 15, 32):
        for kind in ("labels", "labels_eroded"):
            labels = pixels(town.path(kind, tile))[0]
            write_raster(town.path(kind, tile), np.where(labels == 6, 2, labels == 1).astype(np.uint8), tile)
    torch.manual_seed(0)
    net = nets.build("segnet_slim", {"irrg": 3}, 2)
    spec = {"name": "irrg", "modalities": ["irrg"], "bands": [3], "bgr": True, "mean": [100, 100, 100]}
    about = {"name": "segnet_slim", "dataset": "vaihingen", "inputs": [spec], "classes": ["other", "building"], "ignored": [],
             "iteration": 1, "palette": {str(k): list(v) for k, v in palette.items()}, "patch_size": [32, 32]}  # fmt: skip
    snapshots.save_net(town.base / "net.safetensors", net, about)
    return town


def test_a_threshold_decides_between_two_classes(binary):
    words = [
        "--weights",
        binary.base / "net.safetensors",
        "--probabilities",
        "float32",
        "--confidence",
        "float32",
        "--overwrite",
    ]
    shares = []
    for threshold in ("0.0001", "0.45", None, "0.55", "0.9999"):
        ran = infer(binary, *words, *(["--threshold", threshold] if threshold else []))
        assert ran.code == 0, ran.err
        labels, every, sure = (results(binary, kind) for kind in ("labels", "probabilities", "confidence"))
        assert np.array_equal(labels[0], every[1] > float(threshold or 0.5))
        assert np.array_equal(sure[0], np.where(labels[0], every[1], every[0]))
        details = json.loads((binary.folder("results") / "details.json").read_text())
        assert details["threshold"] == (threshold and float(threshold))
        shares.append(labels.mean())
    assert shares == sorted(shares, reverse=True)
    assert (shares[0], shares[-1]) == (1, 0)
    assert len(set(shares)) > 2


def test_a_threshold_that_is_no_probability_or_for_many_classes_is_refused(binary, own):  # noqa: F811
    words = ["--weights", binary.base / "net.safetensors"]
    for word in ("0", "1", "1.5", "-0.2"):
        refused(infer(binary, *words, f"--threshold={word}"), "THRESHOLD", "between 0 and 1")
    refused(infer(own, "--threshold", "0.3"), "THRESHOLD = 0.3 is for two classes, label_values has 6")


def test_a_net_that_gives_no_numbers_makes_no_map(own, tmp_path):  # noqa: F811
    net, about = snapshots.load_net(next(own.snapshots.glob("net_iter_*.safetensors")))
    with torch.no_grad():
        next(net.parameters())[:] = torch.inf
    snapshots.save_net(tmp_path / "spoilt.safetensors", net, about)
    ran = infer(own, 32, "--weights", tmp_path / "spoilt.safetensors", "--dir", tmp_path / "out")
    assert ran.code in (1, 2)
    assert "the net gives no numbers" in ran.sentence
    assert not list((tmp_path / "out").glob("32_*"))


# ---------------------------------------------------------------------------------------------------------- plain pictures


def test_png_is_the_colour_map_at_the_images_size_with_a_world_file(maps, tmp_path):
    done(call("inference", 32, "--png", "--stac", "--dir", tmp_path, "--device", "cpu", "--config", maps.config()))
    with Image.open(tmp_path / "32_colours.png") as picture:
        found = np.asarray(picture)
    expected = paint(pixels(maps.folder("results") / "32_labels.tif")[0]).transpose(1, 2, 0)
    assert found.shape == (72, 90, 4)
    assert np.array_equal(found[..., 3], np.where(MISSING, 0, 255)) and np.array_equal(found[~MISSING, :3], expected[~MISSING])
    world = [float(line) for line in (tmp_path / "32_colours.pgw").read_text().split()]
    a = place(32)
    assert world == pytest.approx([a.a, 0, 0, a.e, a.c + a.a / 2, a.f + a.e / 2], abs=1e-9)
    with rasterio.open(tmp_path / "32_colours.png") as file:
        assert (file.crs, file.transform.almost_equals(a, 1e-6)) == (CRS, True)
    assets = json.loads((tmp_path / "32.json").read_text())["assets"]
    assert (assets["colours"]["href"], assets["colours_png"]["href"]) == ("./32_colours.tif", "./32_colours.png")


def test_a_folder_of_pictures_gives_plain_pictures(maps, tmp_path):
    (tmp_path / "in").mkdir()
    Image.fromarray(pixels(maps.path("irrg", 15)).transpose(1, 2, 0)).save(tmp_path / "in/a.png")
    words = ["--png", "--dir", tmp_path / "out", "--device", "cpu", "--config", maps.config()]
    done(call("inference", "--images", tmp_path / "in", *words))
    assert [name for name in names(tmp_path / "out") if name.startswith("a_colours")] == ["a_colours.png", "a_colours.tif"]
    with Image.open(tmp_path / "out/a_colours.png") as picture:
        assert (picture.size, picture.mode) == ((90, 72), "RGB")
        assert np.array_equal(np.asarray(picture).transpose(2, 0, 1), paint(pixels(tmp_path / "out/a_labels.tif")[0]))

"""Proves that convert_gt.py makes exact labels of colour pictures of every form, keeps their place on Earth, and back."""

import json
import os

import numpy as np
import pytest
import rasterio
from conftest import COLOURS, CRS, TEST, TRAIN, VAL, call, names, paint, pixels, place, refused, write_raster
from PIL import Image


@pytest.fixture
def convert(town, tmp_path):
    """Run convert_gt.py; what it makes goes to tmp_path/out."""
    return lambda *words: call("convert_gt", *words, "--out", tmp_path / "out", "--config", town.config())


def colours_of(labels):
    """h x w x 3 for Pillow."""
    return paint(labels).transpose(1, 2, 0)


LABELS = np.random.default_rng(0).integers(0, 7, (20, 30)).astype(np.uint8)


def test_a_folder_of_tiles_becomes_their_labels(town, convert, tmp_path):
    ran = convert(town.root / "gts_for_participants", "--from-color")
    assert ran.code == 0, ran.err
    for tile in [*TRAIN, *VAL, *TEST]:
        made = tmp_path / f"out/top_mosaic_09cm_area{tile}.tif"
        assert np.array_equal(pixels(made), pixels(town.path("labels", tile)))
        with rasterio.open(made) as file:
            assert (file.crs, file.transform, file.dtypes) == (CRS, place(tile), ("uint8",))
            assert {k: v[:3] for k, v in file.colormap(1).items() if k in COLOURS} == COLOURS


def test_the_output_says_what_made_it(town, convert, tmp_path):
    convert(town.root / "gts_for_participants", "--from-color")
    details = json.loads((tmp_path / "out/details.json").read_text())
    assert details["what"] == "labels"
    assert len(details["files"]) == 5


def test_the_round_trip_is_exact(town, tmp_path):
    colours = town.root / "gts_eroded_for_participants"
    steps = [(colours, "--from-color", tmp_path / "labels"), (tmp_path / "labels", "--to-color", tmp_path / "colours")]
    for source, way, out in steps:
        files = sorted(p for p in source.iterdir() if p.suffix == ".tif")
        ran = call("convert_gt", *files, way, "--out", out, "--config", town.config())
        assert ran.code == 0, ran.err
    for file in colours.iterdir():
        assert np.array_equal(pixels(tmp_path / "colours" / file.name), pixels(file))
        with rasterio.open(tmp_path / "colours" / file.name) as made, rasterio.open(file) as given:
            assert (made.crs, made.transform) == (given.crs, given.transform)


def test_a_png_with_a_palette_shows_its_colours_not_its_indices(convert, tmp_path):
    indices = (LABELS.astype(int) + 3) % 7  # an order of its own
    picture = Image.fromarray(indices.astype(np.uint8), "P")
    picture.putpalette([channel for i in range(7) for channel in COLOURS[(i - 3) % 7]])
    picture.save(tmp_path / "a.png")
    ran = convert(tmp_path / "a.png", "--from-color")
    assert ran.code == 0, ran.err
    assert np.array_equal(pixels(tmp_path / "out/a.png")[0], LABELS)


def test_an_alpha_band_is_left_out(convert, tmp_path):
    alpha = np.full((*LABELS.shape, 1), 77, np.uint8)
    Image.fromarray(np.concatenate([colours_of(LABELS), alpha], -1), "RGBA").save(tmp_path / "a.png")
    assert convert(tmp_path / "a.png", "--from-color").code == 0
    assert np.array_equal(pixels(tmp_path / "out/a.png")[0], LABELS)


def test_a_rgb_png_without_a_place_is_read_too(convert, tmp_path):
    Image.fromarray(colours_of(LABELS)).save(tmp_path / "a.png")
    assert convert(tmp_path / "a.png", "--from-color").code == 0
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out/a.png")), LABELS)


def test_unknown_colours_are_an_error_that_names_file_colours_and_counts_and_nothing_is_written(convert, tmp_path):
    spoilt = colours_of(LABELS).copy()
    spoilt[0, :3] = (1, 2, 3)
    Image.fromarray(spoilt).save(tmp_path / "a.png")
    spoilt[1, :] = (9, 9, 9)
    Image.fromarray(spoilt).save(tmp_path / "b.png")
    Image.fromarray(colours_of(LABELS)).save(tmp_path / "good.png")
    ran = convert(*[tmp_path / f"{name}.png" for name in ("a", "b", "good")], "--from-color")
    refused(ran, "a.png", "b.png: 36 pixels", "(1, 2, 3) on 6 pixels", "(9, 9, 9) on 30 pixels", "--unknown ignore")
    assert ran.sentence.count("--unknown ignore") == 1
    assert "good.png" not in ran.sentence
    assert not (tmp_path / "out").exists()


def test_unknown_colours_are_not_scored_when_the_user_says_so(convert, tmp_path):
    spoilt = colours_of(LABELS).copy()
    spoilt[:2, :3] = (1, 2, 3)
    Image.fromarray(spoilt).save(tmp_path / "a.png")
    assert convert(tmp_path / "a.png", "--from-color", "--unknown", "ignore").code == 0
    expected = LABELS.copy()
    expected[:2, :3] = 6
    assert np.array_equal(pixels(tmp_path / "out/a.png")[0], expected)


def test_unknown_colours_cannot_be_ignored_where_the_palette_has_no_label_left_for_them(town, tmp_path):
    Image.fromarray(colours_of(LABELS)).save(tmp_path / "a.png")
    config = town.config(palette={label: colour for label, colour in COLOURS.items() if label < 6})
    words = [tmp_path / "a.png", "--from-color", "--unknown", "ignore", "--out", tmp_path / "out", "--config", config]
    refused(call("convert_gt", *words), "no label for pixels that are not scored; add 6")


def test_unknown_colours_on_most_of_the_pixels_are_another_datasets_and_refused(convert, tmp_path):
    spoilt = colours_of(LABELS).copy()
    spoilt[: len(LABELS) // 2 + 1] = (1, 2, 3)
    Image.fromarray(spoilt).save(tmp_path / "a.png")
    ran = convert(tmp_path / "a.png", "--from-color", "--unknown", "ignore")
    refused(ran, "are of no class", "(1, 2, 3)", "correct DATASET")
    assert not (tmp_path / "out").exists()


def test_two_files_of_one_name_are_refused(convert, tmp_path):
    for folder in ("north", "south"):
        write_raster(tmp_path / folder / "a.tif", paint(LABELS))
    refused(convert(tmp_path / "north", tmp_path / "south", "--from-color"), "a.tif", "in two runs")


def test_a_jpeg_and_a_png_that_would_become_one_file_are_refused(convert, tmp_path):
    for name in ("a.jpg", "a.png"):
        Image.fromarray(colours_of(LABELS)).save(tmp_path / name)
    refused(convert(tmp_path / "a.jpg", tmp_path / "a.png", "--from-color"), "a.png", "in two runs")
    assert not (tmp_path / "out").exists()


def test_a_truncated_picture_is_named(convert, tmp_path):
    path = write_raster(tmp_path / "broken.tif", paint(np.tile(LABELS, (9, 9))))
    os.truncate(path, path.stat().st_size // 2)
    refused(convert(path, "--from-color"), path)


def test_labels_given_as_colours_are_refused(convert, town):
    refused(convert(town.path("labels", 1), "--from-color"), town.path("labels", 1), "a label array already")


def test_colours_given_as_labels_are_refused(convert, town):
    path = town.root / "gts_for_participants/top_mosaic_09cm_area1.tif"
    refused(convert(path, "--to-color"), path, "3 band(s)")


def test_labels_outside_the_classes_are_refused(convert, tmp_path):
    path = write_raster(tmp_path / "a.tif", np.array([[0, 1], [7, 255]], np.uint8))
    refused(convert(path, "--to-color"), path, "7 (1 pixels)", "255 (1 pixels)")


def test_the_folder_of_the_colour_pictures_cannot_be_replaced_by_their_labels(town):
    folder = town.root / "gts_for_participants"
    before = names(folder)
    for words in ([], ["--overwrite"]):
        ran = call("convert_gt", folder, "--from-color", "--out", folder, *words, "--config", town.config())
        assert ran.code == 2
    assert names(folder) == before


def test_an_earlier_output_is_replaced_only_when_the_user_says_so(town, convert, tmp_path):
    source = town.root / "gts_for_participants"
    assert convert(source, "--from-color").code == 0
    refused(convert(source, "--from-color"), tmp_path / "out", "exists already")
    assert convert(source, "--from-color", "--overwrite").code == 0


def test_a_folder_without_pictures_and_a_missing_file_are_refused(convert, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(convert(tmp_path / "empty", "--from-color"), tmp_path / "empty", "holds no raster")
    refused(convert(tmp_path / "none.tif", "--from-color"), tmp_path / "none.tif", "does not exist")


@pytest.mark.parametrize(
    ("way", "option"),
    [("--to-color", "--unknown ignore"), ("--to-color", "--nearest 9"), ("--from-index", "--threshold 9"),
     ("--from-color", "--background tree"), ("--from-vector", "--foreground 1")],
)  # fmt: skip
def test_an_option_that_its_way_does_not_read_is_refused(convert, town, way, option):
    name = option.split()[0]
    refused(convert(town.path("labels", 1), way, *option.split()), f"{name} does not go with {way}")

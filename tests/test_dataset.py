"""Proves that the layout of a dataset is known in one place, and that all that is wrong with it is named at once."""

import os

import numpy as np
import pytest
from conftest import FOLDERS, NAMES, make_image, make_labels, pixels, write_raster
from hypothesis import given
from hypothesis import strategies as st

from tools.base.errors import UserError
from tools.data.dataset import Dataset, find_ids, tile_id, tile_name
from tools.labels.palette import Palette


@pytest.mark.parametrize(("tile", "name"), [(7, "7"), ((2, 10), "2_10"), ("north", "north"), ("city/1", "city_1")])
def test_a_tile_has_one_name_on_the_command_line_and_in_files(tile, name):
    assert tile_name(tile) == name
    assert tile_id(name, [1, tile]) == tile


@given(st.one_of(st.integers(0, 99), st.tuples(st.integers(0, 99), st.integers(0, 99))))
def test_the_name_of_a_tile_that_no_list_knows_means_the_same_tile(tile):
    assert tile_id(tile_name(tile), []) == tile


def test_a_name_that_is_known_as_text_stays_text():
    assert tile_id("2_10", ["2_10"]) == "2_10"
    assert tile_id("02_10", []) == (2, 10)


def test_patterns_take_the_parts_of_an_id(tmp_path):
    dataset = Dataset(tmp_path, {"rgb": "RGB/top_{}_{}.tif", "dsm": "dsm_{:02d}_{:02d}.tif", "ndsm": "{0}/{0}_{1}.jpg"})
    assert dataset.path("rgb", (2, 10)) == tmp_path / "RGB/top_2_10.tif"
    assert dataset.path("dsm", (2, 10)) == tmp_path / "dsm_02_10.tif"
    assert dataset.path("ndsm", (2, 10)) == tmp_path / "2/2_10.jpg"


@pytest.mark.parametrize(
    ("pattern", "tile"), [("all.tif", 1), ("{}_{}.tif", 1), ("{}.tif", (2, 10)), ("{id}.tif", 1), ("{:02d}.tif", "north")]
)
def test_a_pattern_that_would_give_two_tiles_one_file_or_none_is_refused(tmp_path, pattern, tile):
    with pytest.raises(UserError, match="does not fit the tile id"):
        Dataset(tmp_path, {"rgb": pattern}).path("rgb", tile)


def test_a_dataset_has_a_modality_of_a_tile_when_the_file_is_there(tiles):
    dataset = Dataset(tiles.root, FOLDERS)
    assert dataset.has("irrg", 1)
    assert not dataset.has("irrg", 99)
    assert not dataset.has("ndsm", 1)


def fault(town, modalities=("irrg", "dsm", "labels"), tiles=(1, 3, 5)):
    with pytest.raises(UserError) as found:
        Dataset(town.root, FOLDERS).check(list(modalities), list(tiles), Palette(NAMES, {i: (i, 0, 0) for i in range(7)}))
    return str(found.value)


def test_a_whole_dataset_passes_and_its_sizes_come_back(tiles):
    found = Dataset(tiles.root, FOLDERS).check(
        ["irrg", "dsm", "labels"], [1, 3], Palette(NAMES, {i: (i, 0, 0) for i in range(7)})
    )
    assert {t: (r.height, r.width, r.bands) for t, r in found.items()} == {1: (72, 90, 3), 3: (72, 90, 3)}


def test_missing_truncated_and_foreign_files_are_all_named_at_once(town):
    town.path("dsm", 3).unlink()
    path = town.path("irrg", 5)
    os.truncate(path, path.stat().st_size // 2)
    town.path("dsm", 1).write_text("not a raster")
    sentence = fault(town)
    assert f"tile 3 has no dsm: {town.path('dsm', 3)} does not exist" in sentence
    assert f"{path} breaks off" in sentence
    assert f"{town.path('dsm', 1)} cannot be read as a raster" in sentence


def test_a_pattern_that_matches_no_file_is_named(town):
    for tile in (1, 3, 5):
        town.path("labels", tile).unlink()
    assert "folders['labels'] matches no file" in fault(town)
    assert "convert_gt.py" in fault(town)


def test_modalities_of_different_size_are_named_with_their_sizes(town):
    write_raster(town.path("dsm", 3), np.zeros((36, 45), np.float32))
    write_raster(town.path("labels", 5), make_labels(5, 72, 89))
    sentence = fault(town)
    assert "tile 3: its modalities differ in size (irrg 72x90, dsm 36x45, labels 72x90)" in sentence
    assert "tile 5: its modalities differ in size (irrg 72x90, dsm 72x90, labels 72x89)" in sentence


def test_tiles_with_other_bands_or_pixel_types_than_the_first_are_named(town):
    write_raster(town.path("irrg", 3), make_image(make_labels(3), 3)[:2])
    write_raster(town.path("dsm", 5), np.zeros((72, 90), np.uint16))
    sentence = fault(town)
    assert "tile 3: irrg has 2 band(s) of uint8, tile 1 has 3 of uint8" in sentence
    assert "tile 5: dsm has 1 band(s) of uint16, tile 1 has 1 of float32" in sentence


def test_labels_outside_the_classes_are_named_with_file_and_count(town):
    labels = make_labels(3)
    labels[:2, :5] = 255
    write_raster(town.path("labels", 3), labels)
    assert f"{town.path('labels', 3)}: labels outside the palette's [0, 1, 2, 3, 4, 5, 6]: 255 (10 pixels)" in fault(town)


def test_colour_ground_truth_in_place_of_labels_is_named_with_the_remedy(town):
    town.path("labels", 1).write_bytes((town.root / "gts_for_participants/top_mosaic_09cm_area1.tif").read_bytes())
    assert "convert_gt.py --from-color" in fault(town)


def test_more_faults_than_a_reader_can_take_in_are_counted(town):
    for tile in range(100, 130):
        town.path("dsm", tile).write_text("not a raster")
        for modality in ("irrg", "labels"):
            town.path(modality, tile).write_text("not a raster")
    assert fault(town, tiles=range(100, 130)).endswith("(+70 more)")


def test_one_tile_that_differs_is_blamed_and_not_the_many_that_agree(town):
    write_raster(town.path("irrg", 1), pixels(town.path("irrg", 1))[:2], 1)
    with pytest.raises(UserError) as error:
        Dataset(town.root, FOLDERS).check(["irrg", "labels"], [1, 3, 5])
    assert str(error.value) == "tile 1: irrg has 2 band(s) of uint8, tile 3 has 3 of uint8."


def test_what_macos_leaves_beside_a_tile_is_no_tile(tmp_path):
    for name in ("1.tif", "2.tif", "._1.tif"):
        (tmp_path / name).touch()
    assert find_ids(tmp_path, "{}.tif") == [1, 2]

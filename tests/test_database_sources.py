"""Proves that a database remembers what it was made of, and that other files, mappings and strange tiles are told."""

import numpy as np
import pytest
from conftest import FOLDERS, call, done, pixels, read_json, refused, train, write_raster

from tools.inference import familiar


@pytest.fixture
def own(databases, tmp_path, without_pictures):
    """A town with patches and databases, to be spoilt."""
    return databases.copy(tmp_path / "own", "lmdb", "patches")


def elsewhere(own, change):
    """The same tiles' images in another folder, changed; the `folders` that names it."""
    for tile in (1, 3, 5, 15, 32):
        write_raster(own.root / f"other/{tile}.tif", change(pixels(own.path("irrg", tile))), tile)
    return FOLDERS | {"irrg": "other/{}.tif"}


def test_details_say_files_sizes_and_times_of_each_modality(own):
    found = read_json(own.folder("lmdb") / "details.json")["sources"]
    path = own.path("irrg", 3)
    assert found["files"]["irrg"]["3"][:2] == [str(path.relative_to(own.root)), path.stat().st_size]
    assert set(found["files"]) == {"irrg", "labels"} and set(found["mapping"]) >= {"CLASS_MAPPING", "SOURCE_CLASSES"}
    assert found["nodata"] == {"irrg": None}


@pytest.mark.parametrize("script", ["training", "create_db"])
def test_a_modality_that_points_to_other_files_is_refused(own, script):
    folders = elsewhere(own, lambda image: image[:, ::-1])
    words = ["--niter", 1, "--device", "cpu"] if script == "training" else ["--overwrite"]
    ran = call(script, *words, "--config", own.config(folders=folders))
    refused(ran, "was made of top/top_mosaic_09cm_area1.tif as irrg of tile 1", "folders['irrg'] is other/1.tif now")


def test_another_mapping_of_classes_is_refused(own):
    refused(train(own, 1, CLASS_MAPPING={"tree": "low vegetation"}), "was made with CLASS_MAPPING = None", "make labels")


def test_files_that_have_changed_are_warned_of(own):
    done(call("extract_images", "--overwrite", "--config", own.config()))
    done(call("create_db", "--overwrite", "--config", own.config()))
    assert "changed" not in train(own, 1).err
    write_raster(own.path("irrg", 3), pixels(own.path("irrg", 3))[:, ::-1], 3)
    ran = done(train(own, 1, "--overwrite"))
    assert "top/top_mosaic_09cm_area3.tif has changed since" in ran.err


def test_a_dataset_that_was_moved_as_a_whole_is_the_same(own):
    """The fixture itself is a copy elsewhere, with times of its own."""
    assert "changed" not in done(train(own, 1)).err


def test_tiles_without_their_files_can_be_trained_on(own):
    for tile in (1, 3, 5):
        own.path("irrg", tile).unlink()
    done(train(own, 1, val_ids=[]))


# ------------------------------------------------------------------------------------------------------- strange tiles


def test_a_tile_inside_the_training_pixels_is_not_strange_and_one_outside_is():
    about = {"mean": [100.0], "deviation": [20.0], "low": [60.0], "high": [140.0]}
    assert familiar.strangeness([61.0], about) == familiar.strangeness([140.0], about) == 0
    assert familiar.strangeness([200.0], about) == pytest.approx(3)
    assert familiar.strangeness([20.0], about) == pytest.approx(2)


def test_inference_warns_of_tiles_far_from_the_training_statistics(trained, tmp_path):
    image = pixels(trained.path("irrg", 32))
    write_raster(tmp_path / "in/usual.tif", image, 32)
    write_raster(tmp_path / "in/dark.tif", np.zeros_like(image), 32)
    words = ["--device", "cpu", "--config", trained.config()]
    ran = done(call("inference", "--images", tmp_path / "in/usual.tif", "--dir", tmp_path / "a", *words))
    assert "far from" not in ran.out
    ran = done(call("inference", "--images", tmp_path / "in", "--dir", tmp_path / "b", *words))
    (line,) = [line for line in ran.out.splitlines() if "far from what the net was trained on" in line]
    assert "irrg" in line and "dark (0, 0, 0)" in line and "usual" not in line and "top/top_mosaic_09cm_area{}.tif" in line

"""Proves that extract_images.py loses no pixel, turns and mirrors exactly, never interpolates labels, and writes all or
nothing."""

import json
import os

import numpy as np
import pytest
from conftest import TEST, TRAIN, VAL, call, kill, names, pixels, refused, spawn, wait_for, write_raster

from tools.data.patches import Cutting, read_patch, reflect, turn, write_patch
from tools.data.statistics import Moments

ROWS, COLS = [0, 16, 32, 40], [0, 16, 32, 48, 58]  # where windows of 32 pixels, 16 apart, begin on 72 x 90 pixels
TEST_ROWS, TEST_COLS = [0, 32, 40], [0, 32, 58]  # the same without overlap


def extract(town, *words, **changes):
    return call("extract_images", "--config", town.config(**changes), *words)


def patch_file(town, modality, split, name):
    (path,) = town.folder("patches").glob(f"{modality}_{split}/{name}.*")
    return path


# ------------------------------------------------------------------------------------------------------- what comes out


def test_each_modality_and_split_has_a_folder_with_the_counted_patches(patches):
    counts = {f.name: len(list(f.iterdir())) for f in patches.folder("patches").iterdir() if f.is_dir()}
    windows, test_windows = len(ROWS) * len(COLS), len(TEST_ROWS) * len(TEST_COLS)
    expected = {"train": len(TRAIN) * windows * 4, "val": len(VAL) * windows, "test": len(TEST) * test_windows}
    assert counts == {f"{m}_{split}": n for m in ("irrg", "labels") for split, n in expected.items()}


@pytest.mark.parametrize(("split", "tile"), [("train", 3), ("val", 15)])
@pytest.mark.parametrize("modality", ["irrg", "labels"])
def test_every_window_is_cut_to_the_pixel(patches, split, tile, modality):
    image = pixels(patches.path(modality, tile))
    for row in ROWS:
        for col in COLS:
            patch = read_patch(patch_file(patches, modality, split, f"{tile}_{row:05d}_{col:05d}"))
            assert np.array_equal(patch, image[:, row : row + 32, col : col + 32]), (row, col)


def test_test_tiles_are_cut_without_overlap_and_without_turns(patches):
    names = {p.stem for p in patches.folder("patches").glob("irrg_test/*")}
    assert names == {f"32_{row:05d}_{col:05d}" for row in TEST_ROWS for col in TEST_COLS}


def test_every_pixel_of_every_tile_is_in_a_patch(patches):
    for split, tiles in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        for tile in tiles:
            seen = np.zeros((72, 90), bool)
            for path in patches.folder("patches").glob(f"labels_{split}/{tile}_*"):
                row, col = map(int, path.stem.split("_")[1:3])
                seen[row : row + 32, col : col + 32] = True
            assert seen.all(), tile


@pytest.mark.parametrize(("rotation", "flip"), [(0, True), (90, False), (90, True)])
@pytest.mark.parametrize("modality", ["irrg", "labels"])
def test_turns_and_mirrorings_are_exact_and_alike_for_image_and_labels(patches, modality, rotation, flip):
    name = f"5_{40:05d}_{58:05d}" + (f"_r{rotation}" if rotation else "") + "_f" * flip
    expected = np.stack([np.rot90(band, rotation // 90) for band in pixels(patches.path(modality, 5))[:, 40:72, 58:90]])
    expected = np.stack([np.fliplr(band) for band in expected]) if flip else expected
    assert np.array_equal(read_patch(patch_file(patches, modality, "train", name)), expected)


def test_labels_are_never_interpolated(town):
    checkered = np.where(np.indices((72, 90)).sum(0) % 2, 5, 0).astype(np.uint8)  # any blend of neighbours would show
    write_raster(town.path("labels", 1), checkered)
    assert extract(town, ROTATIONS=[0, 90, 180, 270]).code == 0
    for path in town.folder("patches").glob("labels_train/1_*"):
        assert set(np.unique(read_patch(path))) == {0, 5}


def test_pictures_are_png_and_heights_keep_their_float32(town):
    assert extract(town, INPUTS={"irrg": ["irrg"], "dsm": ["dsm"]}, MEAN_PIXEL={"irrg": None, "dsm": None}).code == 0
    assert patch_file(town, "irrg", "val", "15_00000_00000").suffix == ".png"
    path = patch_file(town, "dsm", "val", "15_00016_00032")
    assert np.array_equal(pixels(path), pixels(town.path("dsm", 15))[:, 16:48, 32:64])
    assert pixels(path).dtype == np.float32


def test_a_tile_smaller_than_a_patch_is_continued_by_its_mirror_image(town):
    for modality in ("irrg", "labels"):
        write_raster(town.path(modality, 1), pixels(town.path(modality, 1))[:, :20, :25])
    assert extract(town).code == 0
    files = sorted(p.stem for p in town.folder("patches").glob("irrg_train/1_*"))
    assert files == ["1_00000_00000", "1_00000_00000_f", "1_00000_00000_r90", "1_00000_00000_r90_f"]
    patch, tile = read_patch(patch_file(town, "irrg", "train", "1_00000_00000")), pixels(town.path("irrg", 1))
    assert np.array_equal(patch[:, :20, :25], tile)
    assert np.array_equal(patch[:, 20:, :25], tile[:, 18:6:-1])
    assert np.array_equal(patch[:, :20, 25:], tile[:, :, 23:16:-1])


def test_details_say_what_was_made_from_what(patches):
    details = json.loads((patches.folder("patches") / "details.json").read_text())
    assert details["made by"] == "extract_images.py"
    assert details["patch_size"] == [32, 32]
    assert details["step_size"] == [16, 16]
    assert details["splits"]["train"] == {"tiles": ["1", "3", "5"], "patches": 240}
    assert details["splits"]["test"] == {"tiles": ["32"], "patches": 9}
    assert details["classes"][5] == "clutter"


def test_mean_and_deviation_are_those_of_the_training_tiles(patches):
    details = json.loads((patches.folder("patches") / "details.json").read_text())
    values = np.concatenate([pixels(patches.path("irrg", t)).reshape(3, -1) for t in TRAIN], axis=1)
    about = details["modalities"]["irrg"]
    assert (about["bands"], about["dtype"]) == (3, "uint8")
    np.testing.assert_allclose(about["mean"], values.mean(1), rtol=1e-12)
    np.testing.assert_allclose(about["deviation"], values.std(1), rtol=1e-9)


def test_percentiles_count_pixels_and_not_tiles():
    small, large = np.zeros((1, 150, 150), np.uint8), np.full((1, 1500, 1500), 200, np.uint8)
    large[0, :300] = 100  # a fifth of it; the small tile is a hundredth of both
    for moments in (Moments.of(small) + Moments.of(large), Moments.of(large) + Moments.of(small)):
        table = dict(zip(moments.to_dict()["percentiles"]["levels"], moments.to_dict()["percentiles"]["values"], strict=True))
        assert [table[level][0] for level in (0, 2, 10, 25, 98)] == [0, 100, 100, 200, 200]


def test_pixels_without_a_number_in_any_band_do_not_count_in_the_mean():
    image = np.array([[[1.0, np.nan], [3.0, np.inf]], [[5.0, 6.0], [7.0, 9.0]]], np.float32)
    moments = Moments.of(image) + Moments.of(image[:, :1])
    np.testing.assert_allclose(moments.mean, [(1 + 3 + 1) / 3, (5 + 7 + 5) / 3])


def test_patches_are_cut_in_pixels_as_they_are_whatever_the_seed_of_the_run(patches, tmp_path):
    again = patches.copy(tmp_path / "again", "patches")
    assert extract(again, "--overwrite", SEED=99).code == 0
    for path in patches.folder("patches").rglob("*.png"):
        assert (again.base / path.relative_to(patches.base)).read_bytes() == path.read_bytes()


# ------------------------------------------------------------------------------------------------------------ bad input


def test_bad_tiles_are_all_named_before_work_starts_and_nothing_is_written(town):
    town.path("labels", 3).unlink()
    write_raster(town.path("labels", 15), np.zeros((10, 10), np.uint8))
    path = town.path("irrg", 32)
    os.truncate(path, path.stat().st_size // 2)
    refused(extract(town), "tile 3 has no labels", f"{path} breaks off")
    assert not list(town.base.glob("vaihingen_patches*"))
    write_raster(path, np.zeros((3, 72, 90), np.uint8))
    write_raster(town.path("labels", 3), np.zeros((72, 90), np.uint8))
    refused(extract(town), "tile 15: its modalities differ in size (irrg 72x90, labels 10x10)")
    assert not list(town.base.glob("vaihingen_patches*"))


def test_a_folder_that_matches_nothing_is_one_sentence(town):
    refused(extract(town, DATASET_DIR=f"{town.base}/nowhere/"), "folders['irrg'] matches no file")


def test_existing_patches_are_refused_and_replaced_only_on_request(town):
    assert extract(town, train_ids=[1]).code == 0
    before = sorted(names(town.folder("patches") / "irrg_train"))
    refused(extract(town), town.folder("patches"), "exists already", "--overwrite")
    assert sorted(names(town.folder("patches") / "irrg_train")) == before
    assert extract(town, "--overwrite").code == 0
    assert len(names(town.folder("patches") / "irrg_train")) == 240


def test_patches_that_are_not_square_cannot_be_turned(town):
    refused(extract(town, patch_size=(32, 64)), "patches of 32x64 cannot be turned by 90 degrees")
    assert extract(town, patch_size=(32, 64), ROTATIONS=[0, 180]).code == 0


@pytest.mark.slow
def test_a_killed_run_leaves_nothing_under_the_final_name(town):
    config = town.config(step_size=(1, 1))
    with spawn("extract_images", "--config", config) as process:
        wait_for(lambda: list(town.base.glob("vaihingen_patches.partial/*/*")), process)
        kill(process)
    assert not town.folder("patches").exists()
    assert extract(town).code == 0
    assert not list(town.base.glob("*.partial"))


# -------------------------------------------------------------------------------------------------------------- the parts


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("flip", [False, True])
def test_a_turn_is_numpys(rotation, flip):
    patch = np.random.default_rng(0).integers(0, 9, (4, 6, 6))
    expected = np.rot90(patch.transpose(1, 2, 0), rotation // 90)
    expected = expected[:, ::-1] if flip else expected
    assert np.array_equal(turn(patch, rotation, flip), expected.transpose(2, 0, 1))


def test_the_count_is_the_number_of_patches():
    cutting = Cutting((32, 32), (7, 9), (0, 180, 270), (False, True))
    found = list(cutting.patches(np.zeros((1, 75, 61))))
    assert len(found) == cutting.count(75, 61)
    assert len({name for name, _ in found}) == len(found)
    assert Cutting((32, 32), (16, 16)).count(5, 5) == 1


@pytest.mark.parametrize("shape", [(1, 1), (2, 7), (5, 32), (32, 5)])
def test_even_a_sliver_can_be_reflected_until_it_fills_the_window(shape):
    image = np.arange(np.prod(shape)).reshape(1, *shape)
    whole = reflect(image, (32, 32))
    assert whole.shape == (1, 32, 32)
    assert np.array_equal(whole[:, : shape[0], : shape[1]], image)
    assert set(np.unique(whole)) == set(np.unique(image))


@pytest.mark.parametrize(
    ("bands", "dtype", "suffix"), [(1, "uint8", "png"), (3, "uint8", "png"), (4, "uint16", "tif"), (2, "float32", "tif")]
)
def test_a_patch_file_holds_the_patch(tmp_path, bands, dtype, suffix):
    patch = np.random.default_rng(0).integers(0, 250, (bands, 9, 11)).astype(dtype)
    write_patch(tmp_path / f"a.{suffix}", patch)
    found = read_patch(tmp_path / f"a.{suffix}")
    assert found.dtype == dtype
    assert np.array_equal(found, patch)


# ------------------------------------------------------------------------------------------------ what tiles say of themselves


@pytest.mark.parametrize("modality", ["labels", "dsm"])
def test_files_of_one_tile_that_lie_elsewhere_are_refused_before_work_starts(town, modality):
    """Of one size, but where tile 15 lies."""
    write_raster(town.path(modality, 3), pixels(town.path(modality, 3)), 15)
    changes = {"INPUTS": {"both": ["irrg", "dsm"]}, "MEAN_PIXEL": {"irrg": None, "dsm": None}}
    ran = extract(town, **changes)
    refused(ran, f"tile 3: {town.path(modality, 3)} ({modality}) does not lie where {town.path('irrg', 3)} (irrg) lies")
    assert not town.folder("patches").exists()


def test_training_refuses_validation_tiles_whose_labels_lie_elsewhere(databases, tmp_path):
    town = databases.copy(tmp_path, "lmdb")
    write_raster(town.path("labels", 15), pixels(town.path("labels", 15)), 3)
    ran = call("training", "--niter", 1, "--device", "cpu", "--config", town.config())
    refused(ran, f"tile 15: {town.path('labels', 15)} (labels) does not lie where")


def test_labels_that_count_from_one_are_pointed_out(town):
    for tile in [*TRAIN, *VAL, *TEST]:
        write_raster(town.path("labels", tile), pixels(town.path("labels", tile)) + 1, tile)
    ran = extract(town)
    assert ran.code == 0
    assert "note: class 0 (impervious surfaces) has no pixel, and" in ran.out
    assert "SOURCE_CLASSES = {'impervious surfaces': 1, 'building': 2," in ran.out


@pytest.mark.parametrize(("empty_if", "empty", "said"), [
    ({}, False, "100 of 32,400 pixels have no data; pixels with the value for that in some bands alone count as data (60 in"),
    ({"irrg": "any"}, True, "irrg: 160 of 32,400 pixels have no data (100 in band 1, 100 in band 2, 160 in band 3)."),
])  # fmt: skip
def test_the_config_says_whether_one_band_makes_a_pixel_empty_and_what_went_is_said_by_band(town, empty_if, empty, said):
    image = np.maximum(pixels(town.path("irrg", 3)), 1)
    image[:, 60:70, :10] = 0
    image[2, :6, :10] = 0  # dark in one band
    write_raster(town.path("irrg", 3), image, 3, nodata=0)
    ran = extract(town, EMPTY_IF=empty_if)
    assert said in ran.out
    labels = read_patch(patch_file(town, "labels", "train", "3_00000_00000"))[0]
    assert (labels[:6, :10] == 6).all() == empty
    assert (read_patch(patch_file(town, "irrg", "train", "3_00000_00000"))[2, :6, :10] == 0).all() != empty
    assert (read_patch(patch_file(town, "labels", "train", "3_00040_00000"))[0, 20:30, :10] == 6).all()

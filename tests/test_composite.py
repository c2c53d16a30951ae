"""Proves that composites hold the numbers that the formulas give, on the image's grid, and that no data stays no data."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import CRS, REPO, call, names, pixels, refused, write_config, write_raster
from conftest import whole_terrain as estimate
from rasterio.transform import from_origin

from tools.base.errors import UserError
from tools.composite import __main__ as composite
from tools.composite import tile as composite_tile
from tools.composite.terrain import pixel_metres

REAL = REPO.parent / "shared/data/geo"
SHAPE = (40, 50)
INFRARED = np.tile(np.array([200, 0, 0, 50, 120], np.uint8), (40, 10))
RED = np.tile(np.array([100, 0, 50, 0, 120], np.uint8), (40, 10))
NDVI = np.tile(np.array([170, 128, 0, 255, 128], np.uint8), (40, 10))  # (1/3 + 1) * 127.5 = 170; 0 is 127.5, rounded to even
HEIGHTS = np.tile(np.linspace(200, 251, 50).astype(np.float32), (40, 1))
TERRAIN = np.full(SHAPE, 200, np.float32)


def place(east=500_000, north=5_400_000, pixel=1.0):
    """A corner and a pixel size, metres."""
    return from_origin(east, north, pixel, pixel)


def write(path, array, **profile):
    """A raster with pixels of one metre, north of 32N's middle."""
    return write_raster(path, array, **({"transform": place()} | profile))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two tiles of image, surface and terrain; the second lies ten metres higher. The working folder is theirs."""
    monkeypatch.chdir(tmp_path)
    for tile in (1, 2):
        write(Path(f"top/area{tile}.tif"), np.stack([INFRARED, RED, RED]))
        write(Path(f"dsm/area{tile}.tif"), HEIGHTS + 10 * (tile - 1))
        write(Path(f"dtm/area{tile}.tif"), TERRAIN + 10 * (tile - 1))
    return tmp_path


FILES = ["--image", "top/area{}.tif", "--bands", "ir=1,red=2", "--dsm", "dsm/area{}.tif"]
GIVEN = [*FILES, "--terrain", "dtm/area{}.tif", "--out", "out"]


def made(*words):
    """Run the command, which must succeed; its stdout comes back."""
    ran = call("tools.composite", *([] if "--workers" in words else ["--workers", 1]), *words)
    assert ran.code == 0, ran.err
    return ran.out


def mask(path):
    """Where a raster says that it has data, by its mask."""
    with rasterio.open(path) as file:
        assert all("per_dataset" in [flag.name for flag in flags] for flags in file.mask_flag_enums)
        return file.dataset_mask() > 0


# --------------------------------------------------------------------------------------------------------------- formulas


def test_the_three_bands_hold_what_the_formulas_give(folder):
    """By hand: heights from 200 to 261 m over both tiles become 0 to 255; 0 to 30 m above ground do, what is higher is 255."""
    made(*GIVEN)
    for tile in (1, 2):
        found = pixels(f"out/composite_{tile}.tif")
        assert found.dtype == np.uint8
        assert np.array_equal(found[0], NDVI)
        assert np.array_equal(found[1], np.rint((HEIGHTS + 10 * (tile - 1) - 200) / 61 * 255))
        assert np.array_equal(found[2], np.rint(np.minimum(HEIGHTS - 200, 30) / 30 * 255))
    assert found[1, 0, [0, -1]].tolist() == [42, 255]  # 10 m of 61 m; the highest of all
    assert mask("out/composite_1.tif").all()


def test_bytes_do_not_overflow_in_ndvi(folder):
    """200 + 100 is more than a byte holds."""
    made(*GIVEN)
    assert pixels("out/composite_1.tif")[0, 0, 0] == 170


def test_the_top_of_the_heights_above_ground_may_be_chosen(folder):
    made(*GIVEN, "--ndsm-top", 10)
    assert np.array_equal(pixels("out/composite_1.tif")[2], np.rint(np.minimum(HEIGHTS - 200, 10) / 10 * 255))


def test_heights_above_ground_may_be_given_in_steps(folder):
    for tile in (1, 2):
        write(Path(f"ndsm/{tile}.png"), np.full(SHAPE, 150, np.uint8), driver="PNG", crs=None, transform=None)
    out = made(*FILES, "--ndsm", "ndsm/{}.png", "--ndsm-step", 0.1, "--out", "out")
    assert (pixels("out/composite_1.tif")[2] == 128).all()  # 15 m of 30 m: 127.5
    assert "ndsm: without georeference, taken pixel by pixel on the image's grid, tiles 1, 2" in out


def test_infrared_may_lie_in_files_of_its_own(folder):
    for tile in (1, 2):
        write(Path(f"nir/{tile}.tif"), INFRARED)
        write(Path(f"rgb/{tile}.tif"), np.stack([RED, RED, RED]))
    made("--image", "rgb/{}.tif", "--bands", "red=1", "--infrared", "nir/{}.tif", *GIVEN[4:])
    assert np.array_equal(pixels("out/composite_2.tif")[0], NDVI)


# ------------------------------------------------------------------------------------------------------------------ ranges


def test_another_datasets_range_may_be_given(folder):
    made(*GIVEN, "--range", 100, 355)
    assert np.array_equal(pixels("out/composite_1.tif")[1], np.rint(HEIGHTS - 100))


def test_percentiles_are_of_all_tiles_together(folder):
    """Tile 1 has heights of 0 and 1 m, tile 2 of 2 m, but for one spike of 900 m: 99 % of all pixels lie below 2 m."""
    low = np.zeros(SHAPE, np.float32)
    low[:20] = 1
    write(Path("dsm/area1.tif"), low)
    high = np.full(SHAPE, 2, np.float32)
    high[0, 0] = 900
    write(Path("dsm/area2.tif"), high)
    made(*GIVEN, "--percentiles", 0, 99)
    assert [np.unique(pixels(f"out/composite_{t}.tif")[1]).tolist() for t in (1, 2)] == [[0, 128], [255]]
    details = json.loads(Path("out/details.json").read_text())["bands"]["dsm"]
    assert (details["at_0"], details["at_255"], details["highest"]) == (0, 2, 900)


def test_details_say_how_it_was_made(folder):
    made(*FILES, "--out", "out", "--window", 30)
    found = json.loads(Path("out/details.json").read_text())
    assert found["sources"] == {"image": "top/area{}.tif", "dsm": "dsm/area{}.tif"}
    assert found["image_bands"] == {"ir": 1, "red": 2}
    assert (found["bands"]["dsm"]["at_0"], found["bands"]["dsm"]["at_255"]) == (200, 261)
    assert found["terrain"]["window_metres"] == 30
    assert found["tiles"]["2"] == {"file": "composite_2.tif", "without_data": 0}


def test_the_file_says_what_its_bands_are(folder):
    made(*GIVEN)
    with rasterio.open("out/composite_2.tif") as file:
        assert file.descriptions == ("ndvi", "dsm", "ndsm")
        assert file.tags(2) == {"at_0": "200", "at_255": "261"}


# ----------------------------------------------------------------------------------------------------------------- no data


@pytest.mark.parametrize(
    ("path", "values", "declared"),
    [
        ("dsm/area1.tif", HEIGHTS, -9999),
        ("dsm/area1.tif", HEIGHTS, np.nan),
        ("dtm/area1.tif", TERRAIN, -9999),
        ("dtm/area1.tif", TERRAIN, np.nan),
        ("top/area1.tif", np.stack([INFRARED, RED, RED]).astype(np.float32) + 1, np.nan),
        ("top/area1.tif", np.stack([INFRARED, RED, RED]).astype(np.int16) + 1, 0),
    ],
)
def test_where_one_source_has_no_data_the_composite_has_none(folder, path, values, declared):
    write(Path(path), values)
    made(*GIVEN, "--range", 200, 261)
    whole = pixels("out/composite_1.tif")
    hole = np.zeros(SHAPE, bool)
    hole[3:6, 10:20] = True
    values = values.copy()
    values[..., hole] = declared
    write(Path(path), values, nodata=None if np.isnan(declared) else declared)
    made(*GIVEN, "--range", 200, 261, "--overwrite")
    assert np.array_equal(mask("out/composite_1.tif"), ~hole)
    assert np.array_equal(pixels("out/composite_1.tif"), np.where(hole, 0, whole))


def test_no_data_in_the_surface_leaves_the_estimated_terrain_around_it_as_it_was(folder):
    heights = np.full(SHAPE, 200, np.float32)
    heights[10:20, 10:20] = 206
    heights[15:18, 18:25] = -9999
    write(Path("dsm/area1.tif"), heights, nodata=-9999)
    made(*FILES, "--out", "out")
    known = heights > 0
    assert np.array_equal(mask("out/composite_1.tif"), known)
    assert np.array_equal(pixels("out/composite_1.tif")[2], np.where(heights == 206, 51, 0))  # 6 m of 30 m


def test_a_masks_no_data_counts_as_well(folder):
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open("dsm/area1.tif", "r+") as file:
        file.write_mask(np.arange(40)[:, None] * np.ones(50) >= 5)
    made(*GIVEN)
    assert np.array_equal(mask("out/composite_1.tif"), np.arange(40)[:, None] * np.ones(50) >= 5)


def test_no_data_that_no_file_declares_may_be_said(folder):
    heights = HEIGHTS.copy()
    heights[7] = -32767
    write(Path("dsm/area1.tif"), heights)
    refused(call("tools.composite", *GIVEN), "tile 1", "dsm/area1.tif", "-32767", "--nodata")
    write(Path("dtm/area2.tif"), np.where(HEIGHTS > 250, np.float32(-32767), TERRAIN))
    made(*GIVEN, "--nodata", -32767)
    assert np.array_equal(np.flatnonzero(~mask("out/composite_1.tif").all(1)), [7])
    assert np.array_equal(mask("out/composite_2.tif"), HEIGHTS <= 250)
    write(Path("dsm/area1.tif"), HEIGHTS)
    refused(call("tools.composite", *GIVEN, "--overwrite"), "tile 2", "dtm/area2.tif", "-32767", "--nodata")


# --------------------------------------------------------------------------------------------------------- place and grids


def test_the_place_on_earth_is_the_images(folder):
    made(*GIVEN)
    with rasterio.open("out/composite_1.tif") as file:
        assert (file.crs, file.transform, file.shape) == (CRS, place(), SHAPE)


def test_heights_on_another_grid_are_resampled_and_that_is_said(folder):
    """One plane of heights, 200 m + 0.5 m per metre to the east, in pixels of 2 m, beyond the tile on all sides."""
    east = 499_990 + 2 * (np.arange(60) + 0.5)
    plane = np.tile((200 + 0.5 * (east - 500_000)).astype(np.float32), (50, 1))
    write(Path("plane.tif"), plane, transform=place(499_990, 5_400_020, 2))
    out = made(*FILES[:4], "--dsm", "plane.tif", "--terrain", "dtm/area1.tif", "--out", "out", "--range", 200, 251)
    wanted = np.tile(np.rint(0.5 * (np.arange(50) + 0.5) * 5), (40, 1))
    assert np.abs(pixels("out/composite_1.tif")[1].astype(int) - wanted).max() <= 1
    assert "dsm: resampled (bilinear) from EPSG:32632, pixels 2 x 2 to the image's EPSG:32632, pixels 1 x 1, tiles 1, 2" in out


def test_a_surface_without_a_crs_on_another_grid_is_refused(folder):
    write(Path("coarse.tif"), np.full((30, 30), 230, np.float32), transform=place(pixel=2), crs=None)
    ran = call("tools.composite", *FILES[:4], "--dsm", "coarse.tif", "--out", "out")
    refused(ran, "tile 1", "coarse.tif", "30x30", "40x50", "has no CRS")
    assert not Path("out").exists()


def test_with_one_surface_model_for_all_tiles_the_terrain_knows_what_lies_beyond_a_tile(folder):
    """A steep hillside, 0.2 m a metre, over two tiles of one city, and nothing on it. Seen alone, a tile's upper border would
    be a roof: no window reaches higher ground there."""
    city = np.tile((200 + 0.2 * np.arange(300)).astype(np.float32), (140, 1))
    write(Path("city.tif"), city, transform=place(499_900, 5_400_050))
    for tile in (1, 2):
        write(Path(f"top/area{tile}.tif"), np.stack([INFRARED, RED, RED]), transform=place(500_000 + 50 * (tile - 1)))
    made(*FILES[:4], "--dsm", "city.tif", "--out", "out")
    for tile in (1, 2):
        assert (pixels(f"out/composite_{tile}.tif")[2] == 0).all()
        write(Path(f"dsm/area{tile}.tif"), city[50:90, 50 + 50 * tile : 100 + 50 * tile], transform=place(499_950 + 50 * tile))
    made(*FILES, "--out", "alone")
    assert (pixels("alone/composite_1.tif")[2, :, -1] > 0).any()


# ------------------------------------------------------------------------------------------------------- work in pieces


def test_the_pieces_that_are_worked_on_leave_no_trace(folder, monkeypatch):
    rng = np.random.default_rng(0)
    write(Path("dsm/area1.tif"), HEIGHTS + rng.random(SHAPE).astype(np.float32) * 9)
    made(*FILES, "--out", "whole")
    monkeypatch.setattr(composite_tile, "_PIECE", (7, 11))
    made(*FILES, "--out", "pieces")
    assert np.array_equal(pixels("whole/composite_1.tif"), pixels("pieces/composite_1.tif"))
    above = HEIGHTS * 0 + pixels("whole/composite_2.tif")[2]
    ground = estimate(HEIGHTS + 10, pixel_metres(CRS, place(), *SHAPE))
    assert np.array_equal(above, np.rint(np.clip(HEIGHTS + 10 - ground, 0, 30) / 30 * 255))


def test_any_number_of_processes_gives_the_same(folder):
    made(*FILES, "--out", "one", "--workers", 1)
    made(*FILES, "--out", "two", "--workers", 2)
    for name in ("composite_1.tif", "composite_2.tif"):
        assert (folder / "one" / name).read_bytes() == (folder / "two" / name).read_bytes()


# ------------------------------------------------------------------------------------------------------- tiles and config


def config(folder, **changes):
    """A config of the two tiles, as a dataset below town/."""
    (folder / "town").mkdir(exist_ok=True)
    for name in ("top", "dsm", "dtm"):
        (folder / name).rename(folder / "town" / name)
    folders = {"irrg": "top/area{}.tif", "dsm": "dsm/area{}.tif", "dtm": "dtm/area{}.tif", "labels": "labels/{}.tif"}
    folders |= changes.pop("folders", {})
    ids = {"train_ids": [1], "val_ids": [], "test_ids": [2]}
    return write_config(folder / "my.py", folder, DATASET_DIR=f"{folder}/town/", folders=folders, **ids | changes)


def test_with_a_config_the_modalities_and_the_tiles_are_the_datasets(folder):
    out = made("--config", config(folder), "--terrain", "dtm")
    assert names("town/composite") == ["composite_1.tif", "composite_2.tif", "details.json"]
    assert 'add "composite": "composite/composite_{}.tif" to folders' in out
    assert np.array_equal(pixels("town/composite/composite_2.tif")[0], NDVI)


def test_a_config_that_has_composites_says_where_they_go(folder):
    out = made("--config", config(folder, folders={"composite": "made/ndh_area{}.tif"}), "--terrain", "dtm", "--ids", 2)
    assert names("town/made") == ["details.json", "ndh_area2.tif"]
    assert "add" not in out


def test_a_config_may_name_the_bands(folder):
    file = config(folder, folders={"rgbir": "top/area{}.tif"}, bands={"rgbir": ["nir", "red", "green"]})
    made("--config", file, "--image", "rgbir", "--terrain", "dtm")
    assert np.array_equal(pixels("town/composite/composite_1.tif")[0], NDVI)


# --------------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--bands", "ir=1,rad=2"], ["unknown band 'rad'", "Did you mean 'red'?"]),
        (["--bands", "ir=1,red=0"], ["'red=0' gives no number of a band"]),
        (["--bands", "ir=1"], ["is red is not known", "--bands ir=1,red=2"]),
        (["--bands", "ir=4,red=2"], ["tile 1", "has 3 band(s)", "band 4"]),
        (["--dsm", "top/area{}.tif"], ["tile 1: dsm top/area1.tif has 3 bands, not one"]),
        (["--dsm", "dsm/area{}_{}.tif"], ["does not fit the tile id 1"]),
        (["--dsm", "dem/area{}.tif"], ["tile 1 has no dsm: dem/area1.tif does not exist"]),
        (["--image", "tip/area{}.tif"], ["matches no file"]),
        (["--ids", "1", "9"], ["tile 9 has no image: top/area9.tif does not exist"]),
        (["--ids", "1", "1"], ["names 1 twice"]),
        (["--name", "composite.tif"], ["2 tiles 1 name(s)"]),
        (["--name", "{}.png"], ["must be a file name that ends in .tif"]),
        (["--out", "top"], ["top holds", "one of the sources"]),
        (["--range", "5", "5"], ["--range 5 5"]),
        (["--percentiles", "0", "101"], ["from 0 to 100"]),
        (["--window", "30"], ["for an estimated terrain"]),
        (["--ndsm-step", "1"], ["--ndsm-step"]),
        (["--ndsm-top", "0"], ["must be a number above 0"]),
    ],
)
def test_a_wrong_word_is_one_sentence_and_nothing_is_made(folder, words, said):
    refused(call("tools.composite", *GIVEN, *words), *said)
    assert names(folder) == ["dsm", "dtm", "top"]


def test_files_that_do_not_fit_are_named_before_work_starts(folder):
    write(Path("dtm/area2.tif"), TERRAIN[:, :30], crs=None, transform=None)
    refused(call("tools.composite", *GIVEN), "tile 2", "dtm/area2.tif (40x30)", "(40x50)", "has no CRS")
    write(Path("dtm/area2.tif"), TERRAIN)
    os.truncate("dsm/area2.tif", 4000)
    refused(call("tools.composite", *GIVEN), "dsm/area2.tif")
    write(Path("dsm/area2.tif"), HEIGHTS, transform=place(900_000))
    refused(call("tools.composite", *GIVEN), "tile 2", "has no height where top/area2.tif lies")
    assert names(folder) == ["dsm", "dtm", "top"]


def test_an_estimated_terrain_needs_the_size_of_a_pixel(folder):
    for tile in (1, 2):
        write(Path(f"top/area{tile}.tif"), np.stack([INFRARED, RED, RED]), crs=None)
        write(Path(f"dsm/area{tile}.tif"), HEIGHTS, crs=None)
    refused(call("tools.composite", *FILES, "--out", "out"), "top/area1.tif", "georeference is missing", "--pixel-size")
    made(*FILES, "--out", "out", "--pixel-size", 1)


def test_heights_of_8_bits_need_their_step(folder):
    write(Path("n.tif"), np.zeros(SHAPE, np.uint8))
    refused(call("tools.composite", *FILES, "--ndsm", "n.tif", "--out", "out"), "n.tif has 8 bits", "--ndsm-step")


def test_a_modality_that_the_config_does_not_have_is_named(folder):
    ran = call("tools.composite", "--config", config(folder), "--terrain", "dtn")
    refused(ran, "--terrain names the modality 'dtn'", "Did you mean 'dtm'?")


def test_without_a_config_the_folder_must_be_named(folder):
    refused(call("tools.composite", *FILES), "--out")


def test_an_existing_folder_is_kept_unless_it_may_be_replaced(folder):
    made(*GIVEN)
    refused(call("tools.composite", *GIVEN), "out exists already", "--overwrite")
    made(*GIVEN, "--overwrite")


def test_what_fails_halfway_leaves_nothing(folder, monkeypatch):
    def fail(*_, **__):
        raise UserError("tile 2 is wrong.")

    monkeypatch.setattr(composite, "write_details", fail)
    refused(call("tools.composite", *GIVEN), "tile 2 is wrong")
    assert names(folder) == ["dsm", "dtm", "top"]


# --------------------------------------------------------------------------------------------------------------- real data


@pytest.mark.skipif(not REAL.exists(), reason="the real data is not here")
def test_real_heights_above_ground_are_dsm_less_dtm_and_agree_with_the_given_ones(tmp_path, monkeypatch):
    """The nDSM is DSM - DTM to half a step of the 8 bits. `hag.tif` beside them is not that difference: it holds the highest
    point in each 2 m cell above the ground below it, the DSM a mean of points. So the two agree on bare ground, to 6 cm (the
    difference in these data; hag is in steps of 1 cm), and elsewhere hag is above the nDSM."""
    monkeypatch.chdir(tmp_path)
    with rasterio.open(REAL / "dsm.tif") as file:
        dsm, place = file.read(1), {"crs": file.crs, "transform": file.transform}
    dtm, hag = (rasterio.open(REAL / name).read(1) for name in ("dtm.tif", "hag.tif"))
    write(Path("image1.tif"), np.full((2, *dsm.shape), 9, np.uint8), **place)
    files = ["--dsm", REAL / "dsm.tif", "--terrain", REAL / "dtm.tif"]
    made("--image", "image{}.tif", "--bands", "ir=1,red=2", *files, "--out", "out")
    known = (dtm != -9999) & (dsm != -9999)
    assert np.array_equal(mask("out/composite_1.tif"), known)
    found = pixels("out/composite_1.tif")[2] * (30 / 255)
    assert np.abs(found - np.clip(dsm - dtm, 0, 30))[known].max() <= 30 / 255 / 2 + 1e-4
    padded = np.pad(np.where(known, hag, np.inf), 1, constant_values=np.inf)
    around = np.max(np.lib.stride_tricks.sliding_window_view(padded, (3, 3)), axis=(2, 3))
    bare = around < 0.1  # metres, in the cell and its neighbours
    assert bare.sum() > 1000
    assert np.abs(dsm - dtm - hag)[bare & (dsm > dtm)].max() < 0.1
    assert np.mean((dsm - dtm <= hag + 0.3)[known]) > 0.999

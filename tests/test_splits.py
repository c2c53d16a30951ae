"""Proves that tiles are found and shared out by the seed alone, whole groups together, and that blocks of a large raster
are tiles that cover it once."""

import itertools

import numpy as np
import pytest
import rasterio
from conftest import call, pixels, refused, write_config, write_raster

from tools.base.errors import UserError
from tools.blocks import blocks
from tools.data.dataset import Dataset, find_ids, list_ids
from tools.data.splits import group_tiles, read_list, split_by_share, warnings
from tools.geo import raster
from tools.settings import read_settings

# ---------------------------------------------------------------------------------------------------------------- finding


def touch(root, *files):
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()


@pytest.mark.parametrize(
    ("pattern", "files", "ids"),
    [
        ("top/area{}.tif", ["top/area10.tif", "top/area2.tif", "top/area.png", "other/area1.tif"], [2, 10]),
        ("images/{}.jpg", ["images/b.jpg", "images/a[1].jpg", "images/007.jpg", "images/c.png"], ["007", "a[1]", "b"]),
        (
            "{0}/images/{0}_{1}.tif",
            ["al_q/images/al_q_2.tif", "b/images/b_10.tif", "b/images/c_1.tif"],
            [("al_q", 2), ("b", 10)],
        ),
        ("tile{}_{:03d}.jpg", ["tile1_010.jpg", "tile1_002.jpg"], [(1, 2), (1, 10)]),
    ],
)
def test_tiles_are_found_by_the_pattern_that_leads_back_to_their_files(tmp_path, pattern, files, ids):
    touch(tmp_path, *files)
    assert find_ids(tmp_path, pattern) == ids
    for tile in ids:
        assert Dataset(tmp_path, {"rgb": pattern}).path("rgb", tile).exists()


def test_a_pattern_without_files_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no file is called .*images/\{\}\.tif"):
        find_ids(tmp_path, "images/{}.tif")


def test_a_text_file_may_list_tiles(tmp_path):
    (tmp_path / "train.txt").write_text("aachen_1.tif\nal_qurnah_12.tif\n\n")
    assert list_ids(tmp_path / "train.txt", "{}_{}.tif") == [("aachen", 1), ("al_qurnah", 12)]
    (tmp_path / "train.txt").write_text("aachen_1.tif\naachen.png\n")
    with pytest.raises(UserError, match=r"line 2: 'aachen\.png' is not of the form \{\}_\{\}\.tif"):
        list_ids(tmp_path / "train.txt", "{}_{}.tif")
    with pytest.raises(UserError, match="does not exist"):
        list_ids(tmp_path / "val.txt", "{}")


# ------------------------------------------------------------------------------------------------------------ sharing out


def test_shares_are_met_each_tile_has_one_place_and_the_seed_decides():
    ids = list(range(100))
    first, again, other = (split_by_share(ids, 0.7, 0.1, 0.2, seed) for seed in (1, 1, 2))
    assert [len(split) for split in first] == [70, 10, 20]
    assert sorted(itertools.chain(*first)) == ids
    assert first == again != other
    assert all(split == sorted(split) for split in first)


def test_the_order_in_which_the_files_are_found_does_not_matter():
    ids = [f"tile{i}" for i in range(20)]
    splits = [split_by_share(order, 0.5, 0.25, 0.25, 3) for order in (ids, ids[::-1])]
    assert [set(s) for s in splits[0]] == [set(s) for s in splits[1]]


def test_groups_are_never_divided():
    ids = [(tile, part) for tile in range(10) for part in range(9)]
    splits = split_by_share(ids, 0.6, 0.2, 0.2, seed=1, group=lambda tile: tile[0])
    assert [len(split) for split in splits] == [54, 18, 18]
    tiles = [{tile for tile, _ in split} for split in splits]
    assert not any(one & other for one, other in itertools.combinations(tiles, 2))


def test_a_small_share_still_gets_a_tile_and_no_share_gets_none():
    assert [len(s) for s in split_by_share(["a", "b", "c"], 0.98, 0.01, 0.01, 5)] == [1, 1, 1]
    assert [len(s) for s in split_by_share(["a", "b", "c"], 0.9, 0.1, 0, 5)] == [2, 1, 0]


@pytest.mark.parametrize("shares", [(0.7, 0.2, 0.2), (0.5, 0.2, 0.2), (1.2, -0.1, -0.1)])
def test_shares_that_do_not_sum_to_one_are_refused(shares):
    with pytest.raises(UserError, match=rf"train {shares[0]:g}, .* must be 0 or more and sum to 1"):
        split_by_share([1, 2, 3], *shares)


def test_too_few_groups_are_refused():
    with pytest.raises(UserError, match="2 tiles or groups cannot be shared out among train, val, test"):
        split_by_share([1, 2], 0.5, 0.25, 0.25)


def test_a_mistake_in_the_split_is_named_with_the_line_of_the_config(tmp_path):
    path = write_config(tmp_path / "config.py", tmp_path)
    path.write_text("from tools.data import split_by_share\nsplit_by_share([1, 2, 3], 1, 1, 1)\n" + path.read_text())
    with pytest.raises(UserError, match=r"config\.py, line 2: the shares train 1, val 1, test 1 sum to 3"):
        read_settings(path)


# ------------------------------------------------------------------------------------------------------------------ lists


def test_a_csv_list_names_images_labels_and_splits(tmp_path):
    rows = ["image,labels,split", "in/a.jpg,gt/a.png,train", "in/b.jpg,gt/b.png,test", "far/c.tif,gt/c.png,val"]
    (tmp_path / "list.csv").write_text("\n".join(rows))
    found = read_list(tmp_path / "list.csv")
    assert found.images == {"a": "in/a.jpg", "b": "in/b.jpg", "c": "far/c.tif"}
    assert found.labels["c"] == "gt/c.png"
    assert found.split == (["a"], ["c"], ["b"])


def test_a_list_as_a_spreadsheet_writes_it_with_masks_to_be_converted(tmp_path):
    (tmp_path / "list.csv").write_text(
        "\ufeffimage; mask\na_sat.jpg; m/a_mask.jpg\n\nb_sat.jpg; m/b_mask.tif\n", encoding="utf-8"
    )
    found = read_list(tmp_path / "list.csv", labels_folder="gts_numpy")
    assert found.ids == ["a_sat", "b_sat"]
    assert found.labels == {"a_sat": "gts_numpy/a_mask.png", "b_sat": "gts_numpy/b_mask.tif"}
    with pytest.raises(UserError, match="no column 'split'"):
        _ = found.split


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has the columns none"),
        ("picture,labels\na,b", "has the columns picture, labels: it needs image and labels"),
        ("image,labels\na.tif,", "line 2: the image or its labels is missing"),
        (
            "image,labels,split\na.tif,b.tif,trian",
            "line 2: the split 'trian' is none of train, val, test. Did you mean 'train'?",
        ),
        ("image,labels\nx/a.tif,b.tif\ny/a.tif,c.tif", "line 3: the image a stands there twice"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused(tmp_path, text, words):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(UserError) as found:
        read_list(tmp_path / "list.csv")
    assert words in str(found.value)


# ----------------------------------------------------------------------------------------------------------------- blocks


def test_blocks_cover_a_raster_once_without_slivers():
    found = blocks(1000, 530, 256)
    assert len(found) == 4 * 2
    covered = np.zeros((1000, 530), int)
    for window in found.values():
        covered[window.slices] += 1
    assert (covered == 1).all()
    assert {window.height for window in found.values()} == {250}
    assert {window.width for window in found.values()} == {265}
    assert len(blocks(100, 100, 256)) == 1


@pytest.fixture
def city(tmp_path):
    """One raster of 60 x 90 with nodata, and its labels."""
    rng = np.random.default_rng(0)
    image = rng.integers(1, 4000, (4, 60, 90)).astype(np.uint16)
    image[:, :5] = 0
    labels = rng.integers(0, 6, (60, 90)).astype(np.uint8)
    write_raster(tmp_path / "city/ortho.tif", image, nodata=0)
    write_raster(tmp_path / "city/labels.tif", labels)
    return tmp_path, image, labels


def test_a_block_is_a_window_of_the_raster_in_its_place(city):
    base, image, labels = city
    files = [base / "city/ortho.tif", base / "city/labels.tif"]
    ran = call("tools.blocks", *files, "--size", 30, "--out", base / "city/blocks")
    assert ran.code == 0, ran.err
    assert "6 blocks of ortho, 6 blocks of labels" in ran.out
    assert np.array_equal(pixels(base / "city/blocks/ortho/1_2.vrt"), image[:, 30:60, 60:90])
    assert np.array_equal(pixels(base / "city/blocks/labels/0_1.vrt")[0], labels[:30, 30:60])
    with rasterio.open(files[0]) as whole, rasterio.open(base / "city/blocks/ortho/1_2.vrt") as block:
        assert (block.crs, block.nodata, block.dtypes) == (whole.crs, 0, whole.dtypes)
        assert block.transform * (0, 0) == pytest.approx(whole.transform * (60, 30))
    with raster.open_raster(base / "city/blocks/ortho/0_0.vrt") as block:
        assert raster.read_valid(block).sum() == 25 * 30


def test_the_mask_of_a_raster_is_kept(tmp_path):
    path = write_raster(tmp_path / "a.tif", np.full((3, 20, 20), 9, np.uint8))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
        file.write_mask(np.arange(400).reshape(20, 20) >= 100)
    assert call("tools.blocks", path, "--size", 10, "--out", tmp_path / "blocks").code == 0
    with raster.open_raster(tmp_path / "blocks/a/0_1.vrt") as block:
        assert raster.read_valid(block).sum(1).tolist() == [0] * 5 + [10] * 5


def test_blocks_go_through_extraction_as_tiles_and_no_window_leaves_its_block(city):
    base, image, _ = city
    files = [base / "city/ortho.tif", base / "city/labels.tif"]
    call("tools.blocks", *files, "--size", 30, "--out", base / "city/blocks")
    folders = {"rgbn": "blocks/ortho/{}_{}.vrt", "labels": "blocks/labels/{}_{}.vrt"}
    train, val, test = split_by_share(find_ids(base / "city", folders["rgbn"]), 0.5, 0.2, 0.3, 1)
    config = write_config(
        base / "config.py", base, DATASET="city", DATASET_DIR=f"{base}/city/", folders=folders, INPUTS={"rgbn": ["rgbn"]},
        MEAN_PIXEL={}, train_ids=train, val_ids=val, test_ids=test, patch_size=(20, 20), step_size=(10, 10), ROTATIONS=[0],
        FLIPS=[False],
    )  # fmt: skip
    ran = call("extract_images", "--config", config)
    assert ran.code == 0, ran.err
    row, col = train[-1]
    patch = base / f"city_patches/rgbn_train/{row}_{col}_00010_00010.tif"
    assert np.array_equal(pixels(patch), image[:, 30 * row + 10 : 30 * row + 30, 30 * col + 10 : 30 * col + 30])


def test_two_rasters_of_one_name_are_refused(city):
    base, *_ = city
    write_raster(base / "other/ortho.tif", np.zeros((3, 9, 9), np.uint8))
    files = [base / "city/ortho.tif", base / "other/ortho.tif"]
    refused(call("tools.blocks", *files, "--size", 30, "--out", base / "b"), "several of the rasters are called")


# ------------------------------------------------------------------------------------------------------------ neighbours


def mosaic(root, rows=2, cols=10, apart=0):
    """Tiles of 10 x 10 pixels of a metre, side by side or so many metres apart; their ids."""
    for row, col in itertools.product(range(rows), range(cols)):
        place = rasterio.transform.from_origin(500_000 + (10 + apart) * col, 5_400_000 - (10 + apart) * row, 1, 1)
        write_raster(root / f"images/{row}_{col}.tif", np.zeros((1, 10, 10), np.uint8), transform=place)
    return [(row, col) for row in range(rows) for col in range(cols)]


def test_groups_by_name_keep_the_parts_of_a_tile_together():
    ids = [f"tile{tile}_{part:03d}" for tile in range(8) for part in range(9)]
    groups = group_tiles(ids, r"(tile\d+)_", "", "")
    for split in split_by_share(ids, 0.5, 0.25, 0.25, seed=3, group=groups):
        tiles = {name.split("_")[0] for name in split}
        assert len(split) == 9 * len(tiles)
    with pytest.raises(UserError, match="finds nothing in any tile's name, such as tile0_000"):
        group_tiles(ids, "town", "", "")


def test_groups_by_place_are_areas_of_neighbours(tmp_path):
    ids = mosaic(tmp_path)
    groups = group_tiles(ids, "place", tmp_path, "images/{}_{}.tif")
    areas = {group: [tile for tile in ids if groups[tile] == group] for group in groups.values()}
    assert len(areas) >= 10
    for tiles in areas.values():
        assert all(max(abs(a[0] - b[0]), abs(a[1] - b[1])) == 1 for a, b in itertools.combinations(tiles, 2))
    scattered = mosaic(tmp_path / "far", apart=5)
    assert len(set(group_tiles(scattered, "place", tmp_path / "far", "images/{}_{}.tif").values())) == len(scattered)


def test_tiles_without_a_place_are_named(tmp_path):
    write_raster(tmp_path / "images/a.tif", np.zeros((1, 4, 4), np.uint8), crs=None, transform=None)
    with pytest.raises(UserError, match="a has no place on Earth"):
        group_tiles(["a"], "place", tmp_path, "images/{}.tif")


def test_splits_of_files_that_touch_or_are_named_alike_are_warned_of(tmp_path):
    ids = mosaic(tmp_path, rows=1, cols=3)
    files = {tile: tmp_path / "images/{}_{}.tif".format(*tile) for tile in ids}
    (note,) = warnings({"train": ids[:2], "val": [], "test": ids[2:]}, files)
    assert "1 pairs of tiles of different splits touch or overlap, such as 0_1 (train) and 0_2 (test)" in note
    assert warnings({"train": [], "val": ids[:2], "test": ids[2:]}, files) == []
    (tmp_path / "bare").mkdir()
    names = ["road_1", "road_2", "lake_1", "lake_2"]
    bare = {n: write_raster(tmp_path / f"bare/{n}.tif", np.zeros((1, 4, 4), np.uint8), crs=None, transform=None) for n in names}
    (note,) = warnings({"train": names[:3], "val": [], "test": names[3:]}, bare)
    assert "names alike are in different splits, such as lake_1, lake_2" in note
    assert warnings({"train": names[:2], "val": [], "test": names[2:]}, bare) == []

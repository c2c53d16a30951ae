"""Proves that a grid's cells are cut where they lie, whatever its CRS and format, that only images are interpolated, and that
no pixel is in two splits."""

import json

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from conftest import CRS, TEST, TRAIN, VAL, call, names, pixels, place, refused, write_raster
from rasterio.warp import transform

from tools.base.folders import read_details
from tools.data.patches import read_patch
from tools.data.resampling import nearest, resample
from tools.settings import read_settings
from tools.training.run_setup import check_database

BOXES = [(0, 0, 32, 32), (5, 9, 37, 41), (40, 58, 72, 90), (0, 0, 64, 64)]  # top, left, bottom, right: pixels of a tile


def polygon(tile, box, crs="EPSG:4326"):
    """A box of a tile's pixels as a polygon in a CRS, by rasterio's transform alone."""
    top, left, bottom, right = box
    corners = [place(tile) * xy for xy in [(left, top), (right, top), (right, bottom), (left, bottom)]]
    return shapely.Polygon(zip(*transform(CRS, crs, *zip(*corners, strict=True)), strict=True))


def write_grid(path, shapes, crs="EPSG:4326", **attributes):
    """A vector file of polygons, written without the code under test."""
    kinds = {".shp": "ESRI Shapefile", ".gpkg": "GPKG", ".geojson": "GeoJSON"}
    fields = [np.array(values, dtype=object) for values in attributes.values()]
    more = {"COORDINATE_PRECISION": 12} if path.suffix == ".geojson" else {}
    pyogrio.raw.write(
        path, np.array([shape.wkb for shape in shapes], dtype=object), fields, list(attributes),
        driver=kinds[path.suffix], geometry_type=shapes[0].geom_type, crs=crs, **more,
    )  # fmt: skip
    return path


def grid(town, cells, crs="EPSG:4326", name="cells.geojson", **attributes):
    """A grid of (tile, box) pairs."""
    return write_grid(town.base / name, [polygon(t, box, crs) for t, box in cells], crs, **attributes)


def cut(town, path, *words, **changes):
    return call("extract_images", "--grid", path, "--config", town.config(**changes), *words)


def patch(town, modality, split, name):
    (path,) = town.folder("patches").glob(f"{modality}_{split}/{name}.*")
    return read_patch(path)


def cell_names(town, split, modality="irrg"):
    """The straight patches of a split."""
    return {p.stem for p in town.folder("patches").glob(f"{modality}_{split}/*") if p.stem[-1] != "f" and "_r" not in p.stem}


# -------------------------------------------------------------------------------------------------------- what is cut out


@pytest.mark.parametrize(
    ("name", "crs", "first"),
    [("a.geojson", "EPSG:4326", 0), ("a.gpkg", "EPSG:3857", 1), ("a.shp", "EPSG:25832", 0), ("a.gpkg", "EPSG:32632", 1)],
)
def test_a_cell_of_patch_size_gives_its_very_pixels_from_any_format_and_crs(town, name, crs, first):
    path = grid(town, [(tile, box) for tile in TRAIN for box in BOXES[:3]], crs, name)
    ran = cut(town, path)
    assert ran.code == 0, ran.err
    assert ("the grid was brought from " + crs in ran.out) == (crs != "EPSG:32632")
    for i, (tile, (top, left, bottom, right)) in enumerate((t, b) for t in TRAIN for b in BOXES[:3]):
        for modality in ("irrg", "labels"):
            expected = pixels(town.path(modality, tile))[:, top:bottom, left:right]
            assert np.array_equal(patch(town, modality, "train", f"{tile}_cell{i + first:06d}"), expected), (i, modality)


def test_a_larger_cell_is_averaged_and_its_labels_are_those_of_the_nearest_pixels(town):
    assert cut(town, grid(town, [(1, BOXES[3])])).code == 0
    labels = pixels(town.path("labels", 1))[:, :64, :64]
    assert np.array_equal(patch(town, "labels", "train", "1_cell000000"), labels[:, 1::2, 1::2])  # middles, rounded down
    image = pixels(town.path("irrg", 1))[:, :64, :64].astype(float)
    weights = np.array([1, 3, 3, 1]) / 8  # a triangle two pixels to each side of the middle of two
    expected = np.einsum("bij,i,j->b", image[:, 9:13, 19:23], weights, weights)
    np.testing.assert_allclose(patch(town, "irrg", "train", "1_cell000000")[:, 5, 10], expected, atol=0.5 + 1e-3)


@pytest.mark.parametrize("box", [(0, 0, 17, 23), (3, 5, 64, 61), (1, 2, 70, 88)])
def test_labels_are_never_interpolated(town, box):
    checkered = np.where(np.indices((72, 90)).sum(0) % 2, 5, 0).astype(np.uint8)
    write_raster(town.path("labels", 1), checkered)
    assert cut(town, grid(town, [(1, box)])).code == 0
    for path in town.folder("patches").glob("labels_train/*"):
        assert set(np.unique(read_patch(path))) == {0, 5}


def test_each_modality_keeps_its_type_and_gaps_are_not_mixed_in(town):
    heights = np.full((72, 90), 300, np.float32)
    heights[:, 40:] = -9999
    write_raster(town.path("dsm", 1), heights, 1, nodata=-9999)
    both = {"INPUTS": {"irrg": ["irrg"], "dsm": ["dsm"]}, "ROTATIONS": [0], "FLIPS": [False]}
    assert cut(town, grid(town, [(1, (0, 0, 60, 60)), (3, BOXES[0])]), **both).code == 0
    dsm, labels = (patch(town, m, "train", "1_cell000000")[0] for m in ("dsm", "labels"))
    assert dsm.dtype == np.float32
    assert set(np.unique(dsm[np.isfinite(dsm)])) == {300}
    inside = (np.arange(32) + 0.5) * 60 / 32 < 40
    assert np.array_equal(labels == 6, np.broadcast_to(~inside, (32, 32)))
    assert read_details(town.folder("patches"))["modalities"]["dsm"]["mean"][0] < 300


def test_gaps_in_whole_numbers_hold_the_mean_of_the_training_cells(town):
    for tile in (1, 3):
        heights = np.rint(10 * pixels(town.path("dsm", tile))).astype(np.int16)
        heights[:, :20, :25] = -32768
        write_raster(town.path("dsm", tile), heights, tile, nodata=-32768)
    own = {"INPUTS": {"dsm": ["dsm"]}, "MEAN_PIXEL": {"dsm": None}, "train_ids": [1, 3], "val_ids": [], "test_ids": []}
    assert cut(town, grid(town, [(1, BOXES[3]), (3, BOXES[3])]), **own).code == 0
    known = np.concatenate([pixels(town.path("dsm", tile))[0, :64, :64].ravel() for tile in (1, 3)])
    (mean,) = read_details(town.folder("patches"))["modalities"]["dsm"]["mean"]
    assert mean == pytest.approx(known[known > 0].mean(), abs=3)
    for name in ("1_cell000000", "3_cell000001"):
        found = patch(town, "dsm", "train", name)[0]
        assert (found[:9, :11] == round(mean)).all()  # half as many pixels; those at the rim reach beyond it
        assert found.min() > 2000


def test_training_cells_are_turned_and_mirrored_as_windows_are(town):
    assert cut(town, grid(town, [(1, BOXES[0]), (VAL[0], BOXES[0])])).code == 0
    turned = patch(town, "irrg", "train", "1_cell000000_r90_f")
    assert np.array_equal(turned, np.rot90(patch(town, "irrg", "train", "1_cell000000"), 1, (1, 2))[:, :, ::-1])
    assert len(names(town.folder("patches") / "labels_train")) == 4
    assert names(town.folder("patches") / "labels_val") == ["15_cell000001.png"]


# ---------------------------------------------------------------------------------------------------------- what is said


def test_metadata_leads_from_every_pixel_of_every_patch_to_its_place_on_earth(town):
    assert cut(town, grid(town, [(1, BOXES[1]), (3, (0, 0, 64, 64))]), ROTATIONS=[0, 90, 180, 270]).code == 0
    files = sorted(town.folder("patches").glob("metadata_train/*.json"))
    assert len(files) == 16
    for file in files:
        about = json.loads(file.read_text())
        labels = patch(town, "labels", "train", about["patch"])[0]
        assert rasterio.CRS.from_string(about["crs"]) == CRS
        with rasterio.open(about["source"]["labels"]) as tile:
            for row, col in [(0, 0), (3, 30), (17, 5), (31, 31)]:
                x, y = rasterio.Affine(*about["transform"]) * (col + 0.5 + 1e-3, row + 0.5 + 1e-3)
                assert next(tile.sample([(x, y)]))[0] in labels[max(row - 1, 0) : row + 2, max(col - 1, 0) : col + 2]
                if "cell000000" in about["patch"]:  # not resampled
                    assert next(tile.sample([(x, y)]))[0] == labels[row, col], about
    about = json.loads((town.folder("patches") / "metadata_train/1_cell000000.json").read_text())
    assert about["window"] == {"row": 5, "col": 9, "height": 32, "width": 32}
    assert (about["split"], about["cell"], about["tile"], about["rotation"], about["flip"]) == ("train", 0, "1", 0, False)
    assert about["transform"] == pytest.approx(list(place(1) * rasterio.Affine.translation(9, 5))[:6])


def test_details_and_the_screen_count_the_cells_that_were_left_out(town):
    cells = [(1, BOXES[0]), (3, BOXES[0]), (1, (60, 0, 92, 32)), (1, (500, 0, 532, 32)), (1, (-40, 0, -8, 32))]
    ran = cut(town, grid(town, cells))
    assert ran.code == 0, ran.err
    assert "1 cells are only partly inside a tile" in ran.out
    assert "2 cells are outside all tiles" in ran.out
    about = read_details(town.folder("patches"))
    assert about["grid"]["left out"] == {"outside all tiles": 2, "only partly inside a tile": 1, "without a split": 0}
    assert about["grid"]["cells"] == {"train": 2, "val": 0, "test": 0}
    assert about["splits"]["train"]["patches"] == 8
    assert about["step_size"] is None


def test_databases_are_made_and_accepted_for_training_as_with_windows(town):
    everywhere = [(t, box) for t in [*TRAIN, *VAL, *TEST] for box in BOXES[:1]]
    assert cut(town, grid(town, everywhere)).code == 0
    ran = call("create_db", "--config", town.config())
    assert ran.code == 0, ran.err
    assert (town.folder("lmdb") / "val.txt").read_text() == "15_cell000003\n"
    settings = read_settings(town.config())
    (wanted,) = check_database(settings.data, settings.patches, settings.classes)
    assert wanted.channels == 3


# ------------------------------------------------------------------------------------------------------------- the splits


def quarters():
    """Eight cells of 32 x 20 pixels that fill most of a tile."""
    return [(row, col, row + 32, col + 20) for row in (0, 32) for col in (0, 20, 40, 60)]


def test_a_cell_goes_where_its_tile_goes(town):
    assert cut(town, grid(town, [(t, box) for t in (15, 1, 32, 3) for box in BOXES[:1]])).code == 0
    found = {split: cell_names(town, split) for split in ("train", "val", "test")}
    assert found == {"train": {"1_cell000001", "3_cell000003"}, "val": {"15_cell000000"}, "test": {"32_cell000002"}}


def test_shares_are_kept_disjoint_and_drawn_by_the_seed(town):
    path = grid(town, [(t, box) for t in TRAIN[:2] for box in quarters()])
    seen = []
    for seed in (1, 1, 2):
        ran = cut(town, path, "--shares", 0.5, 0.25, 0.25, "--overwrite", SEED=seed)
        assert ran.code == 0, ran.err
        seen.append({split: cell_names(town, split) for split in ("train", "val", "test")})
        assert [len(found) for found in seen[-1].values()] == [8, 4, 4]
        assert len(set.union(*seen[-1].values())) == 16
        assert all(cell_names(town, split, "labels") == found for split, found in seen[-1].items())
    assert seen[0] == seen[1] != seen[2]


def test_tiles_for_scores_that_have_training_cells_are_named(town):
    ran = cut(town, grid(town, [(32, box) for box in quarters()]), "--shares", 0.5, 0.25, 0.25)
    assert "note: cells for training lie in 32: scores of whole tiles count their pixels too." in ran.out


def test_an_attribute_can_name_the_split(town):
    parts = ["train", "Test", "val", None]
    path = grid(town, [(1, box) for box in quarters()[:4]], name="cells.gpkg", part=parts)
    ran = cut(town, path, "--split-attribute", "part")
    assert ran.code == 0, ran.err
    found = [cell_names(town, split) for split in ("train", "test", "val")]
    assert found == [{"1_cell000001"}, {"1_cell000002"}, {"1_cell000003"}]
    assert "1 cells are without a split" in ran.out


# -------------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--shares", 0.7, 0.2, 0.2], "the shares train 0.7, val 0.2, test 0.2 sum to 1.1"),
        (["--shares", 1.2, -0.2, 0], "must be 0 or more"),
        (["--shares", 1, 0, 0, "--split-attribute", "part"], "give one of them"),
        (["--split-attribute", "prt"], "has no attribute 'prt'. Did you mean 'part'?"),
        (["--split-attribute", "part"], "part = 'dev': it must be train, val, test or empty"),
        (["--shares", 0, 0, 1], "is for training"),
    ],
)
def test_bad_shares_and_splits_are_refused_before_work_starts(town, words, said):
    refused(cut(town, grid(town, [(1, BOXES[0])], part=["dev"]), *words), said)
    assert not list(town.base.glob("vaihingen_patches*"))


def test_shares_without_a_grid_are_refused(town):
    refused(call("extract_images", "--config", town.config(), "--shares", 1, 0, 0), "name it with --grid")


def test_a_grid_elsewhere_is_refused(town):
    refused(cut(town, grid(town, [(1, (500, 0, 532, 32)), (1, (600, 0, 632, 32))])), "grid outside the images", "2 cells")
    town.base.joinpath("cells.geojson").unlink()
    refused(cut(town, grid(town, [(1, (60, 0, 92, 32))])), "lies wholly only partly inside one (1 cells)")


@pytest.mark.filterwarnings("ignore:.crs. was not provided")
def test_a_missing_crs_on_either_side_is_refused(town):
    bare = write_grid(town.base / "bare.gpkg", [polygon(1, BOXES[0], CRS.to_string())], None)
    refused(cut(town, bare), "bare.gpkg has no CRS", "EPSG:32632")
    path = grid(town, [(1, BOXES[0])])
    for tile in [*TRAIN, *VAL, *TEST]:
        for modality in ("irrg", "labels"):
            write_raster(town.path(modality, tile), pixels(town.path(modality, tile)), tile, crs=None)
    refused(cut(town, path), f"{town.path('irrg', 1)} has no CRS", "EPSG:4326")
    assert cut(town, bare).code == 0  # both without one: taken as drawn in the same


def test_cells_of_two_splits_that_overlap_are_refused(town):
    path = grid(town, [(1, BOXES[0]), (1, (0, 16, 32, 48)), (1, BOXES[2])], part=["train", "val", "test"])
    refused(cut(town, path, "--split-attribute", "part"), "cells 0 (train) and 1 (val)", "overlap by 50 %")


@pytest.mark.parametrize(("box", "said"), [((0, 0, 0.2, 0.3), "cell 0 of"), ((0, 0, 0.2, 0.3), "is smaller than a pixel")])
def test_a_cell_smaller_than_a_pixel_is_refused(town, box, said):
    refused(cut(town, grid(town, [(1, box)])), said)


def test_files_that_are_no_polygons_are_refused(town):
    refused(cut(town, town.base / "no.gpkg"), "no.gpkg does not exist")
    refused(cut(town, town.base / "config.py"), "config.py cannot be read as a vector file")
    write_grid(town.base / "points.gpkg", [shapely.Point(9, 48)])
    refused(cut(town, town.base / "points.gpkg"), "points.gpkg holds no polygons", "Point")


# ------------------------------------------------------------------------------------------------------------- resampling


@pytest.mark.parametrize("have", [5, 32, 47])
def test_nearest_takes_the_pixel_that_the_middle_lies_in(have):
    ramp = np.arange(have)[None] * np.ones((have, 1), int)
    expected = [int((i + 0.5) * have / 32) for i in range(32)]
    assert nearest(ramp[None], (32, 32))[0, 0].tolist() == expected


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("have", [8, 20, 100])
def test_a_slope_stays_a_slope(dtype, have):
    ramp = (10 + 2 * np.arange(have)).astype(dtype)[None, None] * np.ones((1, have, 1), dtype)
    found = resample(ramp, np.ones((have, have), bool), (32, 32))
    assert found.dtype == dtype
    expected = 10 + 2 * ((np.arange(32) + 0.5) * have / 32 - 0.5)
    edge = 1 + int(np.ceil(32 / have))
    np.testing.assert_allclose(found[0, 7, edge:-edge], expected[edge:-edge], atol=0.56 if dtype != np.float32 else 0.05)


def test_a_gap_keeps_its_value_and_its_neighbours_keep_theirs():
    image = np.full((1, 40, 40), 7.5, np.float32)
    image[0, :, 20:] = np.nan
    found = resample(image, np.isfinite(image[0]), (10, 10))
    assert np.array_equal(np.unique(found[np.isfinite(found)]), [7.5])
    assert np.isnan(found[0, :, 6:]).all()

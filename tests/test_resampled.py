"""Proves that tiles at another pixel size than trained on are pointed out, and with --resample read at the trained one."""

import json

import numpy as np
import pytest
import rasterio
from affine import Affine
from conftest import CRS, call, make_town, pixels, refused, write_raster
from test_inference import infer, own  # noqa: F401 (own is a fixture)

from tools.geo import raster
from tools.inference import resampled
from tools.inference.tile_list import Tile
from tools.weights import snapshots

NINE = Affine(0.09, 0, 5e5, 0, -0.09, 5e6)


def scaled(factor, transform=NINE):
    return transform * Affine.scale(factor)


def tile(folder, image, transform=NINE, **profile):
    return Tile("a", {"irrg": write_raster(folder / "a.tif", image, transform=transform, **profile)})


def read(tile):
    return raster.read(tile.first)


@pytest.mark.parametrize(("factor", "told"), [(1, False), (1.09, False), (0.92, False), (1.12, True), (0.5, True)])
def test_sizes_differ_beyond_a_tenth(tmp_path, factor, told):
    found = resampled.differs(tile(tmp_path, np.zeros((3, 9, 9), np.uint8), scaled(factor)), 0.09)
    assert (found == pytest.approx(0.09 * factor)) if told else found is None


def test_what_is_not_known_does_not_differ(tmp_path):
    unplaced = tile(tmp_path, np.zeros((3, 9, 9), np.uint8), None, crs=None)
    assert resampled.differs(unplaced, 0.09) is None
    assert resampled.differs(tile(tmp_path, np.zeros((3, 9, 9), np.uint8)), None) is None


def test_pixels_twice_as_large_are_the_mean_of_four(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (3, 40, 60)).astype(np.float32)
    half = resampled.at_pixel_size(tile(tmp_path, image), 0.18)
    assert read(half) == pytest.approx(image.reshape(3, 20, 2, 30, 2).mean((2, 4)))
    about = raster.inspect(half.first)
    assert (about.crs, about.transform) == (CRS, scaled(2))


def test_smaller_pixels_lie_between_their_neighbours(tmp_path):
    ramp = np.tile(np.arange(0, 80, 2, dtype=np.float32), (1, 30, 1))
    fine = read(resampled.at_pixel_size(tile(tmp_path, ramp), 0.045))
    assert fine.shape == (1, 60, 80)
    assert fine[0, 5, 2:-2] == pytest.approx(np.arange(80)[2:-2] - 0.5, abs=0.01)


def test_one_missing_value_does_not_spoil_the_mean_it_has_a_part_in(tmp_path):
    image = np.full((1, 40, 40), 7, np.float32)
    image[0, ::4, ::4] = np.nan
    assert read(resampled.at_pixel_size(tile(tmp_path, image), 0.18)) == pytest.approx(np.full((1, 20, 20), 7))


def test_missing_data_stays_missing_and_does_not_bleed(tmp_path):
    image = np.full((1, 40, 40), 100, np.uint8)
    image[:, :10] = 0
    eighth = Affine(0.125, 0, 5e5, 0, -0.125, 5e6)  # in binary without rounding, of which GDAL makes a pixel more or less
    half = resampled.at_pixel_size(tile(tmp_path, image, eighth, nodata=0), 0.25)
    with raster.open_raster(half.first) as file:
        valid = raster.read_valid(file)
        assert not valid[:5].any()
        assert valid[5:].all()
        assert (raster.read_window(file)[0][valid] == 100).all()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("size", [0.25, 0.0625])
def test_a_mask_beside_the_bands_is_kept(tmp_path, dtype, size):
    eighth = Affine(0.125, 0, 5e5, 0, -0.125, 5e6)
    masked = tile(tmp_path, np.full((3, 40, 40), 100, dtype), eighth)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(masked.first, "r+") as file:
        file.write_mask(np.repeat([0, 255], 20).astype(np.uint8)[:, None] * np.ones((1, 40), np.uint8))
    resized = resampled.at_pixel_size(masked, size)
    with raster.open_raster(resized.first) as file:
        valid, half = raster.read_valid(file), file.height // 2
        assert (file.count, file.dtypes[0], file.crs, file.transform.a) == (3, dtype, CRS, size)
        assert not valid[:half].any()
        assert valid[half:].all()
        assert (raster.read_window(file)[:, valid] == 100).all()


def test_ground_truth_is_never_mixed(tmp_path):
    labels = np.random.default_rng(0).choice([0, 5], (40, 40)).astype(np.uint8)
    path = write_raster(tmp_path / "l.tif", labels, transform=NINE)
    both = Tile("a", {"irrg": path}, {"labels": path})
    found = raster.read(resampled.at_pixel_size(both, 0.18).truths["labels"])
    assert found.shape == (1, 20, 20)
    assert set(np.unique(found)) == {0, 5}


# ------------------------------------------------------------------------------------------------------ through inference


def with_pixel_size(town, size):
    """The town's weights as if they were trained on such pixels."""
    path = town.snapshots / "net_iter_150.safetensors"
    net, about = snapshots.load_net(path)
    del about["pixel_size"]
    snapshots.save_net(town.base / "sized.safetensors", net, about | ({"pixel_size": size} if size else {}))
    return ["--weights", town.base / "sized.safetensors"]


def test_weights_know_the_pixel_size_of_the_training_tiles(trained):
    assert json.loads((trained.folder("lmdb") / "details.json").read_text())["pixel_size"] == pytest.approx(0.09)
    assert snapshots.load_net(trained.snapshots / "net_iter_150.safetensors")[1]["pixel_size"] == pytest.approx(0.09)


def test_tiles_without_a_place_have_no_pixel_size(tmp_path):
    town = make_town(tmp_path)
    for tile_id in (1, 3, 5):
        write_raster(town.path("irrg", tile_id), pixels(town.path("irrg", tile_id)), transform=None, crs=None)
    assert call("extract_images", "--config", town.config()).code == 0
    assert json.loads((town.folder("patches") / "details.json").read_text())["pixel_size"] is None


def test_another_pixel_size_is_pointed_out_with_both(own):  # noqa: F811
    ran = infer(own, 32, *with_pixel_size(own, 0.18))
    assert "trained on pixels of 0.18 m, these tiles have other ones: 32 (0.09); --resample reads them" in ran.out
    for size in (0.09, 0.095, None):
        assert "trained on pixels" not in infer(own, 32, "--overwrite", *with_pixel_size(own, size)).out


def test_resampled_tiles_have_maps_and_scores_at_the_trained_pixel_size(own):  # noqa: F811
    for name in ("irrg", "labels", "labels_eroded"):
        big = np.kron(pixels(own.path(name, 32)), np.ones((1, 2, 2), np.uint8))
        write_raster(own.path(name, 32), big, transform=scaled(0.5), tiled=True, blockxsize=16, blockysize=16)
    ran = infer(own, 32, "--resample", "--polygons")
    assert ran.code == 0, ran.err
    assert "0.045); they are read at that size" in ran.out
    with rasterio.open(own.folder("results") / "32_labels.tif") as file:
        assert (file.shape, file.crs) == ((72, 90), CRS)
        assert file.transform.almost_equals(NINE)
    details = json.loads((own.folder("results") / "details.json").read_text())
    assert details["resampled_to"] == pytest.approx(0.09)
    assert details["tiles"]["32"]["irrg"] == str(own.path("irrg", 32))
    resampled_map = pixels(own.folder("results") / "32_labels.tif")
    assert infer(own.copy(own.base / "again", "snapshots_segnet_slim"), 15).code == 0
    scores = json.loads((own.folder("results") / "scores.json").read_text())
    assert scores["labels"]["all"]["pixels"] == 72 * 90
    assert scores["labels"]["all"]["overall_accuracy"] > 0.5
    assert resampled_map.shape == (1, 72, 90)


def test_the_map_of_a_resampled_tile_is_that_of_the_tile_at_that_size(own, tmp_path):  # noqa: F811
    image = pixels(own.path("irrg", 32))
    write_raster(tmp_path / "in/fine.tif", np.kron(image, np.ones((1, 2, 2), np.uint8)), transform=scaled(0.5))
    write_raster(tmp_path / "in/same.tif", image, transform=NINE)
    assert infer(own, "--images", tmp_path / "in", "--resample", "--dir", tmp_path / "out").code == 0
    assert np.array_equal(pixels(tmp_path / "out/fine_labels.tif"), pixels(tmp_path / "out/same_labels.tif"))


def test_without_a_trained_size_there_is_nothing_to_resample_to(own):  # noqa: F811
    refused(infer(own, 32, "--resample", *with_pixel_size(own, None)), "--resample", "does not say which pixel size")


def test_a_damaged_file_is_named_through_the_resampling(own, tmp_path):  # noqa: F811
    path = write_raster(tmp_path / "fine.tif", np.random.default_rng(0).integers(0, 255, (3, 300, 300)).astype(np.uint8),
                        transform=scaled(0.5), compress="deflate")  # fmt: skip
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    refused(infer(own, "--images", path, "--resample", "--dir", tmp_path / "out"), "fine.tif", "breaks off")
    assert not (tmp_path / "out").exists()

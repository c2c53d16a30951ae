"""Proves that RESIZE reads all tiles at another size first, brings maps back to theirs, and is remembered and refused."""

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from conftest import call, done, make_town, pixels, place, read_json, refused, train, write_config, write_raster
from test_crew import torchrun
from test_grid import cut, grid
from test_tiles import labeller
from torch.nn import functional as F

from tools.geo import raster
from tools.geo.area import AreaOfInterest
from tools.geo.views import Resized
from tools.geo.windows import Window
from tools.inference.blending import Part
from tools.inference.enlarged import enlarged
from tools.settings import read_settings
from tools.weights import snapshots

HALF = (36, 45)  # of 72 x 90


def area_mean(image, size):
    """The mean of the area that each new pixel covers, computed with matrices of shares."""
    for axis, want in zip((1, 2), size, strict=True):
        have = image.shape[axis]
        edges = np.arange(want + 1) * have / want
        first, last = edges[:-1, None], edges[1:, None]
        part = np.clip(np.minimum(last, np.arange(have) + 1) - np.maximum(first, np.arange(have)), 0, None)
        image = np.moveaxis(np.tensordot(part / part.sum(1, keepdims=True), image, (1, axis)), 0, axis)
    return image


def nearest(labels, size):
    rows, cols = (((np.arange(n) + 0.5) * have / n).astype(int) for n, have in zip(size, labels.shape[-2:], strict=True))
    return labels[..., rows[:, None], cols]


def read(path, size, role=raster.IMAGE, any_band=False):
    path = Resized(path, size)
    with raster.open_image(path, any_band) if role == raster.IMAGE else raster.open_numbers(path) as file:
        return raster.read_with_gaps(file)


# ---------------------------------------------------------------------------------------------------------- reading rasters


@pytest.mark.parametrize(("size", "shape"), [((40, 41), (40, 41)), (0.408, (100, 40)), (0.001, (1, 1))])
def test_images_become_the_means_of_the_areas_that_pixels_cover(tmp_path, size, shape):
    image = np.random.default_rng(0).random((2, 245, 98)).astype(np.float32)
    found, empty = read(write_raster(tmp_path / "a.tif", image), size)
    assert found.shape[1:] == shape and empty is None
    assert found == pytest.approx(area_mean(image, shape), abs=1e-6)


def test_bytes_are_rounded_and_a_window_holds_what_the_whole_has_there(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (3, 245, 98)).astype(np.uint8)
    path = Resized(write_raster(tmp_path / "a.tif", image), (100, 40))
    with raster.open_image(path) as file:
        whole, part = raster.read_window(file), raster.read_window(file, Window(13, 5, 40, 30))
    assert np.abs(whole - area_mean(image.astype(float), (100, 40))).max() <= 0.501
    assert np.array_equal(part, whole[:, 13:53, 5:35])


def test_labels_take_the_pixel_that_their_middle_lies_in(tmp_path):
    labels = np.random.default_rng(0).integers(0, 6, (245, 98)).astype(np.uint8)
    found, _ = read(write_raster(tmp_path / "a.tif", labels), (100, 40), raster.NUMBERS)
    assert np.array_equal(found[0], nearest(labels, (100, 40)))


def test_what_grows_is_bilinear(tmp_path):
    ramp = np.tile(np.arange(0, 80, 2, dtype=np.float32), (1, 30, 1))
    found, _ = read(write_raster(tmp_path / "a.tif", ramp), 2.0)
    assert found.shape == (1, 60, 80) and found[0, 5, 1:-1] == pytest.approx(np.arange(80)[1:-1] - 0.5)


def test_pixels_without_data_have_no_part_in_a_mean_whether_declared_nan_or_masked(tmp_path):
    image = np.full((1, 40, 40), 100, np.float32)
    image[:, :11] = -9999
    declared = write_raster(tmp_path / "declared.tif", image, nodata=-9999)
    as_nan = write_raster(tmp_path / "nan.tif", np.where(image < 0, np.nan, image))
    masked = write_raster(tmp_path / "masked.tif", np.repeat(image.astype(np.int16), 3, 0))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(masked, "r+") as file:
        file.write_mask(image[0] > 0)
    for path in (declared, as_nan, masked):
        found, empty = read(path, (20, 20))
        assert empty[:5].all() and not empty[5:].any(), path
        assert (found[:, 5:] == 100).all()


def test_a_pixel_of_which_one_band_is_dark_counts_unless_any_band_is_enough(tmp_path):
    image = np.full((3, 4, 4), 100, np.uint8)
    image[0, ::2] = 0
    path = write_raster(tmp_path / "a.tif", image, nodata=0)
    assert (read(path, (2, 2))[0][:, 0, 0] == [50, 100, 100]).all()
    assert (read(path, (2, 2), any_band=True)[0][:, 0, 0] == 100).all()


def test_pictures_are_turned_as_their_exif_says_first(tmp_path):
    from PIL import Image

    stored = np.kron(np.random.default_rng(0).integers(0, 256, (4, 6)), np.ones((8, 8))).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    found, _ = read(tmp_path / "a.png", (24, 16))
    assert np.array_equal(found[0], np.rot90(stored, -1)[::2, ::2])


def test_a_picture_placed_by_control_points_is_resized_by_pixels_and_its_points_move_with_them(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (1, 40, 60)).astype(np.uint8)
    points = [rasterio.control.GroundControlPoint(r, c, c + r * c / 99, r + r * c / 50) for r in (0, 40) for c in (0, 60)]
    path = write_raster(tmp_path / "a.tif", image, transform=None, gcps=points)
    found, _ = read(path, (20, 30))
    assert np.abs(found - area_mean(image.astype(float), (20, 30))).max() <= 0.501
    moved = raster.inspect(Resized(path, (20, 30))).gcps
    assert [(p.row, p.col, p.x, p.y) for p in moved] == [(p.row / 2, p.col / 2, p.x, p.y) for p in points]


def test_the_place_on_earth_stays_and_pixels_grow(tmp_path):
    path = write_raster(tmp_path / "a.tif", np.zeros((1, 72, 90), np.uint8))
    about = raster.inspect(Resized(path, (36, 30)))
    assert (about.height, about.width) == (36, 30)
    assert about.transform.almost_equals(place(1) * Affine.scale(3, 2))
    assert about.transform * (30, 36) == pytest.approx(place(1) * (90, 72))


# ------------------------------------------------------------------------------------------------------ back to full size


def torchs(small, shape):
    return F.interpolate(small[None], shape, mode="bilinear", align_corners=False)[0]


@pytest.mark.parametrize("whole", [(97, 203), (600, 31), (20, 40), (41, 83)])
def test_parts_are_enlarged_as_if_there_were_no_seams(whole):
    small = torch.rand(3, 41, 83, generator=torch.Generator().manual_seed(0))
    cuts = [(row, col) for col in (0, 30, 64) for row in (0, 1, 17, 40)]
    ends = {0: 1, 1: 17, 17: 40, 40: 41, (0, 0): 30, (30, 0): 64, (64, 0): 83}
    parts = (Part(row, col, small[:, row : ends[row], col : ends[col, 0]]) for row, col in cuts)
    found, hits = torch.zeros(3, *whole), torch.zeros(whole)
    for part in enlarged(parts, (41, 83), whole):
        at = Window(part.row, part.col, *part.probabilities.shape[1:]).slices
        found[(slice(None), *at)] = part.probabilities
        hits[at] += 1
    assert (hits == 1).all()
    if whole[0] >= 41 and whole[1] >= 83:
        assert found.numpy() == pytest.approx(torchs(small, whole).numpy(), abs=1e-5)


@pytest.mark.parametrize("memory", [0.01, 256])
def test_a_map_has_the_tiles_own_size_and_its_probabilities_lie_between_those_of_the_small_one(tmp_path, memory):
    """The net of test_tiles gives a pixel the class of its value."""
    small = np.random.default_rng(1).integers(0, 5, (45, 700)).astype(np.uint8)
    path = write_raster(tmp_path / "grey.tif", np.kron(small, np.ones((2, 2), np.uint8)))
    one_hot = torch.from_numpy(np.eye(5, dtype=np.float32)[small]).permute(2, 0, 1)
    expected = torchs(one_hot, (90, 1400)).numpy()
    found = np.full((5, 90, 1400), np.nan, np.float32)
    for band in labeller(resize=0.5, memory=memory).bands({"grey": path}):
        rows, cols = band.window.slices
        found[:, rows, cols] = band.probabilities
        assert np.array_equal(band.labels, band.probabilities.argmax(0))
    assert found == pytest.approx(expected, abs=1e-5)


def test_no_data_is_that_of_the_full_size(tmp_path):
    image = np.full((40, 40), 3, np.uint8)
    image[7:10, 7] = 255
    path = write_raster(tmp_path / "grey.tif", image, nodata=255)
    assert np.array_equal(labeller(resize=(20, 20)).labels({"grey": path}) == 255, image == 255)


def test_an_area_is_cut_out_of_the_full_size(tmp_path):
    image = np.kron(np.random.default_rng(1).integers(0, 5, (20, 20)), np.ones((2, 2))).astype(np.uint8)
    path = write_raster(tmp_path / "grey.tif", image)
    a = place(1)
    (west, south), (east, north) = a * (10.2, 29.8), a * (30.8, 14.2)
    area = AreaOfInterest.of(f"{west},{south},{east},{north}", None).on(raster.inspect(path))
    one = labeller(resize=0.5)
    whole, found = one.labels({"grey": path}), np.zeros((16, 21), np.uint8)
    reading = one.open({"grey": path}, area=area)
    for band in one.bands_of(reading):
        found[band.window.slices] = band.labels
    reading.close()
    assert np.array_equal(found, whole[14:30, 10:31])


# ------------------------------------------------------------------------------------------------------------- the scripts


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """A town read at half its size, with heights, and a net that was trained on it for a few iterations."""
    own = make_town(
        tmp_path_factory.mktemp("half"), RESIZE=HALF, INPUTS={"irrg": ["irrg"], "dsm": ["dsm"]}, MEAN_PIXEL={},
        NET="segnet_rc", NET_OPTIONS={"planes": (4, 4, 8, 8, 8)}, ROTATIONS=[], FLIPS=[], EMA_DECAY=None,
    )  # fmt: skip
    done(call("extract_images", "--config", own.config()))
    done(call("create_db", "--config", own.config()))
    done(train(own, 4))
    return own


def run_folder(half):
    return read_settings(half.config()).snapshots


def test_patches_and_statistics_are_of_the_small_tiles_heights_too(half):
    """36 x 45 pixels, cut 32 x 32 by 16: two rows and two columns of windows, pushed inward."""
    folder, sums = half.folder("patches"), {"irrg": [], "dsm": []}
    for tile in (1, 3, 5):
        labels = nearest(pixels(half.path("labels", tile)), HALF)
        for modality in ("irrg", "dsm"):
            image = area_mean(pixels(half.path(modality, tile)).astype(float), HALF)
            image = np.floor(image + 0.5) if modality == "irrg" else image  # bytes
            sums[modality].append(image.reshape(len(image), -1))
            for row, col in ((0, 0), (0, 13), (4, 0), (4, 13)):
                (file,) = folder.glob(f"{modality}_train/{tile}_{row:05d}_{col:05d}.*")
                assert np.abs(pixels(file) - image[:, row : row + 32, col : col + 32]).max() <= 1e-3
                found = pixels(folder / "labels_train" / f"{tile}_{row:05d}_{col:05d}.png")
                assert np.array_equal(found, labels[:, row : row + 32, col : col + 32])
    details = read_json(folder / "details.json")
    assert details["splits"]["train"]["patches"] == 12 and details["pixel_size"] == pytest.approx(0.18)
    for modality, parts in sums.items():
        assert details["modalities"][modality]["mean"] == pytest.approx(np.concatenate(parts, 1).mean(1), abs=1e-3)


def test_maps_and_scores_are_of_the_full_size(half, tmp_path):
    words = ["--device", "cpu", "--config", half.config()]
    done(call("inference", 32, 15, "--dir", tmp_path, "--weights", "newest", "--matrix", *words))
    for tile in (32, 15):
        with rasterio.open(tmp_path / f"{tile}_labels.tif") as file:
            assert (file.shape, file.transform) == ((72, 90), place(tile))
        truth, found = pixels(half.path("labels", tile))[0], pixels(tmp_path / f"{tile}_labels.tif")[0]
        matrix = np.zeros((6, 6), int)
        np.add.at(matrix, (truth.ravel(), found.ravel()), 1)
        assert np.array_equal(read_json(tmp_path / "scores.json")["labels"]["tiles"][str(tile)]["confusion"], matrix)


@pytest.mark.slow
def test_two_processes_that_share_a_tile_write_the_map_of_one(half, tmp_path):
    words = [32, "--weights", run_folder(half) / "net_iter_4.safetensors", "--config", half.config(), "--dir"]
    done(call("inference", *words, tmp_path / "one", "--device", "cpu"))
    ran = torchrun(2, *words, tmp_path / "two")
    assert ran.returncode == 0, ran.stderr
    assert np.array_equal(pixels(tmp_path / "one/32_labels.tif"), pixels(tmp_path / "two/32_labels.tif"))


def test_validation_scores_the_full_size_too(half):
    (found,) = read_json(run_folder(half) / "metrics.json")["validation"]
    assert found["pixels"] == 72 * 90
    done(call("tools.final", "--weights", "newest", "--splits", "val", "--device", "cpu", "--config", half.config()))
    final = read_json(run_folder(half) / "final.json")["val"]
    assert np.abs(np.subtract(final["confusion"], found["confusion"])).sum() <= 0.01 * 72 * 90


def test_weights_and_databases_remember_it(half):
    _, about = snapshots.load_net(run_folder(half) / "net_iter_4.safetensors")
    assert about["resize"] == list(HALF) and about["pixel_size"] == pytest.approx(0.18)
    assert read_json(half.folder("lmdb") / "details.json")["sources"]["resize"] == list(HALF)


@pytest.mark.parametrize("resize", [None, (45, 36), 0.5])
def test_another_size_is_refused_by_databases_and_by_weights(half, resize):
    refused(train(half, 1, "--overwrite", RESIZE=resize), "was made with RESIZE = [36, 45]", f"the config says {resize}")
    words = ["--device", "cpu", "--weights", run_folder(half) / "net_iter_4.safetensors"]
    ran = call("inference", 32, *words, "--config", half.config(RESIZE=resize))
    refused(ran, "was trained with RESIZE = [36, 45]", f"the config says {resize}")


def test_a_page_of_it_is_refused(half, tmp_path):
    words = [run_folder(half) / "net_iter_4.safetensors", "--page", tmp_path / "a.html", "--config", half.config()]
    refused(call("tools.export", *words), "RESIZE = [36, 45], which a page does not do")


def test_resampling_to_a_pixel_size_besides_is_refused(half, tmp_path):
    words = ["--device", "cpu", "--weights", "newest", "--config", half.config(), "--dir", tmp_path]
    refused(call("inference", 32, "--resample", *words), "--resample", "RESIZE")


@pytest.mark.parametrize("resize", [0, 1, 1.0, -0.5, True, (0, 10), (10,), (10, 10.5), "half", (10, 10, 3), float("nan")])
def test_sizes_that_are_none_are_refused(tmp_path, resize):
    config = write_config(tmp_path / "config.py", tmp_path)
    value = "float('nan')" if resize != resize else repr(resize)
    config.write_text(config.read_text().replace("RESIZE = None", f"RESIZE = {value}"))
    refused(call("extract_images", "--config", config), "RESIZE = ", "(height, width) in pixels")


def test_a_grids_cells_lie_where_they_lay(tmp_path):
    """A cell of 36 x 36 pixels at row 18, column 18 is one of 18 x 18 at 9, 9 of the half size; patches are of 32 x 32."""
    town = make_town(tmp_path, RESIZE=HALF)
    done(cut(town, grid(town, [(1, (18, 18, 54, 54)), (3, (0, 0, 36, 36))])))
    windows = read_json(town.folder("patches") / "details.json")["grid"]["windows"]
    assert sorted(map(tuple, windows.values())) == [(0, 0, 18, 18), (9, 9, 18, 18)]

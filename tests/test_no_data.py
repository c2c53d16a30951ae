"""Proves that no net, in training or later, sees what a file happens to hold where it has no data, and that nothing else
changes: neutral pixels stand there, the training tiles' mean in whole numbers, and NaN, which normalises to 0, in floats."""

import numpy as np
import pytest
import rasterio
import torch
from conftest import TRAIN, VAL, call, done, pixels, read_json, write_raster
from scipy import ndimage
from torch import nn

from tools.compute.device import Device
from tools.data.inputs import Input, make_inputs
from tools.data.loader import Patches
from tools.export.end_to_end import raw
from tools.geo import raster
from tools.geo.windows import Window
from tools.inference.labeller import NO_DATA, Labeller, TileReader
from tools.inference.window_size import Windows
from tools.labels.class_weights import count
from tools.settings import read_settings
from tools.training.run_setup import check_database

CPU = Device(torch.device("cpu"), bf16=False)
HEIGHTS = Input("dsm", ("dsm",), (1,), False, (281.6,))
GAP = np.zeros((70, 90), bool)
GAP[:22, :30] = GAP[50:53, 60:64] = True
LOOKS_FAR = 4  # pixels, of the net below


def net_of(spec):
    """Two 5 x 5 convolutions with random weights."""
    torch.manual_seed(3)
    channels = spec.channels
    net = nn.Sequential(nn.Conv2d(channels, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 4, 5, padding=2))
    net.classes, net.multiple = 4, 1
    return net


def labels_of(path, spec=HEIGHTS):
    labeller = Labeller(net_of(spec), [spec], Windows((32, 32), (16, 16)), 4, CPU, blend="cosine")
    return labeller.labels({spec.name: path})


def heights(dtype, value=None):
    """A height model (1 x 70 x 90); value: what it holds in the gap, None for more heights."""
    found = np.random.default_rng(5).normal(281, 9, (1, *GAP.shape)).astype(dtype)
    if value is not None:
        found[:, GAP] = value
    return found


# -------------------------------------------------------------------------------------------------------------- inference


@pytest.mark.parametrize(("dtype", "values"), [("int16", [-32768, -9999, 0]), ("float32", [np.nan, -9999, -3.4e38])])
def test_the_value_that_stands_for_no_data_has_no_effect_on_any_label(tmp_path, dtype, values):
    found = [labels_of(write_raster(tmp_path / f"{v}.tif", heights(dtype, v), nodata=v)) for v in values]
    assert np.array_equal(found[0] == NO_DATA, GAP)
    assert len(np.unique(found[0])) > 3
    for other in found[1:]:
        assert np.array_equal(other, found[0])


@pytest.mark.parametrize(("dtype", "value"), [("int16", -32768), ("float32", -9999)])
def test_labels_farther_off_than_the_net_looks_are_those_of_a_raster_without_gaps(tmp_path, dtype, value):
    whole = labels_of(write_raster(tmp_path / "whole.tif", heights(dtype)))
    found = labels_of(write_raster(tmp_path / "gaps.tif", heights(dtype, value), nodata=value))
    far = ~ndimage.binary_dilation(GAP, np.ones((3, 3)), LOOKS_FAR)
    assert np.array_equal(found[far], whole[far])
    assert not np.array_equal(found[~GAP], whole[~GAP])  # what is nearer sees the gap


def test_what_lies_under_a_mask_has_no_effect_either(tmp_path):
    spec, found = Input("rgb", ("rgb",), (3,), True, (90.0, 80.0, 70.0)), []
    for value in (0, 200):
        image = np.random.default_rng(1).integers(0, 256, (3, *GAP.shape)).astype(np.uint8)
        image[:, GAP] = value
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
            path = write_raster(tmp_path / f"{value}.tif", image)
            with rasterio.open(path, "r+") as file:
                file.write_mask(~GAP)
        found.append(labels_of(path, spec))
    assert np.array_equal(found[0] == NO_DATA, GAP)
    assert np.array_equal(found[0], found[1])


@pytest.mark.parametrize(("dtype", "kinds"), [("uint8", {"nodata": 255}), ("int16", {}), ("float32", {"nodata": -9999})])
def test_a_raster_that_lacks_nothing_reaches_the_net_as_it_is(tmp_path, dtype, kinds):
    image = np.random.default_rng(1).integers(0, 255, (1, *GAP.shape)).astype(dtype)
    path = write_raster(tmp_path / "a.tif", image, **kinds)
    with TileReader([HEIGHTS], {"dsm": path}) as tile:
        (found,) = tile.read(Window(3, 5, 40, 50))
    assert found.dtype == dtype
    assert np.array_equal(found, image[:, 3:43, 5:55])


@pytest.mark.parametrize(("dtype", "nodata", "where"), [("int16", -32768, 1), ("uint8", 0, slice(None))])
def test_a_pixel_without_data_is_neutral_in_all_bands_of_its_modality_and_in_no_other_modality(tmp_path, dtype, nodata, where):
    spec = Input("both", ("rgb", "dsm"), (2, 1), True, (90.4, 80.6, 281.6), picks=((2, 0), (0,)), file_bands=(3, 1))
    image = np.full((3, 8, 8), 50, dtype)
    image[where, 2, 3] = nodata  # 1: a band that the net does not even read
    image[2, 5, 5] = 0  # where 0 is no data, this is dark in one band
    paths = {"rgb": write_raster(tmp_path / "rgb.tif", image, nodata=nodata), "dsm": tmp_path / "dsm.tif"}
    write_raster(paths["dsm"], np.full((8, 8), 300, np.float32))
    with TileReader([spec], paths) as tile:
        (found,) = tile.read(Window(0, 0, 8, 8))
    expected = np.array([50, 50, 300.0])[:, None, None] * np.ones((3, 8, 8))
    expected[:2, 2, 3] = 90, 81
    expected[1, 5, 5] = 0  # its first bands stand in reversed order
    assert np.array_equal(found, expected)


def test_floats_without_data_are_0_for_the_net_even_where_they_are_infinite_and_held_between_0_and_1(tmp_path):
    spec = Input("dsm", ("dsm",), (1,), False, (270.0,), (20.0,), (True,))
    path = write_raster(tmp_path / "a.tif", np.array([[np.inf, -np.inf, -9999, 280]], np.float32), nodata=-9999)
    with TileReader([spec], {"dsm": path}) as tile:
        seen = spec.normalise(torch.from_numpy(tile.read(Window(0, 0, 1, 4))[0])[None])
    assert seen.ravel().tolist() == [0, 0, 0, 0.5]


@pytest.mark.parametrize(("dtype", "expected"), [("uint8", [255, 0]), ("int16", [300, -5])])
def test_what_stands_in_a_gap_is_rounded_and_held_within_the_pixel_type(dtype, expected):
    image = np.full((2, 1, 3), 7, dtype)
    found = raster.fill_gaps(image, np.array([[False, True, False]]), [299.6, -5.2])
    assert (found.dtype, found[:, 0, 1].tolist()) == (dtype, expected)
    assert (found[:, 0, [0, 2]] == 7).all() and (image == 7).all()


# --------------------------------------------------------------------------------------------------------------- training

CHANGES = {"INPUTS": {"dsm": ["dsm"]}, "MEAN_PIXEL": {"dsm": None}, "ROTATIONS": [0], "FLIPS": [False]}


def put_gaps(town, values):
    """Heights in whole decimetres, in each tile with a gap that holds another value and is declared so."""
    for tile, value in values.items():
        image = np.rint(10 * pixels(town.path("dsm", tile))).astype(np.int16)
        image[:, :20, :25] = value
        write_raster(town.path("dsm", tile), image, tile, nodata=value)


@pytest.fixture
def gaps(town):
    """A town whose tiles have gaps in their heights, each its own value there, and what the training tiles' mean is."""
    put_gaps(town, {tile: -32768 + tile for tile in [*TRAIN, *VAL]})
    put_gaps(town, {32: -9999})
    there = np.ones((72, 90), bool)
    there[:20, :25] = False
    known = np.concatenate([pixels(town.path("dsm", tile))[:, there] for tile in TRAIN], axis=1)
    return town, known


def test_patches_hold_the_mean_where_there_is_no_data_and_else_the_pixels_bit_for_bit(gaps):
    town, known = gaps
    done(call("extract_images", "--config", town.config(**CHANGES)))
    about = read_json(town.folder("patches") / "details.json")["modalities"]["dsm"]
    assert about["mean"] == pytest.approx(known.mean(1))
    assert about["deviation"] == pytest.approx(known.std(1))
    for tile, split in [(t, "train") for t in TRAIN] + [(VAL[0], "val"), (32, "test")]:
        image = pixels(town.path("dsm", tile))
        image[:, :20, :25] = round(known.mean())
        found = raster.read(town.folder("patches") / f"dsm_{split}/{tile}_00000_00000.tif")
        assert found.dtype == np.int16
        assert np.array_equal(found, image[:, :32, :32])


def test_pixels_without_data_count_in_no_mean_and_in_no_class_weight(gaps):
    town, _ = gaps
    config = town.config(**CHANGES)
    done(call("extract_images", "--config", config))
    done(call("create_db", "--config", config))
    settings = read_settings(config)
    patches = Patches(town.folder("lmdb"), "train", check_database(settings.data, settings.patches, settings.classes))
    expected = np.zeros(6, int)
    for name in patches.names:
        tile, row, col = map(int, name.split("_"))
        labels = pixels(town.path("labels", tile))[0]
        labels[:20, :25] = 6
        expected += np.bincount(labels[row : row + 32, col : col + 32].ravel(), minlength=7)[:6]
    assert np.array_equal(count(patches.all_labels(), 6, []).pixels, expected)


@pytest.mark.parametrize("given", [{}, {"MEAN_PIXEL": {"dsm": (2500,)}}, {"NORMALISATION": {"dsm": "percentile"}}])
def test_training_and_inference_see_the_same_however_pixels_are_normalised(gaps, given):
    """Tile 15 as validation and inference read it, and its patches in the database."""
    town, _ = gaps
    config = town.config(**CHANGES | given)
    done(call("extract_images", "--config", config))
    done(call("create_db", "--config", config))
    settings = read_settings(config)
    inputs = check_database(settings.data, settings.patches, settings.classes)
    inputs = [Input.from_dict(spec.to_dict()) for spec in inputs]  # as weights keep it
    patches = Patches(town.folder("lmdb"), "val", inputs)
    with TileReader(inputs, {"dsm": town.path("dsm", 15)}) as tile:
        for i, name in enumerate(patches.names):
            row, col = map(int, name.split("_")[1:])
            trained = inputs[0].normalise(patches[i][0][0][None])
            seen = inputs[0].normalise(torch.from_numpy(tile.read(Window(row, col, 32, 32))[0])[None])
            assert torch.equal(seen, trained)
            assert abs(seen).max() < 1000


# ------------------------------------------------------------------------------------------------------- what inputs know

ABOUT = {"ms": {"bands": 3, "dtype": "int16", "mean": [10.0, 20.0, 30.0], "deviation": [1.0, 2.0, 4.0], "low": [0.0] * 3,
                "high": [99.0] * 3}}  # fmt: skip


def spec_of(normalisation="mean", given=None, picks=None):
    return make_inputs({"x": [("ms", picks)]}, ABOUT, {"ms": given}, {"ms": normalisation}, True)[0]


def test_an_input_knows_what_stands_in_gaps_where_that_is_not_what_normalises_to_0():
    assert spec_of().fill is None
    assert spec_of("standard").fill is None
    assert spec_of(given=(1, 2, 3)).fill == (30.0, 20.0, 10.0)
    assert spec_of("percentile", picks=(0, 2)).fill == (30.0, 10.0)
    again = Input.from_dict(spec_of("percentile").to_dict())
    assert (again.fill, again.dtypes) == ((30.0, 20.0, 10.0), ("int16",))


@pytest.mark.parametrize("given", [None, (1, 2, 3)])
def test_exported_nets_are_given_the_same_pixels(given):
    spec, image = spec_of(given=given), np.arange(12, dtype=np.int16).reshape(3, 2, 2)
    gaps = {"ms": np.array([[True, False], [False, False]])}
    assert np.array_equal(raw(spec).stack({"ms": image}, gaps), spec.stack({"ms": image}, gaps)[::-1])

"""Proves that nets are used on what they were trained on: pixels of that type, normalised as they were, or not at all."""

import json

import numpy as np
import pytest
import torch
from conftest import call, done, names, pixels, read_json, refused, train, write_raster
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import nets
from tools.data.inputs import Input
from tools.weights.caffe import write_caffemodel


def infer(town, *words, **changes):
    return call("inference", *words, "--device", "cpu", "--config", town.config(**changes))


@pytest.fixture
def own(trained, tmp_path):
    """A town with a trained net, to be spoilt."""
    return trained.copy(tmp_path / "own", "snapshots_segnet_slim")


def input_of(dtype, mean=280.0, bands=1):
    return Input("x", ("x",), (bands,), False, (mean,) * bands, dtypes=(dtype,))


# ------------------------------------------------------------------------------------------------------------ pixel types


@pytest.mark.parametrize(
    ("trained", "given"),
    [
        ("uint8", "uint8"), ("uint16", "uint16"), ("float32", "float64"), ("float64", "float32"), ("uint16", "int16"),
        ("int16", "int32"), ("float32", "int16"), ("int16", "float32"), ("int32", "float64"),
    ],
)  # fmt: skip
def test_heights_may_come_in_the_pixel_types_that_metres_are_stored_in(trained, given):
    assert input_of(trained).type_fault("x", given) is None


@pytest.mark.parametrize(
    ("trained", "given"),
    [
        ("uint8", "uint16"), ("uint8", "int16"), ("uint8", "float32"), ("uint8", "int8"), ("uint16", "uint8"),
        ("float32", "uint8"), ("float32", "uint16"), ("uint16", "float32"), ("float32", "complex_int16"),
    ],
)  # fmt: skip
def test_values_of_another_kind_are_refused_even_of_one_band(trained, given):
    fault = input_of(trained).type_fault("x", given)
    assert fault.startswith(f"holds {given} values, but the net was trained on {trained} of x: convert it to {trained}")


@pytest.mark.parametrize(("mean", "bands"), [(0.3, 1), (-0.9, 1), (280.0, 4)])
def test_shares_and_images_in_floats_are_no_heights_in_metres(mean, bands):
    """NDVI and reflectances are stored as whole numbers of another unit, thousandths or so."""
    assert input_of("float32", mean, bands).type_fault("x", "int16")
    assert input_of("float32", mean, bands).type_fault("x", "float64") is None


def test_each_modality_of_an_input_has_its_own_type():
    both = Input("both", ("rgb", "dsm"), (3, 1), True, (99.0, 98.0, 97.0, 280.0), dtypes=("uint8", "float32"))
    assert (both.type_fault("rgb", "uint8"), both.type_fault("dsm", "int16")) == (None, None)
    assert both.type_fault("rgb", "float32") and both.type_fault("dsm", "uint8")


def test_a_snapshot_knows_the_pixel_types_that_it_was_trained_on(trained):
    with safe_open(trained.snapshots / "net_iter_150.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["inputs"])[0]["dtypes"] == ["uint8"]


def test_tiles_of_another_pixel_type_are_refused_before_anything_is_labelled(own):
    write_raster(own.path("irrg", 32), 200 * pixels(own.path("irrg", 32)).astype(np.uint16), 32)
    refused(infer(own, 15, 32), own.path("irrg", 32), "holds uint16 values", "trained on uint8 of irrg: convert it to uint8")
    assert not own.folder("results").exists()


def test_an_image_of_another_pixel_type_is_named_and_the_others_are_labelled(own, tmp_path):
    image = pixels(own.path("irrg", 32))
    write_raster(tmp_path / "flight/a.tif", image / np.float32(255))
    write_raster(tmp_path / "flight/b.tif", image)
    ran = infer(own, "--images", tmp_path / "flight", "--dir", tmp_path / "maps")
    assert ran.code == 1
    assert f"{tmp_path}/flight/a.tif holds float32 values" in ran.sentence
    assert [name for name in names(tmp_path / "maps") if name.endswith("_labels.tif")] == ["b_labels.tif"]


def make_older(path):
    """Weights as they were written before they knew of pixel types."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    inputs = [{k: v for k, v in spec.items() if k != "dtypes"} for spec in json.loads(metadata["inputs"])]
    save_file(load_file(path), path, metadata | {"inputs": json.dumps(inputs)})


def test_older_weights_are_not_checked(own):
    make_older(own.snapshots / "net_iter_150.safetensors")
    write_raster(own.path("irrg", 32), pixels(own.path("irrg", 32)).astype(np.uint16), 32)
    done(infer(own, 32, "--weights", "newest"))


def test_an_older_snapshot_can_be_restored_and_knows_them_from_then_on(databases, trained, tmp_path, without_pictures):
    own = trained.copy(tmp_path / "own", "snapshots_segnet_slim", "lmdb")
    make_older(own.snapshots / "net_iter_150.safetensors")
    rates = {"BASE_LR": 0.05, "LR_POLICY": {"name": "step", "step_iterations": 120, "gamma": 0.1}}
    done(train(own, 151, "--restore", SNAPSHOT_EVERY=80, BATCH_SIZE=16, val_ids=[], **rates))
    with safe_open(own.snapshots / "net_iter_151.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["inputs"])[0]["dtypes"] == ["uint8"]


# ------------------------------------------------------------------------------------------------------- Caffe's weights


def test_maps_by_weights_of_caffes_say_which_mean_was_taken_off_and_are_not_resumed_with_another(own):
    torch.manual_seed(1)
    weights = own.base / "net.caffemodel"
    write_caffemodel(nets.build("segnet_slim", {"irrg": 3}, 6), weights)
    mean = {"irrg": (120.9, 81.93, 81.29)}
    done(infer(own, 32, "--weights", weights, MEAN_PIXEL=mean))
    details = read_json(own.folder("results") / "details.json")
    assert (details["MEAN_PIXEL"], details["BGR"]) == ({"irrg": [120.9, 81.93, 81.29]}, True)
    done(infer(own, 32, "--weights", weights, "--resume", MEAN_PIXEL=mean))
    ran = infer(own, 32, 15, "--weights", weights, "--resume", MEAN_PIXEL={"irrg": (0, 0, 1)})
    refused(ran, "was begun with MEAN_PIXEL = {'irrg': [120.9, 81.93, 81.29]}, now it is {'irrg': [0, 0, 1]}")
    refused(infer(own, 32, 15, "--weights", weights, "--resume", MEAN_PIXEL=mean, BGR=False), "was begun with BGR = True")


def test_an_ensemble_with_weights_of_caffes_says_so_too(own):
    weights = own.base / "net.caffemodel"
    write_caffemodel(nets.build("segnet_slim", {"irrg": 3}, 6), weights)
    mean = {"irrg": (120.9, 81.93, 81.29)}
    done(infer(own, 32, "--weights", own.snapshots / "net_iter_150.safetensors", weights, MEAN_PIXEL=mean))
    assert read_json(own.folder("results") / "details.json")["MEAN_PIXEL"] == {"irrg": [120.9, 81.93, 81.29]}


def test_a_snapshots_maps_do_not_depend_on_the_configs_mean(own):
    done(infer(own, 32))
    assert read_json(own.folder("results") / "details.json")["MEAN_PIXEL"] is None
    done(infer(own, 32, "--resume", MEAN_PIXEL={"irrg": (1, 2, 3)}))

"""Proves that each net that `python -m nets` lists goes through the scripts: it trains for an iteration on the databases, and
its snapshot labels a tile. Library nets: one per family, weights off."""

import pytest
from conftest import TEST, call, make_town, pixels

import nets
from nets.libraries import architectures, torchvision_names

SLIM = {"planes": (8, 8, 16, 16, 16)}
TABLES = [n for n in nets.names_with_backbones() if n != "segnet_slim"]
LIBRARIES = [f"smp:{n}/{'tu-vit_tiny_patch16_224' if n == 'DPT' else 'resnet18'}" for n in architectures()]
LIBRARIES += [f"torchvision:{n}" for n in torchvision_names()]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A town with databases of images and of heights."""
    town = make_town(tmp_path_factory.mktemp("both"), MEAN_PIXEL={"irrg": None, "dsm": None})
    town.changes["INPUTS"] = {"irrg": ["irrg"], "dsm": ["dsm"]}
    for script in ("extract_images", "create_db"):
        ran = call(script, "--config", town.config())
        assert ran.code == 0, ran.err
    return town


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES + LIBRARIES)
def test_a_net_trains_for_an_iteration_and_its_snapshot_labels_a_tile(both, name, tmp_path, without_pictures):
    inputs = both.changes["INPUTS"] if len(nets.example_inputs(name)) > 1 else {"irrg": ["irrg"]}
    options = SLIM if name in nets.names() else {}
    config = both.config(NET=name, NET_OPTIONS=options, INPUTS=inputs, BATCH_SIZE=2, BASE_LR=1e-5)
    ran = call("training", "--niter", 1, "--snapshot", tmp_path / "snapshots", "--device", "cpu", "--config", config)
    assert ran.code == 0, ran.err
    weights = tmp_path / "snapshots" / "net_iter_1.safetensors"
    ran = call("inference", TEST[0], "--weights", weights, "--dir", tmp_path / "out", "--device", "cpu", "--config", config)
    assert ran.code == 0, ran.err
    labels = pixels(tmp_path / "out" / f"{TEST[0]}_labels.tif")
    assert labels.shape[1:] == pixels(both.path("irrg", TEST[0])).shape[1:] and labels.max() < 6

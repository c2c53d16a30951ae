"""Proves that settings and commands of the original (DeepNetsForEO) do what they do there: turned patches beside the upright
one, one number for a step, snapshots that Caffe reads and its sixth step to the letter, tables that can be piped."""

import subprocess
import sys

import numpy as np
import pytest
from conftest import REPO, TRAIN, call, done, names, pixels, read_json, refused, train

from tools.data.patches import is_straight
from tools.settings import read_settings


def extracted(town, **changes):
    done(call("extract_images", "--config", town.config(**changes)))
    return names(town.folder("patches") / "irrg_train")


def test_the_upright_patch_is_always_there_and_rotations_are_added(town):
    found = extracted(town, ROTATIONS=[90], FLIPS=[True])
    turns = [{name.split(".")[0][len("1_00000_00000") :] for name in found if name.startswith("1_00000_00000")}]
    assert turns == [{"", "_r90", "_f", "_r90_f"}]
    done(call("create_db", "--config", town.config(ROTATIONS=[0, 90], FLIPS=[False, True])))  # the same, in other words


def test_no_rotations_and_no_flips_are_empty_lists(town):
    found = extracted(town, ROTATIONS=[], FLIPS=[], step_size=32)
    assert all(is_straight(name.split(".")[0]) for name in found)
    assert len(found) == len(TRAIN) * 3 * 3  # tiles of 72 x 90 in windows of 32: 0, 32 and what is left, each way


def test_one_step_size_means_both_ways(town):
    settings = read_settings(town.config(step_size=24))
    assert settings.patches.step == (24, 24)
    assert read_settings(town.config(step_size=(16, 24))).patches.step == (16, 24)
    refused(call("extract_images", "--config", town.config(step_size=40)), "step_size")


@pytest.fixture(scope="module")
def caffes(databases, tmp_path_factory):
    """A town with a run that wrote Caffe's files too."""
    own = databases.copy(tmp_path_factory.mktemp("caffe") / "own", "lmdb")
    with pytest.MonkeyPatch.context() as patch:
        for picture in ("net_graph", "loss_plot"):
            patch.setattr(f"tools.record.plots.{picture}", lambda *_: None)
        done(train(own, 3, SNAPSHOT_FORMATS=["safetensors", "caffemodel"], SNAPSHOT_EVERY=1, KEEP_SNAPSHOTS=2, val_ids=[]))
    return own


def test_snapshots_are_written_for_caffe_too_and_go_with_the_others(caffes):
    found = sorted(path.name for path in caffes.snapshots.glob("net_iter_*"))
    assert found == [f"net_iter_{i}.{kind}" for i in (2, 3) for kind in ("caffemodel", "safetensors", "solverstate")]


def test_the_sixth_step_works_to_the_letter(caffes):
    """`inference.py 16 32 --weights trained_network_weights/net_iter_40000.caffemodel`, without MEAN_PIXEL in the config."""
    words = ["--device", "cpu", "--config", caffes.config()]
    for kind in ("caffemodel", "safetensors"):
        done(call("inference", 32, "--weights", caffes.snapshots / f"net_iter_3.{kind}", "--dir", caffes.base / kind, *words))
    maps = [pixels(caffes.base / kind / "32_labels.tif") for kind in ("caffemodel", "safetensors")]
    assert np.array_equal(*maps)
    assert read_json(caffes.base / "caffemodel" / "details.json")["iteration"] == 3


def test_a_missing_file_names_its_sibling(caffes):
    (caffes.snapshots / "net_iter_2.caffemodel").unlink()
    words = ["--device", "cpu", "--config", caffes.config()]
    ran = call("inference", 32, "--weights", caffes.snapshots / "net_iter_2.caffemodel", *words)
    refused(ran, "net_iter_2.caffemodel does not exist, but net_iter_2.safetensors lies there")


def test_a_net_that_caffe_cannot_hold_is_refused_before_it_trains(caffes):
    ran = train(caffes, 9, "--run", "x", NET="deeplabv3plus/vgg16", SNAPSHOT_FORMATS=["safetensors", "caffemodel"], val_ids=[])
    assert ran.code == 2 and "Traceback" not in ran.err
    assert not list(caffes.base.glob("*snapshots*-x/net_iter_*"))


def test_a_table_can_be_piped_into_head():
    command = f"{sys.executable} -m nets.segnet | head -2"
    ran = subprocess.run(["bash", "-c", command], cwd=REPO, capture_output=True, text=True, check=False)
    assert len(ran.stdout.splitlines()) == 2
    assert "Traceback" not in ran.stderr and "Exception" not in ran.stderr

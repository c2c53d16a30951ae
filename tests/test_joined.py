"""Proves that two trained nets join as the branches of one, for residual correction: each branch equals its source."""

import pytest
import torch
from conftest import call, done, names, read_json, refused, train
from safetensors.torch import load_file

from tools.weights import snapshots

PLANES = {"NET_OPTIONS": {"planes": (4, 4, 4, 4, 4)}, "val_ids": [], "SNAPSHOT_EVERY": 2, "MEAN_PIXEL": {}}


@pytest.fixture(scope="module")
def two(tiles, tmp_path_factory):
    """A town whose database has both modalities, and a SegNet trained on each."""
    own = tiles.copy(tmp_path_factory.mktemp("joined") / "own")
    own.changes = PLANES
    both = own.config(INPUTS={"irrg": ["irrg"], "dsm": ["dsm"]})
    with pytest.MonkeyPatch.context() as patch:
        for picture in ("net_graph", "loss_plot"):
            patch.setattr(f"tools.record.plots.{picture}", lambda *_: None)
        done(call("extract_images", "--config", both))
        done(call("create_db", "--config", both))
        for modality in ("irrg", "dsm"):
            done(train(own, 2, "--run", modality, NET="segnet", INPUTS={modality: [modality]}))
    return own


def joined(own, run, **changes):
    sources = {m: str(weights(own, m)) for m in ("irrg", "dsm")}
    fusion = {"NET": "segnet_rc", "INPUTS": {"irrg": ["irrg"], "dsm": ["dsm"]}, "INIT_MODEL": sources}
    return train(own, 2, "--run", run, **fusion | changes)


def weights(own, run, net="segnet"):
    return own.base / f"vaihingen_snapshots_{net}-{run}" / "net_iter_2.safetensors"


def test_the_branches_equal_their_sources_and_the_rest_is_trained(two, without_pictures):
    """FREEZE_ITERATIONS = 2: the corrector alone has learned when the snapshot is written."""
    ran = done(joined(two, "rest", FREEZE_ITERATIONS=2))
    found = load_file(weights(two, "rest", "segnet_rc"))
    for modality in ("irrg", "dsm"):
        source = load_file(weights(two, modality))
        assert len(source) > 100
        assert all(torch.equal(found[f"{modality}_{name}"], value) for name, value in source.items())
    left = {name.split(".")[0] for name in found if not name.startswith(("irrg_", "dsm_"))}
    assert left == {"correction1", "correction2", "correction3"}
    assert "left random: 3 layers" in ran.out and "askew" not in ran.out


def test_all_of_it_can_be_trained_too(two, without_pictures):
    done(joined(two, "all"))
    found, source = load_file(weights(two, "all", "segnet_rc")), load_file(weights(two, "irrg"))
    assert not all(torch.equal(found[f"irrg_{name}"], value) for name, value in source.items())
    assert read_json(weights(two, "all", "segnet_rc").parent / "metrics.json")["settings"]["INIT_MODEL"]["dsm"]


def test_what_does_not_fit_is_refused_in_one_sentence(two, without_pictures):
    refused(joined(two, "x", INIT_MODEL={"dms": str(weights(two, "dsm"))}), "which INPUTS lacks", "Did you mean 'dsm'?")
    refused(joined(two, "x", INIT_MODEL={"irrg": str(weights(two, "dsm"))}), "conv1_1 has the shape (4, 1, 3, 3)")
    refused(joined(two, "x", NET="fusenet", INIT_MODEL={"irrg": "nowhere.safetensors"}), "nowhere.safetensors does not exist")
    assert not any("-x" in name for name in names(two.base))


def test_a_source_that_saw_other_numbers_is_warned_of(two, tmp_path, without_pictures):
    net, about = snapshots.load_net(weights(two, "irrg"))
    about["inputs"][0]["mean"] = [1.0, 2.0, 3.0]
    snapshots.save_net(tmp_path / "other.safetensors", net, about)
    sources = {"irrg": str(tmp_path / "other.safetensors"), "dsm": str(weights(two, "dsm"))}
    ran = done(joined(two, "askew", INIT_MODEL=sources))
    assert "warning: irrg:" in ran.out and "trained with another mean" in ran.out

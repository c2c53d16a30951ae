"""Proves that create_db.py packs every patch once, image and label under one key, and leaves all or nothing."""

import json

import numpy as np
import pytest
from conftest import NAMES, call, kill, names, refused, spawn, wait_for
from test_database import records, write_records

from create_db import verify
from tools.base.errors import UserError
from tools.data.database import Database
from tools.data.patches import read_patch


@pytest.fixture
def own(patches, tmp_path):
    """A town with patches, to be spoilt."""
    return patches.copy(tmp_path / "own", "patches")


def create(town, *words, **changes):
    return call("create_db", "--config", town.config(**changes), *words)


def order(town, split):
    """The patches of a split in the order of their keys."""
    return (town.folder("lmdb") / f"{split}.txt").read_text().split()


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_every_patch_is_packed_once_image_and_label_under_one_key(databases, split):
    listed = order(databases, split)
    images, labels = (Database(databases.folder("lmdb") / f"{m}_{split}") for m in ("irrg", "labels"))
    folder = databases.folder("patches")
    assert sorted(listed) == sorted(p.stem for p in (folder / f"irrg_{split}").iterdir())
    assert len(images) == len(labels) == len(listed)
    for name, (image, _), (label, _) in zip(listed, images, labels, strict=True):
        assert np.array_equal(image, read_patch(folder / f"irrg_{split}/{name}.png")[::-1]), name  # BGR
        assert np.array_equal(label, read_patch(folder / f"labels_{split}/{name}.png")), name


def test_records_are_shuffled_by_the_seed(databases, own):
    assert order(databases, "train") != sorted(order(databases, "train"))
    assert create(own).code == 0
    assert order(own, "train") == order(databases, "train")
    assert create(own, "--overwrite", SEED=2).code == 0
    assert order(own, "train") != order(databases, "train")


def test_details_carry_on_what_the_patches_say(databases):
    details = json.loads((databases.folder("lmdb") / "details.json").read_text())
    assert details["made by"] == "create_db.py"
    assert details["bgr"] is True
    assert details["patch_size"] == [32, 32]
    assert details["splits"]["train"]["patches"] == 240


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"patch_size": (64, 64)}, "patch_size = [32, 32], the config says [64, 64]"),
        ({"step_size": (8, 8)}, "step_size = [16, 16], the config says [8, 8]"),
        ({"ROTATIONS": [0]}, "rotations = [0, 90], the config says [0]"),
        ({"label_values": [*NAMES[:5], "rubbish"]}, "classes = ["),
        ({"train_ids": [1, 3]}, "train_ids = ['1', '3', '5'], the config says ['1', '3']"),
        ({"INPUTS": {"a": ["irrg", "dsm"]}}, "has no patches of dsm"),
    ],
)
def test_patches_of_another_config_are_refused(own, changes, words):
    refused(create(own, **changes), words, "extract_images.py")
    assert not list(own.base.glob("vaihingen_lmdb*"))


def test_patches_that_were_not_made_or_not_finished_are_refused(town):
    refused(create(town), town.folder("patches"), "does not exist: make it with extract_images.py")
    town.folder("patches").mkdir()
    refused(create(town), "has no details.json")


def test_a_patch_that_is_missing_in_one_modality_is_named_and_nothing_is_written(own):
    next((own.folder("patches") / "labels_val").iterdir()).unlink()
    refused(create(own), "do not hold the same patches (1 stand in one alone: 15_")
    assert not list(own.base.glob("vaihingen_lmdb*"))


def test_a_damaged_patch_is_named_and_nothing_is_written(own):
    path = own.folder("patches") / "irrg_train/3_00016_00016.png"
    path.write_bytes(path.read_bytes()[:200])
    refused(create(own), path, "is damaged")
    assert not list(own.base.glob("vaihingen_lmdb*"))


def test_existing_databases_are_refused_and_kept_until_the_new_ones_are_whole(own):
    assert create(own).code == 0
    before = records(own.folder("lmdb") / "irrg_val")
    refused(create(own), own.folder("lmdb"), "exists already", "--overwrite")
    path = own.folder("patches") / "irrg_val/15_00000_00000.png"
    good = path.read_bytes()
    path.write_bytes(good[:100])
    refused(create(own, "--overwrite", BGR=False), path)
    assert records(own.folder("lmdb") / "irrg_val") == before
    path.write_bytes(good)
    assert create(own, "--overwrite", BGR=False).code == 0
    assert records(own.folder("lmdb") / "irrg_val") != before


def test_a_killed_run_leaves_nothing_under_the_final_name(own):
    with spawn("create_db", "--config", own.config()) as process:
        wait_for((own.base / "vaihingen_lmdb.partial/labels_train").exists, process)
        kill(process)
    assert not own.folder("lmdb").exists()
    assert create(own).code == 0
    assert not (own.base / "vaihingen_lmdb.partial").exists()
    assert len(Database(own.folder("lmdb") / "labels_train")) == 240


def test_records_that_changed_places_are_detected(databases, tmp_path):
    found = records(databases.folder("lmdb") / "labels_val")
    found[3], found[8] = (found[3][0], found[8][1]), (found[8][0], found[3][1])
    write_records(tmp_path / "labels_val", found)
    listed, images = order(databases, "val"), Database(databases.folder("lmdb") / "irrg_val")
    verify([images, Database(databases.folder("lmdb") / "labels_val")], listed)
    with pytest.raises(UserError, match="labels_val does not pair with the others"):
        verify([images, Database(tmp_path / "labels_val")], listed)


def test_a_dataset_without_validation_and_test_tiles_is_packed_too(town):
    changes = {"val_ids": [], "test_ids": []}
    assert call("extract_images", "--config", town.config(**changes)).code == 0
    ran = create(town, **changes)
    assert ran.code == 0, ran.err
    assert names(town.folder("lmdb")) == ["details.json", "irrg_train", "labels_train", "train.txt"]

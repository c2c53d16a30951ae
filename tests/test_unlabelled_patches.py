"""Proves that create_db.py leaves out and counts the patches that hold no scored pixel, and no others."""

import numpy as np
import pytest
from conftest import call, refused

from tools.base.folders import read_details
from tools.data.database import Database
from tools.data.patches import read_patch, write_patch


@pytest.fixture
def own(patches, tmp_path):
    """A town with patches, to be spoilt."""
    return patches.copy(tmp_path / "own", "patches")


def fill(town, split, pattern, value):
    """Give every label patch of this name one value; the names come back."""
    files = sorted((town.folder("patches") / f"labels_{split}").glob(pattern))
    for file in files:
        write_patch(file, np.full_like(read_patch(file), value))
    return [file.stem for file in files]


def create(town, **changes):
    return call("create_db", "--config", town.config(**changes))


def listed(town, split):
    return (town.folder("lmdb") / f"{split}.txt").read_text().split()


@pytest.mark.parametrize("value", [5, 6, 255])  # ignored, not scored, no label
def test_a_patch_without_a_scored_pixel_is_not_packed_and_counted(own, value):
    emptied = fill(own, "train", "1_00016_00016*.png", value)
    ran = create(own)
    assert ran.code == 0, ran.err
    assert len(emptied) == 4
    assert "note: 4 of 240 train patches have no scored pixel and were left out." in ran.out
    assert not set(listed(own, "train")) & set(emptied)
    for modality in ("irrg", "labels"):
        assert len(Database(own.folder("lmdb") / f"{modality}_train")) == 236
    splits = read_details(own.folder("lmdb"))["splits"]
    assert (splits["train"]["patches"], splits["train"]["without labels"]) == (236, 4)
    assert (splits["val"]["patches"], splits["val"]["without labels"]) == (20, 0)


def test_one_scored_pixel_is_enough(own):
    (name,) = fill(own, "val", "15_00000_00000.png", 6)
    path = own.folder("patches") / f"labels_val/{name}.png"
    labels = read_patch(path).copy()
    labels[0, 31, 31] = 3
    write_patch(path, labels)
    ran = create(own)
    assert "note" not in ran.out
    assert name in listed(own, "val")


def test_an_ignored_class_counts_where_the_config_ignores_none(own):
    names = fill(own, "val", "15_00000_*.png", 5)
    assert create(own, IGNORE_LABEL=None).code == 0
    assert set(names) <= set(listed(own, "val"))


def test_a_split_without_any_scored_pixel_is_refused(own):
    fill(own, "test", "*.png", 6)
    refused(create(own), "none of the 9 patches in", "labels_test", "IGNORE_LABEL (5)")
    assert not list(own.base.glob("vaihingen_lmdb*"))

"""Proves that tools.final scores train, validation and test tiles (or a grid's cells) as inference and validation do."""

import shutil

import numpy as np
import pytest
from conftest import call, done, names, pixels, read_json, refused, train
from test_cells import own, scene  # noqa: F401 (fixtures)

from tools.data.dataset import SPLITS
from tools.final.table import as_text
from tools.geo.windows import Window
from tools.training import cells


def final(town, *words, **changes):
    return call("tools.final", *words, "--device", "cpu", "--config", town.config(**changes))


def test_the_table_has_train_and_val_and_test_only_when_asked_for(trained):
    ran = done(final(trained))
    found = read_json(trained.snapshots / "final.json")
    assert [name for name in found if name in ("train", "val", "test")] == ["train", "val"]
    assert found["weights"].endswith("net_best_iou.safetensors")
    history = read_json(trained.snapshots / "metrics.json")
    best = next(v for v in history["validation"] if v["iteration"] == history["best"]["iou"]["iteration"])
    assert np.abs(np.array(found["val"]["confusion"]) - best["confusion"]).sum() <= 0.01 * best["pixels"]
    lines = {" ".join(line.split()[:-2]): line.split()[-2:] for line in ran.out.splitlines()}
    assert lines["IoU building"] == [f"{100 * found[split]['iou']['building']:.2f}" for split in ("train", "val")]
    assert lines["Dice tree"] == [f"{100 * found[split]['dice']['tree']:.2f}" for split in ("train", "val")]


def test_test_tiles_are_scored_as_inference_scores_them(trained, tmp_path):
    done(final(trained, "--test", "--weights", "newest", "--splits", "val"))
    words = ["--weights", "newest", "--device", "cpu", "--config", trained.config()]
    done(call("inference", 32, "--dir", tmp_path / "maps", *words))
    found = read_json(trained.snapshots / "final.json")
    assert found["test"]["confusion"] == read_json(tmp_path / "maps" / "scores.json")["labels"]["all"]["confusion"]
    assert "train" not in found


def test_scores_of_other_splits_stay_as_long_as_the_weights_are_the_same(databases, tmp_path, without_pictures):
    town = databases.copy(tmp_path / "own", "lmdb")
    done(train(town, 2, SNAPSHOT_EVERY=1))
    done(final(town, "--test", "--weights", "newest"))
    before = read_json(town.snapshots / "final.json")
    done(final(town, "--weights", "newest", "--splits", "val"))
    assert read_json(town.snapshots / "final.json") == before
    done(final(town, "--weights", town.snapshots / "net_iter_1.safetensors", "--splits", "val"))
    assert "val" in (others := read_json(town.snapshots / "final.json")) and not {"train", "test"} & set(others)
    shutil.copy(town.snapshots / "net_iter_2.safetensors", town.snapshots / "net_iter_1.safetensors")  # another net, same name
    done(final(town, "--weights", town.snapshots / "net_iter_1.safetensors", "--splits", "train"))
    assert [name for name in read_json(town.snapshots / "final.json") if name in SPLITS] == ["train"]


@pytest.mark.parametrize("weights", ["median", (1, 2, 3, 4, 5, 0)])
def test_the_loss_that_the_net_learns_by_has_the_runs_class_weights(databases, tmp_path, without_pictures, weights):
    town = databases.copy(tmp_path / "own", "lmdb")
    changes = {"SNAPSHOT_EVERY": 2, "CLASS_WEIGHTS": weights, "LOSS": "ce + 0.5 dice"}
    done(train(town, 2, **changes))
    metrics = read_json(town.snapshots / "metrics.json")
    ran = done(final(town, "--splits", "val", "--weights", "newest", **changes))
    found = read_json(town.snapshots / "final.json")["val"]
    assert found["trained_loss"] == pytest.approx(metrics["validation"][-1]["trained_loss"], rel=1e-3)
    assert "note:" not in ran.out
    (town.snapshots / "metrics.json").unlink()
    ran = done(final(town, "--splits", "val", "--weights", "newest", **changes))
    alone = read_json(town.snapshots / "final.json")["val"]["trained_loss"]
    assert ("the loss is without them" in ran.out) == (weights == "median") == (alone != found["trained_loss"])


def test_a_grids_scene_is_labelled_by_windows_and_scored_inside_the_cells(own, without_pictures, tmp_path):  # noqa: F811
    """Cells of 18 x 18 pixels; their patches were resampled to 32 x 32, which has no part in the score."""
    done(call("training", "--niter", 3, "--device", "cpu", "--config", own.config(SNAPSHOT_EVERY=3)))
    ran = done(final(own, "--test", "--weights", "newest"))
    assert "test" in ran.out.splitlines()[1].split()
    found = read_json(own.snapshots / "final.json")
    windows = read_json(own.folder("lmdb") / "details.json")["grid"]["windows"]
    words = ["--weights", "newest", "--device", "cpu", "--dir", tmp_path / "maps", "--config", own.config()]
    done(call("inference", 1, *words))
    labels, truth = pixels(tmp_path / "maps/1_labels.tif")[0], pixels(own.path("labels", 1))[0]
    for split, count in (("train", 15), ("val", 3), ("test", 2)):
        matrix = np.zeros((6, 6), int)
        for row, col, height, width in (windows[cell] for cell in cells.cells_of(own.folder("lmdb"), split)):
            here = slice(row, row + height), slice(col, col + width)
            np.add.at(matrix, (truth[here], labels[here]), 1)
        assert found[split]["pixels"] == matrix.sum() == count * 18 * 18
        assert np.abs(matrix - found[split]["confusion"]).sum() <= 2  # ties of bf16


def test_cells_lie_where_they_lay_on_tiles_of_another_size():
    """A cell of 9 x 9 pixels at 9, 18 of a tile that nets see at half its size."""
    (area,) = cells.areas_of({"a_cell000001": [9, 18, 9, 9]}, {"a": ((72, 90), (36, 45))}).values()
    assert tuple(area.window) == (18, 36, 18, 18) and area.mask(Window(0, 0, 72, 90)).sum() == 18 * 18


def test_cells_of_tiles_that_the_config_does_not_name_are_refused(own, without_pictures):  # noqa: F811
    done(call("training", "--niter", 1, "--device", "cpu", "--config", own.config(SNAPSHOT_EVERY=1)))
    refused(
        final(own, "--test", "--weights", "newest", train_ids=[3]),
        "cells of the grid lie on 1, which the config's ids do not name",
    )


def test_test_tiles_that_there_are_not_are_refused_before_work_starts(trained):
    refused(call("tools.final", "--test", "--config", trained.config(test_ids=[])), "--test: the config's test_ids is empty")
    words = ("--niter", 100, "--test", "--restore", "--config", trained.config(test_ids=[]))
    refused(call("training", *words), "--test: the config's test_ids is empty")


def test_a_run_that_is_not_there_is_refused(trained):
    refused(final(trained, "--run", "none"), "vaihingen_snapshots_segnet_slim-none")
    assert "none" not in "".join(names(trained.base))


def test_a_score_that_is_not_known_is_a_dash():
    found = {"val": {"loss": 0.5, "overall_accuracy": None, "iou": {"a": 0.25}, "dice": {"a": None}}}
    rows = [line.split() for line in as_text(found, ["a"]).splitlines()]
    assert rows[1:3] == [["cross", "entropy", "0.5000"], ["overall", "accuracy", "-"]]
    assert rows[-2:] == [["IoU", "a", "(ignored)", "25.00"], ["Dice", "a", "(ignored)", "-"]]


def test_training_ends_with_the_table_of_its_best_validation_and_with_test_of_all_splits(databases, tmp_path, without_pictures):
    town = databases.copy(tmp_path / "own", "lmdb")
    ran = done(train(town, 2, SNAPSHOT_EVERY=2))
    best = read_json(town.snapshots / "metrics.json")["validation"][-1]
    lines = {" ".join(line.split()[:-1]): line.split()[-1] for line in ran.out.splitlines() if line.strip()}
    assert "the best weights by mean IoU, of iteration 2:" in ran.out
    assert lines["IoU building"] == f"{100 * best['iou']['building']:.2f}" and lines["Dice clutter (ignored)"]
    assert not (town.snapshots / "final.json").exists()
    ran = done(train(town, 2, "--test", "--overwrite", SNAPSHOT_EVERY=2))
    assert [name for name in read_json(town.snapshots / "final.json") if name in SPLITS] == list(SPLITS)
    assert "   train       val      test" in ran.out
    refused(train(town, 2, "--test", "--folds", 2), "--test is for one net")

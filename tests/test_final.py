"""Proves that tools.final scores train, validation and test tiles (or a grid's cells) as inference and validation do."""

import numpy as np
from conftest import call, done, names, read_json, refused
from test_cells import own, scene  # noqa: F401 (fixtures)

from tools.final.table import as_text


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


def test_a_grids_cells_have_a_final_score(own, without_pictures):  # noqa: F811
    done(call("training", "--niter", 3, "--device", "cpu", "--config", own.config(SNAPSHOT_EVERY=3)))
    ran = done(final(own, "--test"))
    found = read_json(own.snapshots / "final.json")
    assert {split: found[split]["pixels"] for split in ("val", "test")} == {"val": 3 * 32 * 32, "test": 2 * 32 * 32}
    assert "test" in ran.out.splitlines()[1].split()
    assert found["train"]["pixels"] == 15 * 32 * 32  # straight patches alone


def test_a_run_that_is_not_there_is_refused(trained):
    refused(final(trained, "--run", "none"), "vaihingen_snapshots_segnet_slim-none")
    assert "none" not in "".join(names(trained.base))


def test_a_score_that_is_not_known_is_a_dash():
    found = {"val": {"loss": 0.5, "overall_accuracy": None, "iou": {"a": 0.25}, "dice": {"a": None}}}
    rows = [line.split() for line in as_text(found, ["a"]).splitlines()]
    assert rows[1:3] == [["cross", "entropy", "0.5000"], ["overall", "accuracy", "-"]]
    assert rows[-2:] == [["IoU", "a", "(ignored)", "25.00"], ["Dice", "a", "(ignored)", "-"]]

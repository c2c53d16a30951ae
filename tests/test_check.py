"""Proves that tools.check names what training would refuse, counts classes as numpy does, and writes nothing."""

import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import TRAIN, VAL, call, done, pixels, refused, write_raster

from tools.check.__main__ import snapshots_of
from tools.check.findings import in_words, pixel_bytes
from tools.check.forecast import Forecast
from tools.settings import read_settings


def check(town, *words, **changes):
    """tools.check on a town's config, with changes."""
    return call("tools.check", "--device", "cpu", "--config", town.config(**changes), *words)


def files(folder):
    return sorted(p for p in folder.rglob("*") if p.suffix != ".xml")


def test_a_good_config_gives_a_page_and_nothing_is_written(town):
    town.config()
    before = files(town.base)
    ran = done(check(town, "--niter", 50))
    assert files(town.base) == before
    assert "nothing stands in the way" in ran.out
    assert "3 train, 1 val, 1 test" in ran.out and re.search(r"\d+ (seconds|minutes) for 50 iterations", ran.out)
    building = [np.mean(np.concatenate([pixels(town.path("labels", t)).ravel() for t in ids]) == 1) for ids in (TRAIN, VAL)]
    line = next(line for line in ran.out.splitlines() if re.search(r"1  building", line))
    assert [float(share) for share in re.findall(r"([\d.]+)%", line)][:2] == pytest.approx(
        [100 * b for b in building], abs=0.01
    )


def test_the_patches_are_as_many_as_extraction_makes(town):
    ran = done(check(town))
    made = done(call("extract_images", "--config", town.config()))
    assert re.search(r"(\d+) train", ran.out.split("patches ")[1])[1] == re.search(r"(\d+) train", made.out)[1]


def test_all_that_training_would_refuse_is_named_at_once(town):
    ran = check(town, BATCH_SIZE=5000, INIT_MODEL="nowhere.pth")
    refused(ran, "2 faults", "BATCH_SIZE = 5000", "nowhere.pth")
    assert ran.out.count("FAULT") == 2


def test_tiles_that_are_missing_or_differ_in_size_are_named(town):
    town.path("labels", 3).unlink()
    write_raster(town.path("labels", 5), np.zeros((10, 10), np.uint8), 5)
    refused(check(town), "tile 3 has no labels")


def test_windows_that_the_net_cannot_take_are_named(town):
    refused(check(town, test_patch_size=(50, 50), test_step_size=(25, 25)), "50")


def test_windows_that_suit_net_and_tiles_are_taken(town):
    assert "FAULT" not in done(check(town, test_patch_size="auto", test_step_size="auto")).out


def test_a_plateau_without_validation_tiles_is_named(town):
    refused(
        check(town, val_ids=[], LR_POLICY={"name": "plateau", "gamma": 0.1, "patience_validations": 2}), "plateau", "val_ids"
    )


def test_a_class_that_training_lacks_is_a_note(town):
    for tile in TRAIN:
        labels = pixels(town.path("labels", tile))[0]
        write_raster(town.path("labels", tile), np.where(labels == 4, 0, labels).astype(np.uint8), tile)
    assert "no pixel of car" in done(check(town)).out


def test_tiles_without_a_class_that_counts_are_refused(town):
    for tile in TRAIN:
        write_raster(town.path("labels", tile), np.full((72, 90), 5, np.uint8), tile)  # clutter, ignored
    refused(check(town), "no training tile has a pixel of a class that counts")


def test_a_disk_that_is_too_full_is_a_fault(town, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    refused(check(town), "KEEP_SNAPSHOTS", "0.0 MB free")


def test_a_run_that_is_there_is_told_before_training_refuses_it(town):
    town.snapshots.mkdir(parents=True)
    for suffix in (".safetensors", ".solverstate"):
        (town.snapshots / f"net_iter_4{suffix}").touch()
    refused(check(town), "--restore", "--overwrite")


def test_a_policy_that_ends_with_the_run_is_told_where_that_is(town):
    done(check(town, "--niter", 20, LR_POLICY={"name": "cosine"}))
    done(check(town, LR_POLICY={"name": "cosine"}, NITER=20))


def test_minutes_and_bytes_by_hand():
    assert Forecast(1, 0.6, 30, 0, None, "").minutes(100, 2) == pytest.approx(2)
    assert pixel_bytes([(3, "uint8"), (1, "float32")]) == 3 + 4 + 1
    assert (in_words(2_500_000_000), in_words(1_234_567)) == ("2.5 GB", "1.2 MB")


def test_the_best_weights_by_each_criterion_are_reckoned_with(town):
    """Snapshots at 4, 8 and 10 iterations; with validation tiles the best by loss, by mean IoU and by both, too."""
    assert snapshots_of(read_settings(town.config()), 10) == 3 + 3
    assert snapshots_of(read_settings(town.config(val_ids=[])), 10) == 3

"""K-fold: each tile is held out once and has no part in training or normalisation there, scores are averaged as by hand,
interrupted folds go on, and folds of before are replaced whole or not at all."""

import math
import re
import shutil

import numpy as np
import pytest
import torch
from conftest import TRAIN, call, names, pixels, read_json, refused, train, write_raster
from safetensors.torch import load_file

from tools.base.errors import UserError
from tools.data.loader import Patches
from tools.data.patches import tile_of
from tools.training import folds
from tools.training.run_setup import measure
from tools.weights import snapshots


@pytest.mark.parametrize(("tiles", "count"), [(10, 5), (11, 5), (5, 5), (7, 2)])
def test_every_tile_is_held_out_once_and_the_folds_are_of_equal_size(tiles, count):
    names = [(7, i) for i in range(tiles)]
    parts = folds.divide(names, count, seed=1)
    assert sorted(tile for part in parts for tile in part) == names
    assert len(parts) == count
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_the_seed_decides_which_tiles_stand_together():
    names = list(range(12))
    assert folds.divide(names, 3, 1) == folds.divide(names, 3, 1)
    assert folds.divide(names, 3, 1) != folds.divide(names, 3, 2)


def test_more_folds_than_tiles_are_refused():
    with pytest.raises(UserError, match=r"--folds 5: there are 4 training tiles"):
        folds.divide([1, 2, 3, 4], 5, 1)


def test_mean_deviation_and_interval_are_those_worked_out_by_hand():
    found = folds.spread([0.5, 0.6, 0.7, 0.8, 0.9])
    deviation = math.sqrt((0.04 + 0.01 + 0 + 0.01 + 0.04) / 4)
    reach = 2.7764451 * deviation / math.sqrt(5)  # t of 4 degrees of freedom at 0.975, from a printed table
    assert found["mean"] == pytest.approx(0.7)
    assert found["deviation"] == pytest.approx(deviation)
    assert found["interval"] == pytest.approx([0.7 - reach, 0.7 + reach])


def test_a_fold_without_the_class_is_left_out_and_one_value_has_no_interval():
    assert folds.spread([0.5, None, 0.7])["mean"] == pytest.approx(0.6)
    assert folds.spread([0.5, None, 0.7])["folds"] == 2
    alone = folds.spread([None, 0.4])
    assert (alone["mean"], alone["deviation"], alone["interval"]) == (0.4, None, None)
    assert folds.spread([None, None])["mean"] is None


def test_no_fold_divides_a_group_and_folds_are_as_even_as_groups_allow():
    tiles = [f"{town}_{part}" for town in "abcdef" for part in range(3)]
    groups = {tile: tile[0] for tile in tiles}
    held = folds.divide(tiles, 3, 1, groups)
    assert sorted(tile for fold in held for tile in fold) == sorted(tiles)
    assert [len(fold) for fold in held] == [6, 6, 6]
    assert all(len({tile[0] for tile in fold}) == 2 for fold in held)
    assert folds.divide(tiles, 3, 1, groups) != folds.divide(tiles, 3, 2, groups)
    with pytest.raises(UserError, match="6 groups of training tiles"):
        folds.divide(tiles, 7, 1, groups)


def test_intervals_stay_where_scores_can_be():
    """Student's interval of 40 and 60 % goes from -77 to 177 %."""
    assert folds.spread([0.4, 0.6])["interval"] == [0, 1]
    assert folds.spread([-0.1, 0.1], least=-1)["interval"] == [-1, 1]  # kappa
    assert folds.spread([0.50, 0.51])["interval"] == pytest.approx([0.505 - 0.06353, 0.505 + 0.06353], abs=1e-4)


def report(iou):
    by_class = {"road": iou, "car": None}
    whole = {"kappa": iou / 2, "overall_accuracy": iou, "frequency_weighted_iou_without_ignored": iou}
    means = {f"mean_{kind}_without_ignored": iou for kind in ("f1", "iou", "accuracy")}
    return whole | means | {"f1": by_class, "iou": by_class}


def test_the_table_has_a_line_for_each_score_and_class():
    found = folds.summary([report(0.4), report(0.6)])
    lines = folds.as_text(found).splitlines()
    assert len(lines) == 1 + 6 + 2 * 2
    road = next(line for line in lines if line.startswith("IoU road"))
    assert [float(n) for n in re.findall(r"-?\d+\.\d+", road)] == pytest.approx([50, 14.14, 0, 100], abs=0.01)
    assert next(line for line in lines if line.startswith("kappa")).split()[1] == "0.250"
    assert next(line for line in lines if line.startswith("IoU car")).split()[2:] == ["-", "-", "-", "0"]


@pytest.mark.parametrize(
    ("patch", "tile"),
    [
        ("3_00320_00384_r90", "3"),
        ("2_10_00000_00128", "2_10"),
        ("a_b_00000_00000_r270_f", "a_b"),
        ("x_1_cell000012_r90", "x_1"),
    ],
)
def test_the_name_of_a_patch_says_its_tile(patch, tile):
    assert tile_of(patch) == tile


# ------------------------------------------------------------------------------------------------------ with training.py


@pytest.fixture
def own(databases, tmp_path, without_pictures):
    """A town with databases."""
    return databases.copy(tmp_path / "own", "lmdb")


@pytest.mark.parametrize("kind", ["mean", "standard", "percentile"])
def test_the_tiles_that_a_fold_holds_out_have_no_part_in_its_normalisation(own, kind):
    images = {tile: pixels(own.path("irrg", tile)) for tile in TRAIN}
    images[3][:, :40] = 0  # what a file holds where it has no data is no part of it either
    write_raster(own.path("irrg", 3), images[3], 3, nodata=0)
    images[3] = images[3][:, None, (images[3] > 0).all(0)]
    assert train_folds(own, 1, NORMALISATION={"irrg": kind}, TILE_MEMORY_MB=1).code == 0
    for number in range(1, len(TRAIN) + 1):
        held_out = read_json(folder(own) / f"fold_{number}" / "metrics.json")["settings"]["val_ids"]
        kept = [images[tile][::-1].reshape(3, -1) for tile in TRAIN if tile not in held_out]
        seen = np.concatenate(kept, 1).astype(np.float64)  # B, G, R
        low, high = np.percentile(seen, [2, 98], axis=1)
        mean, scale = {"mean": (seen.mean(1), None), "standard": (seen.mean(1), seen.std(1)), "percentile": (low, high - low)}[
            kind
        ]
        given = snapshots.load_net(folder(own) / f"fold_{number}" / "net_iter_1.safetensors")[1]["inputs"][0]
        assert given["fill"] == read_json(own.folder("lmdb") / "details.json")["modalities"]["irrg"]["mean"][::-1]
        assert given["mean"] == pytest.approx(mean, rel=1e-12)
        assert given.get("deviation") == (scale if scale is None else pytest.approx(scale, rel=1e-12))


def test_a_fold_measures_nothing_where_the_normalisation_is_given(own, monkeypatch):
    monkeypatch.setattr("tools.training.run_setup.measure", None)
    assert train_folds(own, 1, MEAN_PIXEL={"irrg": (1.0, 2.0, 3.0)}).code == 0
    assert train_folds(own, 1, "--overwrite", NORMALISATION={"irrg": "imagenet"}).code == 0


def test_a_raster_is_measured_in_strips_as_in_one(own):
    path = own.path("irrg", 3)
    whole, strips = measure(path, 10**9), measure(path, 7 * 90 * 3)
    assert strips.mean == pytest.approx(pixels(path).mean((1, 2)))
    found, expected = strips.to_dict(), whole.to_dict()
    np.testing.assert_allclose(found.pop("percentiles")["values"], expected.pop("percentiles")["values"])
    assert found == {name: pytest.approx(values) for name, values in expected.items()}


def train_folds(town, niter, *words, **changes):
    changes = {"SNAPSHOT_EVERY": 100, "WORKERS": 0} | changes
    return train(town, niter, "--folds", len(TRAIN), *words, **changes)


def folder(town):
    return town.snapshots.with_name(town.snapshots.name + "_folds")


def test_each_fold_learns_from_the_other_tiles_alone_and_is_scored_on_its_own(own, monkeypatch):
    opened = []  # the patches that were read, with the number of the fold

    def read(patches, i):
        runs = {id(p): n for n, p in enumerate(alive, 1)}
        opened.append((runs[id(patches)], patches.names[i]))
        return real_read(patches, i)

    def begin(patches, *words):
        alive.append(patches)
        real_init(patches, *words)

    alive, real_read, real_init = [], Patches.read, Patches.__init__
    monkeypatch.setattr(Patches, "read", read)
    monkeypatch.setattr(Patches, "__init__", begin)
    ran = train_folds(own, 2)
    assert ran.code == 0, ran.err
    held_out = []
    for number in range(1, len(TRAIN) + 1):
        metrics = read_json(folder(own) / f"fold_{number}" / "metrics.json")
        held_out += metrics["settings"]["val_ids"]
        mine = {tile_of(name) for run, name in opened if run == number}
        assert mine
        assert mine <= {str(t) for t in TRAIN} - {str(t) for t in metrics["settings"]["val_ids"]}
        truth = pixels(own.path("labels", metrics["settings"]["val_ids"][0]))
        assert metrics["validation"][-1]["pixels"] == (truth < 6).sum()
    assert sorted(held_out) == sorted(TRAIN)
    found = read_json(folder(own) / "folds.json")
    each = [read_json(folder(own) / f"fold_{n}" / "metrics.json")["validation"][-1] for n in range(1, len(TRAIN) + 1)]
    assert found["overall accuracy"]["mean"] == pytest.approx(np.mean([e["overall_accuracy"] for e in each]))
    assert "overall accuracy" in ran.out


def test_folds_that_were_interrupted_go_on_and_end_as_unbroken_ones(own):
    assert train_folds(own, 3).code == 0
    whole = {n: load_file(folder(own) / f"fold_{n}" / "net_iter_3.safetensors") for n in range(1, len(TRAIN) + 1)}
    first = read_json(folder(own) / "folds.json")
    shutil.rmtree(folder(own) / f"fold_{len(TRAIN)}")
    (folder(own) / "folds.json").unlink()
    kept = {p: p.stat().st_mtime_ns for p in folder(own).rglob("*.safetensors")}
    ran = train_folds(own, 3, "--restore")
    assert ran.code == 0, ran.err
    assert ran.out.count("is done already") == len(TRAIN) - 1
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    again = load_file(folder(own) / f"fold_{len(TRAIN)}" / "net_iter_3.safetensors")
    assert all(torch.equal(again[name], value) for name, value in whole[len(TRAIN)].items())
    assert read_json(folder(own) / "folds.json") == first


def test_a_fold_that_was_killed_before_its_first_snapshot_begins_anew(own):
    assert train_folds(own, 2).code == 0
    whole = load_file(folder(own) / "fold_2" / "net_iter_2.safetensors")
    for path in (folder(own) / "fold_2").glob("net_iter_*"):
        path.unlink()
    assert list((folder(own) / "fold_2").glob("net_best_*"))
    assert train_folds(own, 2, "--restore").code == 0
    again = load_file(folder(own) / "fold_2" / "net_iter_2.safetensors")
    assert all(torch.equal(again[name], value) for name, value in whole.items())


def test_fewer_folds_replace_all_of_before_and_nothing_of_the_users(own):
    assert train_folds(own, 1).code == 0
    for number in (4, 5):
        shutil.copytree(folder(own) / "fold_3", folder(own) / f"fold_{number}")
    (folder(own) / "fold_4" / "notes.txt").write_text("mine")
    (folder(own) / "fold_of_mine").mkdir()
    before = {p: p.read_bytes() for p in folder(own).rglob("*") if p.is_file()}
    assert train_folds(own, 1, "--overwrite", BATCH_SIZE=5000).code == 2
    assert {p: p.read_bytes() for p in folder(own).rglob("*") if p.is_file()} == before  # a mistake costs nothing
    ran = call("training", "--niter", 1, "--folds", 2, "--overwrite", "--config", own.config(SNAPSHOT_EVERY=100))
    assert ran.code == 0, ran.err
    assert names(folder(own)) == ["fold_1", "fold_2", "fold_4", "fold_of_mine", "folds.json"]
    assert names(folder(own) / "fold_4") == ["notes.txt"]


def interrupt(*_):
    raise KeyboardInterrupt


@pytest.mark.slow
def test_a_fold_of_before_is_not_taken_for_one_that_is_done_where_it_was_to_be_replaced(own, monkeypatch):
    assert train_folds(own, 1).code == 0
    before = {p: p.read_bytes() for p in folder(own).rglob("*") if p.is_file()}
    save = snapshots.save
    monkeypatch.setattr("tools.training.loop.Loop._snapshot", interrupt)
    assert train_folds(own, 1, "--overwrite").code == 130
    assert {p: p.read_bytes() for p in folder(own).rglob("*") if p.is_file()} == before  # nothing new is whole
    monkeypatch.undo()
    monkeypatch.setattr(snapshots, "save", lambda place, *a: interrupt() if place.name == "fold_2" else save(place, *a))
    assert train_folds(own, 1, "--overwrite").code == 130
    assert not snapshots.found(folder(own) / "fold_2")
    assert not (folder(own) / "folds.json").exists()
    monkeypatch.undo()
    ran = train_folds(own, 1, "--restore")
    assert (ran.code, ran.out.count("is done already")) == (0, 1), ran.err


def test_later_folds_of_before_are_noticed_before_the_first_is_trained(own):
    assert train_folds(own, 1).code == 0
    shutil.rmtree(folder(own) / "fold_1")
    refused(train_folds(own, 1), folder(own) / "fold_2", "holds snapshots", "--overwrite")
    assert not (folder(own) / "fold_1").exists()


@pytest.mark.parametrize("text", [None, "{", '{"settings": {}, "database": {"fingerprint": 1}}'])
def test_a_finished_fold_whose_scores_are_lost_is_named_with_the_remedy(own, text):
    assert train_folds(own, 2).code == 0
    first = read_json(folder(own) / "folds.json")
    lost = folder(own) / "fold_2"
    (lost / "metrics.json").unlink() if text is None else (lost / "metrics.json").write_text(text)
    refused(train_folds(own, 2, "--restore"), lost, "its metrics.json, where its scores stood, is missing or damaged", "remove")
    shutil.rmtree(lost)
    assert train_folds(own, 2, "--restore").code == 0
    assert read_json(folder(own) / "folds.json") == first


def test_what_does_not_go_with_folds_is_refused(own, tmp_path):
    refused(train_folds(own, 2, "--plot", tmp_path / "a.png"), "--plot and --graph name one file")
    refused(train_folds(own, 2, "--restore", tmp_path / "net_iter_5.solverstate"), "--restore alone")
    assert train_folds(own, 1).code == 0
    refused(train_folds(own, 1), "holds snapshots", "--restore", "--overwrite")
    refused(train_folds(own, 1, "--restore", BASE_LR=0.002), "BASE_LR = 0.002", "--overwrite")
    assert train_folds(own, 1, "--overwrite", BASE_LR=0.002).code == 0

"""Proves that the best weights are kept beside the numbered snapshots, which are whole or not there, go when they are too
many, give way to the one before when they are broken, and cost no training when the disk is full."""

import errno
import os

import numpy as np
import pytest
import torch
from conftest import done, names, read_json, refused, train
from safetensors.torch import load_file

from tools.base.errors import UserError
from tools.record.history import Validation
from tools.training import validation
from tools.training.trainer import Trainer
from tools.weights import snapshots

BESTS = [f"net_best_{criterion}.safetensors" for criterion in ("combined", "iou", "loss")]


@pytest.fixture
def own(databases, tmp_path, without_pictures):
    """A town with databases, to be spoilt, without validation to be quick."""
    town = databases.copy(tmp_path / "own", "lmdb")
    town.changes = {"val_ids": [], "SNAPSHOT_EVERY": 1}
    return town


def numbers(folder):
    """The iterations of the whole snapshots in a folder."""
    return [snapshots.iteration_of(path) for path in snapshots.found(folder)]


def log(town):
    return (town.snapshots / "training.log").read_text()


# ------------------------------------------------------------------------------------------------------ the best weights


@pytest.fixture
def scored(own, monkeypatch):
    """A town in which validation finds what is told: {iteration: (loss, mean IoU)}; later ones find what the last one found."""
    told, now = {}, {}
    step = Trainer.step

    def watched(self, *batch):
        step(self, *batch)
        now["iteration"] = self.iteration

    def found(*_):
        loss, iou = told[max(i for i in told if i <= now["iteration"])]
        scores = {"loss": loss, "mean_iou_without_ignored": iou, "overall_accuracy": iou, "iou": {}}
        return Validation(scores, np.zeros((2, 6, 3), np.uint8))

    monkeypatch.setattr(Trainer, "step", watched)
    monkeypatch.setattr(validation, "validate", found)
    own.changes |= {"val_ids": [15], "VAL_EVERY": 1}
    own.told = told
    return own


def best(town):
    """The iteration of the best weights by criterion, as their metadata have it."""
    files = {c: town.snapshots / f"net_best_{c}.safetensors" for c in ("loss", "iou", "combined")}
    return {criterion: snapshots.load_net(path)[1]["iteration"] for criterion, path in files.items()}


def test_the_best_weights_are_those_of_the_best_iterations(scored):
    scored.told |= {1: (0.5, 0.4), 2: (0.8, 0.6), 3: (0.52, 0.58), 4: (0.7, 0.5)}
    done(train(scored, 4))
    assert best(scored) == {"loss": 1, "iou": 2, "combined": 3}
    for criterion, iteration in best(scored).items():
        kept = load_file(scored.snapshots / f"net_best_{criterion}.safetensors")
        numbered = load_file(scored.snapshots / f"net_iter_{iteration}.safetensors")
        assert all(torch.equal(kept[name], value) for name, value in numbered.items())
        scores = snapshots.load_net(scored.snapshots / f"net_best_{criterion}.safetensors")[1]["scores"]
        assert (scores["loss"], scores["mean_iou_without_ignored"]) == scored.told[iteration]
    assert snapshots.newest(scored.snapshots).name == "net_iter_4.safetensors"


def test_weights_that_an_update_has_spoilt_are_not_kept_as_the_best(scored, monkeypatch):
    scored.told |= {1: (0.5, 0.4), 2: (0.1, 0.9)}
    step = Trainer.step

    def spoils(self, *batch):
        step(self, *batch)
        if self.iteration == 2:
            next(self.net.parameters()).data.fill_(float("inf"))

    monkeypatch.setattr(Trainer, "step", spoils)
    refused(train(scored, 3, SNAPSHOT_EVERY=3), "the weights are not finite after iteration 2", "Its patches: ")
    assert best(scored) == {"loss": 1, "iou": 1, "combined": 1}


def test_a_restored_run_knows_the_best_ones_of_before(scored, tmp_path):
    scored.told |= {1: (0.5, 0.4), 2: (0.6, 0.3), 3: (0.55, 0.5), 4: (0.9, 0.1)}
    done(train(scored, 2))
    done(train(scored, 4, "--restore"))
    assert best(scored) == {"loss": 1, "iou": 3, "combined": 3}
    found = read_json(scored.snapshots / "metrics.json")["best"]
    assert {name: b["iteration"] for name, b in found.items()} == best(scored)


def test_best_weights_that_are_gone_do_not_keep_later_ones_out(scored):
    scored.told |= {1: (0.5, 0.4), 2: (0.6, 0.3)}
    done(train(scored, 1))
    (scored.snapshots / "net_best_iou.safetensors").unlink()
    ran = done(train(scored, 2, "--restore"))
    assert "warning: no net_best_* lies beside the snapshot for iou" in ran.err
    assert best(scored) == {"loss": 1, "iou": 2, "combined": 1}
    found = read_json(scored.snapshots / "metrics.json")["best"]
    assert {name: b["iteration"] for name, b in found.items()} == best(scored)


def test_a_run_that_goes_on_elsewhere_takes_its_best_weights_along(scored, tmp_path):
    scored.told |= {1: (0.5, 0.4), 2: (0.6, 0.3)}
    done(train(scored, 1))
    done(train(scored, 2, "--snapshot", tmp_path / "new", "--restore", scored.snapshots))
    assert numbers(tmp_path / "new") == [2]
    for name in BESTS:
        assert (tmp_path / "new" / name).read_bytes() == (scored.snapshots / name).read_bytes()
    assert [v["iteration"] for v in read_json(tmp_path / "new/metrics.json")["validation"]] == [1, 2]


def test_a_run_does_not_go_on_in_a_folder_of_another_run_unless_that_may_be_replaced(own, tmp_path):
    done(train(own, 1))
    other = tmp_path / "other"
    done(train(own, 3, "--snapshot", other))
    before = (other / "net_iter_3.safetensors").read_bytes()
    start = own.snapshots / "net_iter_1.solverstate"
    refused(train(own, 2, "--restore", start, "--snapshot", other), f"{other} holds another run", "--overwrite")
    assert (other / "net_iter_3.safetensors").read_bytes() == before
    done(train(own, 2, "--restore", start, "--snapshot", other, "--overwrite"))
    assert numbers(other) == [2]


def test_best_weights_of_a_later_iteration_than_the_restored_one_are_named(scored):
    scored.told |= {1: (0.5, 0.4), 2: (0.4, 0.3)}
    done(train(scored, 2))
    ran = done(train(scored, 3, "--restore", scored.snapshots / "net_iter_1.solverstate", SNAPSHOT_EVERY=3))
    assert "holds later weights" in ran.err
    assert "net_iter_2.safetensors, net_best_loss.safetensors" in ran.err


def test_best_weights_alone_are_no_snapshot_to_go_on_from(own):
    done(train(own, 1))
    for name in ("net_iter_1.safetensors", "net_iter_1.solverstate"):
        (own.snapshots / name).rename(own.snapshots / name.replace("iter_1", "best_iou"))
    refused(train(own, 2, "--restore"), own.snapshots, "has no snapshot")
    refused(train(own, 1), own.snapshots, "holds best weights", "--overwrite")  # and are not lost to a new run
    done(train(own, 1, "--overwrite"))
    assert numbers(own.snapshots) == [1]
    assert not snapshots.bests(own.snapshots)


def test_patience_stops_training_aloud_with_a_snapshot(scored):
    scored.told |= {1: (0.5, 0.5), 2: (0.4, 0.5), 3: (0.45, 0.4)}
    ran = done(train(scored, 50, PATIENCE=2, SNAPSHOT_EVERY=100))
    assert numbers(scored.snapshots) == [4]
    assert "stopped early: 2 validations without a better one" in ran.out
    assert "stopped early" in log(scored)
    assert best(scored) == {"loss": 2, "iou": 1, "combined": 2}


def test_patience_without_validation_tiles_is_refused_and_val_every_is_said_to_have_no_effect(own):
    refused(train(own, 1, PATIENCE=3), "PATIENCE = 3", "val_ids is empty")
    assert not own.snapshots.exists()
    ran = train(own, 1, VAL_EVERY=3)
    assert ran.code == 0 and "VAL_EVERY = 3 has no effect" in ran.out + ran.err


def test_patience_goes_on_counting_in_a_restored_run_and_may_be_given_more(scored):
    scored.told |= {1: (0.5, 0.5)}
    done(train(scored, 2, PATIENCE=3))
    done(train(scored, 50, "--restore", PATIENCE=3))
    assert numbers(scored.snapshots)[-1] == 4
    done(train(scored, 50, "--restore", PATIENCE=5))
    assert numbers(scored.snapshots)[-1] == 6


# ----------------------------------------------------------------------------------------------------- how many are kept


@pytest.mark.parametrize(("keep", "left"), [(1, [4]), (2, [3, 4]), (9, [1, 2, 3, 4]), (None, [1, 2, 3, 4])])
def test_the_newest_snapshots_stay_and_the_best_weights_always(own, keep, left):
    done(train(own, 4, KEEP_SNAPSHOTS=keep, val_ids=[15], VAL_EVERY=1))
    assert numbers(own.snapshots) == left
    files = [f"net_iter_{i}.{suffix}" for i in left for suffix in ("safetensors", "solverstate")]
    assert [n for n in names(own.snapshots) if n.startswith("net_")] == sorted([*BESTS, *files])


def test_the_old_snapshot_stays_until_the_new_one_is_whole(own, monkeypatch):
    there = []
    save = torch.save
    monkeypatch.setattr(torch, "save", lambda *words: (there.append(numbers(own.snapshots)), save(*words)))
    done(train(own, 3, KEEP_SNAPSHOTS=1))
    assert there == [[], [1], [2]]


def test_a_restored_run_keeps_its_own_new_snapshot_beside_later_ones_of_before(own):
    done(train(own, 4))
    done(train(own, 2, "--restore", own.snapshots / "net_iter_1.solverstate", KEEP_SNAPSHOTS=1))
    assert numbers(own.snapshots) == [2, 3, 4]


def test_others_may_read_the_weights_as_they_may_read_any_new_file(own):
    done(train(own, 1, val_ids=[15]))
    (own.snapshots / "new").touch()
    for name in ("net_iter_1.safetensors", "net_best_iou.safetensors", "net_iter_1.solverstate", "metrics.json"):
        assert (own.snapshots / name).stat().st_mode == (own.snapshots / "new").stat().st_mode, name


# ------------------------------------------------------------------------------------------------------- which is restored


@pytest.mark.parametrize("where", ["nothing", "folder", "elsewhere"])
def test_without_a_file_the_newest_snapshot_is_restored(own, where, tmp_path):
    done(train(own, 2))
    if where == "elsewhere":
        own.snapshots.rename(tmp_path / "moved")
    words = {"nothing": [], "folder": [own.snapshots], "elsewhere": [tmp_path / "moved"]}[where]
    ran = done(train(own, 3, "--restore", *words))
    assert "net_iter_2.solverstate, iteration 2" in ran.out
    assert numbers(own.snapshots)[-1] == 3


@pytest.mark.parametrize("suffix", ["safetensors", "solverstate"])
def test_the_weights_file_names_a_snapshot_as_well(own, suffix):
    done(train(own, 2))
    done(train(own, 3, "--restore", own.snapshots / f"net_iter_1.{suffix}"))
    assert "net_iter_1.solverstate, iteration 1" in log(own)


def test_there_must_be_one(own, tmp_path):
    refused(train(own, 2, "--restore"), own.snapshots, "has no snapshot")
    (tmp_path / "empty").mkdir()
    refused(train(own, 2, "--restore", tmp_path / "empty"), tmp_path / "empty", "has no snapshot")


def cut_off(path):
    os.truncate(path, path.stat().st_size // 2)


def empty(path):
    path.write_bytes(b"")


def other_bytes(path):
    path.write_bytes(b"\x00" * path.stat().st_size)


@pytest.mark.parametrize("suffix", ["safetensors", "solverstate"])
@pytest.mark.parametrize("spoil", [cut_off, empty, other_bytes])
def test_a_broken_newest_snapshot_gives_way_to_the_one_before_aloud(own, suffix, spoil):
    done(train(own, 3))
    whole = {n: v.clone() for n, v in load_file(own.snapshots / "net_iter_3.safetensors").items()}  # it is mapped to the file
    spoil(own.snapshots / f"net_iter_3.{suffix}")
    ran = done(train(own, 3, "--restore"))
    assert "warning: the snapshot of iteration 3 is broken, the one before it is taken" in ran.err
    assert str(own.snapshots / f"net_iter_3.{suffix}") in ran.err
    assert "iteration 3 is broken" in log(own)
    assert "net_iter_2.solverstate, iteration 2" in ran.out
    again = load_file(own.snapshots / "net_iter_3.safetensors")
    assert all(torch.equal(again[name], value) for name, value in whole.items())


def spoil_state(change):
    """What spoils an entry of a solverstate that can be read."""

    def spoil(path):
        state = torch.load(path, weights_only=True)
        change(state)
        torch.save(state, path)

    return spoil


STATES = {
    "no policy": lambda s: s.pop("policy"),
    "no optimizer": lambda s: s.update(optimizer={"name": "sgd"}),
    "a text": lambda s: s.update(optimizer="sgd"),
    "other momentum": lambda s: next(iter(s["optimizer"]["state"].values())).update(momentum_buffer=torch.zeros(3)),
    "no random state": lambda s: s.update(random=torch.zeros(7, dtype=torch.uint8)),
    "losses are a text": lambda s: s.update(losses="none"),
    "iteration is a text": lambda s: s.update(iteration="3"),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", STATES.values(), ids=STATES)
def test_whatever_is_wrong_with_the_newest_solverstate_the_one_before_is_taken(own, change):
    done(train(own, 3))
    spoil_state(change)(own.snapshots / "net_iter_3.solverstate")
    ran = done(train(own, 3, "--restore"))
    assert "warning: the snapshot of iteration 3 is broken, the one before it is taken" in ran.err
    assert "net_iter_2.solverstate, iteration 2" in ran.out


def test_weights_without_a_solverstate_are_named_and_not_called_nothing(own):
    done(train(own, 1))
    (own.snapshots / "net_iter_1.solverstate").unlink()
    refused(train(own, 2, "--restore"), "net_iter_1.safetensors", "--weights", "--init")


@pytest.mark.parametrize("suffix", ["safetensors", "solverstate"])
def test_a_broken_snapshot_that_was_named_is_an_error(own, suffix):
    done(train(own, 2))
    cut_off(own.snapshots / f"net_iter_2.{suffix}")
    refused(train(own, 3, "--restore", own.snapshots / "net_iter_2.solverstate"), own.snapshots / f"net_iter_2.{suffix}")


def test_where_all_are_broken_it_is_said(own):
    done(train(own, 2))
    for i in (1, 2):
        cut_off(own.snapshots / f"net_iter_{i}.solverstate")
    refused(train(own, 3, "--restore"), "none of the snapshots in", own.snapshots)


def test_what_a_killed_run_left_half_written_is_cleared_away(own):
    done(train(own, 1))
    for name in (".net_iter_7.partial.safetensors", ".net_best_iou.partial.safetensors", ".mine.partial.txt"):
        (own.snapshots / name).write_bytes(b"half")
    done(train(own, 2, "--restore"))
    assert [n for n in names(own.snapshots) if "partial" in n] == [".mine.partial.txt"]


# ------------------------------------------------------------------------------------------------------------- a full disk


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def no_room(monkeypatch, what, iterations):
    """Half of a file is written, then the disk is full: at the weights or at the solverstate of these iterations."""
    module, name = {"weights": (snapshots, "save_file"), "solverstate": (torch, "save")}[what]
    write = getattr(module, name)

    def limited(content, path, *more):
        if any(f"iter_{i}.partial" in path.name for i in iterations):
            path.write_bytes(b"half")
            full()
        write(content, path, *more)

    monkeypatch.setattr(module, name, limited)


@pytest.mark.parametrize("what", ["weights", "solverstate"])
def test_a_disk_that_is_full_at_a_snapshot_is_warned_of_and_training_goes_on(own, monkeypatch, what):
    done(train(own, 1))
    before = [(own.snapshots / f"net_iter_1.{s}").read_bytes() for s in ("safetensors", "solverstate")]
    no_room(monkeypatch, what, [2])
    ran = done(train(own, 3, "--restore", KEEP_SNAPSHOTS=2))
    assert "warning: the snapshot of iteration 2 was not written, training goes on: the disk is full" in ran.err
    assert "the snapshot of iteration 2 was not written" in log(own)
    assert numbers(own.snapshots) == [1, 3]
    assert [(own.snapshots / f"net_iter_1.{s}").read_bytes() for s in ("safetensors", "solverstate")] == before
    assert not [n for n in names(own.snapshots) if "partial" in n or "iter_2" in n]


def test_a_run_that_ends_without_its_last_snapshot_says_so_with_exit_code_2(own, monkeypatch):
    no_room(monkeypatch, "solverstate", [2, 3])
    refused(train(own, 3), "the disk is full", "iteration 3, the last one, is in no snapshot (the newest is of iteration 1)")
    assert numbers(own.snapshots) == [1]


@pytest.mark.parametrize("what", ["weights", "solverstate"])
def test_a_snapshot_of_before_that_cannot_be_replaced_stays(own, monkeypatch, what):
    done(train(own, 2))
    before = [(own.snapshots / f"net_iter_2.{s}").read_bytes() for s in ("safetensors", "solverstate")]
    no_room(monkeypatch, what, [2])
    done(train(own, 3, "--restore", own.snapshots / "net_iter_1.solverstate"))
    assert [(own.snapshots / f"net_iter_2.{s}").read_bytes() for s in ("safetensors", "solverstate")] == before


def test_records_and_best_weights_that_find_no_room_are_warned_of(own, monkeypatch):
    monkeypatch.setattr("tools.record.history.write_json", full)
    monkeypatch.setattr("tools.record.tensorboard._append", full)
    monkeypatch.setattr("tools.record.plots.loss_plot", full)
    monkeypatch.setattr(snapshots, "save_best", full)
    ran = done(train(own, 1, val_ids=[15]))
    for name in ("metrics.json", "TensorBoard", "loss.png", "net_best_iou.safetensors"):
        assert any(name in line and "not written, training goes on" in line for line in ran.err.splitlines()), name
    assert numbers(own.snapshots) == [1]


def test_best_weights_that_found_no_room_do_not_count_as_the_best(scored, monkeypatch):
    scored.told |= {1: (0.9, 0.3), 2: (0.5, 0.6), 3: (0.6, 0.5), 4: (0.7, 0.4)}
    save = snapshots.save_best

    def limited(folder, criterion, iteration, *more):
        if iteration == 2 and criterion != "loss":
            full()
        return save(folder, criterion, iteration, *more)

    monkeypatch.setattr(snapshots, "save_best", limited)
    ran = done(train(scored, 2))
    assert "net_best_iou.safetensors was not written, training goes on" in ran.err
    assert best(scored) == {"loss": 2, "iou": 1, "combined": 1}  # those of before stay, in the records, too
    found = read_json(scored.snapshots / "metrics.json")["best"]
    assert {name: b["iteration"] for name, b in found.items()} == best(scored)
    done(train(scored, 4, "--restore"))
    assert best(scored) == {"loss": 2, "iou": 3, "combined": 3}


def test_other_faults_of_a_disk_are_not_hidden(own, monkeypatch):
    def broken(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(torch, "save", broken)
    refused(train(own, 1), "the disk or the network it lies on fails")


# ------------------------------------------------------------------------------------------------- what cannot be trained


@pytest.mark.parametrize("changes", [{"BATCH_SIZE": 5000}, {"BATCH_SIZE": 50, "ITER_SIZE": 100}])
def test_a_batch_larger_than_the_database_is_refused(own, changes):
    refused(train(own, 1, **changes), f"BATCH_SIZE = {changes['BATCH_SIZE']}", "is more than the", "patches in")
    assert not own.snapshots.exists()


def test_a_snapshot_with_a_name_of_its_own_cannot_be_counted(tmp_path):
    (tmp_path / "net_iter_best.safetensors").write_bytes(b"")
    (tmp_path / "net_iter_best.solverstate").write_bytes(b"")
    with pytest.raises(UserError, match="has no snapshot"):
        snapshots.newest(tmp_path)


def test_a_folder_where_a_snapshot_is_wanted_is_called_so(tmp_path):
    with pytest.raises(UserError, match="is a folder: name a snapshot in it"):
        snapshots.read_weights(tmp_path)

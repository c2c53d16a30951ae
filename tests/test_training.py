"""Proves that training learns, leaves whole snapshots and pictures, obeys signals, and refuses what it cannot go on with."""

import os
import pickle
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import NAMES, REPO, TRAIN, VAL, call, done, names, pixels, read_json, refused, spawn, train, wait_for
from matplotlib.figure import Figure
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from tools.base.locks import locked
from tools.compute.device import Device
from tools.data.inputs import Input
from tools.data.patches import read_patch, write_patch
from tools.labels import pictures
from tools.solver.losses import NO_LOSS, masked_cross_entropy
from tools.solver.solver import Solver
from tools.training.trainer import Trainer
from tools.weights import snapshots

CPU = Device(torch.device("cpu"), bf16=False)
SNAPSHOT_1 = ["net_iter_1.safetensors", "net_iter_1.solverstate"]


@pytest.fixture
def own(databases, tmp_path, without_pictures):
    """A town with databases, to be spoilt, without validation to be quick."""
    town = databases.copy(tmp_path / "own", "lmdb")
    town.changes = {"val_ids": []}
    return town


def weights(town, iteration):
    return load_file(town.snapshots / f"net_iter_{iteration}.safetensors")


def same(first, second):
    return set(first) == set(second) and all(torch.equal(first[name], second[name]) for name in first)


# ------------------------------------------------------------------------------------------------------ what it leaves


def test_the_loss_goes_down(trained):
    losses = snapshots.load_state(trained.snapshots / "net_iter_150.solverstate")["losses"]
    assert len(losses) == 150
    assert losses[-20:].mean() < 0.5 * losses[:20].mean()


def test_the_net_knows_more_of_the_validation_tile_than_its_commonest_class(trained):
    truth = pixels(trained.path("labels", 15))[0]
    found = {v["iteration"]: v for v in read_json(trained.snapshots / "metrics.json")["validation"]}
    shares = np.bincount(truth.ravel(), minlength=6) / truth.size
    assert set(found) == {80, 150}
    if_all_were_the_commonest = shares.max() / 5  # the mean IoU of five classes
    assert found[150]["mean_iou_without_ignored"] > 2 * if_all_were_the_commonest


def test_snapshots_best_weights_records_and_pictures_are_there_and_nothing_else(trained):
    files = ["loss.png", "metrics.json", "net.png"]
    files += [f"net_best_{criterion}.safetensors" for criterion in ("combined", "iou", "loss")]
    files += [f"net_iter_{i}.{suffix}" for i in (150, 80) for suffix in ("safetensors", "solverstate")]
    files += ["tensorboard", "training.log"]
    assert names(trained.snapshots) == files
    for name in ("loss.png", "net.png"):
        assert (trained.snapshots / name).read_bytes().startswith(b"\x89PNG")


def test_a_snapshot_says_all_that_is_needed_to_use_it(trained):
    with safe_open(trained.snapshots / "net_iter_150.safetensors", "pt") as file:
        assert {"net", "name", "inputs", "classes", "palette", "ignored", "iteration"} <= set(file.metadata())
    net, about = snapshots.load_net(trained.snapshots / "net_iter_150.safetensors")
    assert (about["name"], about["iteration"], about["classes"], about["ignored"]) == ("segnet_slim", 150, NAMES, [5])
    values = np.concatenate([pixels(trained.path("irrg", t)).reshape(3, -1) for t in TRAIN], axis=1)
    np.testing.assert_allclose(about["inputs"][0]["mean"], values.mean(1)[::-1], rtol=1e-6)  # BGR
    assert same(net.state_dict(), load_file(trained.snapshots / "net_iter_150.safetensors"))


def test_loss_rate_and_speed_are_shown(own):
    ran = done(train(own, 4, "--update", 2))
    assert all(word in ran.err for word in ("loss ", "rate 0.0", "images/s", "4/4"))
    assert "net_iter_4.safetensors" in ran.out


def test_files_go_where_the_command_line_says(own, tmp_path):
    words = ["--snapshot", tmp_path / "snaps", "--plot", tmp_path / "p/plot.png", "--graph", tmp_path / "g/graph.png"]
    done(train(own, 1, *words))
    assert names(tmp_path / "snaps") == ["metrics.json", *SNAPSHOT_1, "tensorboard", "training.log"]
    assert names(tmp_path / "p") == ["plot.png"]
    assert names(tmp_path / "g") == ["graph.png"]
    assert not own.snapshots.exists()


def test_the_seed_decides_the_weights(own):
    found = []
    for seed in (1, 1, 2):
        done(train(own, 2, "--overwrite", SEED=seed))
        found.append(weights(own, 2))
    assert same(found[0], found[1])
    assert not same(found[0], found[2])


def test_layers_that_came_with_weights_learn_at_half_rate(own, tmp_path, monkeypatch):
    done(train(own, 1))
    shutil.copy(own.snapshots / "net_iter_1.safetensors", tmp_path / "first.safetensors")
    multipliers, step = {}, Trainer.step

    def watched(self, *batch):
        step(self, *batch)
        groups = self.solver.optimizer.param_groups
        multipliers.update({id(p): group["lr_mult"] for group in groups for p in group["params"]})
        multipliers.update({name: multipliers[id(p)] for name, p in self.net.named_parameters()})

    monkeypatch.setattr(Trainer, "step", watched)
    done(train(own, 1, "--init", tmp_path / "first.safetensors", "--overwrite"))
    assert (multipliers["conv1_1.weight"], multipliers["conv1_1.bias"], multipliers["conv1_1.bn.weight"]) == (0.5, 1, 0.5)
    assert "conv1_1" in snapshots.load_state(own.snapshots / "net_iter_1.solverstate")["pretrained"]


# ------------------------------------------------------------------------------------------------------------- restoring


def test_a_folder_in_the_place_of_a_snapshot_is_named_before_a_run_goes_on(own):
    done(train(own, 2))
    blocked = own.snapshots / "net_iter_3.safetensors"
    blocked.mkdir()
    before = {path: path.stat().st_mtime_ns for path in own.snapshots.iterdir()}
    refused(train(own, 3, "--restore"), blocked, "is a folder where a snapshot belongs: remove it")
    assert {path: path.stat().st_mtime_ns for path in own.snapshots.iterdir()} == before


def test_a_restored_run_needs_more_iterations_than_are_done(own):
    done(train(own, 2))
    refused(train(own, 2, "--restore", own.snapshots / "net_iter_2.solverstate"), "--niter 2: 2 iterations are done already")


def test_a_snapshot_of_another_net_is_refused(own, trained):
    state = trained.snapshots / "net_iter_80.solverstate"
    refused(train(own, 100, "--restore", state, NET="segnet"), state, "is of the net segnet_slim", "config builds (segnet)")


def test_a_snapshot_with_another_mean_is_refused(own, trained):
    state = trained.snapshots / "net_iter_80.solverstate"
    refused(train(own, 100, "--restore", state, MEAN_PIXEL={"irrg": (1, 2, 3)}), state)


def test_a_solverstate_of_another_net_beside_the_weights_is_refused(own, tmp_path):
    done(train(own, 1))
    state = snapshots.load_state(own.snapshots / "net_iter_1.solverstate")
    del state["optimizer"]["state"]["conv1_1.weight"]
    torch.save(state, own.snapshots / "net_iter_1.solverstate")
    ran = train(own, 2, "--restore", own.snapshots / "net_iter_1.solverstate")
    refused(ran, "the solverstate is of another net or solver")


def cut_off(path):
    os.truncate(path, path.stat().st_size * 2 // 3)


def in_caffes_format(path):
    path.write_bytes(b"\x08\xe8\x07\x12\x1d_iter_1000.caffemodel")


def something_else(path):
    torch.save({"model": torch.zeros(3)}, path)


def half_of_it(path):
    torch.save({"iteration": 1, "model": torch.zeros(3)}, path)


@pytest.mark.parametrize("spoil", [cut_off, in_caffes_format, something_else, half_of_it])
def test_a_broken_or_foreign_solverstate_is_refused(own, spoil):
    done(train(own, 1))
    state = own.snapshots / "net_iter_1.solverstate"
    spoil(state)
    refused(train(own, 2, "--restore", state), state)


class Evil:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("write", [torch.save, lambda what, path: path.write_bytes(pickle.dumps(what))])
def test_a_solverstate_that_holds_code_is_refused_and_the_code_is_not_run(own, tmp_path, write):
    done(train(own, 1))
    state = own.snapshots / "net_iter_1.solverstate"
    write({"iteration": Evil(tmp_path / "owned")}, state)
    refused(train(own, 2, "--restore", state), state)
    assert not (tmp_path / "owned").exists()


def test_weights_that_hold_code_are_refused_and_the_code_is_not_run(own, tmp_path):
    for name in ("evil.pth", "evil.caffemodel", "evil.safetensors"):
        torch.save({"conv1_1.weight": Evil(tmp_path / "owned")}, tmp_path / name)
        refused(train(own, 1, "--init", tmp_path / name), tmp_path / name)
    assert not (tmp_path / "owned").exists()


def test_a_solverstate_without_its_weights_is_refused(own):
    done(train(own, 1))
    (own.snapshots / "net_iter_1.safetensors").unlink()
    ran = train(own, 2, "--restore", own.snapshots / "net_iter_1.solverstate")
    refused(ran, own.snapshots / "net_iter_1.safetensors", "does not exist")
    refused(train(own, 2, "--restore", "nowhere.solverstate"), "nowhere.solverstate does not exist")


def test_weights_and_a_snapshot_to_restore_do_not_go_together(own, trained):
    state = trained.snapshots / "net_iter_80.solverstate"
    refused(train(own, 100, "--restore", state, "--init", "vgg16"), "--init and --restore do not go together")


# --------------------------------------------------------------------------------------------------- nothing is overwritten


def test_earlier_snapshots_are_refused_and_replaced_only_on_request(own):
    done(train(own, 2))
    before = weights(own, 2)
    (own.snapshots / "notes.txt").write_text("mine")
    refused(train(own, 1), own.snapshots, "holds snapshots", "--restore", "--overwrite")
    assert same(weights(own, 2), before)
    done(train(own, 1, "--overwrite"))
    records = ["tensorboard", "training.log"]
    assert names(own.snapshots) == ["loss.png", "metrics.json", "net.png", *SNAPSHOT_1, "notes.txt", *records]
    assert read_json(own.snapshots / "metrics.json")["sessions"][0]["iteration"] == 0
    assert len(names(own.snapshots / "tensorboard")) == 1
    assert "iteration 2" not in (own.snapshots / "training.log").read_text()


@pytest.mark.parametrize(
    ("niter", "changes"),
    [(3, {"LR_POLICY": {"name": "stepp"}}), (3, {"INIT_MODEL": "none.safetensors"}), (3, {"NET": "sgnet"})],
)
def test_a_mistake_beside_overwrite_does_not_cost_the_earlier_snapshots(own, niter, changes):
    done(train(own, 1))
    assert train(own, niter, "--overwrite", **changes).code == 2
    assert snapshots.newest(own.snapshots).name == "net_iter_1.safetensors"


def files_of(folder):
    """All files below a folder, with what is in them."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_that_comes_to_nothing_costs_not_the_one_that_it_was_to_replace(own):
    done(train(own, 1))
    (own.snapshots / "notes.txt").write_text("mine")
    before = files_of(own.snapshots)
    refused(train(own, 3, "--overwrite", BASE_LR=1e30), "earlier snapshots are as they were")
    assert files_of(own.snapshots) == before


KILLED = """
import os, sys
import training
from tools.base.errors import run
from tools.record import earlier
from tools.training import loop
place, moves = sys.argv.pop(1), 0
def die(*_):
    os.kill(os.getpid(), 9)
move = earlier._move
def move_some(*paths):
    global moves
    moves += 1
    move(*paths)
    if moves == 3:
        die()
if place == "while it is set aside":
    earlier._move = move_some
elif place == "before the first snapshot":
    loop.Loop._snapshot = die
else:
    earlier.forget = die
run(training.main)
"""


@pytest.mark.slow
@pytest.mark.parametrize("place", ["while it is set aside", "before the first snapshot", "after the first snapshot"])
def test_a_kill_costs_not_the_run_that_was_to_be_replaced_until_the_first_snapshot_is_whole(own, place):
    done(train(own, 1))
    before = files_of(own.snapshots)
    words = ["--niter", "2", "--device", "cpu", "--overwrite", "--config", str(own.config(SEED=3))]
    environment = os.environ | {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, "-c", KILLED, place, *words], cwd=REPO, env=environment, check=False)
    assert ran.returncode == -9
    refused(train(own, 5), "holds snapshots")  # a start mends what there is to be mended
    if place == "after the first snapshot":
        assert snapshots.newest(own.snapshots).name == "net_iter_2.safetensors"
        assert not list(own.snapshots.glob("net_iter_1.*"))
    else:
        assert files_of(own.snapshots) == before
    assert not list(own.snapshots.glob(".before*"))


@pytest.mark.parametrize("option", ["--plot", "--graph"])
def test_a_file_that_is_no_such_picture_is_not_replaced_by_one(own, tmp_path, option):
    (tmp_path / "notes.png").write_text("the only copy")
    refused(train(own, 1, option, tmp_path / "notes.png", "--overwrite"), tmp_path / "notes.png", "no picture that training.py")
    assert (tmp_path / "notes.png").read_text() == "the only copy"


def test_a_picture_of_ours_is_known_by_what_it_says_of_itself(tmp_path):
    for suffix in ("png", "pdf", "svg"):
        path = tmp_path / f"a.{suffix}"
        pictures.save(Figure(), path)
        pictures.refuse_others(path)  # which would raise


@pytest.mark.parametrize("name", ["net_iter_4.safetensors", "net_iter_4.solverstate"])
def test_half_a_snapshot_is_not_replaced_without_overwrite(own, name):
    own.snapshots.mkdir()
    (own.snapshots / name).write_text("the only copy")
    refused(train(own, 1), own.snapshots, name, "no whole snapshot", "--overwrite")
    assert (own.snapshots / name).read_text() == "the only copy"


def test_two_trainings_never_write_into_one_folder(own):
    with locked(own.snapshots):
        ran = train(own, 1)
    refused(ran, own.snapshots, "is being written by")
    assert not own.snapshots.exists()


# ------------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"patch_size": (64, 64)}, "patch_size = [32, 32], the config says [64, 64]"),
        ({"label_values": [*NAMES[:5], "rubbish"]}, "classes = "),
        ({"BGR": False}, "bgr = True, the config says False"),
        ({"train_ids": [1, 3]}, "train_ids = ['1', '3', '5'], the config says ['1', '3']"),
        ({"INPUTS": {"a": ["irrg", "dsm"]}}, "has no dsm"),
        ({"NET": "segnet_slimm"}, "Did you mean 'segnet_slim'?"),
        ({"FOLDER_SUFFIX": "_b"}, "vaihingen_lmdb_b does not exist: make it with create_db.py"),
    ],
)
def test_databases_of_another_config_are_refused(own, changes, words):
    refused(train(own, 1, **changes), words)


def test_a_database_that_breaks_off_is_refused(own):
    path = own.folder("lmdb") / "irrg_train/data.mdb"
    os.truncate(path, path.stat().st_size // 2)
    refused(train(own, 1), path.parent, "breaks off")


def test_windows_that_the_net_cannot_take_are_refused_before_training_begins(own):
    ran = train(own, 1, val_ids=[15], test_patch_size=(40, 40), test_step_size=(40, 40))
    refused(ran, "cannot take images of 40x40 pixels", "multiples of 32")
    assert "training: " not in ran.err  # no progress bar


def test_validation_tiles_have_windows_that_suit_net_and_tile(own, without_pictures):
    ran = train(own, 1, val_ids=[15], test_patch_size="auto", test_step_size="auto")
    assert ran.code == 0, ran.err
    assert "validation" in ran.out


def test_validation_tiles_that_are_missing_are_named_before_training_begins(own):
    own.path("labels", 15).unlink()
    ran = train(own, 1, val_ids=[15])
    refused(ran, own.path("labels", 15), "matches no file")
    assert "training: " not in ran.err  # no progress bar


def test_a_device_that_is_not_there_is_refused(own):
    for name in ("cuda:99", "abacus"):
        ran = call("training", "--niter", 1, "--device", name, "--config", own.config())
        refused(ran, f"--device {name}")


def test_a_loss_that_is_no_number_stops_with_the_iteration_named_and_the_last_snapshot_as_it_was(own):
    done(train(own, 4))
    before = [(own.snapshots / f"net_iter_4.{s}").read_bytes() for s in ("safetensors", "solverstate")]
    state = own.snapshots / "net_iter_4.solverstate"
    ran = train(own, 200, "--restore", state, "--update", 1, BASE_LR=1e30, SNAPSHOT_EVERY=100)
    refused(ran, "the loss is", "at iteration ", "BASE_LR")
    iteration = int(ran.sentence.split("at iteration ")[1].split(":")[0])
    assert 5 <= iteration <= 8
    assert [(own.snapshots / f"net_iter_4.{s}").read_bytes() for s in ("safetensors", "solverstate")] == before
    assert snapshots.newest(own.snapshots).name == "net_iter_4.safetensors"


# --------------------------------------------------------------------------------------------------------------- signals


def signals_at(monkeypatch, at):
    """Send signals to ourselves during these iterations: {iteration: signal}."""
    step = Trainer.step

    def watched(self, *batch):
        step(self, *batch)
        if self.iteration in at:
            os.kill(os.getpid(), at[self.iteration])

    monkeypatch.setattr(Trainer, "step", watched)


def test_sighup_writes_a_snapshot_and_goes_on(own, monkeypatch):
    signals_at(monkeypatch, {2: signal.SIGHUP})
    done(train(own, 4, SNAPSHOT_EVERY=100))
    assert [p.name for p in snapshots.found(own.snapshots)] == ["net_iter_2.safetensors", "net_iter_4.safetensors"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_sigterm_and_ctrl_c_write_a_snapshot_and_stop(own, monkeypatch, number):
    before = signal.getsignal(number)
    signals_at(monkeypatch, {3: number})
    ran = done(train(own, 100, SNAPSHOT_EVERY=100))
    assert [p.name for p in snapshots.found(own.snapshots)] == ["net_iter_3.safetensors"]
    assert "a snapshot after this iteration, then stop" in ran.err
    assert signal.getsignal(number) == before


def test_before_it_stops_the_net_is_validated_and_its_best_weights_are_kept(own, monkeypatch):
    signals_at(monkeypatch, {3: signal.SIGINT})
    done(train(own, 100, SNAPSHOT_EVERY=100, val_ids=VAL))
    assert [v["iteration"] for v in read_json(own.snapshots / "metrics.json")["validation"]] == [3]
    assert len(list(own.snapshots.glob("net_best_*"))) == 3
    state = snapshots.load_state(own.snapshots / "net_iter_3.solverstate")
    assert state["selection"]["best"]["iou"][0] == 3  # a restored run does not replace them by worse ones
    assert state["selection"]["waited"] == 0  # patience counts validations at their time


def test_minutes_stop_a_run_with_a_validation_and_a_snapshot(own, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("tools.solver.deadline.time.monotonic", lambda: now[0])
    step = Trainer.step

    def slow(self, *batch):
        step(self, *batch)
        now[0] += 20

    monkeypatch.setattr(Trainer, "step", slow)
    cosine = {"LR_POLICY": {"name": "cosine", "max_iterations": 1000}, "BASE_LR": 0.1}
    words = ["--minutes", 2, "--device", "cpu", "--update", 1]
    done(call("training", *words, "--config", own.config(SNAPSHOT_EVERY=100, val_ids=VAL, **cosine)))
    assert [p.name for p in snapshots.found(own.snapshots)] == ["net_iter_6.safetensors"]
    found = read_json(own.snapshots / "metrics.json")
    assert [v["iteration"] for v in found["validation"]] == [6]
    rates = [entry["rate"] for entry in found["training"]]  # shown after the step, when its time has passed
    expected = [0.1 * (1 + np.cos(np.pi * min(int(1000 * i / 6), 999) / 1000)) / 2 for i in range(1, 7)]
    assert rates == pytest.approx(expected)
    refused(train(own, 3, "--minutes", 2), "not allowed with")


@pytest.mark.slow
def test_a_ctrl_c_that_reaches_the_workers_too_stops_with_a_snapshot(own):
    config = own.config(WORKERS=2, SNAPSHOT_EVERY=3)
    with spawn("training", "--niter", 10**6, "--device", "cpu", "--config", config) as process:
        wait_for(lambda: snapshots.found(own.snapshots), process)
        os.killpg(process.pid, signal.SIGHUP)
        os.killpg(process.pid, signal.SIGINT)  # what a terminal does
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert f"newest snapshot: {snapshots.newest(own.snapshots)}" in out


# -------------------------------------------------------------------------------------------------------------- the step


def test_the_loss_is_caffes_mean_over_the_pixels_that_count():
    logits = torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    target = torch.arange(40).reshape(2, 4, 5) % 4
    target[target == 3] = NO_LOSS
    share = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(1, keepdims=True)
    each = [-np.log(share[n, target[n, i, j], i, j]) for n, i, j in np.argwhere(target.numpy() != NO_LOSS)]
    assert len(each) == 30
    assert masked_cross_entropy(logits, target).item() == pytest.approx(np.mean(each))


def test_a_batch_in_which_nothing_counts_has_no_loss_and_no_gradient():
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = masked_cross_entropy(logits, torch.full((1, 2, 2), NO_LOSS))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().sum() == 0


class Logits(nn.Module):
    """A net whose output is its one parameter."""

    classes = 6

    def __init__(self):
        super().__init__()
        self.value = nn.Parameter(torch.zeros(1, 6, 1, 8))

    def forward(self, x):
        return self.value


def gradient(labels, ignored):
    """What one step changes in the logits of each pixel."""
    net = Logits()
    solver = Solver(net, 1.0, {"name": "fixed"}, {"name": "sgd", "momentum": 0.0, "weight_decay": 0.0})
    trainer = Trainer(net, solver, [Input("x", ("x",), (1,), False, (0.0,))], ignored, CPU)
    trainer.step([torch.zeros(1, 1, 1, 8)], torch.tensor(labels, dtype=torch.uint8).view(1, 1, 8))
    return net.value.detach().abs().sum(1).view(8)


def test_ignored_classes_and_labels_beyond_the_classes_give_no_gradient():
    assert (gradient([0, 1, 2, 3, 4, 5, 6, 255], [5]) > 0).tolist() == [True] * 5 + [False] * 3
    assert (gradient([0, 1, 2, 3, 4, 5, 6, 255], []) > 0).tolist() == [True] * 6 + [False] * 2
    assert (gradient([0, 1, 2, 3, 4, 5, 6, 255], [0, 5]) > 0).tolist() == [False] + [True] * 4 + [False] * 3


def test_a_class_that_the_data_lack_makes_nothing_infinite():
    assert torch.isfinite(gradient([0, 0, 0, 0, 0, 0, 0, 0], [5])).all()


def test_a_class_that_no_training_patch_has_is_warned_of_before_training(patches, databases, tmp_path):
    own = patches.copy(tmp_path / "own", "patches")
    for file in (own.folder("patches") / "labels_train").glob("*.png"):
        labels = read_patch(file)
        write_patch(file, np.where(labels == 4, 0, labels))
    assert call("create_db", "--config", own.config()).code == 0
    told = done(train(own, 1))
    assert "training has no pixel of car: no map will show it" in told.out + told.err
    told = done(train(databases, 1, "--snapshot", tmp_path / "whole"))
    assert "no pixel of" not in told.out + told.err

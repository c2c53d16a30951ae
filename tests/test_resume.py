"""Proves that a run which is killed and restored ends with the weights of one that was never stopped, bit for bit on the
CPU."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from conftest import call, read_json, wait_for

from tools.training.trainer import Trainer
from tools.weights import snapshots

NITER, EVERY = 10, 4
POLICY = {"name": "step", "step_iterations": 5, "gamma": 0.5}  # so that the rate, too, must go on as it was


class PowerCutError(BaseException):
    """Nothing catches it."""


def train(town, niter=NITER, **changes):
    """Start anew, or go on from the newest snapshot where there is one."""
    words = ["--niter", niter, "--device", "cpu", "--config", town.config(SNAPSHOT_EVERY=EVERY, LR_POLICY=POLICY, **changes)]
    if snapshots.found(town.snapshots):
        words += ["--restore", snapshots.newest(town.snapshots).with_suffix(".solverstate")]
    ran = call("training", *words)
    assert ran.code == 0, ran.err


def outcome(town, niter=NITER):
    """All that the last snapshot of a run holds, less the best validations.

    A run in two parts has one more of them, at the end of its first part.
    """
    path = town.snapshots / f"net_iter_{niter}.safetensors"
    weights, metadata = snapshots.read_weights(path)
    state = snapshots.load_state(path.with_suffix(".solverstate"))
    del state["selection"]["best"]
    return {"weights": weights, "metadata": metadata, "state": state}


def assert_equal(found, expected):
    """Equal to the last bit, throughout dicts and lists."""
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert set(found) == set(expected)
        for key in expected:
            assert_equal(found[key], expected[key])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_equal(one, other)
    else:
        assert found == expected


@pytest.fixture(scope="module")
def unbroken(databases, tmp_path_factory):
    """What a run that is never stopped ends with."""
    town = databases.copy(tmp_path_factory.mktemp("unbroken"), "lmdb")
    train(town)
    return outcome(town)


@pytest.fixture
def own(databases, tmp_path, without_pictures):
    return databases.copy(tmp_path / "own", "lmdb")


def after(monkeypatch, iteration, happens):
    """Let something happen once, right after an iteration."""
    step = Trainer.step

    def watched(self, *batch):
        step(self, *batch)
        if self.iteration == iteration:
            monkeypatch.setattr(Trainer, "step", step)
            happens()

    monkeypatch.setattr(Trainer, "step", watched)


def cut_the_power():
    raise PowerCutError


@pytest.mark.parametrize("iteration", [2, 4, 5, 8, 9, 10])
def test_a_run_that_was_cut_off_and_restored_ends_bit_for_bit_as_if_never_stopped(own, unbroken, monkeypatch, iteration):
    after(monkeypatch, iteration, cut_the_power)
    with pytest.raises(PowerCutError):
        train(own)
    assert len(snapshots.found(own.snapshots)) == (iteration - 1) // EVERY  # the last one was not written any more
    train(own)
    assert_equal(outcome(own), unbroken)


@pytest.mark.parametrize("iteration", [1, 6, 7])
def test_a_run_that_was_stopped_by_a_signal_off_the_beat_ends_as_if_never_stopped(own, unbroken, monkeypatch, iteration):
    after(monkeypatch, iteration, lambda: os.kill(os.getpid(), signal.SIGTERM))
    train(own)
    assert snapshots.newest(own.snapshots).name == f"net_iter_{iteration}.safetensors"
    torch.manual_seed(1234)  # another process would begin with another random state
    train(own)
    assert_equal(outcome(own), unbroken)


def test_a_run_that_was_cut_off_twice_ends_as_if_never_stopped(own, unbroken, monkeypatch):
    for iteration in (5, 9):
        after(monkeypatch, iteration, cut_the_power)
        with pytest.raises(PowerCutError):
            train(own)
    train(own)
    assert_equal(outcome(own), unbroken)


def test_a_run_that_was_cut_off_between_the_two_files_of_a_snapshot_goes_on_from_the_one_before(own, unbroken, monkeypatch):
    replace = Path.replace

    def cut_off(path, target):
        if target.name == "net_iter_8.solverstate":
            monkeypatch.setattr(Path, "replace", replace)
            raise PowerCutError
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", cut_off)
    with pytest.raises(PowerCutError):
        train(own)
    assert (own.snapshots / "net_iter_8.safetensors").exists()
    assert snapshots.newest(own.snapshots).name == "net_iter_4.safetensors"
    train(own)
    assert_equal(outcome(own), unbroken)


def test_a_run_in_two_parts_is_one_run(own, unbroken):
    train(own, 3)
    train(own, 7)
    train(own)
    assert_equal(outcome(own), unbroken)


def test_the_readers_make_no_difference(own, unbroken, monkeypatch):
    after(monkeypatch, 6, cut_the_power)
    with pytest.raises(PowerCutError):
        train(own, WORKERS=1)
    train(own, WORKERS=2)
    assert_equal(outcome(own), unbroken)


# ------------------------------------------------------------------------------------------------- 20 kills, two recipes

KILLS = 20
PLAIN = {"WORKERS": 0, "LR_POLICY": POLICY}
ALL = {
    "WORKERS": 2, "SOLVER": {"name": "adamw", "weight_decay": 0.01}, "BASE_LR": 0.002, "EMA_DECAY": 0.9, "ITER_SIZE": 2,
    "LR_POLICY": {"name": "cosine", "max_iterations": 1000, "warmup_iterations": 10}, "BATCH_SIZE": 2, "GRADIENT_CLIP": 5.0,
    "LOSS": "ce + 0.5 dice", "CLASS_WEIGHTS": "median",
    "AUGMENTATION": {"rare": {}, "cutmix": {}, "rotate": {"degrees": 30}, "flip": {}, "noise": {"modalities": ["irrg"]}},
}  # fmt: skip


def words_of(town, niter, changes):
    """The command line of a run that goes on from the newest snapshot if there is one."""
    config = town.config(SNAPSHOT_EVERY=2, VAL_EVERY=3, KEEP_SNAPSHOTS=3, **changes)
    words = ["--niter", niter, "--update", 2, "--device", "cpu", "--config", config]
    return [*words, "--restore"] if snapshots.found(town.snapshots) else words


class Forked:
    """training.py in a process of its own, which has all that is imported already; ends with SIGKILL to it and its workers."""

    def __init__(self, words):
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            try:
                os._exit(call("training", *words).code)
            finally:
                os._exit(1)

    def poll(self):
        """Its exit code, None while it runs."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None

    def kill(self):
        os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def iterations_in_log(town):
    """How often a run has said how it goes: every two iterations, those that were done again counted again."""
    path = town.snapshots / "training.log"
    return path.read_text().count(": loss ") if path.exists() else 0


def assert_nothing_is_corrupt(town):
    """All that stands under a final name can be read."""
    for path in town.snapshots.glob("net_*.safetensors"):
        snapshots.load_net(path)
    for path in town.snapshots.glob("net_*.solverstate"):
        snapshots.load_state(path)
    metrics = town.snapshots / "metrics.json"
    assert not metrics.exists() or read_json(metrics)["training"]


def everything(town, niter):
    """What a run leaves: the last snapshots, the state with the best validations, the best weights, the history."""
    found = read_json(town.snapshots / "metrics.json")
    weights = [*snapshots.found(town.snapshots), *snapshots.bests(town.snapshots)]
    return {
        "state": snapshots.load_state(town.snapshots / f"net_iter_{niter}.solverstate"),
        "weights": {path.name: list(snapshots.read_weights(path)) for path in weights},
        "training": [{k: v for k, v in entry.items() if k != "images_per_second"} for entry in found["training"]],
        "validation": found["validation"],
        "best": found["best"],
    }


@pytest.mark.slow
@pytest.mark.parametrize("changes", [PLAIN, ALL], ids=["plain", "all"])
def test_a_run_that_is_killed_twenty_times_leaves_what_an_unbroken_one_leaves(databases, tmp_path, changes, without_pictures):
    """The kills come at random moments 2 to 8 iterations later each time, whatever the run is doing then."""
    killed, unbroken = (databases.copy(tmp_path / name, "lmdb") for name in ("killed", "unbroken"))
    niter, dice, begun_at = 200, random.Random(0), []
    for _ in range(KILLS):
        target = iterations_in_log(killed) + dice.randint(1, 4)
        process = Forked(words_of(killed, niter, changes))
        wait_for(lambda: iterations_in_log(killed) >= target)  # noqa: B023
        time.sleep(0.05 * dice.random())
        assert process.poll() is None, "it was done before the last kill: make it longer"
        process.kill()
        assert_nothing_is_corrupt(killed)
        begun_at.append(max(map(snapshots.iteration_of, snapshots.found(killed.snapshots)), default=0))
    assert len(set(begun_at)) > KILLS / 2  # it got on between most of them
    for town in (killed, unbroken):
        ran = call("training", *words_of(town, niter, changes))
        assert ran.code == 0, ran.err
    assert_equal(everything(killed, niter), everything(unbroken, niter))

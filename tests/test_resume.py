"""Proves that a run which is killed and restored ends with the weights of one that was never stopped, bit for bit on the
CPU."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from conftest import call, kill, spawn, wait_for

from tools import snapshots
from tools.trainer import Trainer

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


@pytest.mark.slow
def test_a_process_that_is_killed_at_random_moments_ends_as_if_never_killed(databases, tmp_path):
    towns = [databases.copy(tmp_path / name, "lmdb") for name in ("killed", "unbroken")]
    niter, kills, dice = 40, 2, random.Random(0)
    changes = {"SNAPSHOT_EVERY": 3, "LR_POLICY": POLICY, "WORKERS": 1, "val_ids": []}
    for town in towns:
        config = town.config(**changes)
        while not (town.snapshots / f"net_iter_{niter}.solverstate").exists():
            words = ["--niter", niter, "--device", "cpu", "--config", config]
            before = snapshots.found(town.snapshots)
            if before:
                words += ["--restore", before[-1].with_suffix(".solverstate")]
            with spawn("training", *words) as process:
                if town is towns[0] and kills:
                    wait_for(lambda: len(snapshots.found(town.snapshots)) > len(before), process)  # noqa: B023
                    time.sleep(dice.random() / 5)
                    kill(process)
                    kills -= 1
                else:
                    _, err = process.communicate(timeout=300)
                    assert process.returncode == 0, err
    assert kills == 0
    assert_equal(outcome(towns[0], niter), outcome(towns[1], niter))

"""Proves that threads sleep while they wait on a busy machine alone, else spin shortly, and that a user's own choice wins."""

import sys

import pytest

from tools.compute.waiting import choose_waiting

BUSY, QUIET, JUST_BEGUN = "2.31 1.80 1.20 3/411 9911", "0.05 0.10 0.20 1/400 77", "0.05 0.10 0.20 3/400 77"


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)  # as at the start of a script

    def write(text):
        (tmp_path / "loadavg").write_text(text + "\n")
        return tmp_path / "loadavg"

    return write


@pytest.mark.parametrize(("text", "passive"), [(BUSY, True), (QUIET, False), (JUST_BEGUN, False), ("nonsense", False)])
def test_threads_sleep_if_other_programs_are_busy_and_spin_shortly_if_not(load, text, passive):
    environment = {}
    assert choose_waiting(environment, load(text)) is passive
    assert environment == ({"OMP_WAIT_POLICY": "PASSIVE"} if passive else {"GOMP_SPINCOUNT": "20000"})


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_a_users_own_choice_wins(load, name):
    environment = {name: "17"}
    assert not choose_waiting(environment, load(BUSY))
    assert environment == {name: "17"}


def test_it_is_too_late_once_pytorch_is_there(load, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", object())
    environment = {}
    assert not choose_waiting(environment, load(BUSY))
    assert not environment


def test_a_machine_that_does_not_say_how_busy_it_is_counts_as_free(load, tmp_path):
    environment = {}
    assert not choose_waiting(environment, tmp_path / "none")
    assert environment == {"GOMP_SPINCOUNT": "20000"}

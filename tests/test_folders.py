"""Proves that outputs are whole or not there: whatever ends a run, nothing half made stands under the final name."""

import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import REPO, names

from tools.base.errors import UserError
from tools.base.folders import DETAILS, read_details, require, whole_file, whole_folder, write_details, write_json


def test_a_folder_appears_when_the_block_ends_well(tmp_path):
    with whole_folder(tmp_path / "out") as folder:
        (folder / "a.txt").write_text("a")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out/a.txt").read_text() == "a"
    assert names(tmp_path) == ["out"]


def test_a_folder_of_which_the_making_fails_is_not_there(tmp_path):
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "out") as folder:
        (folder / "a.txt").write_text("a")
        raise ZeroDivisionError
    assert not names(tmp_path)


def test_a_killed_run_leaves_nothing_under_the_final_name_and_the_next_run_starts_clean(tmp_path):
    code = """
import os, signal, sys
from tools.base.folders import whole_folder
with whole_folder(sys.argv[1]) as folder:
    (folder / "half.txt").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code, tmp_path / "out"], cwd=REPO, check=False)
    assert (tmp_path / "out.partial/half.txt").exists()  # it was at work
    assert not (tmp_path / "out").exists()
    with whole_folder(tmp_path / "out") as folder:
        (folder / "whole.txt").write_text("whole")
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["whole.txt"]


def test_an_existing_folder_is_refused_and_stays_as_it_was(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    with pytest.raises(UserError, match=r"exists already.*--overwrite"), whole_folder(tmp_path / "out"):
        raise AssertionError("the block must not begin")
    assert (tmp_path / "out/mine.txt").read_text() == "mine"


def test_an_existing_file_of_that_name_is_refused(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match="exists already"), whole_folder(tmp_path / "out"):
        raise AssertionError("the block must not begin")


def test_an_empty_folder_may_be_filled(tmp_path):
    (tmp_path / "out").mkdir()
    with whole_folder(tmp_path / "out") as folder:
        (folder / "a.txt").write_text("a")
    assert (tmp_path / "out/a.txt").exists()


def make(folder, text, overwrite=False):
    with whole_folder(folder, overwrite) as temporary:
        (temporary / "a.txt").write_text(text)
        write_details(temporary, what=text)


def test_the_old_folder_is_kept_until_the_new_one_is_whole(tmp_path):
    make(tmp_path / "out", "old")
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "out", overwrite=True) as folder:
        (folder / "a.txt").write_text("new")
        assert (tmp_path / "out/a.txt").read_text() == "old"
        raise ZeroDivisionError
    assert (tmp_path / "out/a.txt").read_text() == "old"
    make(tmp_path / "out", "new", overwrite=True)
    assert (tmp_path / "out/a.txt").read_text() == "new"
    assert names(tmp_path) == ["out"]


def test_overwrite_replaces_outputs_of_ours_and_nothing_else(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/wedding.jpg").write_text("the only copy")
    with pytest.raises(UserError, match="no output of ours"), whole_folder(tmp_path / "photos", overwrite=True):
        raise AssertionError("the block must not begin")
    assert (tmp_path / "photos/wedding.jpg").exists()


def test_the_current_folder_can_be_named_as_output(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    make(".", "a")
    assert (tmp_path / "here/a.txt").read_text() == "a"
    assert names(tmp_path) == ["here"]


def test_a_link_to_another_disk_stays_a_link(tmp_path):
    (tmp_path / "big disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "big disk")
    make(tmp_path / "out", "a")
    make(tmp_path / "out", "b", overwrite=True)
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "big disk/a.txt").read_text() == "b"


def test_a_folder_that_the_user_called_old_is_left_alone(tmp_path):
    make(tmp_path / "out", "a")
    (tmp_path / "out.old").mkdir()
    make(tmp_path / "out", "b", overwrite=True)
    assert names(tmp_path) == ["out", "out.old"]


def test_a_file_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "sub/a.json"
    write_json(path, {"n": 1})
    with pytest.raises(ZeroDivisionError), whole_file(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert json.loads(path.read_text()) == {"n": 1}
    assert names(path.parent) == ["a.json"]


def test_details_hold_paths_and_numpy_numbers(tmp_path):
    write_details(tmp_path, size=np.int64(3), mean=np.array([0.5, 1.5]), file=tmp_path)
    found = read_details(tmp_path)
    assert (found["size"], found["mean"], found["file"]) == (3, [0.5, 1.5], str(tmp_path))


def test_a_folder_without_details_or_with_damaged_ones_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no details\.json"):
        read_details(tmp_path)
    (tmp_path / DETAILS).write_text('{"made')
    with pytest.raises(UserError, match="damaged"):
        read_details(tmp_path)


def test_a_setting_that_differs_from_the_details_is_named_with_both_values(tmp_path):
    require({"patch_size": [32, 32]}, tmp_path, "extract_images.py", patch_size=[32, 32])
    with pytest.raises(UserError, match=r"patch_size = \[32, 32\], the config says \[64, 64\].*extract_images\.py --overwrite"):
        require({"patch_size": [32, 32]}, tmp_path, "extract_images.py", patch_size=[64, 64])

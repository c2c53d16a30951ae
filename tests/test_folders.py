"""Proves that outputs are whole or not there: whatever ends a run, nothing half made stands under the final name."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import REPO, names

from tools.base import exchange
from tools.base.errors import UserError
from tools.base.folders import (
    DETAILS,
    read_details,
    refuse_existing,
    require,
    whole_file,
    whole_folder,
    write_details,
    write_json,
)
from tools.base.forms import read_json


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


def test_a_folder_in_which_a_killed_run_left_nothing_but_a_part_of_a_file_counts_as_empty(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/.details.partial.json").write_text('{"made')
    with whole_folder(tmp_path / "out") as folder:
        (folder / "a.txt").write_text("a")
    assert names(tmp_path / "out") == ["a.txt"]
    (tmp_path / "out2").mkdir()
    (tmp_path / "out2/.mine.txt").touch()
    with pytest.raises(UserError, match="exists already"):
        refuse_existing(tmp_path / "out2", overwrite=False)


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


def made(folder, text, by="a script", more=(), overwrite=True):
    """An output of a script, with more files."""
    with whole_folder(folder, overwrite, by) as temporary:
        for name in ["a.txt", *more]:
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            (temporary / name).write_text(text)
        write_details(temporary, **{"made by": by})


def test_overwrite_replaces_only_what_the_same_script_made(tmp_path):
    made(tmp_path / "out", "old", by="create_db.py")
    with pytest.raises(UserError, match=r"was made by create_db\.py, not by inference\.py"):
        made(tmp_path / "out", "new", by="inference.py")
    assert (tmp_path / "out/a.txt").read_text() == "old"


@pytest.mark.parametrize("exchanged", [True, False])
def test_overwrite_keeps_what_others_put_into_the_folder(tmp_path, monkeypatch, exchanged):
    if not exchanged:
        monkeypatch.setattr(exchange, "exchange", lambda *_: False)
    many = [f"patches/{i}.png" for i in range(150)]
    made(tmp_path / "out", "old", more=["sub/b.txt", *many])
    foreign = ("notes.txt", "sub/mine.txt", "patches/mine.txt", "other/deep/mine.txt")
    for name in foreign:
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_text("mine")
    (tmp_path / "out/link").symlink_to("notes.txt")
    for _ in range(2):
        made(tmp_path / "out", "new", more=["c.txt"])
        assert names(tmp_path) == ["out"]
        assert names(tmp_path / "out") == ["a.txt", "c.txt", DETAILS, "link", "notes.txt", "other", "patches", "sub"]
        assert {(tmp_path / "out" / name).read_text() for name in (*foreign, "link")} == {"mine"}
        assert names(tmp_path / "out/patches") == ["mine.txt"]
        assert (tmp_path / "out/a.txt").read_text() == "new"


def test_overwrite_is_refused_if_what_others_put_there_looks_like_ours_or_would_be_replaced(tmp_path):
    made(tmp_path / "out", "old", more=[f"patches/{i}.png" for i in range(150)])
    (tmp_path / "out/patches/mine.png").write_text("mine")
    with pytest.raises(UserError, match=r"151 now, 150 then"):
        made(tmp_path / "out", "new")
    (tmp_path / "out/patches/mine.png").unlink()
    (tmp_path / "out/c.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds c\.txt"):
        made(tmp_path / "out", "new", more=["c.txt"])
    assert (tmp_path / "out/c.txt").read_text() == "mine"
    assert (tmp_path / "out/a.txt").read_text() == "old"


@pytest.mark.parametrize("output", ["data", "data/images", "data/images/maps"])
@pytest.mark.parametrize("given", ["data/images", "data/images/1.tif"])
def test_an_output_around_its_inputs_or_inside_a_folder_of_them_is_refused(tmp_path, output, given):
    (tmp_path / "data/images").mkdir(parents=True)
    (tmp_path / "data/images/1.tif").touch()
    beside = (output, given) == ("data/images/maps", "data/images/1.tif")
    with contextlib.nullcontext() if beside else pytest.raises(UserError, match="choose another place for the output"):
        refuse_existing(tmp_path / output, True, "a script", [tmp_path / given])


def test_two_runs_never_write_into_one_folder(tmp_path):
    code = """
import sys
from pathlib import Path
from tools.base.folders import whole_folder
with whole_folder(sys.argv[1]) as folder:
    (folder / "a.txt").write_text("first")
    print("at work", flush=True)
    sys.stdin.readline()
"""
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    with subprocess.Popen(command, cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        with pytest.raises(UserError, match=rf"is being written by -c \(process {process.pid} on "):
            make(tmp_path / "out", "second")
        process.communicate("go on\n")
        assert process.returncode == 0
    assert (tmp_path / "out/a.txt").read_text() == "first"
    assert names(tmp_path) == ["out"]


def test_the_lock_of_a_dead_run_is_taken_over(tmp_path):
    (tmp_path / ".out.lock").write_text("{}")
    make(tmp_path / "out", "a")
    assert names(tmp_path) == ["out"]


def test_a_folder_between_two_names_gets_its_own_back_at_the_next_start(tmp_path):
    make(tmp_path / "out", "old")
    (tmp_path / "out").rename(tmp_path / ".out.old")  # a kill in the middle of an exchange
    with pytest.raises(UserError, match="exists already"):
        make(tmp_path / "out", "new")
    assert (tmp_path / "out/a.txt").read_text() == "old"


def test_folders_exchange_their_names_at_once(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "was").write_text(name)
    if not exchange.exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this system cannot exchange names")
    assert (tmp_path / "a/was").read_text() == "b"
    assert (tmp_path / "b/was").read_text() == "a"


@pytest.mark.parametrize("place", ["/proc/out/maps", "file/out", "file/deep/out"])
def test_a_place_where_no_folder_can_be_is_said_as_it_is(tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot be made \(") as error, whole_folder(tmp_path / place):
        raise AssertionError("the block must not begin")
    assert "disk is full" not in str(error.value)


def test_names_that_are_not_utf8_go_through_json(tmp_path):
    write_json(tmp_path / "a.json", {"name": "caf\udce9"})
    assert read_json(tmp_path / "a.json", {"name": str}, "") == {"name": "caf\udce9"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "nested too deeply"), ("[]", "it is not an object"), ("{}", "no 'n'"),
        ('{"n": "1"}', "n is not a whole number"), ('{"n": true}', "n is not a whole number"),
        ('{"n": 1, "l": {"a": [1, "x"]}}', "l.a.1 is not a number"), ('{"n": 1, "o": 3}', "o is not a text"),
        ('{"n', "Unterminated string"),
    ],
)  # fmt: skip
def test_json_that_is_not_of_our_form_is_refused_with_the_place(tmp_path, text, reason):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match="damaged") as error:
        read_json(tmp_path / "a.json", {"n": int, "l?": {str: [float]}, "o?": (str, None)}, "make it again")
    assert reason in str(error.value) and str(error.value).endswith(": make it again.")


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / DETAILS)
    with pytest.raises(UserError, match="is no file"):
        read_details(tmp_path)


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


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="this system has no /proc")
def test_a_folder_that_takes_no_files_is_said_as_it_is():
    with pytest.raises(UserError, match=r"/proc/a\.json cannot be written: /proc takes no files"):
        write_json("/proc/a.json", {})


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

"""Proves that a user's mistake, a full disk or an interruption is one sentence with its exit code, and no traceback."""

import errno
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from conftest import REPO, call, make_town, names, refused, wait_for

from tools.base.errors import UserError, listing, nearest, run

SCRIPTS = ["convert_gt", "extract_images", "create_db", "training", "inference"]


def outcome(capsys, error):
    """(exit code, stderr) of a script that ends with `error`."""

    def main():
        raise error

    with pytest.raises(SystemExit) as end:
        run(main)
    return end.value.code, capsys.readouterr().err


def test_a_users_mistake_is_one_line_with_the_scripts_name_and_exit_code_2(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/some/where/training.py", "--niter", "3"])
    assert outcome(capsys, UserError("tile 7 is missing.")) == (2, "training.py: tile 7 is missing.\n")


@pytest.mark.parametrize(
    "words",
    ["(pid 7) is killed by signal: Killed. ", "(pid 7) is killed by signal: Bus error. ", "(pid(s) 7) exited unexpectedly"],
)
def test_a_reading_process_that_was_killed_is_one_line_that_says_what_to_set(capsys, words):
    code, err = outcome(capsys, RuntimeError(f"DataLoader worker {words}"))
    assert (code, err.count("\n")) == (2, 1)
    assert "set WORKERS to a smaller number" in err


def test_a_fault_of_ours_is_one_sentence_that_says_so_and_names_a_file_with_the_traceback(capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("ORTHONETS_TRACEBACK")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code, err = outcome(capsys, RuntimeError("shape mismatch\nin detail"))
    assert (code, err.count("\n")) == (70, 1)
    assert "a fault of ours" in err and "shape mismatch in detail" in err
    (file,) = tmp_path.iterdir()
    assert str(file) in err
    assert "RuntimeError: shape mismatch\nin detail" in file.read_text()


def test_the_traceback_of_a_fault_of_ours_is_shown_if_asked_for_or_if_no_folder_takes_it(capsys, monkeypatch, tmp_path):
    for asked, folder in (("1", tmp_path), ("", tmp_path / "none")):
        monkeypatch.setenv("ORTHONETS_TRACEBACK", asked)
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        code, err = outcome(capsys, RuntimeError("shape mismatch"))
        assert code == 70
        assert "Traceback" in err and "the traceback stands above" in err
    assert not names(tmp_path)


FAULT = "from tools.base.errors import run\ndef main():\n    print('é \\udcff')\n    {}['key']\nrun(main)\n"
CLOSED = {
    "stdout": ">&-",
    "stderr": "2>&-",
    "both": ">&- 2>&-",
    "all": "<&- >&- 2>&-",
    "full stderr": "2>/dev/full",
    "none": "",
}


@pytest.mark.parametrize("streams", CLOSED.values(), ids=CLOSED)
def test_the_last_border_holds_on_closed_streams_in_a_bare_environment_and_without_assertions(tmp_path, streams):
    environment = {"LC_ALL": "C", "PATH": os.environ["PATH"], "PYTHONPATH": str(REPO), "TMPDIR": str(tmp_path)}
    command = f'exec "$0" -O -c "$1" {streams}'
    ran = subprocess.run(
        ["sh", "-c", command, sys.executable, FAULT], cwd="/", env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 70, ran.stderr
    assert "Traceback" not in ran.stderr
    assert ("a fault of ours" in ran.stderr) == ("2>" not in streams)
    (file,) = tmp_path.iterdir()
    assert "KeyError: 'key'" in file.read_text()


def test_a_full_standard_output_is_said_once():
    for code in ("lambda: print('x')", "lambda: print('x' * 10**6)"):
        command = [
            "sh",
            "-c",
            'exec "$0" -c "$1" >/dev/full',
            sys.executable,
            f"from tools.base.errors import run\nrun({code})",
        ]
        ran = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
        assert (ran.returncode, ran.stderr.count("\n")) == (2, 1), ran.stderr
        assert "standard output cannot be written" in ran.stderr


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_a_script_in_one_word_after_it_tidied_up(tmp_path, name):
    code = """
import sys, time
from tools.base.errors import run
from tools.base.folders import whole_folder
def main():
    with whole_folder(sys.argv[1]):
        print("at work", flush=True)
        time.sleep(60)
run(main)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    with subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        process.send_signal(getattr(signal, name))
        assert process.wait(20) == 128 + getattr(signal, name)
        assert process.stderr.read() == "-c: stopped.\n"
    assert not names(tmp_path)


POOL = """
import os, sys, time
from tools.base.errors import run
from tools.base.processes import pool
def work(way):
    os.write(1, f"{os.getpid()}\\n".encode())  # at once: print writes the end of the line by itself
    os.kill(os.getpid(), 9) if way == "die" else time.sleep(60)
def main():
    with pool(2) as helpers:
        list(helpers.map(work, [sys.argv[1]] * 2))
run(main)
"""


def test_a_helper_that_is_killed_is_one_sentence():
    ran = subprocess.run([sys.executable, "-c", POOL, "die"], cwd=REPO, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr.count("\n")) == (2, 1), ran.stderr
    assert "TILE_MEMORY_MB" in ran.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_helpers_end_with_the_script_that_started_them(number):
    with subprocess.Popen([sys.executable, "-c", POOL, "wait"], cwd=REPO, stdout=subprocess.PIPE, text=True) as process:
        helpers = [int(process.stdout.readline()) for _ in range(2)]
        process.send_signal(number)
        process.wait(20)
        wait_for(lambda: not any(map(is_running, helpers)), seconds=20)


def is_running(number):
    """Whether a process runs; one that ended and waits to be asked for its exit code does not."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS])
def test_a_disk_that_cannot_be_written_is_one_line_that_names_the_file(capsys, number):
    code, err = outcome(capsys, OSError(number, "whatever", "/a/file"))
    assert code == 2
    assert err.count("\n") == 1
    assert "/a/file" in err


def test_a_disk_that_is_really_full_is_said_in_one_line():
    code = "from tools.base.errors import run\ndef main():\n    open('/dev/full', 'w').write('x' * 10**6)\nrun(main)\n"
    ran = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr.count("\n")) == (2, 1)
    assert "the disk is full" in ran.stderr


def test_a_program_that_merely_imports_our_modules_keeps_its_own_way_to_end(tmp_path):
    code = """
import sys, time
from tools.base.folders import whole_folder
try:
    with whole_folder(sys.argv[1]):
        print("at work", flush=True)
        time.sleep(60)
except KeyboardInterrupt:
    print("mine", flush=True)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    with subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert (process.stdout.read(), process.wait(20)) == ("mine\n", 0)
    assert not names(tmp_path)


def test_ctrl_c_is_one_word(capsys):
    code, err = outcome(capsys, KeyboardInterrupt())
    assert (code, err.count("\n")) == (130, 1)


@pytest.mark.parametrize("words", [[f"{name}.py"] for name in SCRIPTS] + [["-m", "tools.choices"], ["-m", "tools.show"]])
def test_ctrl_c_while_a_script_imports_what_it_needs_is_one_word(tmp_path, words):
    """A module that all of them import is one here that takes its time."""
    (tmp_path / "argparse.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, *words], cwd=REPO, env=environment, **pipes) as process:
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        name = words[-1].removeprefix("tools.")
        assert process.stderr.read() in (f"{name}: stopped.\n", f"{name}.py: stopped.\n")


def test_one_of_several_processes_ends_without_pythons_way_out_once_all_is_said():
    """gloo's threads, which outlive the process group, now and then abort a process while Python clears up."""
    code = "import atexit\nfrom tools.base.errors import run\natexit.register(print, 'cleared up')\n"
    code += "run(lambda: print('done'))\n"
    for count, said in ((1, "done\ncleared up\n"), (2, "done\n")):
        environment = os.environ | {"RANK": "0", "WORLD_SIZE": str(count)}
        ran = subprocess.run(
            [sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=False, env=environment
        )
        assert (ran.returncode, ran.stdout) == (0, said)


def test_a_reader_that_goes_away_ends_a_script_quietly():
    code = "from tools.base.errors import run\ndef main():\n    for i in range(10**6):\n        print(i)\nrun(main)\n"
    with subprocess.Popen([sys.executable, "-c", code], cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141


def test_the_nearest_name_is_offered_only_when_it_is_near():
    assert nearest("patchsize", ["patch_size", "palette"]) == " Did you mean 'patch_size'?"
    assert nearest("PALETTE", ["patch_size", "palette"]) == " Did you mean 'palette'?"
    assert nearest("zebra", ["patch_size", "palette"]) == ""


def test_long_lists_are_cut_short():
    assert listing([1, 2, 3], 5) == "1, 2, 3"
    assert listing(range(10), 2) == "0, 1 (+8 more)"
    assert listing([]) == ""


# --------------------------------------------------------------------------------------------------- the command lines


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_begins_with_what_the_script_makes_and_shows_an_example(script):
    ran = call(script, "--help")
    assert ran.code == 0
    assert ran.out.split()[0] in ("Makes", "Packs", "Trains", "Labels")
    assert f"python {script}.py" in ran.out.split("options:")[0]
    assert "--config" in ran.out


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_refuses_a_config_that_is_not_there(script, tmp_path):
    words = {"convert_gt": ["a.tif", "--from-color", "--out", tmp_path / "out"], "training": ["--niter", 1]}
    ran = call(script, *words.get(script, []), "--config", tmp_path / "none.py")
    refused(ran, tmp_path / "none.py", "does not exist")
    assert ran.err.startswith(f"{script}.py: ")


def test_scripts_run_from_any_folder(tmp_path):
    words = [sys.executable, REPO / "extract_images.py", "--config", tmp_path / "none.py"]
    ran = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert ran.stderr.startswith(f"extract_images.py: {tmp_path}/none.py does not exist")


@pytest.mark.parametrize("words", [["--niter", "0"], ["--niter", "many"], ["--niter", "5", "--update", "0"], []])
def test_numbers_on_the_command_line_are_checked(words):
    assert call("training", *words).code == 2


# ---------------------------------------------------------------------------------------------------------- a full disk


def full(ran, disk, before):
    refused(ran, "disk is full")
    assert names(disk) == before


@pytest.mark.parametrize("kilobytes", [100, 600])
def test_extraction_onto_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, small_disk, kilobytes):
    town, disk = make_town(tmp_path / "town"), small_disk(kilobytes)
    full(call("extract_images", "--config", town.config(BASE_DIR=f"{disk}/")), disk, [])


@pytest.mark.parametrize("kilobytes", [8, 100, 700])
def test_packing_onto_a_full_disk_is_one_sentence_and_leaves_nothing(patches, tmp_path, small_disk, kilobytes):
    own, disk = patches.copy(tmp_path / "own", "patches"), small_disk(kilobytes)
    (disk / "vaihingen_patches").symlink_to(own.folder("patches"))
    full(call("create_db", "--config", own.config(BASE_DIR=f"{disk}/")), disk, ["vaihingen_patches"])


@pytest.mark.parametrize(("folder", "way"), [("gts_for_participants", "--from-color"), ("gts_numpy", "--to-color")])
def test_conversion_onto_a_full_disk_is_one_sentence_and_leaves_nothing(town, small_disk, folder, way):
    disk = small_disk(8)
    full(call("convert_gt", town.root / folder, way, "--out", disk / "out", "--config", town.config()), disk, [])


@pytest.mark.parametrize("kilobytes", [400, pytest.param(4000, marks=pytest.mark.slow), 8000])
def test_training_onto_a_full_disk_goes_on_ends_with_one_sentence_and_keeps_what_is_whole(
    databases, tmp_path, small_disk, kilobytes
):
    """The disk is full at the first file of a snapshot (400), at its second (4000), at the second snapshot (8000)."""
    own, disk = databases.copy(tmp_path / "own", "lmdb"), small_disk(kilobytes)
    config = own.config(SNAPSHOT_EVERY=1, val_ids=[])
    words = ["--niter", 3, "--snapshot", disk, "--graph", tmp_path / "net.png", "--plot", tmp_path / "loss.png"]
    ran = call("training", *words, "--device", "cpu", "--config", config)
    refused(ran, "disk is full", "iteration 3, the last one, is in no snapshot")
    assert "the snapshot of iteration 2 was not written, training goes on" in ran.err
    whole = [n for n in names(disk) if n.endswith(".solverstate")]
    assert whole == (["net_iter_1.solverstate"] if kilobytes == 8000 else [])
    assert not [n for n in names(disk) if "partial" in n]
    if whole:
        small = ["--niter", 2, "--restore", disk / whole[0], "--snapshot", tmp_path / "elsewhere"]
        assert call("training", *small, "--device", "cpu", "--config", config).code == 0


@pytest.mark.parametrize("kilobytes", [4, 40, 60])
def test_maps_for_a_full_disk_are_one_sentence_and_leave_nothing(trained, small_disk, kilobytes):
    disk = small_disk(kilobytes)
    weights = trained.snapshots / "net_iter_150.safetensors"
    words = ["--weights", weights, "--dir", disk / "maps", "--device", "cpu", "--config", trained.config()]
    full(call("inference", *words), disk, [])

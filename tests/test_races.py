"""Proves that two runs into one place at once, and kills at any moment, lose nothing and leave nothing half made.

Runs are forked children of a warm process (harness.py). Half of the kills come at any time, half right before a file or a
folder gets a new name, one such moment after the other. `make test-all` tries some;
RACES="30 20" tries 30 pairs and 20 kills of each of the five scripts.
"""

import json
import os
import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import rasterio
from conftest import write_config
from harness import Job, contents
from safetensors.numpy import load_file

SECONDS = 600  # after which a run hangs, on a busy machine too
PAIRS, KILLS = map(int, os.environ.get("RACES", "2 4").split())
SNAPSHOTS = "vaihingen_snapshots_segnet_slim"
LABELS = ("--weights", f"{SNAPSHOTS}/net_iter_2.safetensors", "--device", "cpu", "--config", "config.py", "--dir", "out")


@dataclass(frozen=True)
class Work:
    """A script with its words, the folder that it makes, and those of the town that it reads."""

    words: tuple[str, ...]
    out: str
    needs: tuple[str, ...] = ("vaihingen",)


WORKS = {
    "convert_gt": Work(("vaihingen/gts_for_participants", "--from-color", "--out", "out", "--config", "config.py"), "out"),
    "extract_images": Work(("--config", "config.py"), "vaihingen_patches"),
    "create_db": Work(("--config", "config.py"), "vaihingen_lmdb", ("vaihingen", "vaihingen_patches")),
    "training": Work(("--niter", "3", "--device", "cpu", "--config", "config.py", "--snapshot", "out"), "out",
                     ("vaihingen", "vaihingen_lmdb")),
    "inference": Work(("32", "3", *LABELS), "out", ("vaihingen", SNAPSHOTS)),
}  # fmt: skip


@dataclass
class Place:
    """A copy of the town in which a script runs; finished: the files of its output when nobody disturbs it."""

    base: Path
    work: Work
    before: dict[Path, str]
    finished: set[Path]

    @property
    def out(self) -> Path:
        """The folder that the script makes."""
        return self.base / self.work.out

    def held(self) -> dict[Path, str]:
        """What is in the output, by a hash; nothing if there is none."""
        return contents(self.out) if self.out.is_dir() else {}

    def check_whole(self) -> None:
        """The output is that of an undisturbed run, what was read is as it was, and nothing else lies there."""
        assert plain(self.held()) == self.finished
        now = contents(self.base)
        given = {path: was for path, was in self.before.items() if path.parts[0] != self.work.out}
        assert {path: now.get(path) for path in given} == given
        assert not [path for path in now if path not in given and path.parts[0] != self.work.out]


def plain(files) -> set[Path]:
    """The files without those that are called after the time."""
    return {path for path in files if "tensorboard" not in path.parts and "events" not in path.name}


@pytest.fixture(scope="session")
def undisturbed(whole, warm, tmp_path_factory):
    """The output of each script, made in peace: its folder and the seconds that it took."""
    found = {}
    for script, work in WORKS.items():
        base = fresh(whole, work, tmp_path_factory.mktemp(script))
        start = time.monotonic()
        code, err = warm.run(script, list(work.words), base)
        assert code == 0, err
        found[script] = base / work.out, time.monotonic() - start
    return found


def fresh(whole, work: Work, base: Path) -> Path:
    """A folder with what a script needs."""
    base.mkdir(exist_ok=True)
    for name in work.needs:
        shutil.copytree(whole.base / name, base / name)
    write_config(base / "config.py", base, **whole.changes)
    return base


def places(whole, undisturbed, script: str, folder: Path, count: int) -> Iterator[tuple[Place, list[str]]]:
    """Copies of the town, one after the other, with the words to run the script: into nothing, or over an earlier output."""
    earlier, work = undisturbed[script][0], WORKS[script]
    for number in range(count):
        base, over = fresh(whole, work, folder / str(number)), number % 2
        if over:
            shutil.copytree(earlier, base / work.out)
        yield Place(base, work, contents(base), plain(contents(earlier))), [*work.words, *["--overwrite"] * over]
        shutil.rmtree(base)


@pytest.mark.slow
@pytest.mark.parametrize("script", WORKS)
def test_of_two_runs_at_once_one_works_and_the_other_says_who_does(whole, undisturbed, warm, tmp_path, script):
    for place, words in places(whole, undisturbed, script, tmp_path, PAIRS):
        jobs = [Job(script, words, str(place.base), str(tmp_path / f"{i}.err"), SECONDS) for i in range(2)]
        ends = warm.run_together(jobs)
        codes = [code for code, _ in ends]
        assert set(codes) == {0, 2} or (codes == [0, 0] and "--overwrite" in words), ends  # one after the other
        for _, err in (end for end in ends if end[0]):
            assert "Traceback" not in err and ("is being written by" in err or "exists already" in err), err
        place.check_whole()


@pytest.mark.slow
@pytest.mark.parametrize("script", WORKS)
def test_what_a_kill_leaves_is_whole_or_as_it_was_and_the_next_run_goes_on(whole, undisturbed, warm, tmp_path, script):
    chance, at = random.Random(script), 1
    killed = 0
    for number, (place, words) in enumerate(places(whole, undisturbed, script, tmp_path, KILLS)):
        when = {"kill_at": at} if number // 2 % 2 else {"kill_after": chance.uniform(0, 1.2) * undisturbed[script][1]}
        code, err = warm.run(script, words, place.base, **when)
        assert code in (0, -9), err
        if number % 4 == 3:
            at = at + 1 if code else 1  # each moment over nothing and over an earlier output, until there are no more
        killed += code == -9
        check_left(place, script)
        code, err = warm.run(
            script, [*words, *([] if "--overwrite" in words else ["--overwrite"] * bool(place.held()))], place.base
        )
        assert code == 0, err
        place.check_whole()
    assert killed


def check_left(place: Place, script: str) -> None:
    """After a kill inputs are as they were; the output is one of the two, or made of whole files; nothing earlier is lost."""
    now = contents(place.base)
    for path, was in place.before.items():
        if path.parts[0] != place.work.out:
            assert now.get(path) == was, path
    earlier = {
        was for path, was in place.before.items() if path.parts[0] == place.work.out and path.suffix in (".tif", ".safetensors")
    }
    held = plain(place.held())
    if script not in ("training", "inference"):
        assert not held or held == place.finished
        assert not earlier or held  # the earlier output or the new one
        return
    for path in (path for path in place.held() if not path.name.startswith(".") and not path.parts[0].startswith(".")):
        read_whole(place.out / path)
    new = [path for path, was in place.held().items() if path.suffix in (".tif", ".safetensors")]
    assert earlier <= set(now.values()) or new


def read_whole(path: Path) -> None:
    """A file under its final name can be read to its end."""
    if path.suffix == ".tif":
        with rasterio.open(path) as file:
            file.read()
    elif path.suffix == ".safetensors":
        load_file(path)
    else:
        assert path.suffix != ".json" or json.loads(path.read_text()), path

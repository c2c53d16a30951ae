"""Proves that hundreds of bad inputs end in a sentence or a right answer: no traceback, no hang, nothing lost or half made.

Each case is a forked child of a warm process (harness.py). `make test` runs some of each kind, `make test-all` 1,500 of all
5,800; with ALL_BAD_INPUTS=1 it runs all of them.
"""

import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import harness
import pytest
from conftest import read_json, write_config
from harness import WRONG, Case, files_spoilt, json_spoilt
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from tools.settings import KNOWN

QUICK, MANY = 12, 400  # cases of each kind in `make test` and `make test-all`
SNAPSHOTS, LMDB, PATCHES, RESULTS = (
    f"vaihingen_{name}" for name in ("snapshots_segnet_slim", "lmdb", "patches", "results_segnet_slim")
)
WEIGHTS, STATE = (f"{SNAPSHOTS}/net_iter_2.{suffix}" for suffix in ("safetensors", "solverstate"))
TILE, TRUTH = "vaihingen/top/top_mosaic_09cm_area32.tif", "vaihingen/gts_numpy/top_mosaic_09cm_area32.tif"
COLOURS = "vaihingen/gts_for_participants/top_mosaic_09cm_area32.tif"
HOME = ("--config", "config.py")
LABEL = ("--device", "cpu", *HOME, "--dir", "out")
TRAIN = ("--device", "cpu", "--niter", "3", *HOME)


def settings(_: Path) -> Iterator[Case]:
    """Any setting of any wrong value; there is nothing to work on."""
    for name in KNOWN:
        for value in [*WRONG, "a\0b", (1, 2), 10**400, {1: 2}, -(2**63)]:
            words = ("--set", f"{name}={value!r}", "--config", "config.py")
            yield Case(f"{name} = {str(value)[:30]!r}", "create_db", words, needs=("vaihingen",))


def command_lines(_: Path) -> Iterator[Case]:
    """Words that no script expects, places where nothing can be written."""
    places = [
        "@config.py",
        "@config.py/deep",
        "/proc/out",
        "/dev/null",
        "n" * 300,
        "@vaihingen",
        f"@{LMDB}",
        f"@{SNAPSHOTS}",
        "@.",
    ]
    kept = {"needs": ("vaihingen", PATCHES, LMDB, SNAPSHOTS, RESULTS)}
    for place in places:
        for more in ((), ("--overwrite",)):
            name = f"at {place[:20]} {' '.join(more)}"
            words = (f"@{COLOURS}", "--from-color", "--out", place, *HOME, *more)
            yield Case(f"convert_gt {name}", "convert_gt", words, **kept)
            yield Case(f"inference {name}", "inference", ("32", "--dir", place, "--device", "cpu", *HOME, *more), **kept)
            yield Case(f"blocks {name}", "tools.blocks", (f"@{TILE}", "--size", "40", "--out", place, *more), **kept)
            if place != f"@{SNAPSHOTS}":
                yield Case(
                    f"training {name}", "training", (*TRAIN, "--snapshot", place, *more), **kept, changes=(LMDB, "vaihingen")
                )
    for words in (
        ("32", "32"),
        ("--weights", f"@{WEIGHTS}", "32"),
        ("nowhere",),
        ("--images", "@vaihingen"),
        ("--window", "7"),
    ):
        for more in ((), ("--tta", "d5"), ("--resume", "--overwrite")):
            words_ = (*words, *LABEL, *more)
            yield Case(f"inference {' '.join(words_)}", "inference", words_, changes=("out",), **kept)


def json_files(base: Path) -> Iterator[Case]:
    """Our own JSON files, damaged or of another form."""
    report = ("tools.report", (RESULTS,), (RESULTS,), ("vaihingen", RESULTS))
    train = (*TRAIN, "--snapshot", "new")
    resume, restore = ("32", "--resume", "--device", "cpu", *HOME), (*TRAIN, "--restore")
    jobs = {  # file -> script, words, what it may change, what it needs
        f"{PATCHES}/details.json": ("create_db", (*HOME, "--overwrite"), (LMDB,), ("vaihingen", PATCHES, LMDB)),
        f"{LMDB}/details.json": ("training", train, ("new",), ("vaihingen", LMDB)),
        f"{RESULTS}/statistics.json": report,
        f"{RESULTS}/scores.json": report,
        f"{RESULTS}/details.json": report,
        f"{RESULTS}/tiles/32.json": ("inference", resume, (RESULTS,), ("vaihingen", RESULTS, SNAPSHOTS)),
        f"{SNAPSHOTS}/metrics.json": ("training", restore, (SNAPSHOTS,), ("vaihingen", LMDB, SNAPSHOTS)),
    }
    for name, (script, words, changes, needs) in jobs.items():
        for what, spoil in [*json_spoilt(name, read_json(base / name)), *files_spoilt(name)]:
            yield Case(f"{script}: {what}", script, words, spoil, changes, needs)


def metadata(base: Path) -> Iterator[Case]:
    """What a weights file says of itself."""
    with safe_open(base / WEIGHTS, framework="np") as file:
        said = {name: json.loads(text) for name, text in file.metadata().items() if name != "format"}

    def spoilt(keys: tuple, wrong: object, remove: bool):
        def spoil(home: Path) -> None:
            about = harness.changed(json.loads(json.dumps(said)), keys, wrong, remove)
            save_file(load_file(home / WEIGHTS), home / WEIGHTS, {k: json.dumps(v) for k, v in about.items()})

        return spoil

    words = ("32", "--weights", WEIGHTS, *LABEL)
    row = ("net", "table", next(i for i, row in enumerate(said["net"]["table"]) if "args" in row))
    for keys in [(key,) for key in said] + [("inputs", 0), ("net", "table"), row, (*row, "args")]:
        for wrong in [*WRONG, "gone"]:
            name = f"metadata {keys} = {str(wrong)[:20]}"
            spoil = spoilt(keys, wrong, wrong == "gone")
            yield Case(name, "inference", words, spoil, ("out",), ("vaihingen", SNAPSHOTS))
    for key in said["inputs"][0]:
        for wrong in [*WRONG, "gone"]:
            spoil = spoilt(("inputs", 0, key), wrong, wrong == "gone")
            yield Case(f"input {key} = {str(wrong)[:20]}", "inference", words, spoil, ("out",), ("vaihingen", SNAPSHOTS))


def binaries(_: Path) -> Iterator[Case]:
    """Weights, states, databases and rasters that are damaged, or something else."""
    label, train = ("32", "--weights", WEIGHTS, *LABEL), (*TRAIN, "--snapshot", "new")
    convert = (COLOURS, "--from-color", "--out", "out", *HOME)
    jobs = [
        (WEIGHTS, "inference", label, ("out",), (SNAPSHOTS,)),
        (WEIGHTS, "training", (*TRAIN, "--restore"), (SNAPSHOTS,), (SNAPSHOTS, LMDB)),
        (WEIGHTS, "training", (*train, "--init", WEIGHTS), ("new",), (SNAPSHOTS, LMDB)),
        (STATE, "training", (*TRAIN, "--restore", STATE), (SNAPSHOTS,), (SNAPSHOTS, LMDB)),
        (STATE, "training", (*TRAIN, "--restore"), (SNAPSHOTS,), (SNAPSHOTS, LMDB)),
        (f"{LMDB}/irrg_train/data.mdb", "training", train, ("new",), (LMDB,)),
        (f"{LMDB}/labels_train/data.mdb", "training", train, ("new",), (LMDB,)),
        (f"{LMDB}/train.txt", "training", train, ("new",), (LMDB,)),
        (TILE, "inference", ("32", *LABEL), ("out",), (SNAPSHOTS,)),
        (TILE, "inference", ("--images", TILE, *LABEL), ("out",), (SNAPSHOTS,)),
        (TRUTH, "inference", ("32", *LABEL), ("out",), (SNAPSHOTS,)),
        (TRUTH, "convert_gt", (TRUTH, "--to-color", "--out", "out", *HOME), ("out",), ()),
        (COLOURS, "convert_gt", convert, ("out",), ()),
        ("config.py", "create_db", HOME, (), ()),
    ]
    for name, script, words, changes, needs in jobs:
        for what, spoil in files_spoilt(name):
            yield Case(f"{script} {' '.join(words)}: {what}", script, words, spoil, changes, ("vaihingen", *needs))


KINDS = [settings, command_lines, json_files, metadata, binaries]


def run_cases(warm, whole, cases, folder):
    """What went wrong in any of the cases."""
    found = []
    for number, case in enumerate(cases):
        base = folder / str(number)
        base.mkdir()
        for name in case.needs:
            shutil.copytree(whole.base / name, base / name, symlinks=True)
        write_config(base / "config.py", base, **whole.changes)
        found += harness.faults(warm, case, base)
        shutil.rmtree(base)
    return found


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_some_bad_inputs_of_each_kind(warm, whole, tmp_path, kind):
    cases = list(kind(whole.base))
    assert run_cases(warm, whole, random.Random(1).sample(cases, QUICK), tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_many_bad_inputs_of_each_kind(warm, whole, tmp_path, kind):
    cases = list(kind(whole.base))
    few = "ALL_BAD_INPUTS" not in os.environ and len(cases) > MANY
    assert run_cases(warm, whole, random.Random(2).sample(cases, MANY) if few else cases, tmp_path) == []


def test_there_are_enough_of_them(whole):
    assert sum(min(MANY, sum(1 for _ in kind(whole.base))) for kind in KINDS) > 1500


def test_the_harness_notices_what_a_script_does_wrong(warm, tmp_path, monkeypatch):
    """A script that breaks, one that hangs, one that spoils its input, one that leaves half a folder."""
    ways = {
        "ends with 70": "{}['key']", "hangs": "time.sleep(60)", "changed input": "open('input', 'w').write('spoilt')",
        "left": "os.mkdir('out.partial')", "does not say why": "sys.exit(2)",
    }  # fmt: skip
    monkeypatch.setattr(harness, "SECONDS", 2)
    for number, (word, code) in enumerate(ways.items()):
        base = tmp_path / str(number)
        base.mkdir()
        (base / f"bad{number}.py").write_text(f"import os, sys, time\ndef main():\n    {code}\n")
        (base / "input").write_text("whole")
        assert any(word in fault for fault in harness.faults(warm, Case("a case", f"bad{number}"), base)), word
